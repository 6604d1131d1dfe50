"""Write QuantizeLinear and DequantizeLinear into a graph, strongly typed.

An activation is quantized and dequantized again, by a scalar scale in its own type, in front of the
products that read it; a weight is stored quantized, with a scale per output channel, and only
dequantized. All zero points are 0 and written out. Biases stay as they are: whoever multiplies
integers adds them to the scaled sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from dinat_deploy.errors import ConversionError
from dinat_deploy.graph.formats import FORMATS, QuantizedFormat
from dinat_deploy.graph.islands import FLOAT
from dinat_deploy.graph.quantization.records import Placement, Ranges, Site
from dinat_deploy.graph.quantization.weights import Scales, channel_scales, lazily, scales

# The first version of the standard operators whose Q/DQ nodes take scales in 16-bit types.
_OPSET_16_BIT = 19
_CURE = "Place the Q/DQ nodes for this model."


@dataclass(frozen=True)
class Quantized:
    """What was written.

    Attributes:
        nodes: products whose factors are quantized now.
        pairs: Q/DQ pairs on activations.
        weights: quantized weights.
        raised: tensor -> how many of its scales were too small for their type, where that happened.
    """

    nodes: int
    pairs: int
    weights: int
    raised: dict[str, int] = field(default_factory=dict)


def quantize(
    model: ir.Model,
    placement: Placement,
    ranges: Ranges,
    form: QuantizedFormat,
    weights: Mapping[str, ir.TensorProtocol],
) -> Quantized:
    """Quantize a graph in place.

    The graph is the float32 one that the placement was made for, or that one after
    :func:`dinat_deploy.graph.precision.convert`: its nodes are known by their names, and each is
    quantized in the type that it computes in. A scale that its type could hold only as zero or as a
    subnormal number becomes the smallest normal number.

    Args:
        ranges: for all of ``placement.tensors``.
        weights: initializer -> its exact values, as of
            :func:`~dinat_deploy.graph.quantization.weights.capture` before the conversion.

    Raises:
        ConversionError: a node or a range is missing, or the opset has no such Q/DQ nodes; the
            graph is unchanged then. Or a weight is no number, or too large for its type; the graph
            is of no use then.
    """
    readers = _readers(model.graph, placement)
    _check_opset(model, form, {_type(node, position) for node, position, _ in readers})
    for node, _, tensor in readers:
        found = ranges.get(tensor)
        if found is None or not 0 <= found < float("inf"):
            raise ConversionError(
                f"The range of the tensor {tensor}, which {node.name} reads, is "
                + ("not recorded." if found is None else f"{found}."),
                "Calibrate this model.",
            )
    writer = _Writer(model.graph, form, ranges)
    for site, (node, _, _) in zip(placement.sites, readers, strict=False):
        writer.quantize_weight(node, site, weights[site.weight])
    for node, position, tensor in readers:
        writer.quantize_input(node, position, tensor)
    return writer.finish()


def _readers(graph: ir.Graph, placement: Placement) -> list[tuple[ir.Node, int, str]]:
    """Nodes that are to read a quantized tensor: which input, and the tensor's name in the float32
    graph. First those of the sites, one for each."""
    nodes = {str(node.name): node for node in graph}
    for name, node in nodes.items():
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            raise ConversionError(
                f"The model is quantized already (node {name} is a {node.op_type}).",
                "Quantize the float32 model.",
            )
    names = [site.node for site in placement.sites]
    for name in [*names, *(name for pair in placement.pairs for name in pair.readers)]:
        if name not in nodes:
            raise ConversionError(f"The model has no node {name}, which is to be quantized.", _CURE)
    found = [(nodes[site.node], 0, site.activation) for site in placement.sites]
    for pair in placement.pairs:
        for name in pair.readers:
            found += [(nodes[name], at, pair.tensor) for at in _positions(nodes[name], pair.tensor)]
    return found


def _check_opset(model: ir.Model, form: QuantizedFormat, kinds: set[ir.DataType]) -> None:
    opset, least = model.graph.opset_imports[""], form.opset
    wide = kinds <= {FLOAT}
    if not wide:
        least = max(least, _OPSET_16_BIT)
    if opset < least:
        beside = "float32" if wide else "16-bit types"
        raise ConversionError(
            f"The model is of opset {opset}, and {form.name} beside {beside} needs {least} or "
            "later.",
            f"Export with --opset {least} or later"
            + (", or let the rest be float32." if form.opset <= opset else "."),
        )


def _type(node: ir.Node, position: int) -> ir.DataType:
    value = node.inputs[position]
    assert value is not None and value.dtype is not None
    return value.dtype


def _positions(node: ir.Node, tensor: str) -> list[int]:
    """The inputs of a node that are a tensor of the float32 graph, converted or not."""
    found = [
        position
        for position, value in enumerate(node.inputs)
        if value is not None and tensor in _names(value)
    ]
    if not found:
        raise ConversionError(
            f"The node {node.name} does not read the tensor {tensor}, which is to be quantized.",
            _CURE,
        )
    return found


def _names(value: ir.Value) -> set[str]:
    """What a tensor may have been called before the graph was converted: there, Casts are put in,
    and the tensor behind an output is renamed."""
    producer = value.producer()
    if producer is not None and producer.op_type == "Cast" and producer.inputs[0] is not None:
        value = producer.inputs[0]
    name = str(value.name)
    ends = [f"/{str(form.data_type).lower()}" for form in FORMATS.values()]
    return {name, *(name.removesuffix(end) for end in ends)}


class _Writer:
    """Makes nodes read quantized tensors, each of which is made once."""

    def __init__(self, graph: ir.Graph, form: QuantizedFormat, ranges: Ranges) -> None:
        self._graph, self._form, self._ranges = graph, form, ranges
        self._activations: dict[ir.Value, ir.Value] = {}
        self._weights: dict[tuple[str, int, ir.DataType], ir.Value] = {}
        self._replaced: list[ir.Value] = []
        self._zeros: dict[tuple[int, ...], ir.Value] = {}
        self._nodes: set[ir.Node] = set()
        self._raised: dict[str, int] = {}

    def quantize_input(self, node: ir.Node, position: int, tensor: str) -> None:
        """Put a Q/DQ pair in front of an input."""
        value = node.inputs[position]
        assert value is not None
        if value not in self._activations:
            self._activations[value] = self._pair(value, tensor)
        node.replace_input_with(position, self._activations[value])

    def quantize_weight(self, node: ir.Node, site: Site, exact: ir.TensorProtocol) -> None:
        """Give a product a quantized weight, in the type of its activation."""
        kind, old = _type(node, 0), node.inputs[1]
        assert old is not None
        key = (site.weight, site.axis, kind)
        if key not in self._weights:
            self._weights[key] = self._weight(node, site, exact, kind)
        node.replace_input_with(1, self._weights[key])
        self._replaced.append(old)
        self._nodes.add(node)

    def finish(self) -> Quantized:
        """Remove the weights that nothing reads any more."""
        for value in self._replaced:
            if not value.uses() and not value.is_graph_output():
                self._graph.initializers.pop(str(value.name), None)
        return Quantized(
            nodes=len(self._nodes),
            pairs=len(self._activations),
            weights=len(self._weights),
            raised=self._raised,
        )

    def _pair(self, value: ir.Value, tensor: str) -> ir.Value:
        assert value.dtype is not None
        name = str(value.name)
        found = scales(self._ranges[tensor], self._form, value.dtype)
        scale = self._scale(name, found, value.dtype)
        zero = self._zero(found.values.shape)
        quantize = ir.node("QuantizeLinear", [value, scale, zero], name=f"{name}/quantize")
        middle = quantize.outputs[0]
        middle.name, middle.shape = f"{name}/{self._form.precision}", value.shape
        middle.type = ir.TensorType(self._form.data_type)
        dequantize = ir.node("DequantizeLinear", [middle, scale, zero], name=f"{name}/dequantize")
        result = self._named(dequantize, name, value)
        producer = value.producer()
        if producer is None:
            self._graph.insert_before(self._graph[0], [quantize, dequantize])
        else:
            self._graph.insert_after(producer, [quantize, dequantize])
        return result

    def _weight(
        self, node: ir.Node, site: Site, exact: ir.TensorProtocol, kind: ir.DataType
    ) -> ir.Value:
        name = site.weight
        others = [key for key in self._weights if key[0] == name]
        if others:  # the same weight along another axis, or for nodes of another type
            name = f"{name}/{len(others) + 1}"
        found = channel_scales(exact, site.axis, self._form, kind)
        scale = self._scale(name, found, kind)
        stored = f"{name}/{self._form.precision}"
        tensor = lazily(exact, found.values, site.axis, self._form, stored)
        value = self._initializer(stored, tensor)
        zero = self._zero(found.values.shape)
        dequantize = ir.node(
            "DequantizeLinear",
            [value, scale, zero],
            {"axis": site.axis},
            name=f"{name}/dequantize",
        )
        self._graph.insert_before(node, dequantize)
        result = self._named(dequantize, name, value)
        result.type = ir.TensorType(kind)
        return result

    def _named(self, dequantize: ir.Node, name: str, like: ir.Value) -> ir.Value:
        result = dequantize.outputs[0]
        result.name, result.shape, result.type = f"{name}/dequantized", like.shape, like.type
        return result

    def _scale(self, name: str, found: Scales, kind: ir.DataType) -> ir.Value:
        if found.raised:
            self._raised[name] = found.raised
        return self._initializer(f"{name}/scale", ir.Tensor(found.values, dtype=kind))

    def _zero(self, shape: tuple[int, ...]) -> ir.Value:
        """Zero points, shared by all scales of a shape."""
        if shape not in self._zeros:
            kind = self._form.data_type
            zeros: npt.NDArray[np.generic] = np.zeros(shape, kind.numpy())
            name = "/".join(["zero_point", self._form.precision, *map(str, shape)])
            self._zeros[shape] = self._initializer(name, ir.Tensor(zeros, dtype=kind))
        return self._zeros[shape]

    def _initializer(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        tensor.name = name
        value = ir.Value(
            name=name,
            shape=ir.Shape(tensor.shape.numpy()),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self._graph.register_initializer(value)
        return value
