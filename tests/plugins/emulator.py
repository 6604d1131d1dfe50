"""The emulated CUDA kernels (``plugins/emulation``) called from Python."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests import bruteforce
from tests.plugins import abi
from tests.plugins.abi import Call, DataType

PLUGINS = Path(__file__).parents[2] / "plugins"
EMULATED = 90  # compute capability, that of the emulation


class Tactic(IntEnum):
    """``dinat::cuda::Tactic``."""

    HEURISTIC = 0
    PORTABLE = 1
    TILE4 = 2
    TILE8 = 3
    TILE16 = 4
    GROUP = 5


TENSOR_CORES = (Tactic.TILE4, Tactic.TILE8, Tactic.TILE16, Tactic.GROUP)


class Statistics(ctypes.Structure):
    """``dinat::emulation::Statistics``: events over all blocks of a launch."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "blocks",
            "barriers",
            "collectives",
            "products",
            "matrix_loads",
            "bank_conflicts",
            "copies",
        )
    ]


class Emulator:
    """A library built from ``plugins/emulation`` and ``plugins/kernels``."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        problem = ctypes.POINTER(abi.Problem)
        self._library.dinat_emulated_attention.argtypes = [
            problem,
            ctypes.POINTER(abi.Operands),
            ctypes.c_int,
            ctypes.c_uint,
        ]
        self._library.dinat_emulated_attention.restype = ctypes.c_char_p
        self._library.dinat_emulated_attention_in_parts.argtypes = [
            *self._library.dinat_emulated_attention.argtypes,
            ctypes.c_int64,
            ctypes.c_int64,
        ]
        self._library.dinat_emulated_attention_in_parts.restype = ctypes.c_char_p
        self._library.dinat_emulated_can_implement.argtypes = [problem, ctypes.c_int, ctypes.c_int]
        self._library.dinat_emulated_shared_bytes.argtypes = [problem, ctypes.c_int]
        self._library.dinat_emulated_statistics.argtypes = [ctypes.POINTER(Statistics)]

    def fault(self, call: Call, tactic: Tactic, seed: int = 0) -> str:
        """Run a call; what the emulation found wrong, or nothing."""
        message: bytes | None = self._library.dinat_emulated_attention(
            call.problem, call.operands, tactic, seed
        )
        return message.decode() if message else ""

    def fault_in_parts(self, call: Call, tactic: Tactic, blocks: int, items: int) -> str:
        """The same in launches of at most so many blocks and (token, head, slice) items."""
        message: bytes | None = self._library.dinat_emulated_attention_in_parts(
            call.problem, call.operands, tactic, 0, blocks, items
        )
        return message.decode() if message else ""

    def can_implement(
        self, problem: abi.Problem, tactic: Tactic, capability: int = EMULATED
    ) -> bool:
        return bool(self._library.dinat_emulated_can_implement(problem, tactic, capability))

    def tactics(self, problem: abi.Problem) -> list[Tactic]:
        """All that can compute the problem on the emulated device."""
        return [t for t in Tactic if t and self.can_implement(problem, t)]

    def shared_bytes(self, problem: abi.Problem, tactic: Tactic) -> int:
        return int(self._library.dinat_emulated_shared_bytes(problem, tactic))

    def statistics(self) -> Statistics:
        """Of this thread's latest call."""
        statistics = Statistics()
        self._library.dinat_emulated_statistics(statistics)
        return statistics


@dataclass(frozen=True)
class Case:
    """One problem with random inputs that follow from its sizes."""

    batch: int
    size: tuple[int, int]
    heads: int
    head_dim: int
    kernel_size: tuple[int, int]
    dilation: tuple[int, int]
    rpb: bool = True

    def __str__(self) -> str:
        size, kernel, dilation = (
            "x".join(map(str, pair)) for pair in (self.size, self.kernel_size, self.dilation)
        )
        bias = "" if self.rpb else "-norpb"
        return f"k{kernel}-d{dilation}-{self.batch}x{size}-h{self.heads}x{self.head_dim}{bias}"

    @property
    def scale(self) -> float:
        return float(np.float32(self.head_dim**-0.5))

    @functools.cached_property
    def arrays(self) -> tuple[npt.NDArray[np.float32], ...]:
        """Query, key, value ``[B, H, W, heads, dim]`` and, if there is one, rpb."""
        rng = np.random.default_rng([*self.size, *self.kernel_size, *self.dilation, self.head_dim])
        shape = (self.batch, *self.size, self.heads, self.head_dim)
        tables = (self.heads, *(2 * k - 1 for k in self.kernel_size))
        tensors = [rng.normal(0, 1.5, shape).astype(np.float32) for _ in range(3)]
        return (*tensors, rng.normal(0, 1, tables).astype(np.float32))

    def call(self, kind: DataType, packed: bool = True) -> Call:
        query, key, value, rpb = self.arrays
        return abi.call(
            query,
            key,
            value,
            rpb if self.rpb else None,
            kernel_size=self.kernel_size,
            dilation=self.dilation,
            scale=self.scale,
            kind=kind,
            packed=packed,
        )

    def expected(self, kind: DataType) -> npt.NDArray[np.float64]:
        query, key, value, rpb = self.arrays
        return reference(
            query,
            key,
            value,
            rpb if self.rpb else None,
            kernel_size=self.kernel_size,
            dilation=self.dilation,
            scale=self.scale,
            kind=kind,
        )


def reference(
    query: npt.NDArray[np.float32],
    key: npt.NDArray[np.float32],
    value: npt.NDArray[np.float32],
    rpb: npt.NDArray[np.float32] | None,
    *,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
    kind: DataType,
) -> npt.NDArray[np.float64]:
    """The definition in float64, of inputs rounded to the type."""
    arrays = [
        None if array is None else abi.decode(abi.encode(array, kind)).astype(np.float64)
        for array in (query, key, value, rpb)
    ]
    first, second, third, bias = arrays
    assert first is not None and second is not None and third is not None
    return bruteforce.attention(first, second, third, bias, kernel_size, dilation, scale)


def error(call: Call, expected: npt.NDArray[np.float64]) -> float:
    """Of a call's output: the largest deviation for float32, else relative in the L2 norm.

    NaN, which every comparison fails, if any element was not written.
    """
    output = abi.decode(call.output).astype(np.float64)
    if call.problem.type == DataType.FLOAT32:
        return float(np.abs(output - expected).max())
    return float(np.linalg.norm(output - expected) / np.linalg.norm(expected))


TOLERANCE = {DataType.FLOAT32: 2e-5, DataType.FLOAT16: 2e-3, DataType.BFLOAT16: 1e-2}


def runs(
    emulator: Emulator, case: Case, kind: DataType, packed: bool = True, seed: int = 0
) -> Iterator[tuple[Tactic, Call]]:
    """The case computed by every tactic that can, each without a fault."""
    for tactic in emulator.tactics(case.call(kind, packed).problem):
        call = case.call(kind, packed)
        fault = emulator.fault(call, tactic, seed)
        assert not fault, f"{tactic.name}: {fault}"
        yield tactic, call
