"""Passes that make the project's two operators of what PyTorch models call.

:func:`fuse` runs them on a graph straight from the exporter, before everything else:

* scores, softmax and weighted sum of :mod:`dinat_deploy.ops.unfused` become one attention, scaling
  and bias included (:func:`join_halves`);
* attention over one axis becomes attention over a map of one row (:func:`lift_to_two_axes`);
* query, key and value that are parts of one projection's output become the packed operator, which
  reads that output itself; those of three projections of the same tensor too, their weights put
  side by side (:func:`pack`);
* moves that cancel each other go (:func:`drop_idle_moves`).

What remains in the graph of :mod:`dinat_deploy.graph.interim` is written out in standard operators
by :mod:`dinat_deploy.graph.expansion`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer

from dinat_deploy.graph import interim, passes
from dinat_deploy.graph.movement import Layout, Size, Tracer, identity, scaling, sizes
from dinat_deploy.graph.packing import pack
from dinat_deploy.graph.rewriting import Site
from dinat_deploy.graph.schema import SPLIT, node_attributes
from dinat_deploy.ops.windows import AxisWindow


def fuse(model: ir.Model) -> None:
    """Run all passes of this module, in place."""
    if not interim.nodes(model, SPLIT, interim.GENERAL, interim.SCORES, interim.COMBINE):
        return
    passes.fold_weight_transposes(model)
    optimizer.fold_constants(model)  # for one thing, makes Split of SplitToSequence
    join_halves(model)
    absorb_scaling(model)
    lift_to_two_axes(model)
    pack(model)
    common.RemoveUnusedNodesPass()(model)
    drop_idle_moves(model)
    common.RemoveUnusedNodesPass()(model)


def _above(value: ir.Value | None, *op_types: str) -> ir.Value | None:
    """The tensor above a chain of nodes of these types."""
    while value is not None and (node := value.producer()) is not None:
        if node.op_type not in op_types or node.domain not in ("", "ai.onnx"):
            break
        value = node.inputs[0]
    return value


def join_halves(model: ir.Model) -> None:
    """Replace scores -> softmax -> weighted sum by one node each."""
    for combine in interim.nodes(model, interim.COMBINE):
        found = _scores_of(combine)
        if found is None:
            continue
        scores, factor = found
        query, key, value = scores.inputs[0], scores.inputs[1], combine.inputs[1]
        assert query is not None and key is not None and value is not None
        rpb = scores.inputs[2] if len(scores.inputs) > 2 else None
        site = Site(combine)
        if rpb is not None and factor != 1:
            rpb = site.node("Mul", rpb, site.number(factor, rpb), shape=rpb.shape)
        rank = len(interim.windows(scores))
        to_last = [0, *range(2, rank + 2), 1, rank + 2]
        tensors = [site.transpose(tensor, to_last) for tensor in _unscaled([query, key, value])]
        attended = _attention(
            site, tensors, rpb, interim.windows(scores), factor * _factor(query, key)
        )
        if attended is None:
            continue
        site.replace(site.transpose(attended, [0, rank + 1, *range(1, rank + 1), rank + 2]))


def _scores_of(combine: ir.Node) -> tuple[ir.Node, float] | None:
    """The scores whose plain softmax a weighted sum gets, and what they were multiplied with."""
    softmax = _above(combine.inputs[0], "Identity", "Cast")
    node = None if softmax is None else softmax.producer()
    last = len(interim.windows(combine)) + 2  # batch, heads, the axes, the window
    if node is None or node.op_type != "Softmax":
        return None
    if node.attributes.get_int("axis", -1) not in (-1, last):
        return None
    value, factor = node.inputs[0], 1.0
    while (value := _above(value, "Identity", "Cast")) is not None:
        scaled = scaling(value)
        if scaled is None:
            break
        value, factor = scaled[0], factor * scaled[1]
    scores = None if value is None else value.producer()
    if scores is None or scores.op_type != interim.SCORES:
        return None
    return (scores, factor) if interim.windows(scores) == interim.windows(combine) else None


def _unscaled(tensors: Sequence[ir.Value]) -> list[ir.Value]:
    """Query, key and value without the constant factors of query and key."""
    return [*(_strip(tensor)[0] for tensor in tensors[:2]), tensors[2]]


def _factor(query: ir.Value, key: ir.Value) -> float:
    return _strip(query)[1] * _strip(key)[1]


def _strip(value: ir.Value) -> tuple[ir.Value, float]:
    factor = 1.0
    while (found := scaling(value)) is not None:
        value, factor = found[0], factor * found[1]
    return value, factor


def _attention(
    site: Site,
    tensors: Sequence[ir.Value],
    rpb: ir.Value | None,
    axes: Sequence[AxisWindow],
    scale: float,
) -> ir.Value | None:
    """A node of attention on heads-last tensors; None if heads or channels are symbolic."""
    query = tensors[0]
    inputs = [*tensors, *([] if rpb is None else [rpb])]
    if len(axes) != 2 or not interim.is_plain(axes):
        attributes = interim.window_attributes(
            [axis.kernel_size for axis in axes],
            [axis.dilation for axis in axes],
            [axis.stride for axis in axes],
            [axis.is_causal for axis in axes],
        )
        return site.own(interim.GENERAL, inputs, query.shape, scale=scale, **attributes)
    of_split = split_attributes(query, axes, scale)
    return None if of_split is None else site.own(SPLIT, inputs, query.shape, **of_split)


def split_attributes(
    query: ir.Value, axes: Sequence[AxisWindow], scale: float
) -> dict[str, Any] | None:
    """Attributes of the split node for a query ``[B, H, W, heads, dim]``."""
    shape = query.shape
    if shape is None or len(shape) != 5:
        return None
    height, width, heads, dim = shape[1:]
    if not isinstance(heads, int) or not isinstance(dim, int):
        return None
    static = isinstance(height, int) and isinstance(width, int)
    return node_attributes(
        num_heads=heads,
        kernel_size=[axis.kernel_size for axis in axes],
        dilation=[axis.dilation for axis in axes],
        scale=scale,
        head_dim=dim,
        size=(height, width) if static else None,  # type: ignore[arg-type]
    )


def absorb_scaling(model: ir.Model) -> None:
    """Take constant factors of query and key into the node's ``scale``."""
    for node in interim.nodes(model, SPLIT, interim.GENERAL):
        query, key = node.inputs[0], node.inputs[1]
        assert query is not None and key is not None
        factor = _factor(query, key)
        if factor == 1:
            continue
        scale = node.attributes["scale"].as_float() * factor
        node.attributes["scale"] = ir.AttrFloat32("scale", scale)
        for position, tensor in enumerate(_unscaled([query, key, key])[:2]):
            node.replace_input_with(position, tensor)


