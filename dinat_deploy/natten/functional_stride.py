"""``natten.functional`` of 0.20 and later: fused functions with stride, without positional bias.

Heads-last, ``[B, *sizes, heads, dim]``. The arguments that choose or tune a kernel are taken and
ignored: there is one implementation here. Grouped-query attention (fewer heads of key and value)
and values with another dim work as in 0.21.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dinat_deploy.errors import OperatorError
from dinat_deploy.natten import attending
from dinat_deploy.natten.attending import Bools, Ints, or_default, or_false

Result = Tensor | tuple[Tensor, Tensor]

_TUNING = frozenset({
    "backend", "q_tile_shape", "kv_tile_shape", "backward_q_tile_shape", "backward_kv_tile_shape",
    "backward_kv_splits", "backward_use_pt_reduction", "run_persistent_kernel", "kernel_schedule",
    "torch_compile", "try_fuse_additional_kv", "q_tile_size", "kv_tile_size",
    "backward_q_tile_size", "backward_kv_tile_size",
})  # fmt: skip
_VARLEN = frozenset({
    "seqlens_Q", "seqlens_KV", "cumulative_seqlen_Q", "cumulative_seqlen_KV", "max_seqlen_Q",
    "max_seqlen_KV",
})  # fmt: skip


def _check_tuning(function: str, tuning: dict[str, Any]) -> None:
    unknown = sorted(tuning.keys() - _TUNING)
    if unknown:
        raise TypeError(f"{function}() got an unexpected keyword argument {unknown[0]!r}")


def neighborhood_attention_generic(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Ints,
    stride: Ints | None = 1,
    dilation: Ints | None = 1,
    is_causal: Bools | None = False,
    scale: float | None = None,
    additional_keys: Tensor | None = None,
    additional_values: Tensor | None = None,
    attention_kwargs: dict[str, Any] | None = None,
    backend: str | None = None,
    *,
    return_lse: bool = False,
    **tuning: Any,
) -> Result:
    """Neighborhood attention of one to three axes.

    Args:
        query, key, value: ``[B, *sizes, heads, dim]``; key and value may have fewer heads, value
            another dim.
        stride: queries that share one window, from 1 to ``kernel_size``.
        scale: on the query-key product, by default ``dim ** -0.5``.
        additional_keys, additional_values: ``[B, tokens, heads, dim]`` that every query sees too.
        return_lse: return the logarithm of the sum of exponentials as well.

    Returns:
        ``[B, *sizes, heads, dim of value]``, and float32 ``[B, *sizes, heads]`` if asked for.

    Raises:
        OperatorError: a window that does not fit, a stride larger than the window, or shapes that
            contradict each other. It is a ValueError.
    """
    _check_tuning("neighborhood_attention", tuning)
    options: dict[str, Any] = {
        "kernel_size": kernel_size,
        "stride": or_default(stride),
        "dilation": or_default(dilation),
        "is_causal": or_false(is_causal),
        "scale": scale,
        "extra_keys": additional_keys,
        "extra_values": additional_values,
    }
    if return_lse:
        return attending.attend_with_sum(query, key, value, **options)
    return attending.attend(query, key, value, **options)


def _of_rank(rank: int, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kw: Any) -> Result:
    if query.dim() != rank + 3:
        raise OperatorError(
            f"query has {query.dim()} dimensions; na{rank}d takes {rank + 3}: batch, "
            f"{rank} of tokens, heads and the channels of a head."
        )
    return neighborhood_attention_generic(query, key, value, *args, **kw)


def na1d(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kw: Any) -> Result:
    """``[B, L, heads, dim]`` each; see :func:`neighborhood_attention_generic`."""
    return _of_rank(1, query, key, value, *args, **kw)


def na2d(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kw: Any) -> Result:
    """``[B, H, W, heads, dim]`` each; see :func:`neighborhood_attention_generic`."""
    return _of_rank(2, query, key, value, *args, **kw)


def na3d(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kw: Any) -> Result:
    """``[B, D, H, W, heads, dim]`` each; see :func:`neighborhood_attention_generic`."""
    return _of_rank(3, query, key, value, *args, **kw)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    is_causal: bool = False,
    scale: float | None = None,
    *,
    return_lse: bool = False,
    **tuning: Any,
) -> Result:
    """Plain attention, heads-last.

    Args:
        query: ``[B, L, heads, dim]``; key and value ``[B, S, heads, dim]``.

    Returns:
        ``[B, L, heads, dim of value]``, and float32 ``[B, L, heads]`` if ``return_lse``.

    Raises:
        OperatorError: sequences of various lengths packed into one.
    """
    if any(tuning.pop(name, None) for name in _VARLEN & tuning.keys()):
        raise OperatorError(
            "dinat_deploy.natten.attention takes no packed sequences (seqlens, cumulative_seqlen).",
            "Pad the sequences to one length, or call it for each.",
        )
    _check_tuning("attention", tuning)
    query, key, value = attending.plain(query, key, value)
    heads = query.shape[-2]
    q, k, v = (
        tensor.repeat_interleave(heads // tensor.shape[-2], dim=-2).transpose(1, 2)
        for tensor in (query, key, value)
    )
    scale = scale or query.shape[-1] ** -0.5
    if not return_lse:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=is_causal, scale=scale)
        return out.transpose(1, 2)
    raw = (q @ k.transpose(-2, -1)).float() * scale
    if is_causal:
        ahead = torch.ones(raw.shape[-2:], dtype=torch.bool, device=raw.device).triu(1)
        raw = raw.masked_fill(ahead, float("-inf"))
    out = raw.softmax(-1).to(v.dtype) @ v
    return out.transpose(1, 2), raw.logsumexp(-1).transpose(1, 2)


def merge_attentions(
    outputs: Sequence[Tensor],
    lse_tensors: Sequence[Tensor],
    torch_compile: bool = True,
    use_autograd_fix: bool = True,
) -> tuple[Tensor, Tensor]:
    """Attentions of the same queries over several sets of keys as one over all of them.

    Args:
        outputs: ``[B, L, heads, dim]`` each.
        lse_tensors: their logarithms of sums of exponentials, ``[B, L, heads]`` each.

    Returns:
        The merged output and logarithm of sums.

    Raises:
        OperatorError: fewer than two, or not as many sums as outputs.
    """
    if len(outputs) < 2 or len(outputs) != len(lse_tensors):
        raise OperatorError(
            f"merge_attentions got {len(outputs)} outputs and {len(lse_tensors)} sums; expected as "
            "many of both, and at least two."
        )
    sums = torch.stack([lse.float() for lse in lse_tensors])
    total = sums.logsumexp(0)
    shares = (sums - total).exp().unsqueeze(-1)
    merged = (torch.stack([out.float() for out in outputs]) * shares).sum(0)
    return merged.to(outputs[0].dtype), total
