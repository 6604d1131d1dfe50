"""What all versions of NATTEN compute, in both of its layouts, over the operators of this package.

Heads-last is ``[B, *sizes, heads, dim]`` (the fused functions), heads-first
``[B, heads, *sizes, dim]`` (the unfused ones). The semantics are those of
:mod:`dinat_deploy.ops.windows`, which is NATTEN's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dinat_deploy.errors import OperatorError
from dinat_deploy.ops import unfused
from dinat_deploy.ops.functional import neighborhood_attention

Ints = int | Sequence[int]
Bools = bool | Sequence[bool]


def or_default(value: Ints | None) -> Ints:
    """NATTEN takes None for 1 in dilation and stride."""
    return 1 if value is None else value


def or_false(value: Bools | None) -> Bools:
    """NATTEN takes None for False in is_causal."""
    return False if value is None else value


def plain(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in autocast's type where autocast is on, as PyTorch's own attention takes them.

    Raises:
        OperatorError: a nested tensor.
    """
    for tensor in tensors:
        if tensor.is_nested:
            raise OperatorError(
                "dinat_deploy.natten does not take nested tensors.", "Pad them to one size."
            )
    kind = tensors[0].device.type
    if torch.is_autocast_enabled(kind):
        return tuple(tensor.to(torch.get_autocast_dtype(kind)) for tensor in tensors)
    return tensors


