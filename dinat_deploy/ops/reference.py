"""Neighborhood attention in plain PyTorch: the implementation behind the registered operator.

Queries are cut into tiles (:mod:`dinat_deploy.ops.windows`); each tile attends densely to the few
keys that any of its queries needs, with a mask, through ``scaled_dot_product_attention``. Where a
dilation group is no larger than a tile this is plain attention within the group. Gathering the
``k*k`` neighbours of every query instead would move ``k*k`` times the keys and values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from dinat_deploy.ops.windows import AxisWindow, IntArray, axis_tiles

# An axis of a dilation group up to this long is one tile: one dense product with some of it
# masked beats several small ones. Longer axes are cut into tiles of one of these sizes.
_WHOLE_AXIS = 16
_TILE_SIZES = (6, 7, 8, 9)
# Upper bound on attention scores held at once (float32: 256 MiB).
_SCORES_AT_ONCE = 1 << 26


@dataclass(frozen=True)
class Plan:
    """How a map of some size is cut into tiles; all tables are flat over the axes.

    Attributes:
        query: token of each query, int64 ``[tiles, queries]``.
        key: token of each key, int64 ``[tiles, keys]``.
        inverse: position of each token in ``query`` read flat, int64 ``[tokens]``.
        pattern: bias pattern of each tile, int64 ``[tiles]``.
        pairs: int64 ``[patterns, queries, keys]``, where each pair finds its bias in a table of
            ``2*kernel_size`` entries per axis whose last entries mask.
        masked: whether any pair is masked.
        table: ``2*kernel_size`` of each axis.
    """

    query: IntArray
    key: IntArray
    inverse: IntArray
    pattern: IntArray
    pairs: IntArray
    masked: bool
    table: tuple[int, ...]

    @property
    def tiles(self) -> int:
        return self.query.shape[0]


def _tile_size(length: int, window: AxisWindow) -> int:
    longest = -(-length // window.dilation)
    if longest <= max(_WHOLE_AXIS, window.kernel_size + 1):
        return longest

    def scores(tile: int) -> int:
        count = -(-longest // tile)
        return count * tile * min(tile + window.kernel_size - 1, longest)

    return min(_TILE_SIZES, key=scores)


@lru_cache(maxsize=64)
def plan(sizes: tuple[int, ...], windows: tuple[AxisWindow, ...]) -> Plan:
    """Tiles for a map of ``sizes`` tokens per axis.

    Raises:
        OperatorError: a window does not fit its axis.
    """
    axes = [
        axis_tiles(size, window, _tile_size(size, window))
        for size, window in zip(sizes, windows, strict=True)
    ]
    first = axes[0]
    query, key, pattern, pairs = first.query, first.key, first.pattern, first.bias
    tile, slot = first.inverse // first.size, first.inverse % first.size
    for size, axis in zip(sizes[1:], axes[1:], strict=True):
        query = _outer(query, axis.query, size)
        key = _outer(key, axis.key, size)
        pattern = _outer(pattern, axis.pattern, len(axis.bias))
        pairs = _outer(pairs, axis.bias, 2 * axis.kernel_size)
        tile = _outer(tile, axis.inverse // axis.size, axis.count)
        slot = _outer(slot, axis.inverse % axis.size, axis.size)
    return Plan(
        query,
        key,
        tile * query.shape[1] + slot,
        pattern,
        pairs,
        any(axis.masked for axis in axes),
        tuple(2 * axis.kernel_size for axis in axes),
    )


def _outer(left: IntArray, right: IntArray, extent: int) -> IntArray:
    """Combine tables of two axes dimension by dimension: every pair as ``left*extent + right``."""
    rank = left.ndim
    spread = left.reshape([n for size in left.shape for n in (size, 1)]) * extent + right.reshape(
        [n for size in right.shape for n in (1, size)]
    )
    return spread.reshape([left.shape[axis] * right.shape[axis] for axis in range(rank)])


@dataclass(frozen=True)
class _Chunk:
    """Some tiles of a plan; bias ``[1 or tiles, 1 or heads, queries, keys]`` is additive."""

    query: Tensor
    key: Tensor
    pattern: Tensor
    bias: Tensor | None


def _pattern_bias(rpb: Tensor | None, chosen: Plan, like: Tensor) -> Tensor | None:
    """Additive bias of each pattern ``[patterns, 1 or heads, queries, keys]``; -inf masks."""
    if rpb is None:
        if not chosen.masked:
            return None
        rpb = like.new_zeros([1, *(entries - 1 for entries in chosen.table)])
    table = F.pad(rpb.to(like.dtype), [0, 1] * len(chosen.table), value=-math.inf).flatten(1)
    pairs = torch.from_numpy(chosen.pairs).to(like.device)
    return table.index_select(1, pairs.flatten()).view(-1, *pairs.shape).transpose(0, 1)


def _chunks(chosen: Plan, query: Tensor, bias: Tensor | None) -> Iterator[_Chunk]:
    batch, _, heads, _ = query.shape
    queries, keys, patterns = (
        torch.from_numpy(table).to(query.device)
        for table in (chosen.query, chosen.key, chosen.pattern)
    )
    per_tile = batch * heads * queries.shape[1] * keys.shape[1]
    step = max(1, _SCORES_AT_ONCE // max(1, per_tile))
    for first in range(0, chosen.tiles, step):
        part = slice(first, first + step)
        shown = bias
        if bias is not None and len(bias) > 1:
            shown = bias.index_select(0, patterns[part])
        yield _Chunk(queries[part], keys[part], patterns[part], shown)


def _take(tokens: Tensor, index: Tensor) -> Tensor:
    """``[B, L, heads, dim]`` -> ``[B*tiles, heads, tokens of the tile, dim]``."""
    batch, _, heads, dim = tokens.shape
    tiles, size = index.shape
    taken = tokens.index_select(1, index.flatten())
    return taken.view(batch * tiles, size, heads, dim).transpose(1, 2)


def _over_batch(bias: Tensor, batch: int, tiles: int) -> Tensor:
    """Repeat a chunk's bias over the batch: ``[batch*tiles, heads, queries, keys]``."""
    shape = bias.shape[1:]
    if bias.shape[0] == 1:
        return bias.expand(batch * tiles, *shape)
    return bias.expand(batch, *bias.shape).reshape(batch * tiles, *shape)


