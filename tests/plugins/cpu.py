"""The CPU kernel through the build's test library (``plugins/cpu/tests/module.cpp``)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.plugins import abi


class Isa(IntEnum):
    """``dinat::cpu::Isa``."""

    SCALAR = 0
    AVX2 = 1
    AVX512 = 2
    NEON = 3


class CpuKernel:
    """Calls of the kernel and of the reference in double precision."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))

    @property
    def isas(self) -> list[Isa]:
        """What this machine runs; the scalar kernel always."""
        return [isa for isa in Isa if self._library.dinat_cpu_supports(int(isa))]

    def run(self, call: abi.Call, isa: Isa, threads: int = 1) -> npt.NDArray[np.float32]:
        """Outputs as float32; raises ValueError with the fault that the library names."""
        fault = ctypes.create_string_buffer(256)
        failed = self._library.dinat_cpu_attention(
            ctypes.byref(call.problem), ctypes.byref(call.operands), int(isa), threads, fault
        )
        if failed:
            raise ValueError(fault.value.decode())
        return abi.decode(call.output).copy()

    def reference(self, call: abi.Call) -> npt.NDArray[np.float32]:
        self._library.dinat_cpu_reference(ctypes.byref(call.problem), ctypes.byref(call.operands))
        return abi.decode(call.output).copy()


def random_call(
    shape: Sequence[int],
    *,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    rpb: bool = True,
    kind: abi.DataType = abi.DataType.FLOAT32,
    packed: bool = True,
    seed: int = 0,
) -> abi.Call:
    """A call on normal inputs of a shape [B, H, W, heads, dim], with the usual scale."""
    rng = np.random.default_rng(seed)
    query, key, value = (rng.standard_normal(shape).astype(np.float32) for _ in range(3))
    table = (shape[3], *(2 * k - 1 for k in kernel_size))
    return abi.call(
        query,
        key,
        value,
        rng.standard_normal(table).astype(np.float32) if rpb else None,
        kernel_size=kernel_size,
        dilation=dilation,
        scale=shape[4] ** -0.5,
        kind=kind,
        packed=packed,
    )
