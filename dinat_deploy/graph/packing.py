"""Give the operator the output of the qkv projection itself where query, key and value are parts.

The packed operator reads ``[B, H, W, 3*heads*dim]``, so that nothing is moved around it. Models
write the way from there to query, key and value in as many ways as there are models;
:mod:`dinat_deploy.graph.movement` sees through them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dinat_deploy.graph import interim
from dinat_deploy.graph.movement import (
    Layout,
    Size,
    Traced,
    Tracer,
    identity,
    reshaped,
    sizes,
    taken,
    transposed,
)
from dinat_deploy.graph.rewriting import Dim, Site
from dinat_deploy.graph.schema import PACKED, SPLIT


def pack(model: ir.Model) -> None:
    """Make the packed operator of split ones whose inputs come of one projection, or of three."""
    for node in interim.nodes(model, SPLIT):
        tracer = Tracer(through_scaling=True)
        traces = [tracer.trace(value) for value in node.inputs[:3] if value is not None]
        known = [trace for trace in traces if trace is not None]
        if len(known) != 3 or known[2].factor != 1:
            continue
        shape = node.inputs[0].shape if node.inputs[0] is not None else None
        if shape is None or len(shape) != 5:
            continue
        if all(trace.source is known[0].source for trace in known):
            _pack_one(node, known, list(shape))
        else:
            _pack_three(node, known, list(shape))


def _pack_one(node: ir.Node, traces: Sequence[Traced], shape: list[Dim]) -> None:
    """Query, key and value are thirds of one tensor."""
    channels = _channels(shape)
    view = _view(traces[0], [*shape[:3], 3 * channels])
    if view is None:
        return
    split = reshaped(view.layout, [*_of(shape[:3]), Size(3), *_of(shape[3:])])
    if split is None:
        return
    for number, trace in enumerate(traces):
        part = taken(split, 3, number, 1)
        if part is None or part.with_axes(part.axes[:3] + part.axes[4:]) != trace.layout:
            return
    _write(node, Site(node), traces[0].source, view, traces, shape)


def _pack_three(node: ir.Node, traces: Sequence[Traced], shape: list[Dim]) -> None:
    """Query, key and value are each the whole of a projection, all of the same tensor."""
    channels = _channels(shape)
    views = [_view(trace, [*shape[:3], channels]) for trace in traces]
    linears = [_linear(trace.source) for trace in traces]
    first = linears[0]
    view = views[0]
    if view is None or first is None or any(other != view for other in views):
        return
    whole = reshaped(view.layout, _of(shape))
    if whole is None or any(trace.layout != whole for trace in traces):
        return
    for linear in linears:
        if linear is None or linear.input is not first.input:
            return
        if (linear.bias is None) != (first.bias is None):
            return
    site = Site(node)
    joined = _joined(site, [linear for linear in linears if linear is not None])
    wide = _View(view.layout, view.order, [*view.shape[:3], 3 * channels])
    _write(node, site, joined, wide, traces, shape)


def _channels(shape: Sequence[Dim]) -> int:
    heads, dim = shape[3], shape[4]
    assert isinstance(heads, int) and isinstance(dim, int)
    return heads * dim


def _of(dims: Sequence[Dim]) -> list[Size]:
    return [Size.of(dim) or Size(1, ("?",)) for dim in dims]


@dataclass(frozen=True)
class _View:
    """A tensor seen as ``[B, H, W, channels]``.

    Attributes:
        layout: of that view in the tensor.
        order: of the tensor's axes, channels last, before it is reshaped.
        shape: ``[B, H, W, channels]``.
    """

    layout: Layout
    order: list[int]
    shape: list[Dim]


def _view(trace: Traced, shape: list[Dim]) -> _View | None:
    source = sizes(trace.source)
    if source is None:
        return None
    order: list[int] = []
    for axis in trace.layout.axes:
        order += [digit.axis for digit in axis if digit.axis not in order]
    # Axes of one token are in no digit: they may stand anywhere.
    order = [axis for axis in range(len(source)) if axis not in order] + order
    layout = reshaped(transposed(identity(source), order), _of(shape))
    return None if layout is None else _View(layout, order, shape)


def _write(
    node: ir.Node,
    site: Site,
    source: ir.Value,
    view: _View,
    traces: Sequence[Traced],
    shape: list[Dim],
) -> None:
    qkv = source
    if view.order != sorted(view.order):
        qkv = site.transpose(qkv, view.order)
    moved = _as_map(site, qkv, view.shape)
    if moved is None:
        return
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    attributes["scale"] *= traces[0].factor * traces[1].factor
    rpb = [value for value in node.inputs[3:] if value is not None]
    channels = _channels(shape)
    out = site.own(PACKED, [moved, *rpb], ir.Shape([*shape[:3], channels]), **attributes)
    site.replace(site.reshape(out, [0, 0, 0, shape[3], shape[4]], shape))  # type: ignore[list-item]


def _as_map(site: Site, value: ir.Value, shape: list[Dim]) -> ir.Value | None:
    """Reshape to ``[B, H, W, channels]``; None if that takes computing sizes."""
    own = sizes(value)
    if own is not None and list(own) == _of(shape):
        return value
    # The row that attention over one axis was lifted to.
    if own is not None and shape[1] == 1 and [own[0], Size(1), *own[1:]] == _of(shape):
        return site.unsqueeze(value, 1)
    target = [dim if isinstance(dim, int) else -1 for dim in shape]
    return site.reshape(value, target, shape) if target.count(-1) <= 1 else None


@dataclass(frozen=True)
class _Linear:
    """``input @ weight + bias`` with constant weights; weight is ``[in, out]``."""

    input: ir.Value
    weight: ir.Value
    bias: ir.Value | None


def _linear(value: ir.Value) -> _Linear | None:
    node = value.producer()
    bias = None
    if node is not None and node.op_type == "Add":
        sums = [entry for entry in node.inputs if entry is not None]
        constants = [entry for entry in sums if entry.is_initializer()]
        others = [entry for entry in sums if not entry.is_initializer()]
        if len(constants) != 1 or len(others) != 1:
            return None
        bias, node = constants[0], others[0].producer()
    if node is None or node.op_type != "MatMul" or node.domain not in ("", "ai.onnx"):
        return None
    data, weight = node.inputs[0], node.inputs[1]
    if data is None or weight is None or not weight.is_initializer():
        return None
    if weight.const_value is None or len(weight.const_value.shape) != 2:
        return None
    if bias is not None and (bias.const_value is None or len(bias.const_value.shape) != 1):
        return None
    return _Linear(data, weight, bias)


def _joined(site: Site, linears: Sequence[_Linear]) -> ir.Value:
    """One projection with the weights of several side by side."""
    first = linears[0]
    weight = _side_by_side(site, [linear.weight for linear in linears])
    shape = None
    if first.input.shape is not None and weight.shape is not None:
        shape = ir.Shape([*list(first.input.shape)[:-1], weight.shape[1]])
    product = site.node("MatMul", first.input, weight, shape=shape)
    biases = [linear.bias for linear in linears if linear.bias is not None]
    if not biases:
        return product
    return site.node("Add", product, _side_by_side(site, biases), shape=shape)


def _side_by_side(site: Site, values: Sequence[ir.Value]) -> ir.Value:
    tensors = [value.const_value for value in values if value.const_value is not None]
    shape = [*tensors[0].shape.numpy()[:-1], sum(int(t.shape.numpy()[-1]) for t in tensors)]

    def joined() -> ir.TensorProtocol:
        return ir.tensor(np.concatenate([tensor.numpy() for tensor in tensors], axis=-1))

    # Lazy, so that large weights are copied one at a time while the file is written.
    lazy = ir.LazyTensor(joined, dtype=tensors[0].dtype, shape=ir.Shape(shape))
    return site.initializer(lazy, "+".join(str(value.name) for value in values))
