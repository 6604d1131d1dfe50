"""The number formats below float32, and what rounding to the 16-bit ones does to numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Precision = Literal["fp16", "bf16"]
QuantizedPrecision = Literal["int8", "fp8"]
_FP16, _BF16 = ir.DataType.FLOAT16, ir.DataType.BFLOAT16
_BLOCK = 1 << 18  # values that fit the cache


@dataclass(frozen=True)
class Format:
    """A floating-point format.

    Attributes:
        precision: its short name, as on the command line.
        name: its name in full.
        data_type: its ONNX type.
        numpy: its NumPy type.
        largest: its largest finite number.
        smallest_normal: its smallest number of full precision; below are the subnormal ones.
    """

    precision: Precision
    name: str
    data_type: ir.DataType
    numpy: np.dtype[np.generic]
    largest: float
    smallest_normal: float


FORMATS: dict[str, Format] = {
    form.precision: form
    for form in (
        Format("fp16", "float16", _FP16, _FP16.numpy(), (2 - 2.0**-10) * 2.0**15, 2.0**-14),
        Format("bf16", "bfloat16", _BF16, _BF16.numpy(), (2 - 2.0**-7) * 2.0**127, 2.0**-126),
    )
}


@dataclass(frozen=True)
class QuantizedFormat:
    """A format of numbers that stand for themselves times a scale.

    Attributes:
        precision: its short name, as on the command line.
        name: its name in full.
        data_type: its ONNX type.
        largest: its largest number in use; the range is symmetric, and the scale of a tensor is its
            largest absolute value over this.
        opset: the first version of the standard operators whose Q/DQ nodes know it.
    """

    precision: QuantizedPrecision
    name: str
    data_type: ir.DataType
    largest: float
    opset: int


QUANTIZED_FORMATS: dict[str, QuantizedFormat] = {
    form.precision: form
    for form in (
        QuantizedFormat("int8", "int8", ir.DataType.INT8, 127.0, 13),
        QuantizedFormat("fp8", "float8 (E4M3)", ir.DataType.FLOAT8E4M3FN, 448.0, 19),
    )
}


def rounded(array: npt.NDArray[np.float32], form: Format) -> npt.NDArray[np.generic]:
    """The array in the format: to the nearest number, ties to even, infinite beyond the largest."""
    with np.errstate(over="ignore"):
        return array.astype(form.numpy)


@dataclass(frozen=True)
class Rounding:
    """What rounding did to an array.

    Attributes:
        values: how many values it has.
        overflowed: how many became infinite.
        subnormal: how many lie below full precision, those that became zero included.
        lost: how many became zero and were not.
        error: root mean square of the change, relative to the array's own.
    """

    values: int
    overflowed: int
    subnormal: int
    lost: int
    error: float


def measure_rounding(array: npt.NDArray[np.float32], form: Format) -> Rounding:
    """Round an array to a format and compare."""
    flat = array.reshape(-1)
    blocks = [_measure(flat[at : at + _BLOCK], form) for at in range(0, flat.size, _BLOCK)]
    overflowed, subnormal, lost, noise, power = (
        sum(column) for column in zip(*blocks, strict=True)
    )
    return Rounding(
        values=array.size,
        overflowed=int(overflowed),
        subnormal=int(subnormal),
        lost=int(lost),
        error=float(np.sqrt(noise / power)) if power else 0.0,
    )


def _measure(values: npt.NDArray[np.float32], form: Format) -> tuple[float, ...]:
    """Overflowed, subnormal and lost values; squares of the change and of the values, summed."""
    found = rounded(values, form).astype(np.float32)
    zeros = values.size - np.count_nonzero(values)
    lost = values.size - np.count_nonzero(found) - zeros
    subnormal = np.count_nonzero(np.abs(values) < form.smallest_normal) - zeros
    finite = np.isfinite(found)
    if overflowed := values.size - np.count_nonzero(finite):
        found = np.where(finite, found, values)
    exact = values.astype(np.float64)  # float32 would lose the squares of small values
    change = found - exact
    return overflowed, subnormal, lost, float(change @ change), float(exact @ exact)
