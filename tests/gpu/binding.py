"""The CUDA kernels' C interface (``plugins/kernels/c_api.cpp``) on PyTorch tensors."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from tests.plugins.abi import DataType, Operands, Problem, Strides

ROOT = Path(__file__).parents[2]
LIBRARY = "libdinat_kernels.so"
VARIABLE = "DINAT_KERNELS"
HEURISTIC = 0
INVALID_VALUE = 1  # cudaErrorInvalidValue

TYPES = {
    torch.float32: DataType.FLOAT32,
    torch.float16: DataType.FLOAT16,
    torch.bfloat16: DataType.BFLOAT16,
}


def find_library(name: str = LIBRARY, variable: str = VARIABLE) -> Path | None:
    """The library that an environment variable names, else the newest in a build directory."""
    if variable in os.environ:
        return Path(os.environ[variable])
    found = [
        path for folder in ROOT.glob("build*") for path in folder.rglob(name) if path.is_file()
    ]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _strides(tensor: Tensor) -> Strides:
    if tensor.stride(-1) != 1:
        raise ValueError(f"channels must be contiguous, and have stride {tensor.stride(-1)}")
    return Strides(*tensor.stride()[:4])


def problem_of(
    query: Tensor,
    out: Tensor,
    *,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float | None = None,
) -> Problem:
    """The problem of heads-last tensors ``[B, H, W, heads, dim]``, any strides but the last."""
    batch, height, width, heads, dim = query.shape
    return Problem(
        batch,
        (ctypes.c_int32 * 2)(height, width),
        heads,
        dim,
        (ctypes.c_int32 * 2)(*kernel_size),
        (ctypes.c_int32 * 2)(*dilation),
        dim**-0.5 if scale is None else scale,
        int(TYPES[query.dtype]),
        _strides(query),
        _strides(out),
    )


def unpack(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """``[B, H, W, 3*heads*dim]`` -> three views ``[B, H, W, heads, dim]``."""
    query, key, value = qkv.view(*qkv.shape[:3], 3, heads, -1).unbind(3)
    return query, key, value


class KernelError(RuntimeError):
    """A launch that was refused or failed; ``code`` is a cudaError_t."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"CUDA error {code}: {text}")
        self.code = code


class Kernels:
    """The loaded library. All launches go to PyTorch's current stream."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = library = ctypes.CDLL(str(path))
        pointer = ctypes.c_void_p
        problem, operands = ctypes.POINTER(Problem), ctypes.POINTER(Operands)
        library.dinat_cuda_attention.argtypes = [problem, operands, ctypes.c_int, pointer]
        library.dinat_cuda_tactics.argtypes = [problem, ctypes.POINTER(ctypes.c_int), ctypes.c_int]
        for name in ("dinat_cuda_tactic_name", "dinat_cuda_error"):
            getattr(library, name).argtypes = [ctypes.c_int]
            getattr(library, name).restype = ctypes.c_char_p

    def tactic_name(self, tactic: int) -> str:
        return str(self._library.dinat_cuda_tactic_name(tactic).decode())

    def tactics(self, problem: Problem) -> list[int]:
        """All that can compute a problem on the current device, without the heuristic.

        Raises:
            KernelError: the device cannot be asked.
        """
        room = (ctypes.c_int * 64)()
        count = self._library.dinat_cuda_tactics(ctypes.byref(problem), room, len(room))
        if count < 0:
            raise self._error(-count)
        return list(room[:count])

    def _error(self, code: int) -> KernelError:
        return KernelError(code, self._library.dinat_cuda_error(code).decode())

    def launch(self, problem: Problem, operands: Operands, tactic: int = HEURISTIC) -> None:
        """Enqueue.

        Raises:
            KernelError: what the library returned, if not success.
        """
        stream = torch.cuda.current_stream().cuda_stream
        code = self._library.dinat_cuda_attention(
            ctypes.byref(problem), ctypes.byref(operands), tactic, stream
        )
        if code:
            raise self._error(code)

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        rpb: Tensor | None,
        out: Tensor,
        *,
        kernel_size: Sequence[int],
        dilation: Sequence[int],
        scale: float | None = None,
        tactic: int = HEURISTIC,
    ) -> Tensor:
        """Compute into ``out`` and return it; tensors as in :func:`problem_of`."""
        if not query.stride() == key.stride() == value.stride():
            raise ValueError("query, key and value must have the same strides")
        problem = problem_of(query, out, kernel_size=kernel_size, dilation=dilation, scale=scale)
        bias = None if rpb is None else rpb.contiguous()
        operands = Operands(
            query.data_ptr(),
            key.data_ptr(),
            value.data_ptr(),
            None if bias is None else bias.data_ptr(),
            out.data_ptr(),
        )
        self.launch(problem, operands, tactic)
        return out
