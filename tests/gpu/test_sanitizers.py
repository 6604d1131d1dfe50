"""Every kernel variant under NVIDIA's compute-sanitizer, through a small C++ program."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.gpu.binding import Kernels, find_library

DRIVER = "dinat_sanitize_driver"
VARIABLE = "DINAT_SANITIZE_DRIVER"
ERROR_STATUS = 42


def find_sanitizer() -> str | None:
    folders = [os.environ.get("CUDA_HOME", "/usr/local/cuda"), "/usr/local/cuda"]
    return shutil.which("compute-sanitizer") or next(
        (
            str(path)
            for folder in folders
            for path in (
                Path(folder) / "bin" / "compute-sanitizer",
                Path(folder) / "compute-sanitizer" / "compute-sanitizer",
            )
            if path.is_file()
        ),
        None,
    )


@pytest.fixture(scope="module")
def driver() -> Path:
    path = find_library(DRIVER, VARIABLE)
    assert path is not None, f"{DRIVER} was not found: build it, or name it in {VARIABLE}"
    return path


def test_every_variant_is_right_on_exact_allocations(kernels: Kernels, driver: Path) -> None:
    done = subprocess.run(
        [driver, kernels.path], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok  ") >= 50
    assert "\n0 failures" in done.stdout


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck", "synccheck"])
def test_the_sanitizer_finds_nothing(kernels: Kernels, driver: Path, tool: str) -> None:
    sanitizer = find_sanitizer()
    if sanitizer is None:
        pytest.skip("compute-sanitizer was not found")
    options = ["--tool", tool, "--error-exitcode", str(ERROR_STATUS)]
    done = subprocess.run(
        [sanitizer, *options, driver, kernels.path],
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    said = done.stdout + done.stderr
    if "Device not supported" in said:
        pytest.skip(f"compute-sanitizer does not work on this machine: {said[-300:]}")
    assert done.returncode == 0, said[-6000:]
    if tool == "racecheck":
        assert "RACECHECK SUMMARY: 0 hazards" in said, said[-2000:]
    else:
        assert "ERROR SUMMARY: 0 errors" in said, said[-2000:]
