"""A whole model as a TensorRT-RTX engine with the plugin inside, run on this GPU.

DINAT_RTX_PLAN and DINAT_RTX_REFERENCE name a plan and the ``reference.npz`` of its bundle that were
made elsewhere. Without them both are made here, which needs the package with all it depends on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest
import torch

from tests.gpu.binding import ROOT

MODEL = "dinat_mini"
# float32 in, float32 out; TensorRT may sum in TensorFloat-32.
TOLERANCE = 1e-2
# Compute capabilities that TensorRT-RTX is made for; on others its refusal is the finding.
SUPPORTED = {(7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1)}


def _run(*words: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A plan and the recorded outputs of PyTorch."""
    if util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt-rtx is not installed")
    if "DINAT_RTX_PLAN" in os.environ:
        return Path(os.environ["DINAT_RTX_PLAN"]), Path(os.environ["DINAT_RTX_REFERENCE"])
    missing = [name for name in ("pydantic", "onnxscript") if util.find_spec(name) is None]
    if missing:
        pytest.skip(f"no DINAT_RTX_PLAN, and {', '.join(missing)} to make one is not installed")
    bundle = tmp_path_factory.mktemp("rtx") / MODEL
    _run("dinat_deploy", "export", MODEL, "--output", bundle)
    folder = bundle.parent / "engine"
    build = ("dinat_deploy", "build", bundle, "--backend", "tensorrt-rtx", "--output", folder)
    major, minor = torch.cuda.get_device_capability()
    here = ("--arch", f"{major}{minor}") if (major, minor) in SUPPORTED else ()
    _run(*build, "--plugin", "--embed-plugin", *here)
    return folder / "model.plan", bundle / "reference.npz"


def test_an_engine_with_the_plugin_equals_pytorch(engine: tuple[Path, Path]) -> None:
    report = json.loads(_run("tests.gpu.rtx_engine", *engine))
    print(json.dumps(report))
    supported = torch.cuda.get_device_capability() in SUPPORTED
    if report["outcome"] == "refused" and not supported:
        pytest.skip(f"TensorRT-RTX refused at {report['stage']}: {report['messages']}")
    assert report["outcome"] == "ran", report
    assert report["errors"], "nothing was compared"
    for name, error in report["errors"].items():
        assert error is not None and error <= TOLERANCE, f"{name}: {error}"
