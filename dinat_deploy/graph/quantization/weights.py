"""Constant factors in a quantized format: scales per output channel, values made when written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from dinat_deploy.errors import ConversionError
from dinat_deploy.graph.formats import FORMATS, QuantizedFormat
from dinat_deploy.graph.quantization.records import Placement

Array = npt.NDArray[np.float32]
_SMALLEST_NORMAL = {
    ir.DataType.FLOAT: 2.0**-126,
    **{form.data_type: form.smallest_normal for form in FORMATS.values()},
}


@dataclass(frozen=True)
class Scales:
    """Scales in the type that they are stored in.

    Attributes:
        values: of that type, of any shape; normal numbers, never zero.
        raised: how many the type could hold only as zero or as a subnormal number; they became its
            smallest normal one. Values of those channels are quantized more coarsely than need be.
    """

    values: npt.NDArray[np.generic]
    raised: int


def scales(largest: npt.ArrayLike, form: QuantizedFormat, kind: ir.DataType) -> Scales:
    """Scales by which the largest absolute values become the largest number of the format.

    They are rounded to the nearest number of the type, so that both QuantizeLinear and a program
    that quantizes weights ahead divide by what DequantizeLinear multiplies with. The largest value
    then is off by half a step at most: ``127 * (1 + 2**-9) < 127.5``, bfloat16 being the coarsest.

    Args:
        largest: non-negative.
        kind: float32, float16 or bfloat16.

    Raises:
        ConversionError: a scale is no number, or too large for the type.
    """
    with np.errstate(over="ignore"):
        exact = np.asarray(largest, np.float64) / form.largest
        values = exact.astype(kind.numpy())
    if not np.isfinite(values.astype(np.float32)).all():
        raise ConversionError(
            f"The range {np.max(largest):.4g} has no scale in {kind.name.lower()}.",
            "Check the ranges; or let the rest of the model be float32.",
        )
    least = np.array(_SMALLEST_NORMAL[kind], kind.numpy())
    small = values < least
    return Scales(np.where(small, least, values), int(np.count_nonzero(small)))


def quantized(
    array: Array, scale: npt.NDArray[np.generic], axis: int, form: QuantizedFormat
) -> npt.NDArray[np.generic]:
    """``array / scale`` in the format: to the nearest number, ties to even, symmetric.

    Args:
        array: float32.
        scale: ``[array.shape[axis]]``.
    """
    shape = [-1 if position == axis else 1 for position in range(array.ndim)]
    # In float32, as QuantizeLinear computes it.
    found = array / scale.astype(np.float32).reshape(shape)
    if form.data_type == ir.DataType.INT8:
        np.rint(found, out=found)
    np.clip(found, -form.largest, form.largest, out=found)
    return found.astype(form.data_type.numpy())


def channel_scales(
    weight: ir.TensorProtocol, axis: int, form: QuantizedFormat, kind: ir.DataType
) -> Scales:
    """One scale for each entry of an axis, from its largest absolute value.

    Raises:
        ConversionError: a weight is no number, or too large for the type.
    """
    array = weight.numpy()
    others = tuple(position for position in range(array.ndim) if position != axis)
    largest = np.maximum(array.max(others), -array.min(others))  # abs() would copy it
    return scales(largest, form, kind)


def capture(model: ir.Model, placement: Placement) -> dict[str, ir.TensorProtocol]:
    """The exact float32 weights of a placement, to be taken before the graph is converted."""
    found = {}
    for site in placement.sites:
        held = model.graph.initializers[site.weight].const_value
        assert held is not None
        found[site.weight] = held
    return found


def lazily(
    weight: ir.TensorProtocol,
    scale: npt.NDArray[np.generic],
    axis: int,
    form: QuantizedFormat,
    name: str,
) -> ir.TensorProtocol:
    """The quantized weight, computed whenever it is asked for, so that a large model is held only
    once while it is written."""
    return ir.LazyTensor(
        _quantizing(weight, scale, axis, form),
        dtype=form.data_type,
        shape=ir.Shape(weight.shape.numpy()),
        name=name,
    )


def _quantizing(
    weight: ir.TensorProtocol, scale: npt.NDArray[np.generic], axis: int, form: QuantizedFormat
) -> Callable[[], ir.TensorProtocol]:
    def make() -> ir.TensorProtocol:
        array = np.asarray(weight.numpy(), np.float32)
        return ir.Tensor(quantized(array, scale, axis, form), dtype=form.data_type)

    return make
