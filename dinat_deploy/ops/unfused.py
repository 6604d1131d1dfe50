"""The two halves of neighborhood attention, as models written for old NATTEN call them.

``scores`` gives the product of every query with the keys of its window, ``combine`` the sum of the
window's values with given weights; a softmax in between makes them the operator of
:mod:`dinat_deploy.ops.functional`. They are for what must get at the weights: dropout on them,
their logarithm of sums, keys from elsewhere. The weights are ``prod(kernel_size)`` per query.

Tensors are heads-first, ``[B, heads, *sizes, dim]``, weights ``[B, heads, *sizes, prod(k)]`` with
the last axis row-major over the window. Entry ``o`` of a window on an axis is its member
``start + o`` (:mod:`dinat_deploy.ops.windows`); a causal window has fewer than ``k`` members, the
entries past its end have no key: their score is minus infinity and their weight is ignored.

Registered with PyTorch as ``dinat::neighborhood_scores`` and ``dinat::neighborhood_combine``, which
the exporter finds again. ``scores``, ``combine`` and ``spread`` are each other's derivatives, so
gradients of any order exist.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dinat_deploy.errors import OperatorError
from dinat_deploy.ops.functional import per_axis
from dinat_deploy.ops.library import NAMESPACE
from dinat_deploy.ops.windows import AxisWindow, IntArray, axis_members

# Upper bound on gathered numbers held at once (float32: 64 MiB).
_GATHERED_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class Neighbours:
    """The window of every token, flat over the axes; all arrays are ``[tokens, prod(k)]``.

    Attributes:
        token: int64, which token each entry of the window is (any, where it is none).
        bias: int64, index in the flattened positional bias (any, where the entry is none).
        seen: whether the entry is a token; None if all are.
    """

    token: IntArray
    bias: IntArray
    seen: npt.NDArray[np.bool_] | None


@lru_cache(maxsize=16)
def neighbours(sizes: tuple[int, ...], windows: tuple[AxisWindow, ...]) -> Neighbours:
    """Windows of all tokens of a map.

    Raises:
        OperatorError: a window does not fit its axis.
    """
    token = bias = np.zeros((1, 1), np.int64)
    seen = np.ones((1, 1), np.bool_)
    for length, window in zip(sizes, windows, strict=True):
        axis = axis_members(length, window)
        entry = axis.start[:, None] + np.arange(window.kernel_size)
        inside = entry < axis.stop[:, None]
        member = np.minimum(entry, axis.members[:, None] - 1)
        own_token = axis.group[:, None] + member * window.dilation
        offset = member - axis.place[:, None] + window.kernel_size - 1
        own_bias = np.clip(offset, 0, 2 * window.kernel_size - 2)
        token = _outer(token * length, own_token, np.add)
        bias = _outer(bias * (2 * window.kernel_size - 1), own_bias, np.add)
        seen = _outer(seen, inside, np.logical_and)
    return Neighbours(token, bias, None if seen.all() else seen)


def _outer(left: Any, right: Any, combine: np.ufunc) -> Any:
    """Row and column indices of two axes side by side, ``[n, k]`` and ``[m, j]`` -> [n*m, k*j]."""
    table = combine(left[:, None, :, None], right[None, :, None, :])
    return table.reshape(left.shape[0] * right.shape[0], left.shape[1] * right.shape[1])


def _windows(
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    stride: Sequence[int],
    is_causal: Sequence[bool],
) -> tuple[AxisWindow, ...]:
    axes = zip(kernel_size, dilation, stride, is_causal, strict=True)
    return tuple(AxisWindow(k, d, s, bool(c)) for k, d, s, c in axes)


def _wide(tensor: Tensor) -> Tensor:
    """Flat over the tokens, and in float32 where it is of 16 bits."""
    flat = tensor.flatten(2, -2)
    return flat.float() if flat.dtype in (torch.float16, torch.bfloat16) else flat


@dataclass(frozen=True)
class _Chunk:
    """Some consecutive tokens ``part`` with their windows ``[tokens, prod(k)]``."""

    part: slice
    token: Tensor
    unseen: Tensor | None

    def gather(self, tokens: Tensor) -> Tensor:
        """``[B, heads, all tokens, dim]`` -> ``[B, heads, tokens, prod(k), dim]``."""
        near = tokens.index_select(2, self.token.flatten())
        return near.view(*tokens.shape[:2], *self.token.shape, tokens.shape[-1])


def _chunks(near: Neighbours, like: Tensor) -> Iterator[_Chunk]:
    """Cut so that the gathered neighbours of a chunk fit in memory; ``like`` is flat."""
    token = torch.from_numpy(near.token).to(like.device)
    unseen = None if near.seen is None else torch.from_numpy(~near.seen).to(like.device)
    batch, heads, tokens, dim = like.shape
    step = max(1, _GATHERED_AT_ONCE // max(1, batch * heads * token.shape[1] * dim))
    for start in range(0, tokens, step):
        part = slice(start, start + step)
        yield _Chunk(part, token[part], None if unseen is None else unseen[part])


def _shares(weights: Tensor, chunk: _Chunk) -> Tensor:
    """The weights of a chunk, 0 where an entry is no token."""
    part = weights[:, :, chunk.part]
    return part if chunk.unseen is None else part.masked_fill(chunk.unseen, 0)


@torch.library.custom_op(f"{NAMESPACE}::neighborhood_scores", mutates_args=())
def _scores(
    query: Tensor,
    key: Tensor,
    rpb: Tensor | None,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    stride: Sequence[int],
    is_causal: Sequence[bool],
    missing: float,
) -> Tensor:
    """``missing`` is the score of an entry that is no token."""
    near = neighbours(tuple(query.shape[2:-1]), _windows(kernel_size, dilation, stride, is_causal))
    q, k = _wide(query), _wide(key)
    scores = q.new_empty(*q.shape[:-1], near.token.shape[1])
    for chunk in _chunks(near, k):
        score = (chunk.gather(k) @ q[:, :, chunk.part, :, None]).squeeze(-1)
        if chunk.unseen is not None:
            score = score.masked_fill(chunk.unseen, missing)
        scores[:, :, chunk.part] = score
    if rpb is not None:
        index = torch.from_numpy(near.bias).to(q.device)
        scores += rpb.to(q.dtype).flatten(1)[:, index]
    return scores.to(query.dtype).view(*query.shape[:-1], -1)


@_scores.register_fake
def _(query: Tensor, key: Tensor, rpb: Tensor | None, kernel_size: Any, *_: Any) -> Tensor:
    return query.new_empty(*query.shape[:-1], math.prod(kernel_size))


@torch.library.custom_op(f"{NAMESPACE}::neighborhood_combine", mutates_args=())
def _combine(
    weights: Tensor,
    value: Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    stride: Sequence[int],
    is_causal: Sequence[bool],
) -> Tensor:
    near = neighbours(tuple(value.shape[2:-1]), _windows(kernel_size, dilation, stride, is_causal))
    w, v = _wide(weights), _wide(value)
    total = torch.empty_like(v)
    for chunk in _chunks(near, v):
        total[:, :, chunk.part] = (_shares(w, chunk).unsqueeze(-2) @ chunk.gather(v)).squeeze(-2)
    return total.to(value.dtype).view(value.shape)


@_combine.register_fake
def _(weights: Tensor, value: Tensor, *_: Any) -> Tensor:
    return value.new_empty(value.shape)


@torch.library.custom_op(f"{NAMESPACE}::neighborhood_spread", mutates_args=())
def _spread(
    weights: Tensor,
    query: Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    stride: Sequence[int],
    is_causal: Sequence[bool],
) -> Tensor:
    """Add each query, times its weights, to the tokens of its window: the other way round."""
    near = neighbours(tuple(query.shape[2:-1]), _windows(kernel_size, dilation, stride, is_causal))
    w, q = _wide(weights), _wide(query)
    total = torch.zeros_like(q)
    for chunk in _chunks(near, q):
        spread = _shares(w, chunk).unsqueeze(-1) * q[:, :, chunk.part, None]
        total.index_add_(2, chunk.token.flatten(), spread.flatten(2, 3))
    return total.to(query.dtype).view(query.shape)


@_spread.register_fake
def _(weights: Tensor, query: Tensor, *_: Any) -> Tensor:
    return query.new_empty(query.shape)


@torch.library.custom_op(f"{NAMESPACE}::neighborhood_bias_gradient", mutates_args=())
def _bias_gradient(
    grad: Tensor, kernel_size: Sequence[int], dilation: Sequence[int], stride: Sequence[int]
) -> Tensor:
    """Gradient of the positional bias ``[heads, 2*k-1 per axis]`` from that of the scores."""
    windows = _windows(kernel_size, dilation, stride, [False] * len(kernel_size))
    near = neighbours(tuple(grad.shape[2:-1]), windows)
    per_pair = _wide(grad).sum(0).flatten(1)
    entries = [2 * size - 1 for size in kernel_size]
    total = per_pair.new_zeros(grad.shape[1], math.prod(entries))
    total.index_add_(1, torch.from_numpy(near.bias).to(grad.device).flatten(), per_pair)
    return total.view(-1, *entries).to(grad.dtype)


@_bias_gradient.register_fake
def _(grad: Tensor, kernel_size: Sequence[int], *_: Any) -> Tensor:
    return grad.new_empty(grad.shape[1], *(2 * size - 1 for size in kernel_size))


def _save_bias_gradient(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.shape, ctx.axes = inputs[0].shape, inputs[1:]


def _bias_gradient_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    # The bias alone: scores of tokens that are zero.
    zero = grad.new_zeros(*ctx.shape[:-1], 1)
    causal = [False] * len(ctx.axes[0])
    return _scores(zero, zero, grad, *ctx.axes, causal, 0.0), None, None, None


_bias_gradient.register_autograd(_bias_gradient_backward, setup_context=_save_bias_gradient)


def _save_scores(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[1])
    ctx.has_rpb, ctx.axes = inputs[2] is not None, inputs[3:7]


def _scores_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    query, key = ctx.saved_tensors
    of_rpb = _bias_gradient(grad, *ctx.axes[:3]) if ctx.has_rpb else None
    rest = (None,) * 5
    return _combine(grad, key, *ctx.axes), _spread(grad, query, *ctx.axes), of_rpb, *rest


_scores.register_autograd(_scores_backward, setup_context=_save_scores)


def _save_pair(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[1])
    ctx.axes = inputs[2:]


def _combine_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    weights, value = ctx.saved_tensors
    of_weights = _scores(grad, value, None, *ctx.axes, 0.0)
    return of_weights, _spread(weights, grad, *ctx.axes), None, None, None, None


_combine.register_autograd(_combine_backward, setup_context=_save_pair)


def _spread_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    weights, query = ctx.saved_tensors
    of_weights = _scores(query, grad, None, *ctx.axes, 0.0)
    return of_weights, _combine(weights, grad, *ctx.axes), None, None, None, None


_spread.register_autograd(_spread_backward, setup_context=_save_pair)


# As they stand in a traced graph.
SCORES: Any = getattr(torch.ops, NAMESPACE).neighborhood_scores.default
COMBINE: Any = getattr(torch.ops, NAMESPACE).neighborhood_combine.default


def _axes(
    tensor: Tensor,
    name: str,
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int],
    stride: int | Sequence[int],
    is_causal: bool | Sequence[bool],
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[bool, ...]]:
    rank = tensor.dim() - 3
    if rank not in (1, 2, 3):
        raise OperatorError(
            f"{name} has {tensor.dim()} dimensions; expected [batch, heads, 1 to 3 axes, dim]."
        )
    if not tensor.is_floating_point():
        raise OperatorError(f"{name} must be of a floating type, not {tensor.dtype}.")
    axes = (
        per_axis(kernel_size, rank, "kernel_size"),
        per_axis(dilation, rank, "dilation"),
        per_axis(stride, rank, "stride"),
        per_axis(is_causal, rank, "is_causal"),
    )
    for axis, (size, window) in enumerate(zip(tensor.shape[2:-1], _windows(*axes), strict=True)):
        window.check()
        # A symbolic size (torch.export) is left to the run time: comparing it would fix it.
        if isinstance(size, int) and size < window.span:
            raise OperatorError(
                f"kernel_size {window.kernel_size} * dilation {window.dilation} = {window.span} "
                f"exceeds axis {axis} of the map, which has {size} tokens.",
                "Use a larger input, a smaller kernel or dilation, or zero-pad the map first.",
            )
    return axes


def scores(
    query: Tensor,
    key: Tensor,
    rpb: Tensor | None = None,
    *,
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int] = 1,
    stride: int | Sequence[int] = 1,
    is_causal: bool | Sequence[bool] = False,
) -> Tensor:
    """Products of every query with the keys of its window, plus the positional bias.

    Nothing is scaled. An entry without a key (causal windows) is minus infinity.

    Args:
        query, key: ``[B, heads, *sizes, dim]``, one floating type and device.
        rpb: ``[heads, 2*k-1 per axis]`` or None; only without stride and causality.

    Returns:
        ``[B, heads, *sizes, prod(kernel_size)]`` in the type of ``query``.

    Raises:
        OperatorError: shapes or parameters that the operator is not defined for.
    """
    axes = _axes(query, "query", kernel_size, dilation, stride, is_causal)
    if query.shape != key.shape or query.dtype != key.dtype:
        raise OperatorError(
            f"query is {tuple(query.shape)} of {query.dtype}, key is {tuple(key.shape)} of "
            f"{key.dtype}; they must be alike."
        )
    if rpb is not None:
        if any(axes[3]) or any(step != 1 for step in axes[2]):
            raise OperatorError(
                "rpb is not defined together with stride or causality (no NATTEN release has it).",
                "Pass rpb=None.",
            )
        expected = (query.shape[1], *(2 * size - 1 for size in axes[0]))
        if tuple(rpb.shape) != expected:
            raise OperatorError(f"rpb has shape {tuple(rpb.shape)}, expected {expected}.")
        rpb = rpb.to(query.dtype)
    return _scores(query, key, rpb, *axes, -math.inf)


def combine(
    weights: Tensor,
    value: Tensor,
    *,
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int] = 1,
    stride: int | Sequence[int] = 1,
    is_causal: bool | Sequence[bool] = False,
) -> Tensor:
    """Sum of the values of every window with the given weights.

    Args:
        weights: ``[B, heads, *sizes, prod(kernel_size)]``, brought to the type of ``value``.
            Weights of entries that are no token are ignored.
        value: ``[B, heads, *sizes, dim]``.

    Returns:
        ``[B, heads, *sizes, dim]`` in the type of ``value``.

    Raises:
        OperatorError: shapes or parameters that the operator is not defined for.
    """
    axes = _axes(value, "value", kernel_size, dilation, stride, is_causal)
    expected = (*value.shape[:-1], math.prod(axes[0]))
    if tuple(weights.shape) != expected:
        raise OperatorError(
            f"weights have shape {tuple(weights.shape)}, expected {expected} for a value of shape "
            f"{tuple(value.shape)} and kernel size {list(axes[0])}."
        )
    return _combine(weights.to(value.dtype), value, *axes)
