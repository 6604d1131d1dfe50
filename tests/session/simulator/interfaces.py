"""Enumerations of TensorRT, and the interfaces that its callers implement."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from typing import Any


class Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class DataType(enum.IntEnum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    BOOL = 4
    UINT8 = 5
    FP8 = 6
    BF16 = 7
    INT64 = 8


class TensorIOMode(enum.IntEnum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class TensorLocation(enum.IntEnum):
    DEVICE = 0
    HOST = 1


class TensorFormat(enum.IntEnum):
    LINEAR = 0
    HWC8 = 5


class LayerInformationFormat(enum.IntEnum):
    ONELINE = 0
    JSON = 1


class ExecutionContextAllocationStrategy(enum.IntEnum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class EngineStat(enum.IntEnum):
    TOTAL_WEIGHTS_SIZE = 0
    STRIPPED_WEIGHTS_SIZE = 1


class Dims:
    """A shape, which is neither a tuple nor equal to one."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = tuple(sizes)

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[int]:
        return iter(self._sizes)

    def __getitem__(self, index: int) -> int:
        return self._sizes[index]


class _Interface:
    """Base of what callers implement: without its constructor the real one crashes."""

    def __init__(self) -> None:
        self._initialised = True


class ILogger(_Interface):
    Severity = Severity


class IProfiler(_Interface):
    pass


class IOutputAllocator(_Interface):
    pass


class IDebugListener(_Interface):
    pass


def initialised(implementation: Any) -> Any:
    if not getattr(implementation, "_initialised", False):
        raise TypeError("the constructor of the interface was not called")
    return implementation


class CudaGraphStrategy(enum.IntEnum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


class DynamicShapesKernelSpecializationStrategy(enum.IntEnum):
    LAZY = 0
    EAGER = 1
    NONE = 2
