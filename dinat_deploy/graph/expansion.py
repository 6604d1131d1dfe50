"""Neighborhood attention of any rank, stride and causality in standard operators.

For what the project's operators do not cover: three axes, strided and causal windows, and scores
or weighted sums on their own. The index tables are computed here, from the definition in
:mod:`dinat_deploy.ops.windows`, and written into the file, so all sizes but the batch must be
static.

Attention is cut into tiles of queries, each attending densely to the keys that any of its queries
needs, with a mask (as in :mod:`dinat_deploy.ops.reference`); scores and sums alone gather the
neighbours of every query, which takes ``prod(kernel_size)`` times the memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from dinat_deploy.errors import ExportError
from dinat_deploy.graph import interim
from dinat_deploy.graph.expressions import Builder, Expr
from dinat_deploy.graph.schema import DOMAIN
from dinat_deploy.ops.reference import Plan, plan
from dinat_deploy.ops.unfused import Neighbours, neighbours

_MASKED = -1e30
_FLOAT = int(ir.DataType.FLOAT)


def expand(model: ir.Model) -> None:
    """Write out every node of :mod:`dinat_deploy.graph.interim`, in place.

    Raises:
        ExportError: a size other than the batch is dynamic.
        OperatorError: a window does not fit its map.
    """
    for node in interim.nodes(model, interim.GENERAL, interim.SCORES, interim.COMBINE):
        builder = Builder(model.graph.opset_imports[""])
        output = _EXPANSIONS[node.op_type](builder, node)
        for made in builder.nodes:
            made.metadata_props.update(node.metadata_props)
        ir.convenience.replace_nodes_and_values(
            model.graph, node, [node], builder.nodes, [node.outputs[0]], [output.value]
        )
    model.graph.opset_imports.setdefault(DOMAIN, 1)


def _input(node: ir.Node, position: int) -> ir.Value | None:
    return node.inputs[position] if len(node.inputs) > position else None


def _needed(node: ir.Node, position: int) -> ir.Value:
    value = _input(node, position)
    assert value is not None
    return value


def _static(value: ir.Value, axes: slice, node: ir.Node) -> tuple[int, ...]:
    """Sizes of a tensor's axes, which must be numbers."""
    dims = [] if value.shape is None else list(value.shape)[axes]
    fixed = tuple(dim for dim in dims if isinstance(dim, int))
    if not fixed or len(fixed) != len(dims):
        windows = interim.windows(node)
        raise ExportError(
            f"Attention over {len(windows)} axes with stride {[w.stride for w in windows]} and "
            f"is_causal {[w.is_causal for w in windows]} has the dynamic size "
            f"{[str(dim) for dim in dims]}.",
            "Export it with static sizes (the batch may be dynamic); only attention over one or "
            "two axes without stride and causality can have others.",
        )
    return fixed


def _attention(b: Builder, node: ir.Node) -> Expr:
    """Heads-last tensors -> heads-last output."""
    query, key, value = (_needed(node, position) for position in range(3))
    *sizes, heads, dim = _static(query, slice(1, None), node)
    tokens = math.prod(sizes)
    chosen = plan(tuple(sizes), interim.windows(node))
    q, k, v = (
        b.Transpose(b.reshape(b.wrap(tensor), -1, tokens, heads, dim), perm=[0, 2, 1, 3])
        for tensor in (query, key, value)
    )
    scaled = b.CastLike(b.Cast(q, to=_FLOAT) * node.attributes["scale"].as_float(), q)
    keys = b.Transpose(b.Gather(k, chosen.key, axis=2), perm=[0, 1, 2, 4, 3])
    scores = b.Cast(b.MatMul(b.Gather(scaled, chosen.query, axis=2), keys), to=_FLOAT)
    bias = _tile_bias(b, _input(node, 3), chosen)
    if bias is not None:
        scores = scores + bias
    weights = b.CastLike(b.Softmax(scores, axis=-1), v)
    attended = b.MatMul(weights, b.Gather(v, chosen.key, axis=2))
    tiled = b.reshape(attended, -1, heads, chosen.query.size, dim)
    ordered = b.Transpose(b.Gather(tiled, chosen.inverse, axis=2), perm=[0, 2, 1, 3])
    return b.reshape(ordered, -1, *sizes, heads, dim)


def _tile_bias(b: Builder, rpb: ir.Value | None, chosen: Plan) -> Expr | None:
    """Additive float32 bias ``[1, 1 or heads, tiles, queries, keys]``; None if there is none."""
    rank = len(chosen.table)
    if rpb is None:
        if not chosen.masked:
            return None
        table = np.zeros([1, *(entries - 1 for entries in chosen.table)], np.float32)
        padded = np.pad(table, [(0, 0)] + [(0, 1)] * rank, constant_values=_MASKED)
        patterns = b.constant(padded.reshape(1, -1)[:, chosen.pairs])
    else:
        heads = _static_heads(rpb)
        pads = [0] * (rank + 1) + [0] + [1] * rank
        wide = b.Pad(b.Cast(b.wrap(rpb), to=_FLOAT), pads, _MASKED)
        flat = b.reshape(wide, heads, math.prod(chosen.table))
        patterns = b.Gather(flat, chosen.pairs, axis=1)
    return b.Unsqueeze(b.Gather(patterns, chosen.pattern, axis=1), [0])


def _static_heads(rpb: ir.Value) -> int:
    heads = None if rpb.shape is None else rpb.shape[0]
    assert isinstance(heads, int)
    return heads


def _by_token(b: Builder, value: ir.Value, sizes: Sequence[int], last: int) -> Expr:
    """``[B, heads, *sizes, last]`` -> ``[B, heads, tokens, last]``."""
    return b.Reshape(b.wrap(value), [0, 0, math.prod(sizes), last])


def _scores(b: Builder, node: ir.Node) -> Expr:
    query, key = _needed(node, 0), _needed(node, 1)
    *sizes, dim = _static(query, slice(2, None), node)
    near = neighbours(tuple(sizes), interim.windows(node))
    q, k = (_by_token(b, tensor, sizes, dim) for tensor in (query, key))
    product = b.MatMul(b.Gather(k, near.token, axis=2), b.Unsqueeze(q, [4]))
    scores = b.Squeeze(product, [4])
    rpb = _input(node, 2)
    if rpb is not None:
        flat = b.reshape(b.wrap(rpb), _static_heads(rpb), -1)
        scores = scores + b.Gather(flat, near.bias, axis=1)
    return _masked(b, scores, near, -math.inf, [*sizes, near.token.shape[1]])


def _masked(
    b: Builder, tensor: Expr, near: Neighbours, missing: float, shape: Sequence[int]
) -> Expr:
    """``[B, heads, tokens, entries]`` with ``missing`` where an entry is none, in ``shape``."""
    if near.seen is not None:
        tensor = b.Where(near.seen, tensor, b.CastLike(missing, tensor))
    return b.Reshape(tensor, [0, 0, *shape])


def _combine(b: Builder, node: ir.Node) -> Expr:
    weights, value = _needed(node, 0), _needed(node, 1)
    *sizes, dim = _static(value, slice(2, None), node)
    near = neighbours(tuple(sizes), interim.windows(node))
    tokens, entries = near.token.shape
    shares = _masked(b, _by_token(b, weights, sizes, entries), near, 0.0, [tokens, 1, entries])
    values = b.Gather(_by_token(b, value, sizes, dim), near.token, axis=2)
    return b.Reshape(b.MatMul(shares, values), [0, 0, *sizes, dim])


_EXPANSIONS = {interim.GENERAL: _attention, interim.SCORES: _scores, interim.COMBINE: _combine}
