"""Builds the native code once for all test processes, and decides what happens without a CUDA compiler.

The build directories are kept in ``DINAT_BUILD_DIR`` if that is set, else with pytest's temporary
files. ``DINAT_REQUIRE_CUDA=1`` makes tests marked ``cuda`` fail rather than skip where nvcc or the
disassembler is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from filelock import FileLock

from dinat_deploy.native import find_cuda

SOURCE = Path(__file__).parents[2]
TargetBuilder = Callable[..., Path]  # (target, name of the file it makes unless lib<target>.so)


def missing_cuda(what: str) -> NoReturn:
    """Skip the running test, or fail it where CUDA is required."""
    if os.environ.get("DINAT_REQUIRE_CUDA") == "1":
        pytest.fail(f"DINAT_REQUIRE_CUDA=1, and {what}")
    pytest.skip(what)


@pytest.fixture(scope="session")
def disassembler_path() -> str:
    """A PATH with cuobjdump and nvdisasm on it, from pip's packages if need be."""
    purelib = Path(sysconfig.get_path("purelib"))
    folders = [str(folder) for folder in purelib.glob("nvidia/cu*/bin")]
    path = os.pathsep.join([*folders, os.environ.get("PATH", "")])
    for tool in ("cuobjdump", "nvdisasm"):
        if shutil.which(tool, path=path) is None:
            missing_cuda(f"{tool} was not found; pip install nvidia-cuda-{tool}")
    return path


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """A folder that all test processes of this run, and if the user says so later runs, share."""
    if chosen := os.environ.get("DINAT_BUILD_DIR"):
        folder = Path(chosen).resolve()
    else:
        base = factory.getbasetemp()
        folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "native"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines()
        pytest.fail(f"{' '.join(map(str, command))} failed:\n" + "\n".join(lines[-60:]))


def _configure(build: Path, *options: str) -> Path:
    """Configure the CMake project into a directory, unless another process has."""
    cmake = shutil.which("cmake") or Path(sys.prefix) / "bin" / "cmake"
    with FileLock(f"{build}.lock"):
        if not (build / "configured").exists():
            generator = ("-G", "Ninja") if shutil.which("ninja") else ()
            _run(cmake, "-S", SOURCE, "-B", build, *generator, "-DDINAT_TESTS=ON", *options)
            (build / "configured").touch()
    return build


def _build(build: Path, target: str, file: str | None = None) -> Path:
    """Build one target and return the library or program that it makes."""
    cmake = shutil.which("cmake") or Path(sys.prefix) / "bin" / "cmake"
    with FileLock(f"{build}.lock"):
        _run(cmake, "--build", build, "--target", target, "--parallel", "2")
    names = (file,) if file else (f"lib{target}.so", f"lib{target}.a", target)
    for name in names:
        if found := next((path for path in build.rglob(name) if path.is_file()), None):
            return found
    pytest.fail(f"the target {target} made none of {', '.join(names)}")


@pytest.fixture(scope="session")
def native_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configured build directory of everything that needs no CUDA compiler."""
    return _configure(shared_folder(tmp_path_factory) / "host", "-DDINAT_CUDA=OFF")


@pytest.fixture(scope="session")
def native_target(native_build: Path) -> TargetBuilder:
    """Builds one target of :func:`native_build` and returns the file it makes."""
    return lambda target, file=None: _build(native_build, target, file)


@pytest.fixture(scope="session")
def cuda_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configured build directory of what needs nvcc.

    It is for ``DINAT_CUDA_ARCHITECTURES``, or for all of them.
    """
    compiler = find_cuda()
    if compiler is None:
        missing_cuda("nvcc was not found on PATH, in CUDA_HOME or in pip's packages")
    architectures = os.environ.get("DINAT_CUDA_ARCHITECTURES", "all")
    return _configure(
        shared_folder(tmp_path_factory) / "cuda",
        "-DDINAT_CUDA=ON",
        f"-DDINAT_NVCC={compiler.nvcc}",
        f"-DDINAT_CUDA_ARCHITECTURES={architectures}",
    )


@pytest.fixture(scope="session")
def cuda_target(cuda_build: Path) -> TargetBuilder:
    """Builds one target of :func:`cuda_build` and returns the file it makes."""
    return lambda target, file=None: _build(cuda_build, target, file)


@pytest.fixture(scope="session")
def kernels_library(request: pytest.FixtureRequest) -> Path:
    """A library with the compiled CUDA kernels.

    ``DINAT_KERNELS_LIBRARY`` names one that is already built, so that nothing is compiled twice.
    """
    if built := os.environ.get("DINAT_KERNELS_LIBRARY"):
        assert Path(built).is_file(), f"DINAT_KERNELS_LIBRARY is {built}, which is not a file"
        return Path(built)
    target: TargetBuilder = request.getfixturevalue("cuda_target")
    return target("dinat_kernels_c", "libdinat_kernels.so")
