"""Arrays in and out of ONNX Runtime, in element types that NumPy has or lacks."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from dinat_deploy.session.base import FloatArray
from dinat_deploy.session.element_types import encode

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}
BFLOAT16 = "tensor(bfloat16)"  # NumPy has no such type
_BFLOAT16_ELEMENT = 16  # TensorProto.BFLOAT16


def converted(array: npt.ArrayLike, kind: str, name: str) -> npt.NDArray[Any]:
    """The array in the type of an input, which is not bfloat16.

    Raises:
        EngineError: the type is uint8, and a value is none of its numbers.
    """
    if kind == "tensor(uint8)":
        return encode(array, "uint8", name)
    return np.ascontiguousarray(array, _TYPES.get(kind, np.float32))


def to_value(runtime: Any, array: npt.ArrayLike, kind: str, name: str) -> Any:
    """An ``OrtValue`` on the CPU, in the type of an input; raises as :func:`converted`."""
    if kind != BFLOAT16:
        return runtime.OrtValue.ortvalue_from_numpy(converted(array, kind, name))
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)  # ties to even
    return runtime.OrtValue.ortvalue_from_numpy_with_onnx_type(rounded, _BFLOAT16_ELEMENT)


def to_array(value: Any) -> FloatArray:
    """A float32 array of an ``OrtValue`` on the CPU."""
    if value.data_type() != BFLOAT16:
        return np.asarray(value.numpy(), np.float32)
    shape = tuple(value.shape())
    count = int(np.prod(shape, dtype=np.int64))
    if count == 0:
        return np.zeros(shape, np.float32)
    words = ctypes.string_at(value.data_ptr(), 2 * count)
    bits = np.frombuffer(words, np.uint16).astype(np.uint32) << 16
    return bits.view(np.float32).reshape(shape)
