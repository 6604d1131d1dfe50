"""The C structures of ``plugins/common/problem.h``, filled from NumPy arrays."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class DataType(IntEnum):
    """``dinat::DataType``; bfloat16 values travel as their 16 bits in uint16 arrays."""

    FLOAT32 = 0
    FLOAT16 = 1
    BFLOAT16 = 2


class Strides(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("batch", "row", "column", "head")]


class Problem(ctypes.Structure):
    _fields_ = [
        ("batch", ctypes.c_int64),
        ("size", ctypes.c_int32 * 2),
        ("heads", ctypes.c_int32),
        ("head_dim", ctypes.c_int32),
        ("kernel_size", ctypes.c_int32 * 2),
        ("dilation", ctypes.c_int32 * 2),
        ("scale", ctypes.c_float),
        ("type", ctypes.c_int32),
        ("input", Strides),
        ("output", Strides),
    ]


class Operands(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("query", "key", "value", "rpb", "output")]


def encode(array: npt.NDArray[np.float32], kind: DataType) -> Array:
    """Round float32 values to a type (bfloat16: to nearest, ties to even)."""
    if kind is DataType.FLOAT32:
        return np.ascontiguousarray(array, np.float32)
    if kind is DataType.FLOAT16:
        return np.ascontiguousarray(array, np.float16)
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def decode(array: Array) -> npt.NDArray[np.float32]:
    """Values of an array made by :func:`encode`, as float32."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


@dataclass
class Call:
    """Arguments of one call; keeps the arrays alive that its structures point to."""

    problem: Problem
    operands: Operands
    output: Array
    inputs: tuple[Array, ...]


def _strides(array: Array, axes: Sequence[int]) -> Strides:
    return Strides(*(array.strides[axis] // array.itemsize for axis in axes))


def call(
    query: npt.NDArray[np.float32],
    key: npt.NDArray[np.float32],
    value: npt.NDArray[np.float32],
    rpb: npt.NDArray[np.float32] | None,
    *,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
    kind: DataType = DataType.FLOAT32,
    packed: bool = True,
) -> Call:
    """A call on heads-last tensors [B, H, W, heads, dim], packed into one tensor or not.

    The output starts as NaN, so that a value that is not written is seen.
    """
    batch, height, width, heads, dim = query.shape
    if packed:
        qkv = encode(np.stack([query, key, value], axis=3), kind)  # [B, H, W, 3, heads, dim]
        parts = [qkv[:, :, :, which] for which in range(3)]
    else:
        parts = [encode(part, kind) for part in (query, key, value)]
    output = encode(np.full(query.shape, np.nan, np.float32), kind)
    bias = None if rpb is None else encode(rpb, kind)
    problem = Problem(
        batch,
        (ctypes.c_int32 * 2)(height, width),
        heads,
        dim,
        (ctypes.c_int32 * 2)(*kernel_size),
        (ctypes.c_int32 * 2)(*dilation),
        scale,
        int(kind),
        _strides(parts[0], range(4)),
        _strides(output, range(4)),
    )
    operands = Operands(
        *(part.ctypes.data for part in parts),
        None if bias is None else bias.ctypes.data,
        output.ctypes.data,
    )
    kept = (*parts, *(() if bias is None else (bias,)))
    return Call(problem, operands, output, kept)