def thirds(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """``[B, *sizes, 3*heads*dim]`` -> query, key and value ``[B, *sizes, heads, dim]``."""
    dim = qkv.shape[-1] // (3 * num_heads)
    query, key, value = qkv.reshape(*qkv.shape[:-1], 3, num_heads, dim).unbind(-3)
    return query, key, value


def _to_first(tensor: Tensor) -> Tensor:
    return tensor.movedim(-2, 1)


def _check_extra(query: Tensor, extra: Tensor, name: str) -> None:
    """``extra`` is ``[B, heads, tokens, dim]`` for a heads-first ``query``."""
    if extra.dim() != 4 or extra.shape[:2] != query.shape[:2]:
        raise OperatorError(
            f"{name} has shape {tuple(extra.shape)}; expected 4 dimensions with the batch and "
            f"heads of the other tensors, {tuple(query.shape[:2])}."
        )


def scores(
    query: Tensor,
    key: Tensor,
    rpb: Tensor | None,
    extra_keys: Tensor | None,
    *,
    kernel_size: Ints,
    dilation: Ints,
    stride: Ints = 1,
    is_causal: Bools = False,
) -> Tensor:
    """Unscaled scores ``[B, heads, *sizes, prod(k) + extra]`` of heads-first tensors.

    Args:
        extra_keys: ``[B, heads, extra, dim]`` that every query sees besides, or None.
    """
    query, key = plain(query, key)
    near = unfused.scores(
        query,
        key,
        rpb,
        kernel_size=kernel_size,
        dilation=dilation,
        stride=stride,
        is_causal=is_causal,
    )
    if extra_keys is None:
        return near
    _check_extra(query, extra_keys, "additional_keys")
    far = query.flatten(2, -2) @ extra_keys.to(query.dtype).transpose(-2, -1)
    return torch.cat([near, far.view(*query.shape[:-1], -1)], dim=-1)


def combine(
    weights: Tensor,
    value: Tensor,
    extra_values: Tensor | None,
    *,
    kernel_size: Ints,
    dilation: Ints,
    stride: Ints = 1,
    is_causal: Bools = False,
) -> Tensor:
    """Weighted sums ``[B, heads, *sizes, dim]``; the last weights are of ``extra_values``."""
    (value,) = plain(value)
    weights = weights.to(value.dtype)
    if extra_values is None:
        near, far = weights, None
    else:
        _check_extra(value, extra_values, "additional_values")
        extra = extra_values.shape[2]
        near, far = weights[..., :-extra], weights[..., -extra:]
    out = unfused.combine(
        near,
        value,
        kernel_size=kernel_size,
        dilation=dilation,
        stride=stride,
        is_causal=is_causal,
    )
    if far is None or extra_values is None:
        return out
    rest = far.flatten(2, -2) @ extra_values.to(value.dtype)
    return out + rest.view(out.shape)


def _share_heads(query: Tensor, other: Tensor, name: str) -> Tensor:
    """Repeat the heads of ``other`` (heads-last) for grouped-query attention."""
    heads, own = query.shape[-2], other.shape[-2]
    if heads == own:
        return other
    if own < 1 or heads % own:
        raise OperatorError(f"{heads} heads of query cannot share the {own} heads of {name}.")
    return other.repeat_interleave(heads // own, dim=-2)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rpb: Tensor | None = None,
    *,
    kernel_size: Ints,
    dilation: Ints = 1,
    stride: Ints = 1,
    is_causal: Bools = False,
    scale: float | None = None,
    extra_keys: Tensor | None = None,
    extra_values: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Fused neighborhood attention, heads-last.

    Args:
        query: ``[B, *sizes, heads, dim]``.
        key: the same, with as many heads or a divisor of it.
        value: as ``key``; its dim may be another.
        scale: on the query-key product; None and 0 mean ``dim ** -0.5``, as in NATTEN.
        extra_keys, extra_values: ``[B, tokens, heads of key, dim]`` that every query sees besides.
        dropout: probability of dropping a weight.

    Returns:
        ``[B, *sizes, heads, dim of value]``.

    Raises:
        OperatorError: see :func:`dinat_deploy.ops.functional.neighborhood_attention`.
    """
    if extra_keys is not None or extra_values is not None or dropout > 0:
        return attend_with_sum(
            query,
            key,
            value,
            rpb,
            kernel_size=kernel_size,
            dilation=dilation,
            stride=stride,
            is_causal=is_causal,
            scale=scale,
            extra_keys=extra_keys,
            extra_values=extra_values,
            dropout=dropout,
        )[0]
    query, key, value = plain(query, key, value)
    key, value = _share_heads(query, key, "key"), _share_heads(query, value, "value")
    dim, value_dim = query.shape[-1], value.shape[-1]
    scale = scale or dim**-0.5
    widest = max(dim, value_dim)
    if dim != value_dim:  # the operator knows one; zeros change nothing
        query, key = F.pad(query, (0, widest - dim)), F.pad(key, (0, widest - dim))
        value = F.pad(value, (0, widest - value_dim))
    out = neighborhood_attention(
        query,
        key,
        value,
        rpb,
        kernel_size=kernel_size,
        dilation=dilation,
        stride=stride,
        is_causal=is_causal,
        scale=scale,
    )
    return out if value_dim == widest else out[..., :value_dim]


def attend_with_sum(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rpb: Tensor | None = None,
    *,
    kernel_size: Ints,
    dilation: Ints = 1,
    stride: Ints = 1,
    is_causal: Bools = False,
    scale: float | None = None,
    extra_keys: Tensor | None = None,
    extra_values: Tensor | None = None,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """:func:`attend`, and the logarithm of the sum of every query's exponentials.

    Goes through the scores, so it takes ``prod(kernel_size)`` numbers of memory per query.

    Returns:
        ``[B, *sizes, heads, dim of value]`` and float32 ``[B, *sizes, heads]``.

    Raises:
        OperatorError: only one of ``extra_keys`` and ``extra_values``, or as :func:`attend`.
    """
    if (extra_keys is None) != (extra_values is None):
        raise OperatorError(
            "additional_keys and additional_values must be either both tensors or both None."
        )
    query, key, value = plain(query, key, value)
    key, value = _share_heads(query, key, "key"), _share_heads(query, value, "value")
    if extra_keys is not None and extra_values is not None:
        extra_keys = _to_first(_share_heads(query, extra_keys, "additional_keys"))
        extra_values = _to_first(_share_heads(query, extra_values, "additional_values"))
    scale = scale or query.shape[-1] ** -0.5
    first = [_to_first(tensor) for tensor in (query, key, value)]
    raw = scores(
        first[0] * scale,
        first[1],
        rpb,
        extra_keys,
        kernel_size=kernel_size,
        dilation=dilation,
        stride=stride,
        is_causal=is_causal,
    ).float()
    weights = raw.softmax(-1)
    out = combine(
        F.dropout(weights, dropout) if dropout > 0 else weights,
        first[2],
        extra_values,
        kernel_size=kernel_size,
        dilation=dilation,
        stride=stride,
        is_causal=is_causal,
    )
    return out.movedim(1, -2), raw.logsumexp(-1).movedim(1, -1)
