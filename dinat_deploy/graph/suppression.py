"""Non-maximum suppression in operators that every engine builder has.

TensorRT-RTX has no layer whose output's size depends on the data, and so no NonMaxSuppression.
Greedy suppression can be had without: with the boxes from the best score down, box j stays if no
box i < j stays that overlaps it too much. Started from "all stay", and applied to all at once over
and over, that rule settles each box one round after those before it, and when nothing changes any
more the result is the greedy one. It takes as many rounds as the longest chain of boxes of which
each decides about the next: few, and never more than there are boxes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from dinat_deploy.graph.expressions import Builder, Expr

# Where the groups together have more pairs of boxes than this, the best boxes of all groups are
# compared with each other instead, and there may be so many.
_MOST_PAIRS = 16 << 20
CANDIDATES = 2048
_FLOAT, _INT64 = int(ir.DataType.FLOAT), int(ir.DataType.INT64)
_TINY = 1e-20


@dataclass(frozen=True)
class _Suppression:
    """The nodes that ``dinat::non_maximum_suppression`` became
    (:func:`dinat_deploy.graph.detection.suppression_nodes`), from the first to the last two."""

    suppress: ir.Node
    scores: ir.Value
    top: ir.Node
    places: ir.Node
    count: int


def replace(model: ir.Model, candidates: int = CANDIDATES) -> int:
    """Write out every suppression of our detectors with sizes that do not depend on the data, in
    place.

    Where there are many groups (classes), only the ``candidates`` best boxes of all are compared.
    The result is the same unless more have a score above the threshold, and fewer of these than are
    asked for stay.

    Returns:
        How many were replaced; others stay as they are.
    """
    found = [
        each
        for node in model.graph
        if node.op_type == "NonMaxSuppression" and (each := _around(node)) is not None
    ]
    for each in found:
        builder = Builder(model.graph.opset_imports[""])
        places, best = _written_out(builder, each, candidates)
        for number, made in enumerate(builder.nodes):
            made.name = f"{each.suppress.name}/{made.op_type}_{number}"
            made.metadata_props.update(each.suppress.metadata_props)
        old = [each.places.outputs[0], each.top.outputs[0]]
        ir.convenience.replace_nodes_and_values(
            model.graph, each.places, [], builder.nodes, old, [places.value, best.value]
        )
    model.graph.sort()
    common.RemoveUnusedNodesPass()(model)
    return len(found)


def _around(node: ir.Node) -> _Suppression | None:
    """The nodes of the suppression that a NonMaxSuppression is the first of, None if it is not as
    we write it."""
    boxes, stacked = node.inputs[0], node.inputs[1]
    unsqueeze = None if stacked is None else stacked.producer()
    scores = None if unsqueeze is None else unsqueeze.inputs[0]
    if any(v is None or v.shape is None or not v.shape.is_static() for v in (boxes, scores)):
        return None
    assert scores is not None
    reached, ahead = {node}, [node]
    tops: list[ir.Node] = []
    while ahead:
        for value in ahead.pop().outputs:
            for use in value.uses():
                if use.node.op_type == "TopK":
                    tops.append(use.node)
                elif use.node not in reached and use.node.op_type in (
                    "Gather",
                    "Mul",
                    "Add",
                    "Concat",
                ):
                    reached.add(use.node)
                    ahead.append(use.node)
    if len(set(tops)) != 1:
        return None
    ends = [use.node for use in tops[0].outputs[1].uses()]
    shape = tops[0].outputs[0].shape
    if len(ends) != 1 or ends[0].op_type != "Gather" or shape is None or not shape.is_static():
        return None
    return _Suppression(node, scores, tops[0], ends[0], int(shape.numpy()[0]))


def _written_out(b: Builder, found: _Suppression, candidates: int) -> tuple[Expr, Expr]:
    """Places of the best boxes in the flattened groups, and their scores: both ``[count]``."""
    boxes, threshold, floor = (found.suppress.inputs[position] for position in (0, 3, 4))
    assert boxes is not None and threshold is not None and floor is not None
    assert found.scores.shape is not None
    groups, each = (int(size) for size in found.scores.shape.numpy())
    corners, scores = (b.Cast(b.wrap(x), to=_FLOAT) for x in (boxes, found.scores))
    group: Expr | None = None
    if groups * each**2 <= _MOST_PAIRS:
        sorted_scores, order = _topk(b, scores, each)
        place = order + np.arange(groups, dtype=np.int64)[:, None] * each
    else:
        sorted_scores, place = _topk(b, b.reshape(scores, 1, -1), min(groups * each, candidates))
        groups, group = 1, b.Cast(place // each, to=_FLOAT)
    sorted_boxes = b.Gather(b.reshape(corners, -1, 4), place, axis=0)
    over = _too_much(b, sorted_boxes, b.wrap(threshold), group)
    valid = b.Cast(b.Greater(sorted_scores, b.wrap(floor)), to=_FLOAT)
    name = f"{found.suppress.name}/settling"
    stays = _settled(b, b.Unsqueeze(valid, [1]), over, groups, name)
    flat_scores = b.reshape(sorted_scores * b.Squeeze(stays, [1]), -1)
    flat_places = b.reshape(place, -1)
    # Filled up: there may be fewer boxes than are asked for.
    flat_scores = b.Concat(flat_scores, np.zeros(found.count, np.float32), axis=0)
    flat_places = b.Concat(flat_places, np.zeros(found.count, np.int64), axis=0)
    best, index = _topk(b, flat_scores, found.count)
    kept = b.Gather(flat_places, index, axis=0) * b.Cast(b.Greater(best, 0.0), to=_INT64)
    return kept, b.CastLike(best, b.wrap(found.scores))


def _topk(b: Builder, x: Expr, count: int) -> tuple[Expr, Expr]:
    """The largest along the last axis and where they are, from the largest down."""
    values, places = b.several("TopK", 2, x, [count], axis=-1)
    return values, places


def _too_much(b: Builder, boxes: Expr, threshold: Expr, group: Expr | None) -> Expr:
    """1.0 where box i overlaps a later box j of its group by more than the threshold: ``[G, n,
    4]`` -> ``[G, n, n]``."""
    low, high = (b.Slice(boxes, [first], [first + 2], [2]) for first in (0, 2))

    def beside(x: Expr) -> tuple[Expr, Expr]:
        return b.Unsqueeze(x, [2]), b.Unsqueeze(x, [1])

    def product(x: Expr, last: int) -> Expr:
        across, down = b.split(x, 2, axis=last)
        return across * down

    common_part = product(b.Max(b.Min(*beside(high)) - b.Max(*beside(low)), 0.0), 3)
    one, other = beside(product(high - low, 2))
    union = one + other - common_part
    over = b.Greater(common_part / b.Max(union, _TINY), threshold)
    if group is not None:
        over = over & b.Equal(*beside(group))
    size = b.Gather(b.Shape(boxes), 1, axis=0)
    index = b.Range(0, size, 1)
    later = b.Less(b.Unsqueeze(index, [1]), b.Unsqueeze(index, [0]))
    return b.Cast(over & later, to=_FLOAT)


def _settled(b: Builder, valid: Expr, over: Expr, groups: int, name: str) -> Expr:
    """Which boxes stay: ``[G, 1, n]`` of 0 and 1, and as many. ``name`` is that of the loop, and
    begins the names within, which no other loop may have."""
    inner = Builder(b.opset)
    shape, dtype = ir.Shape([groups, 1, None]), ir.TensorType(ir.DataType.FLOAT)
    scalar = ir.Shape([])
    number = ir.Value(name=f"{name}.round", shape=scalar, type=ir.TensorType(ir.DataType.INT64))
    go = ir.Value(name=f"{name}.go", shape=scalar, type=ir.TensorType(ir.DataType.BOOL))
    before = ir.Value(name=f"{name}.before", shape=shape, type=dtype)
    free = inner.Less(inner.MatMul(inner.wrap(before), over), 0.5)
    after = inner.Cast(free, to=_FLOAT) * valid
    changed = inner.Abs(after - inner.wrap(before))
    again = inner.Greater(inner.node("ReduceMax", changed, keepdims=0), 0.5)
    again.value.type, again.value.shape = ir.TensorType(ir.DataType.BOOL), scalar
    after.value.type, after.value.shape = dtype, shape
    for index, node in enumerate(inner.nodes):
        node.name = f"{name}/{node.op_type}_{index}"
        node.outputs[0].name = f"{node.name}:0"
    body = ir.Graph([number, go, before], [again.value, after.value], nodes=inner.nodes, name=name)
    rounds = b.Squeeze(b.Shape(valid, start=2), [0])
    return b.node("Loop", rounds, np.array(True), valid, body=body)
