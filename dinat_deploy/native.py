"""Finds the native libraries, what they are, and the compilers that build them.

Needs nothing but Python, and loads no library: what a file says about itself is read from it.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import dinat_deploy
from dinat_deploy.elf import NotElf, SharedLibrary, machine
from dinat_deploy.errors import NativeError
from dinat_deploy.files import sha256

LibraryName = Literal["onnxruntime", "tensorrt", "kernels"]
ENVIRONMENT = "DINAT_NATIVE_DIR"
_LABEL = b"@dinat-library "
_JETSONS = {87, 110}
_JETSON_NAMES = {101: 110}  # CUDA 12.8 and 12.9 call sm_110 so


@dataclass(frozen=True)
class LibraryInfo:
    """What a native library is.

    Attributes:
        name: ``dinat_tensorrt`` and so on.
        version: of dinat-deploy, at the time it was built.
        machine: processor it is for, as ``platform.machine()`` writes it.
        cuda_code: GPU code inside: ``sm_87`` is machine code for 8.7, ``compute_87`` PTX from which
            drivers make code for newer GPUs.
        symbols: what it exports.
        needs: versions of the system's libraries, such as ``GLIBC_2.34``.
        compilers: what built it.
    """

    path: Path
    sha256: str
    size: int
    name: str
    version: str
    machine: str
    cuda_code: list[str]
    symbols: list[str]
    needs: list[str]
    compilers: str

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path)}

    def runs_on_gpu(self, architecture: int) -> bool:
        """Whether there is code for a GPU of this compute capability (89 for 8.9)."""
        for kind, number in (code.split("_") for code in self.cuda_code):
            built = _JETSON_NAMES.get(int(number), int(number))
            later = built <= architecture
            # PTX serves all later GPUs; machine code later minor versions of its major version,
            # except from and to a Jetson's.
            same_major = built // 10 == architecture // 10
            if built == architecture or (later and kind == "compute"):
                return True
            if later and same_major and not {built, architecture} & _JETSONS:
                return True
        return False


@dataclass(frozen=True)
class CudaCompiler:
    """An nvcc.

    Attributes:
        version: such as ``13.0.88``.
        architectures: compute capabilities it makes machine code for, as numbers.
    """

    nvcc: Path
    version: str
    architectures: list[int]

    @property
    def release(self) -> tuple[int, int]:
        """Major and minor version."""
        major, minor, *_ = self.version.split(".")
        return int(major), int(minor)

    def supports(self, architecture: int) -> bool:
        return architecture in self.architectures or any(
            _JETSON_NAMES.get(known) == architecture for known in self.architectures
        )


def library_file(name: LibraryName) -> str:
    """``libdinat_tensorrt.so``"""
    return f"libdinat_{name}.so"


def library_directories() -> list[Path]:
    """Where libraries are looked for, first to last.

    ``DINAT_NATIVE_DIR`` alone if it is set; else what ``dinat-deploy plugin build`` made for this
    version, then what was built when the package was installed.
    """
    override = os.environ.get(ENVIRONMENT)
    if override:
        return [Path(override).expanduser().resolve()]
    return [user_directory(), *(path / "_native" for path in _package_directories())]


def find_library(name: LibraryName) -> Path | None:
    """A native library for this machine's processor, or None if there is none."""
    for folder in library_directories():
        path = folder / library_file(name)
        if path.is_file() and machine(path) == platform.machine():
            return path
    return None


def library_info(path: Path) -> LibraryInfo:
    """What a library is, also one for another processor.

    Raises:
        NativeError: there is no such file, or it is no library of dinat-deploy.
    """
    try:
        library = SharedLibrary(path)
        label = _label(library.data)
        return LibraryInfo(
            path=path.resolve(),
            sha256=sha256(path),
            size=len(library.data),
            name=label["name"],
            version=label["version"],
            machine=library.machine,
            cuda_code=library.cuda_code(),
            symbols=library.exported_symbols(),
            needs=library.needed_versions(),
            compilers=label["compilers"],
        )
    except OSError as error:
        raise NativeError(f"{path} cannot be read: {error.strerror}.") from None
    # Also of damaged tables, and of a label that is not ours.
    except (
        NotElf, ValueError, LookupError, TypeError, OverflowError, RecursionError, struct.error,
    ):  # fmt: skip
        raise NativeError(
            f"{path} is no native library of dinat-deploy.",
            "`dinat-deploy plugin build` makes them; `dinat-deploy plugin info` finds them.",
        ) from None


