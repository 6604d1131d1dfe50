"""The emulated kernels under AddressSanitizer and UndefinedBehaviorSanitizer: a run without findings."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from filelock import FileLock

from tests.plugins.compilation import EMULATION, GROUP, HOST, PORTABLE, Compilation, Unit, tile
from tests.plugins.conftest import shared_folder

INSTANCES = [(16, 3), (32, 7), (64, 5)]
FLAGS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
CASES = Unit("cases", "emulation/tests/test_random_cases.cpp")
DEVICE = Unit("device", "emulation/tests/test_device.cpp")


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the programs ``cases`` and ``device``."""
    folder = shared_folder(tmp_path_factory) / "sanitized"
    with FileLock(f"{folder}.lock"):
        if not (folder / "complete").exists():
            compilation = Compilation(folder, INSTANCES, FLAGS)
            kernels = [PORTABLE, GROUP, *(tile(*instance) for instance in INSTANCES)]
            emulation = compilation.objects(EMULATION)
            rest = compilation.objects(
                [*HOST, *kernels, CASES, Unit("reference", "cpu/reference.cpp")]
            )
            compilation.link("cases", [*emulation, *rest])
            compilation.link("device", [*emulation, *compilation.objects([DEVICE])])
            (folder / "complete").touch()
    return folder


def run(program: Path, *arguments: str) -> str:
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr
    return done.stdout


@pytest.mark.parametrize("first", [0, 10])
def test_random_cases_are_clean(sanitized: Path, first: int) -> None:
    assert "10 random cases, 0 failures" in run(sanitized / "cases", "10", str(first))


def test_the_emulated_device_is_clean(sanitized: Path) -> None:
    assert "keeps its promises" in run(sanitized / "device")
