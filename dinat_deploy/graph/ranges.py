"""How large the numbers in a graph become, recorded while it runs.

The graph is given outputs that reduce every tensor to its largest absolute value, so that a run
keeps no tensor longer than the model itself does, however many there are. Minus infinity that is a
mask is left out (:mod:`dinat_deploy.graph.masks`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from dinat_deploy.errors import ConversionError
from dinat_deploy.graph.expressions import Builder, Expr
from dinat_deploy.graph.functions import op_nodes
from dinat_deploy.graph.masks import masked_tensors, without_mask
from dinat_deploy.graph.schema import PACKED

FloatArray = npt.NDArray[np.float32]
_FLOAT = ir.DataType.FLOAT


@dataclass(frozen=True)
class Probes:
    """Outputs that were added to a graph.

    Attributes:
        tensors: output -> the tensor whose largest absolute value it holds, masks left out.
        scores: output -> the attention node whose longest queries and keys it holds, as
            ``[2, heads]``.
    """

    tensors: dict[str, str] = field(default_factory=dict)
    scores: dict[str, str] = field(default_factory=dict)


@dataclass
class Ranges:
    """What was recorded, over all inputs so far.

    Attributes:
        tensors: tensor -> its largest absolute value, masks left out.
        scores: attention node -> a bound of its scores (scaled products of query and key, without
            the bias): the longest query times the longest key of a head.
        inputs: how many inputs were run.
    """

    tensors: dict[str, float] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    inputs: int = 0


def add_probes(model: ir.Model) -> Probes:
    """Add outputs to a float32 graph that tell the range of each of its tensors."""
    graph = model.graph
    b = Builder(graph.opset_imports[""])
    probes = Probes()
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    attention = op_nodes(model)
    masked = masked_tensors(graph)
    reduced: list[Expr] = []
    for value in values:
        if value.dtype == _FLOAT and value.name:
            measured = without_mask(b, value, masked)
            reduced.append(_output(b, b.ReduceMax(b.Abs(measured), keepdims=0), reduced))
            probes.tensors[str(reduced[-1].value.name)] = value.name
    for node in attention:
        reduced.append(_output(b, _longest(b, node), reduced))
        probes.scores[str(reduced[-1].value.name)] = str(node.name)
    graph.extend(b.nodes)
    graph.outputs.extend(result.value for result in reduced)
    return probes


def _output(b: Builder, result: Expr, before: list[Expr]) -> Expr:
    result.value.name = f"range.{len(before)}"
    result.value.type = ir.TensorType(_FLOAT)
    return result


def _longest(b: Builder, node: ir.Node) -> Expr:
    """Lengths of the longest query and key of every head: ``[2, heads]``."""
    heads = node.attributes.get_int("num_heads")
    dim = node.attributes.get_int("head_dim")
    assert heads is not None and dim is not None
    inputs = [b.wrap(value) for value in node.inputs if value is not None]
    if node.op_type == PACKED:
        parts = b.split(b.reshape(inputs[0], -1, 3, heads, dim), 3, axis=1)[:2]
    else:
        parts = [b.reshape(value, -1, heads, dim) for value in inputs[:2]]
    longest = [b.reduce_max(b.ReduceSum(x * x, [-1], keepdims=0), 0) for x in parts]
    return b.Sqrt(b.Concat(*longest, axis=0))


def record(
    ranges: Ranges, probes: Probes, outputs: Mapping[str, FloatArray], scales: Mapping[str, float]
) -> None:
    """Add what one run gave.

    Args:
        outputs: of the graph with the probes.
        scales: attention node -> factor on its products.

    Raises:
        ConversionError: a tensor is not finite: the float32 model itself is broken.
    """
    for output, tensor in probes.tensors.items():
        found = float(outputs[output])
        # ONNX Runtime's ReduceMax overlooks what is not a number, which mostly gets to an output.
        if tensor in outputs and np.isnan(outputs[tensor]).any():
            found = math.nan
        if not math.isfinite(found):
            raise ConversionError(
                f"The float32 model already computes {found} in the tensor {tensor}.",
                "Check the weights and the pictures; no precision can mend that.",
            )
        ranges.tensors[tensor] = max(found, ranges.tensors.get(tensor, 0.0))
    for output, node in probes.scores.items():
        query, key = outputs[output].astype(np.float64)
        bound = abs(scales[node]) * float(np.max(query * key))
        ranges.scores[node] = max(bound, ranges.scores.get(node, 0.0))
    ranges.inputs += 1


def attention_scales(model: ir.Model) -> dict[str, float]:
    """Attention node -> factor on its products of query and key."""
    return {
        str(node.name): node.attributes.get_float("scale", 1.0) or 1.0 for node in op_nodes(model)
    }
