"""The copy floor and the launch floor: compile and call ``floors.cu``; their CPU stand-ins."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import torch
from torch import Tensor

from gpu.rivals import Contestant
from gpu.shapes import Row

SOURCE = Path(__file__).with_name("floors.cu")
COPY = "copy floor"


def compile_floors(folder: Path, capability: tuple[int, int], nvcc: str | None = None) -> Path:
    """Build the shared library for one compute capability.

    Raises:
        RuntimeError: there is no nvcc, or it fails; with its words.
    """
    compiler = nvcc or shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    if not Path(compiler).exists():
        raise RuntimeError("nvcc was not found: put it on PATH or pass --nvcc.")
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "libdinat_floors.so"
    architecture = f"sm_{capability[0]}{capability[1]}"
    done = subprocess.run(
        [
            compiler,
            "-O3",
            "-std=c++17",
            f"-arch={architecture}",
            "-shared",
            "-Xcompiler",
            "-fPIC,-fvisibility=hidden",
            "-o",
            str(library),
            str(SOURCE),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"nvcc failed on {SOURCE.name}:\n{done.stdout}{done.stderr}")
    return library


class Floors:
    """The compiled floors, launched on PyTorch's current stream."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.dinat_floor_copy.argtypes = [
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_int64,
            ctypes.c_int64,
            ctypes.c_void_p,
        ]
        self._library.dinat_floor_empty.argtypes = [ctypes.c_void_p]

    def empty(self) -> None:
        """Launch a kernel that does nothing."""
        _check(self._library.dinat_floor_empty(torch.cuda.current_stream().cuda_stream))

    def copy(self, row: Row) -> Contestant:
        """Reads and writes what the operator must."""
        tokens, library = row.tokens, self._library

        def run(qkv: Tensor, out: Tensor) -> Tensor:
            bytes_out = row.channels * qkv.element_size()
            stream = torch.cuda.current_stream().cuda_stream
            _check(
                library.dinat_floor_copy(qkv.data_ptr(), out.data_ptr(), tokens, bytes_out, stream)
            )
            return out

        return Contestant(COPY, run, complete=False)


def _check(code: int) -> None:
    if code:
        raise RuntimeError(f"a floor kernel failed with CUDA error {code}")


def cpu_copy(row: Row) -> Contestant:
    """The same bytes on the CPU, for dry runs."""

    def run(qkv: Tensor, out: Tensor) -> Tensor:
        return mixed(qkv, out)

    return Contestant(COPY, run, complete=False)


def mixed(qkv: Tensor, out: Tensor | None = None) -> Tensor:
    """What the copy floor writes: the bitwise exclusive or of the three parts of each token."""
    integer = {2: torch.int16, 4: torch.int32}[qkv.element_size()]
    query, key, value = qkv.view(integer).chunk(3, dim=-1)
    result = query ^ key ^ value
    if out is None:
        return result.view(qkv.dtype)
    out.view(integer).copy_(result)
    return out
