"""``plugin info``: which native libraries there are, and what is missing."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import dinat_deploy
from dinat_deploy import native
from dinat_deploy.errors import NativeError
from dinat_deploy.native import CudaCompiler, LibraryInfo, LibraryName


@dataclass(frozen=True)
class InfoReport:
    """What there is.

    Attributes:
        directories: where libraries are looked for, first to last.
        libraries: by name; None if missing.
        cuda: a CUDA compiler that could build.
        cxx: the C++ compiler.
        gpus: names and compute capabilities.
        remarks: what is wrong or missing, each with its cure.
    """

    directories: list[Path]
    libraries: dict[LibraryName, LibraryInfo | None]
    cuda: CudaCompiler | None
    cxx: Path | None
    gpus: list[tuple[str, int | None]]
    remarks: list[str]

    def to_dict(self) -> dict[str, Any]:
        cuda = self.cuda and {
            "nvcc": str(self.cuda.nvcc),
            "version": self.cuda.version,
            "architectures": self.cuda.architectures,
        }
        return {
            "directories": [str(path) for path in self.directories],
            "libraries": {n: info and info.to_dict() for n, info in self.libraries.items()},
            "cuda": cuda,
            "cxx": str(self.cxx) if self.cxx else None,
            "gpus": [{"name": name, "compute_capability": number} for name, number in self.gpus],
            "remarks": self.remarks,
        }


def plugin_info() -> InfoReport:
    """Which native libraries there are, what is missing, and how to build it."""
    libraries: dict[LibraryName, LibraryInfo | None] = {}
    unreadable: list[str] = []
    for name in get_args(LibraryName):
        path = native.find_library(name)
        libraries[name] = None
        try:
            libraries[name] = native.library_info(path) if path else None
        except NativeError as error:
            unreadable.append(error.cause)
    if libraries["kernels"] is None:
        del libraries["kernels"]  # the CUDA kernels alone, which only their tests use
    cuda, cxx, gpus = native.find_cuda(), native.find_cxx(), native.gpus()
    return InfoReport(
        directories=native.library_directories(),
        libraries=libraries,
        cuda=cuda,
        cxx=cxx,
        gpus=gpus,
        remarks=[*unreadable, *_remarks(libraries, cuda, cxx, gpus)],
    )


def _remarks(
    libraries: dict[LibraryName, LibraryInfo | None],
    cuda: CudaCompiler | None,
    cxx: Path | None,
    gpus: list[tuple[str, int | None]],
) -> Iterator[str]:
    missing = [name for name, info in libraries.items() if info is None]
    if missing:
        steps = [] if cxx else ["install a C++ compiler (apt-get install g++)"]
        if "tensorrt" in missing and cuda is None:
            steps.append("pip install 'dinat-deploy[cuda]'")
        steps.append("dinat-deploy plugin build")
        yield f"{' and '.join(missing)} missing. To build: {', then '.join(steps)}."
    for name, info in libraries.items():
        if info is None:
            continue
        if info.version != dinat_deploy.__version__:
            yield (
                f"{name} was built from dinat-deploy {info.version}; this is "
                f"{dinat_deploy.__version__}. To mend: dinat-deploy plugin build."
            )
        for gpu, architecture in gpus:
            if info.cuda_code and architecture and not info.runs_on_gpu(architecture):
                yield (
                    f"{name} has {', '.join(info.cuda_code)}, which {gpu} (sm_{architecture}) "
                    f"cannot run. To mend: dinat-deploy plugin build --arch {architecture}."
                )


def library_report(path: str | Path) -> tuple[LibraryInfo, list[str]]:
    """What one library is, and remarks on using it here.

    Raises:
        NativeError: it is no library of dinat-deploy.
    """
    info = native.library_info(Path(path))
    remarks = []
    if info.machine != platform.machine():
        remarks.append(f"It is for {info.machine}; this machine is {platform.machine()}.")
    if info.version != dinat_deploy.__version__:
        remarks.append(
            f"It was built from dinat-deploy {info.version}; this is {dinat_deploy.__version__}."
        )
    return info, remarks
