"""Write a 16-bit floating-point type into a float32 graph, strongly typed.

Every node gets a type of its own; a Cast stands where a tensor is read in another type than it was
computed in, once for all readers of that type. No tensor is cast twice, so no two Casts can cancel.
The operator's body is left as it is: it takes the types of the node that calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dinat_deploy.errors import ConversionError
from dinat_deploy.graph.formats import Format, rounded
from dinat_deploy.graph.islands import FLOAT, accepted_types, data_nodes

_QUANTIZED = frozenset(
    {
        "ConvInteger",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "MatMulInteger",
        "QLinearConv",
        "QLinearMatMul",
        "QuantizeLinear",
    }
)
_FLOATS = frozenset({FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


@dataclass(frozen=True)
class Conversion:
    """What was done to a graph.

    Attributes:
        converted: nodes that compute in the 16-bit type now.
        casts: Cast nodes that were added.
    """

    converted: int
    casts: int


def check_convertible(model: ir.Model) -> None:
    """Refuse a graph that is not purely float32.

    Raises:
        ConversionError: it is in 16-bit types already, is quantized, or holds subgraphs.
    """
    for node in model.graph:
        if node.op_type in _QUANTIZED:
            raise ConversionError(
                f"The model is quantized already (node {node.name} is a {node.op_type}).",
                "Convert the float32 model.",
            )
        if any(attribute.type == ir.AttributeType.GRAPH for attribute in node.attributes.values()):
            raise ConversionError(
                f"The node {node.name} ({node.op_type}) holds a subgraph, and only plain graphs "
                "can be converted.",
                "Export the model without control flow.",
            )
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    values += [value for node in model.graph for value in node.outputs]
    for value in values:
        if value.dtype is None and value.uses():
            raise ConversionError(
                f"The type of the tensor {value.name} is not known.",
                "Run ONNX shape inference on the file first.",
            )
        if value.dtype in _FLOATS - {FLOAT}:
            raise ConversionError(
                f"The model is in {str(value.dtype).lower()} already (tensor {value.name}).",
                "Convert the float32 model.",
            )


def convert(
    model: ir.Model,
    form: Format,
    float32: Collection[ir.Node],
    io_type: ir.DataType = FLOAT,
) -> Conversion:
    """Convert a float32 graph in place.

    Args:
        form: the type of all nodes that compute data, but for the following.
        float32: nodes that go on to compute in float32.
        io_type: type of the floating-point inputs and outputs of the graph.

    Raises:
        ConversionError: the graph is not purely float32; it is unchanged then.
    """
    check_convertible(model)
    graph = model.graph
    low = {node for node in data_nodes(graph) if node not in float32}
    writer = _Writer(graph, form)
    for entry in graph.inputs:
        if entry.dtype == FLOAT:
            entry.type = ir.TensorType(io_type)
    for node in list(graph):
        types = accepted_types(node.domain, node.op_type, model.graph.opset_imports[""])
        for position, value in enumerate(node.inputs):
            if value is None or value.dtype not in _FLOATS:
                continue
            if node in low:
                accepts = types is None or types.accepts(position, form.data_type)
                writer.read_as(node, position, form.data_type if accepts else FLOAT)
            elif node.op_type not in ("Shape", "Size"):
                writer.read_as(node, position, FLOAT)
        if node in low:
            for value in node.outputs:
                if value.dtype == FLOAT:
                    value.type = ir.TensorType(form.data_type)
    for position, output in enumerate(graph.outputs):
        if output.dtype in _FLOATS and output.dtype != io_type:
            graph.outputs[position] = writer.as_output(output, io_type)
    writer.finish()
    return Conversion(converted=len(low), casts=writer.casts)


class _Writer:
    """Makes every reader of a tensor read it in the type that it needs."""

    def __init__(self, graph: ir.Graph, form: Format) -> None:
        self.casts = 0
        self._graph, self._form = graph, form
        self._cast: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self._converted: dict[ir.Value, ir.Value] = {}

    def read_as(self, node: ir.Node, position: int, kind: ir.DataType) -> None:
        """Give a node's input this type."""
        value = node.inputs[position]
        assert value is not None
        if value.dtype == kind:
            return
        if value.is_initializer():
            node.replace_input_with(position, self._constant(value))
        else:
            node.replace_input_with(position, self._as(value, kind))

    def as_output(self, value: ir.Value, kind: ir.DataType) -> ir.Value:
        """A graph output in this type, under the name of the tensor that it was."""
        name = str(value.name)
        value.name = f"{name}/{str(value.dtype).lower()}"
        result = self._as(value, kind)
        result.name = name
        return result

    def finish(self) -> None:
        """Remove the float32 weights that nothing reads any more; the new ones take their names."""
        for value, converted in self._converted.items():
            if not value.uses():
                del self._graph.initializers[str(value.name)]
                del self._graph.initializers[str(converted.name)]
                converted.name = value.name
                self._graph.register_initializer(converted)

    def _as(self, value: ir.Value, kind: ir.DataType) -> ir.Value:
        if (value, kind) not in self._cast:
            name = f"{value.name}/to_{str(kind).lower()}"
            node = ir.node("Cast", [value], {"to": int(kind)}, name=name)
            result = node.outputs[0]
            result.name, result.shape = name, value.shape
            result.type = ir.TensorType(kind)
            producer = value.producer()
            if producer is None:
                self._graph.insert_before(self._graph[0], node)
            else:
                self._graph.insert_after(producer, node)
            self._cast[value, kind] = result
            self.casts += 1
        return self._cast[value, kind]

    def _constant(self, value: ir.Value) -> ir.Value:
        """A weight in the 16-bit type; float32 is what it has."""
        if value not in self._converted:
            assert value.const_value is not None
            kind = self._form.data_type
            # Lazy, so that large weights are converted one at a time while the file is written.
            exact = value.const_value
            shape = ir.Shape(exact.shape.numpy())
            tensor = ir.LazyTensor(_rounding(exact, self._form), dtype=kind, shape=shape)
            name = f"{value.name}/{self._form.name}"
            tensor.name = name
            made = ir.Value(
                name=name, shape=value.shape, type=ir.TensorType(kind), const_value=tensor
            )
            self._graph.register_initializer(made)
            self._converted[value] = made
        return self._converted[value]


def _rounding(tensor: ir.TensorProtocol, form: Format) -> Callable[[], ir.TensorProtocol]:
    def convert() -> ir.TensorProtocol:
        array = np.ascontiguousarray(rounded(tensor.numpy(), form))
        return ir.Tensor(array, dtype=form.data_type)

    return convert
