"""Put the normalisation of pictures into a graph, so that its input is pixels.

The input becomes uint8 and keeps its name: profiles, feeds and ``--shapes image=...`` go by it.
What was the input before is computed from it, in float32 whatever the rest of the graph is in:

    image (uint8) -> Cast -> Mul 1/(255 std) -> Add -mean/std -> image/normalized (float32)

A Cast reads the uint8 tensor because TensorRT lets nothing else do so, and not to bfloat16, which
TensorRT does not make of pixels (``DataType::kUINT8`` in NvInferRuntimeBase.h, 10.0 to 11.1).

This is the last step of a rewrite. Before it the graph has the tensors of the float32 model under
their own names, which is what ranges and placements go by.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from dinat_deploy.errors import ConversionError
from dinat_deploy.graph.islands import FLOAT

PIXELS = ir.DataType.UINT8
_LARGEST = 255.0


def normalized_name(name: str) -> str:
    """What the former input of this name is called once the input is pixels."""
    return f"{name}/normalized"


def take_pixels(model: ir.Model, mean: Sequence[float], std: Sequence[float]) -> dict[str, str]:
    """Let the inputs of a graph be pixels, 0 to 255, in place.

    Args:
        model: its inputs are normalised pictures, float32 ``[B, C, H, W]``, for which
            ``(pixel / 255 - mean) / std`` was computed before.
        mean, std: of every channel, in units of the 0..1 range.

    Returns:
        Name of each input -> name of the tensor that holds what the input held before.

    Raises:
        ConversionError: an input is no float32 picture of so many channels; the graph is unchanged.
    """
    graph = model.graph
    for value in graph.inputs:
        _check(value, len(mean))
    renamed = {}
    for position, value in enumerate(graph.inputs):
        name = str(value.name)
        pixels = ir.Value(name=name, shape=value.shape, type=ir.TensorType(PIXELS))
        value.name = renamed[name] = normalized_name(name)
        graph.inputs[position] = pixels
        _normalize(graph, pixels, value, mean, std)
    return renamed


def _check(value: ir.Value, channels: int) -> None:
    if value.dtype != FLOAT:
        kind = str(value.dtype).lower()
        raise ConversionError(
            f"The input {value.name} is of type {kind}, and pixels take the place of float32 ones.",
            "Convert the float32 model.",
        )
    shape = list(value.shape) if value.shape is not None else []
    if len(shape) != 4 or shape[1] != channels:
        sizes = " x ".join(str(size) for size in shape) or "of unknown shape"
        raise ConversionError(
            f"The input {value.name} is {sizes}, and the preprocessing is for pictures of "
            f"{channels} channels.",
            "Leave the normalisation outside (--io fp32 or fp16).",
        )


def _normalize(
    graph: ir.Graph, pixels: ir.Value, result: ir.Value, mean: Sequence[float], std: Sequence[float]
) -> None:
    """Compute ``result`` from ``pixels``.

    A product and a sum instead of ``(x / 255 - mean) / std``: a GPU does both in one instruction.
    """
    exact_mean, exact_std = np.array(mean, np.float64), np.array(std, np.float64)
    name = str(pixels.name)
    scale = _constant(graph, f"{name}/pixel_scale", 1.0 / (_LARGEST * exact_std))
    shift = _constant(graph, f"{name}/pixel_shift", -exact_mean / exact_std)
    cast = ir.node("Cast", [pixels], {"to": int(FLOAT)}, name=f"{name}/Cast")
    scaled = ir.node("Mul", [cast.outputs[0], scale], name=f"{name}/Mul")
    shifted = ir.node("Add", [scaled.outputs[0], shift], name=f"{name}/Add", outputs=[result])
    for node in (cast, scaled):
        made = node.outputs[0]
        made.name, made.shape, made.type = f"{node.name}_output", result.shape, ir.TensorType(FLOAT)
    graph.insert_before(graph[0], [cast, scaled, shifted])


def _constant(graph: ir.Graph, name: str, values: npt.NDArray[np.float64]) -> ir.Value:
    tensor = ir.tensor(values.astype(np.float32).reshape(-1, 1, 1), name=name)
    shape = ir.Shape([len(values), 1, 1])
    value = ir.Value(name=name, shape=shape, type=ir.TensorType(FLOAT), const_value=tensor)
    graph.register_initializer(value)
    return value
