#!/usr/bin/env bash
# Engines on a GPU: are they right, and how fast are they? Takes less than 9 minutes.
#
#   tests/gpu/engines.sh --output out/gpu-engines
#
# Needs an NVIDIA GPU, and dinat-deploy installed with TensorRT (or TensorRT-RTX), a CUDA binding and
# PyTorch. `--help` lists the options; docs/gpu-results.md says how to read the report.
set -euo pipefail
cd "$(dirname "$0")/../.."
exec "${PYTHON:-python3}" -m tests.gpu.engines "$@"
