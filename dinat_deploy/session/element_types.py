"""Element types of models and engines, and what float32 arrays become in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dinat_deploy.errors import EngineError
from dinat_deploy.session.base import FloatArray

Array = npt.NDArray[Any]

# How each type lies in memory. NumPy has no bfloat16: its bits are held in integers.
STORAGE: Mapping[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(np.uint16),
    "int8": np.dtype(np.int8),
    "uint8": np.dtype(np.uint8),
    "int32": np.dtype(np.int32),
    "int64": np.dtype(np.int64),
    "bool": np.dtype(np.bool_),
}
_INTEGERS = ("int8", "uint8", "int32", "int64")


def encode(array: npt.ArrayLike, dtype: str, name: str) -> Array:
    """An array in an element type, contiguous.

    Floating-point types round to nearest, ties to even, and to infinity beyond their range.

    Args:
        dtype: one of :data:`STORAGE`.
        name: of the tensor, for messages.

    Raises:
        EngineError: the type is an integer or bool, and a value is not one of its numbers.
    """
    given = np.ascontiguousarray(array)
    if dtype == "bfloat16":
        return _to_bfloat16(np.ascontiguousarray(given, np.float32))
    storage = STORAGE[dtype]
    if given.dtype == storage:
        return given
    with np.errstate(over="ignore", invalid="ignore"):
        converted = np.ascontiguousarray(given, storage)
    if dtype in _INTEGERS or dtype == "bool":
        wrong = converted != given
        if wrong.any():
            raise _not_a_number_of(dtype, given, given[wrong].flat[0], name)
    return converted


def _not_a_number_of(dtype: str, given: Array, value: Any, name: str) -> EngineError:
    if dtype != "uint8":
        return EngineError(
            f"The input {name} has the value {value}, and the model takes {dtype} there.",
            "Give it whole numbers within the type's range.",
        )
    low, high = np.min(given), np.max(given)
    return EngineError(
        f"The input {name} takes pixels, whole numbers from 0 to 255 (uint8), and was given "
        f"{value:.6g} among values from {low:.6g} to {high:.6g}.",
        "Give it the resized picture as it is, neither scaled nor normalised: the model does both.",
    )


def decode(array: Array, dtype: str) -> FloatArray:
    """An array of :data:`STORAGE` as a float32 array of its own."""
    if dtype == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def _to_bfloat16(array: FloatArray) -> Array:
    bits = array.view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    # Rounding would carry the bits of a NaN over into another number: keep one that is quiet.
    quiet = (bits >> 16) | 0x0040
    return np.where(np.isnan(array), quiet, rounded).astype(np.uint16)
