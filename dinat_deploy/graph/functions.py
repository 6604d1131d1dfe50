"""Attach the operator's standard-ops body to a model, or strip it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dinat_deploy.graph.body import BodyKind, body
from dinat_deploy.graph.schema import DOMAIN, OP_TYPES, OPSET_VERSION, PACKED


def op_nodes(model: ir.Model) -> list[ir.Node]:
    """Neighborhood attention nodes of the main graph, in order."""
    return [node for node in model.graph if node.domain == DOMAIN and node.op_type in OP_TYPES]


def attach_body(model: ir.Model) -> None:
    """Give every neighborhood attention operator of the model its body in standard operators.

    A model has one body per operator, so its nodes are made alike first: if one of them has no
    static size, none keeps it, and if only some have a positional bias, the others get a bias of
    zeros. Call it after all other passes: tools tend to inline or drop functions.
    """
    strip_body(model)
    nodes = op_nodes(model)
    for op_type in OP_TYPES:
        alike = [node for node in nodes if node.op_type == op_type]
        if alike:
            kind = _make_alike(model, op_type, alike)
            function = body(kind, model.graph.opset_imports[""])
            model.functions[function.identifier()] = function
    if nodes:
        model.graph.opset_imports[DOMAIN] = OPSET_VERSION


def strip_body(model: ir.Model) -> None:
    """Remove the bodies; the nodes then need our plugin or custom operator."""
    for identifier, function in list(model.functions.items()):
        if function.domain == DOMAIN and function.name in OP_TYPES:
            del model.functions[identifier]


def _make_alike(model: ir.Model, op_type: str, nodes: list[ir.Node]) -> BodyKind:
    static = all("height" in node.attributes and "width" in node.attributes for node in nodes)
    if not static:
        for node in nodes:
            node.attributes.pop("height", None)
            node.attributes.pop("width", None)
    position = 1 if op_type == PACKED else 3
    with_bias = [node for node in nodes if _has_input(node, position)]
    if 0 < len(with_bias) < len(nodes):
        for node in nodes:
            if not _has_input(node, position):
                node.resize_inputs(position + 1)
                node.replace_input_with(position, _zero_bias(model, node))
    elif not with_bias:
        for node in nodes:
            node.resize_inputs(position)
    return BodyKind(op_type, static, bool(with_bias))


def _has_input(node: ir.Node, position: int) -> bool:
    return len(node.inputs) > position and node.inputs[position] is not None


def _zero_bias(model: ir.Model, node: ir.Node) -> ir.Value:
    heads = node.attributes.get_int("num_heads")
    sizes = [2 * size - 1 for size in node.attributes.get_ints("kernel_size", ())]
    first = node.inputs[0]
    assert first is not None and first.dtype is not None and heads is not None
    zeros = np.zeros([heads, *sizes], first.dtype.numpy())
    tensor = ir.tensor(zeros, name=f"{node.name}/zero_rpb")
    value = ir.Value(
        name=tensor.name,
        shape=ir.Shape(zeros.shape),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    model.graph.register_initializer(value)
    return value
