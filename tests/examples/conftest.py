"""Builds the C++ runner once for all test processes, under the address and the undefined behaviour
sanitizer and with warnings as errors.

``DINAT_REQUIRE_CPP_EXAMPLE=1`` makes tests fail rather than skip where its header-only libraries are
missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from filelock import FileLock

from tests.examples.cpp_parts import Parts
from tests.plugins.conftest import shared_folder

EXAMPLE = Path(__file__).parents[2] / "examples" / "cpp"
SANITIZED = (
    "-DCMAKE_BUILD_TYPE=None",
    "-DCMAKE_CXX_FLAGS=-O0 -fsanitize=address,undefined "
    "-fno-sanitize=vptr -fno-sanitize-recover=all",
    "-DDINAT_CPP_TESTS=ON",
)


def missing(what: str) -> NoReturn:
    """Skip the running test, or fail it where the example is required."""
    if os.environ.get("DINAT_REQUIRE_CPP_EXAMPLE") == "1":
        pytest.fail(f"DINAT_REQUIRE_CPP_EXAMPLE=1, and {what}")
    pytest.skip(what)


def cmake(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("cmake") or Path(sys.prefix) / "bin" / "cmake"
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def configure(build: Path, *options: str) -> None:
    """Configure the example alone, as a user would, with warnings as errors."""
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        missing("there is no C++ compiler")
    generator = ("-G", "Ninja") if shutil.which("ninja") else ()
    strict = "-DCMAKE_COMPILE_WARNING_AS_ERROR=ON"
    done = cmake("-S", EXAMPLE, "-B", build, *generator, strict, *options)
    if "apt-get install" in done.stderr:
        missing(" ".join(done.stderr.partition("The header")[2].split()))
    assert done.returncode == 0, done.stdout + done.stderr


def compile_example(build: Path, *targets: str) -> None:
    chosen = [word for target in targets for word in ("--target", target)]
    done = cmake("--build", build, "--parallel", "2", *chosen)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr


@pytest.fixture(scope="session")
def cpp_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build directory: ``dinat_run``, ``tests/dinat_parts`` and ``stand_ins``."""
    build = shared_folder(tmp_path_factory) / "cpp_runner"
    with FileLock(f"{build}.lock"):
        configure(build, *SANITIZED)
        compile_example(build)
        # TensorRT-RTX has the classes of TensorRT 11 and another name.
        rtx = build / "stand_ins" / "rtx"
        rtx.mkdir(exist_ok=True)
        for name, source in (("tensorrt_rtx.so.1", "nvinfer.so.11"), ("cuda.so.1", "cuda.so.1")):
            shutil.copy(build / "stand_ins" / f"lib{source}", rtx / f"lib{name}")
    return build


@pytest.fixture(scope="module")
def parts(cpp_build: Path) -> Iterator[Parts]:
    """The program's parts, one by one."""
    with Parts(cpp_build / "tests" / "dinat_parts") as running:
        yield running
