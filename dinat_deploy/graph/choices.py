"""The choices that a detector makes on its way, as tensors that can be read and prescribed.

A detector's outputs are no continuous function of its numbers: which boxes are the best, which of
those that overlap stays, which are empty, and which level of the pyramid a box is read in, turns
over at a rounding error, and then all that follows is of another box. RoiAlign itself takes a
sample more, or none, where the length of a box passes a whole number of cells. Between the choices
it is continuous. So a graph that follows the choices of another can be compared with it number by
number.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from dinat_deploy.graph.node_kinds import STANDARD, TYPELESS

_FLOAT = ir.DataType.FLOAT
_WHOLE = frozenset({ir.DataType.BOOL, ir.DataType.INT32, ir.DataType.INT64})


def expose(model: ir.Model) -> list[str]:
    """Make the choices of a float32 graph outputs: whole numbers and truths that come of floating-
    point numbers, such as what NonMaxSuppression leaves and where TopK found its values; and the
    boxes that RoiAlign reads in.

    Returns:
        The names of these tensors.
    """
    found = {value: None for node in model.graph if (value := _chosen_by(node)) is not None}
    model.graph.outputs.extend(value for value in found if not value.is_graph_output())
    return [str(value.name) for value in found]


def _chosen_by(node: ir.Node) -> ir.Value | None:
    if node.domain not in STANDARD or node.op_type in TYPELESS:
        return None
    if node.op_type == "RoiAlign":
        return node.inputs[1]
    if node.op_type == "TopK":
        return node.outputs[1]
    reads = any(value is not None and value.dtype == _FLOAT for value in node.inputs)
    return node.outputs[0] if reads and node.outputs[0].dtype in _WHOLE else None


def follow(model: ir.Model, choices: Sequence[str]) -> None:
    """Let a graph take these choices as inputs of the same names, in place of its own.

    The inputs are float32, as sessions give and take it; that is exact for places below 2**24.
    TopK's values then are those at the places that it is given. Boxes are only read in where they
    are said to be: what is computed of them goes on to be.

    Args:
        choices: as of :func:`expose`, for the graph that this one was made from.
    """
    graph = model.graph
    values = {value.name: value for node in graph for value in node.outputs}
    readers = [node for node in graph if node.op_type == "RoiAlign" and node.domain in STANDARD]
    for name in choices:
        value = values[name]
        node = value.producer()
        assert node is not None and value.dtype is not None
        given = ir.Value(name=name, type=ir.TensorType(_FLOAT), shape=value.shape)
        graph.inputs.append(given)
        value.name = f"{name}/own"
        cast = ir.node("Cast", [given], {"to": int(value.dtype)})
        followed = cast.outputs[0]
        followed.name, followed.type, followed.shape = f"{name}/followed", value.type, value.shape
        graph.insert_after(node, cast)
        if value.dtype not in _WHOLE:
            for reader in readers:
                if reader.inputs[1] is value:
                    reader.replace_input_with(1, followed)
            continue
        value.replace_all_uses_with(followed)
        if node.op_type == "TopK":
            _read_at(graph, cast, node)


def _read_at(graph: ir.Graph, places: ir.Node, top: ir.Node) -> None:
    """Values at other places than TopK found, under the name of those that it found."""
    axis = top.attributes.get_int("axis", -1)
    found = top.outputs[0]
    read = ir.node("GatherElements", [top.inputs[0], places.outputs[0]], {"axis": axis})
    result = read.outputs[0]
    result.name, result.type, result.shape = found.name, found.type, found.shape
    found.name = f"{found.name}/own"
    found.replace_all_uses_with(result, replace_graph_outputs=True)
    graph.insert_after(places, read)