def _working_type(tensor: Tensor) -> torch.dtype:
    """Half precision is computed in float32 on the CPU, where that is exact and faster too."""
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    return torch.float32 if half and tensor.device.type == "cpu" else tensor.dtype


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rpb: Tensor | None,
    windows: tuple[AxisWindow, ...],
    scale: float,
) -> Tensor:
    """Neighborhood attention of any rank, heads last.

    Args:
        query, key, value: ``[B, *sizes, heads, dim]``, one floating type.
        rpb: ``[heads, 2*k-1 per axis]`` or None; added after scaling.
        windows: one per axis.
        scale: factor on the query-key product.

    Returns:
        ``[B, *sizes, heads, dim]`` in the type of ``query``.
    """
    batch, heads, dim = query.shape[0], query.shape[-2], query.shape[-1]
    chosen = plan(tuple(query.shape[1:-2]), windows)
    working = _working_type(query)
    q, k, v = (tensor.to(working).flatten(1, -3) for tensor in (query, key, value))
    parts = []
    for chunk in _chunks(chosen, q, _pattern_bias(rpb, chosen, q)):
        tiles = len(chunk.query)
        mask = None if chunk.bias is None else _over_batch(chunk.bias, batch, tiles)
        attended = F.scaled_dot_product_attention(
            _take(q, chunk.query),
            _take(k, chunk.key),
            _take(v, chunk.key),
            attn_mask=mask,
            scale=scale,
        )
        slots = chunk.query.numel()
        parts.append(attended.transpose(1, 2).reshape(batch, slots, heads, dim))
    tiled = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    inverse = torch.from_numpy(chosen.inverse).to(query.device)
    out = tiled.index_select(1, inverse).view(query.shape)
    return out.to(query.dtype)


def attention_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rpb: Tensor | None,
    windows: tuple[AxisWindow, ...],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of :func:`attention` for query, key, value and rpb (None without rpb).

    The attention weights are recomputed, so the forward pass need not keep them.
    """
    batch, heads, dim = query.shape[0], query.shape[-2], query.shape[-1]
    chosen = plan(tuple(query.shape[1:-2]), windows)
    working = _working_type(query)
    g, q, k, v = (tensor.to(working).flatten(1, -3) for tensor in (grad, query, key, value))
    bias = _pattern_bias(rpb, chosen, q)
    grad_q, grad_k, grad_v = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    grad_bias = None if rpb is None or bias is None else torch.zeros_like(bias)

    # A token may fill several slots of the query tiles; only one of them carries its gradient.
    slots = chosen.query.size
    owner = torch.from_numpy(chosen.inverse).to(query.device)
    tiled_grad = g.new_zeros(batch, slots, heads, dim).index_copy_(1, owner, g)

    done = 0
    for chunk in _chunks(chosen, q, bias):
        tiles, size = chunk.query.shape
        tile_q, tile_k, tile_v = _take(q, chunk.query), _take(k, chunk.key), _take(v, chunk.key)
        tile_g = tiled_grad[:, done : done + tiles * size]
        tile_g = tile_g.reshape(batch * tiles, size, heads, dim).transpose(1, 2)
        done += tiles * size

        scores = tile_q @ tile_k.transpose(-2, -1) * scale
        if chunk.bias is not None:
            scores = scores + _over_batch(chunk.bias, batch, tiles)
        weights = scores.softmax(-1)
        grad_weights = tile_g @ tile_v.transpose(-2, -1)
        mean = (weights * grad_weights).sum(-1, keepdim=True)
        grad_scores = weights * (grad_weights - mean)

        _put(grad_v, chunk.key, weights.transpose(-2, -1) @ tile_g)
        _put(grad_q, chunk.query, grad_scores @ tile_k * scale)
        _put(grad_k, chunk.key, grad_scores.transpose(-2, -1) @ tile_q * scale)
        if grad_bias is not None:
            over_batch = grad_scores.view(batch, tiles, heads, size, -1).sum(0)
            grad_bias.index_add_(0, chunk.pattern, over_batch)

    grads = [
        total.view(like.shape).to(like.dtype)
        for total, like in ((grad_q, query), (grad_k, key), (grad_v, value))
    ]
    if grad_bias is None or rpb is None:
        return grads[0], grads[1], grads[2], None
    pairs = torch.from_numpy(chosen.pairs).to(query.device)
    grad_table = grad_bias.new_zeros(heads, math.prod(chosen.table))
    grad_table.index_add_(1, pairs.flatten(), grad_bias.transpose(0, 1).flatten(1))
    unpadded = (slice(None), *(slice(entries - 1) for entries in chosen.table))
    grad_rpb = grad_table.view(heads, *chosen.table)[unpadded]
    return grads[0], grads[1], grads[2], grad_rpb.to(rpb.dtype).contiguous()


def _put(total: Tensor, index: Tensor, tiled: Tensor) -> None:
    """Add ``[B*tiles, heads, tokens of the tile, dim]`` to ``[B, L, heads, dim]`` by ``index``."""
    batch, _, heads, dim = total.shape
    slots = index.numel()
    total.index_add_(1, index.flatten(), tiled.transpose(1, 2).reshape(batch, slots, heads, dim))