def lift_to_two_axes(model: ir.Model) -> None:
    """Attention over one axis as attention over a map of one row, which the kernels know.

    A window of one member on an axis of one token is the token itself, so nothing changes.
    """
    for node in interim.nodes(model, interim.GENERAL):
        axes = interim.windows(node)
        if len(axes) != 1 or not interim.is_plain(axes):
            continue
        site = Site(node)
        tensors = [value for value in node.inputs[:3] if value is not None]
        lifted = [site.unsqueeze(value, 1) for value in tensors]
        rpb = node.inputs[3] if len(node.inputs) > 3 else None
        attributes = split_attributes(
            lifted[0], [AxisWindow(1), axes[0]], node.attributes["scale"].as_float()
        )
        if attributes is None:
            continue
        inputs = [*lifted, *([] if rpb is None else [site.unsqueeze(rpb, 1)])]
        site.replace(site.squeeze(site.own(SPLIT, inputs, lifted[0].shape, **attributes), 1))


def drop_idle_moves(model: ir.Model) -> None:
    """Remove chains of moves that end where they began, and shorten others.

    A chain that only takes away axes of one entry becomes a Squeeze, Transposes in a row become
    one.
    """
    tracer = Tracer()
    for node in list(model.graph):
        if node.op_type not in ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity"):
            continue
        value = node.outputs[0]
        traced = tracer.trace(value)
        if traced is None or traced.source is value:
            continue
        source, own = sizes(traced.source), sizes(value)
        if source is not None and source == own and traced.layout == identity(source):
            _read_instead(value, traced.source)
        elif source is not None and node.op_type == "Reshape" and _squeezes(traced.layout, source):
            ones = [axis for axis, size in enumerate(source) if size.is_one]
            site = Site(node)
            site.replace(site.squeeze(traced.source, *ones))
        elif node.op_type == "Transpose":
            _join_transposes(node)


def _read_instead(value: ir.Value, source: ir.Value) -> None:
    """Let all who read ``value`` read ``source``, which is equal."""
    if not value.is_graph_output():
        value.replace_all_uses_with(source)
    elif source.producer() is not None and not source.is_graph_output():
        name = value.name
        value.replace_all_uses_with(source, replace_graph_outputs=True)
        value.name, source.name = f"{name}/moved", name


def _squeezes(layout: Layout, source: Sequence[Size]) -> bool:
    """Whether a layout is its source without all axes of one entry."""
    whole = identity(source)
    left = tuple(axis for axis in whole.axes if axis)
    return len(left) < len(whole.axes) and layout == Layout(left)


def _join_transposes(node: ir.Node) -> None:
    above = node.inputs[0]
    first = None if above is None else above.producer()
    if first is None or first.op_type != "Transpose" or first.domain not in ("", "ai.onnx"):
        return
    inner, outer = first.attributes.get_ints("perm"), node.attributes.get_ints("perm")
    if inner is None or outer is None:
        return
    node.attributes["perm"] = ir.AttrInt64s("perm", [inner[axis] for axis in outer])
    node.replace_input_with(0, first.inputs[0])
