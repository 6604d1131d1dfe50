"""A 16-bit graph in float32 arithmetic, every 16-bit tensor rounded where it is written.

That is what a GPU does, whose products of 16-bit numbers are summed up in float32. ONNX Runtime on
the CPU does not: it lacks most bfloat16 operators, and between the float16 ones that it runs in
float32 it leaves the rounding out, so that an overflow goes unseen.

QuantizeLinear and DequantizeLinear stay what they are, with scales as the type has rounded them.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from dinat_deploy.errors import ConversionError
from dinat_deploy.graph.formats import Format
from dinat_deploy.graph.islands import FLOAT


def simulate(model: ir.Model, form: Format, *, inline: bool) -> None:
    """Rewrite a graph in place; its inputs and outputs of the type become float32 too.

    Args:
        form: the type to simulate.
        inline: put the operator's body in place of its nodes, so that the tensors within are
            rounded as well. Otherwise the nodes stay, and round only what they return.

    Raises:
        ConversionError: the graph contradicts itself in its types.
    """
    if inline and model.functions:
        for function in model.functions.values():
            for number, node in enumerate(function):
                node.name = f"{number}"  # the pass looks long for names for nodes that have none
        common.InlinePass()(model)
        # What came out of the body has no types yet.
        common.ShapeInferencePass(check_type=True, strict_mode=True, data_prop=True)(model)
        _check_types(model.graph)
    graph = model.graph
    for value in list(graph.initializers.values()):
        if value.dtype == form.data_type and value.const_value is not None:
            value.const_value = _widened(value.const_value)
            value.type = ir.TensorType(FLOAT)
    for value in graph.inputs:
        if value.dtype == form.data_type:
            value.type = ir.TensorType(FLOAT)
    for node in list(graph):
        if node.op_type == "Constant":
            _widen_constant(node, form)
        for value in node.outputs:
            if value.dtype == form.data_type:
                if node.op_type == "Cast":
                    node.attributes["to"] = ir.AttrInt64("to", int(FLOAT))
                value.type = ir.TensorType(FLOAT)
                _round(graph, node, value, form)


def _check_types(graph: ir.Graph) -> None:
    """The pass reports nothing when it fails."""
    for node in graph:
        for value in node.outputs:
            if value.dtype is None and value.uses():
                raise ConversionError(
                    f"The type of {value.name} ({node.op_type}) in the operator's body cannot be "
                    "told.",
                    "Export the model again.",
                )


def _widened(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.LazyTensor(
        lambda: ir.tensor(tensor.numpy().astype("float32")),
        dtype=FLOAT,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name,
    )


def _widen_constant(node: ir.Node, form: Format) -> None:
    held = node.attributes.get("value")
    if held is not None and held.type == ir.AttributeType.TENSOR:
        tensor = held.as_tensor()
        if tensor.dtype == form.data_type:
            wide = ir.tensor(tensor.numpy().astype("float32"))
            node.attributes["value"] = ir.AttrTensor("value", wide)
            node.outputs[0].type = ir.TensorType(FLOAT)


def _round(graph: ir.Graph, node: ir.Node, value: ir.Value, form: Format) -> None:
    """Let all readers of a tensor see it rounded; the rounded one has its name if it is output."""
    down = ir.node("Cast", [value], {"to": int(form.data_type)})
    up = ir.node("Cast", down.outputs, {"to": int(FLOAT)})
    result = up.outputs[0]
    down.outputs[0].type = ir.TensorType(form.data_type)
    result.type, result.shape = ir.TensorType(FLOAT), value.shape
    value.replace_all_uses_with(result, replace_graph_outputs=True)
    down.replace_input_with(0, value)
    if result.is_graph_output():
        result.name, value.name = value.name, f"{value.name}/exact"
    graph.insert_after(node, [down, up])
