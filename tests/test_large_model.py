"""The largest published classifier, from its name to a verified bundle, in bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_dinat_large_exports_verified_within_8_gb(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dinat_deploy", "export", "--model", "dinat_l", "--json"]
    process = subprocess.Popen(
        [*command, "--output", str(tmp_path / "b")], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = process.stdout, process.stderr
    assert out is not None
    assert err is not None
    report, messages = json.load(out), err.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, messages
    assert usage.ru_maxrss < 8e6  # in kB
    manifest = report["manifest"]
    assert manifest["name"] == "dinat_large"
    assert manifest["graph"]["op_nodes"] == 30
    assert manifest["verification"]["passed"] is True
    assert manifest["verification"]["max_abs_error"] < 1e-4
    assert "Comparing ONNX Runtime with PyTorch" in messages
