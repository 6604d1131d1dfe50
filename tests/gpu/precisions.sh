#!/usr/bin/env bash
# What FP16, BF16, INT8 and FP8 cost and gain on a GPU. Takes less than 9 minutes.
#
#   tests/gpu/precisions.sh --output out/gpu-precisions
#
# Needs what engines.sh needs, and scikit-learn. `--help` lists the options.
set -euo pipefail
cd "$(dirname "$0")/../.."
exec "${PYTHON:-python3}" -m tests.gpu.precisions "$@"