def _label(data: bytes) -> dict[str, str]:
    """The line that every library carries (cmake/label.cpp.in)."""
    start = data.index(_LABEL) + len(_LABEL)
    label: dict[str, str] = json.loads(data[start : data.index(b"\0", start)])
    return label


def _package_directories() -> list[Path]:
    """The package's folders: an editable install has two, sources and compiled parts."""
    return [Path(path) for path in dinat_deploy.__path__]


def source_directory() -> Path | None:
    """The native sources: a checkout's own, else the copy inside the installed package."""
    packages = _package_directories()
    copies = [package / "_native" / "source" for package in packages]
    for folder in (*(package.parent for package in packages), *copies):
        if (folder / "CMakeLists.txt").is_file() and (folder / "plugins").is_dir():
            return folder
    return None


def user_directory() -> Path:
    """Where ``plugin build`` puts libraries for this machine; one folder for each version."""
    return data_directory() / dinat_deploy.__version__ / "native"


def data_directory() -> Path:
    """What belongs to this user on this machine and must be kept."""
    return _base("XDG_DATA_HOME", ".local/share")


def cache_directory() -> Path:
    """Logs, downloads and measured kernel times, which can be deleted at any time."""
    given = os.environ.get("DINAT_CACHE_DIR")
    return Path(given).expanduser() if given else _base("XDG_CACHE_HOME", ".cache")


def _base(variable: str, default: str) -> Path:
    given = os.environ.get(variable)
    return (Path(given) if given else Path(os.path.expanduser("~")) / default) / "dinat-deploy"  # noqa: PTH111


def find_cuda(directory: Path | None = None) -> CudaCompiler | None:
    """A CUDA compiler.

    Args:
        directory: a toolkit, with ``bin/nvcc``; None looks at ``CUDACXX``, ``CUDA_HOME``,
            ``CUDA_PATH``, ``PATH``, ``/usr/local/cuda`` and the wheels of the extra ``[cuda]``, in
            this order (as cmake/DinatCuda.cmake does).
    """
    candidates = [directory / "bin" / "nvcc"] if directory else _nvcc_candidates()
    for nvcc in candidates:
        if nvcc.is_file() and (compiler := _ask_nvcc(nvcc)):
            return compiler
    return None


def _nvcc_candidates() -> Iterator[Path]:
    if "CUDACXX" in os.environ:
        yield Path(shutil.which(os.environ["CUDACXX"]) or os.environ["CUDACXX"])
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            yield Path(os.environ[variable]) / "bin" / "nvcc"
    if on_path := shutil.which("nvcc"):
        yield Path(on_path)
    yield Path("/usr/local/cuda/bin/nvcc")
    wheels = Path(sysconfig.get_path("purelib")).glob("nvidia/cu*/bin/nvcc")
    yield from sorted(wheels, key=lambda path: int(path.parents[1].name[2:]), reverse=True)


def _ask_nvcc(nvcc: Path) -> CudaCompiler | None:
    said = output_of(nvcc, "--version")
    version = re.search(r"\bV(\d+\.\d+\.\d+)", said or "")
    codes = re.findall(r"\bsm_(\d+)\b", output_of(nvcc, "--list-gpu-code") or "")
    if not version or not codes:
        return None
    return CudaCompiler(nvcc, version[1], sorted({int(code) for code in codes}))


def find_program(*names: str) -> Path | None:
    """A program by any of its names, first beside this Python (a virtual environment's), then on
    PATH."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    for name in names:
        if found := shutil.which(name, path=places):
            return Path(found)
    return None


def find_cxx() -> Path | None:
    """The C++ compiler that CMake would take."""
    return find_program(*filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")))


def gpus() -> list[tuple[str, int | None]]:
    """Name and compute capability (89 for 8.9; None if the driver does not say) of every GPU."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    said = output_of(Path(tool), "--query-gpu=name,compute_cap", "--format=csv,noheader") or ""
    found: list[tuple[str, int | None]] = []
    for line in said.strip().splitlines():
        name, _, capability = line.rpartition(",")
        digits = capability.strip().replace(".", "")
        found.append((name.strip(), int(digits) if digits.isdigit() else None))
    return found


def output_of(program: Path, *arguments: str) -> str | None:
    """What a program prints, or None if it fails or takes longer than half a minute."""
    try:
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
