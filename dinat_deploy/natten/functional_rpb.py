"""``natten.functional`` of 0.14 to 0.17, with positional bias.

Three generations of names, all kept here; :mod:`dinat_deploy.natten.versions` says which version
has which. Unfused functions (``qk``, ``av``) are heads-first ``[B, heads, *sizes, dim]`` and do not
scale; fused ones (``na1d`` to ``na3d``, since 0.17) are heads-last ``[B, *sizes, heads, dim]`` and
do. Arguments are in NATTEN's order. The unfused ones take odd windows from 3 on only, as NATTEN.

Scores that go through a plain softmax into ``av`` become one operator when exported
(:mod:`dinat_deploy.graph.fusion`).
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from dinat_deploy.errors import OperatorError
from dinat_deploy.natten import attending
from dinat_deploy.natten.attending import Bools, Ints, or_default, or_false
from dinat_deploy.ops.functional import per_axis


def check_odd(kernel_size: Ints) -> None:
    """Raise OperatorError unless the sizes are odd and more than 1."""
    sizes = [kernel_size] if isinstance(kernel_size, int) else list(kernel_size)
    if any(size < 3 or size % 2 == 0 for size in sizes):
        raise OperatorError(
            f"kernel_size is {kernel_size}; NATTEN's unfused functions take odd sizes from 3 on.",
            "The fused functions na1d, na2d and na3d take any.",
        )


def _scores(
    rank: int,
    query: Tensor,
    key: Tensor,
    kernel_size: Ints,
    dilation: Ints | None,
    additional_keys: Tensor | None = None,
    is_causal: Bools | None = False,
    rpb: Tensor | None = None,
) -> Tensor:
    _check_rank(rank, query, "query")
    check_odd(kernel_size)
    return attending.scores(
        query,
        key,
        rpb,
        additional_keys,
        kernel_size=kernel_size,
        dilation=or_default(dilation),
        is_causal=or_false(is_causal),
    )


def _combine(
    rank: int,
    attn: Tensor,
    value: Tensor,
    kernel_size: Ints,
    dilation: Ints | None,
    additional_values: Tensor | None = None,
    is_causal: Bools | None = False,
) -> Tensor:
    _check_rank(rank, value, "value")
    check_odd(kernel_size)
    return attending.combine(
        attn,
        value,
        additional_values,
        kernel_size=kernel_size,
        dilation=or_default(dilation),
        is_causal=or_false(is_causal),
    )


def _check_rank(rank: int, tensor: Tensor, name: str) -> None:
    if tensor.dim() != rank + 3:
        raise OperatorError(
            f"{name} has {tensor.dim()} dimensions; a function of {rank} axes takes {rank + 3}: "
            "batch, heads, the axes and the channels of a head."
        )


# 0.17: kernel size and dilation one value or one per axis, causal axes, the bias by keyword.


def na1d_qk(
    query: Tensor,
    key: Tensor,
    kernel_size: Ints,
    dilation: Ints = 1,
    additional_keys: Tensor | None = None,
    is_causal: Bools | None = False,
    rpb: Tensor | None = None,
) -> Tensor:
    """``[B, heads, L, dim]`` twice -> scores ``[B, heads, L, k (+ additional)]``."""
    return _scores(1, query, key, kernel_size, dilation, additional_keys, is_causal, rpb)


def na1d_av(
    attn: Tensor,
    value: Tensor,
    kernel_size: Ints,
    dilation: Ints = 1,
    additional_values: Tensor | None = None,
    is_causal: Bools | None = False,
) -> Tensor:
    """``[B, heads, L, k (+ additional)]`` and ``[B, heads, L, dim]`` -> ``[B, heads, L, dim]``."""
    return _combine(1, attn, value, kernel_size, dilation, additional_values, is_causal)


def na2d_qk(
    query: Tensor,
    key: Tensor,
    kernel_size: Ints,
    dilation: Ints = 1,
    additional_keys: Tensor | None = None,
    is_causal: Bools | None = False,
    rpb: Tensor | None = None,
) -> Tensor:
    """``[B, heads, H, W, dim]`` twice -> scores ``[B, heads, H, W, kh*kw (+ additional)]``."""
    return _scores(2, query, key, kernel_size, dilation, additional_keys, is_causal, rpb)


def na2d_av(
    attn: Tensor,
    value: Tensor,
    kernel_size: Ints,
    dilation: Ints = 1,
    additional_values: Tensor | None = None,
    is_causal: Bools | None = False,
) -> Tensor:
    """Weights as of :func:`na2d_qk` and ``[B, heads, H, W, dim]`` -> ``[B, heads, H, W, dim]``."""
    return _combine(2, attn, value, kernel_size, dilation, additional_values, is_causal)


def na3d_qk(
    query: Tensor,
    key: Tensor,
    kernel_size: Ints,
    dilation: Ints = 1,
    additional_keys: Tensor | None = None,
    is_causal: Bools | None = False,
    rpb: Tensor | None = None,
) -> Tensor:
    """``[B, heads, D, H, W, dim]`` twice -> scores ``[B, heads, D, H, W, kd*kh*kw]``."""
    return _scores(3, query, key, kernel_size, dilation, additional_keys, is_causal, rpb)


def na3d_av(
    attn: Tensor,
    value: Tensor,
    kernel_size: Ints,
    dilation: Ints = 1,
    additional_values: Tensor | None = None,
    is_causal: Bools | None = False,
) -> Tensor:
    """Weights as of :func:`na3d_qk` and ``[B, heads, D, H, W, dim]`` -> the latter's shape."""
    return _combine(3, attn, value, kernel_size, dilation, additional_values, is_causal)


def _fused(
    rank: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Ints,
    dilation: Ints | None,
    is_causal: Bools | None,
    rpb: Tensor | None,
    scale: float | None,
    additional_keys: Tensor | None,
    additional_values: Tensor | None,
) -> Tensor:
    _check_rank(rank, query, "query")
    return attending.attend(
        query,
        key,
        value,
        rpb,
        kernel_size=kernel_size,
        dilation=or_default(dilation),
        is_causal=or_false(is_causal),
        scale=scale,
        extra_keys=additional_keys,
        extra_values=additional_values,
    )


def na1d(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Ints,
    dilation: Ints = 1,
    is_causal: Bools | None = False,
    rpb: Tensor | None = None,
    scale: float | None = None,
    additional_keys: Tensor | None = None,
    additional_values: Tensor | None = None,
    xformers_kwargs: dict[str, Any] | None = None,
) -> Tensor:
    """Fused, ``[B, L, heads, dim]`` each; additional ones ``[B, tokens, heads, dim]``."""
    return _fused(
        1, query, key, value, kernel_size, dilation, is_causal, rpb, scale,
        additional_keys, additional_values,
    )  # fmt: skip


def na2d(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Ints,
    dilation: Ints = 1,
    is_causal: Bools | None = False,
    rpb: Tensor | None = None,
    scale: float | None = None,
    additional_keys: Tensor | None = None,
    additional_values: Tensor | None = None,
    xformers_kwargs: dict[str, Any] | None = None,
) -> Tensor:
    """Fused, ``[B, H, W, heads, dim]`` each; additional ones ``[B, tokens, heads, dim]``."""
    return _fused(
        2, query, key, value, kernel_size, dilation, is_causal, rpb, scale,
        additional_keys, additional_values,
    )  # fmt: skip


def na3d(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Ints,
    dilation: Ints = 1,
    is_causal: Bools | None = False,
    rpb: Tensor | None = None,
    scale: float | None = None,
    additional_keys: Tensor | None = None,
    additional_values: Tensor | None = None,
    xformers_kwargs: dict[str, Any] | None = None,
) -> Tensor:
    """Fused, ``[B, D, H, W, heads, dim]`` each; additional ones ``[B, tokens, heads, dim]``."""
    return _fused(
        3, query, key, value, kernel_size, dilation, is_causal, rpb, scale,
        additional_keys, additional_values,
    )  # fmt: skip


# 0.15: one kernel size and dilation, the bias third; 3-D has its own for the depth.


def na1d_qk_with_bias(
    query: Tensor,
    key: Tensor,
    bias: Tensor | None,
    kernel_size: int,
    dilation: int,
    additional_keys: Tensor | None = None,
) -> Tensor:
    return _scores(1, query, key, kernel_size, dilation, additional_keys, rpb=bias)


def na2d_qk_with_bias(
    query: Tensor,
    key: Tensor,
    bias: Tensor | None,
    kernel_size: int,
    dilation: int,
    additional_keys: Tensor | None = None,
) -> Tensor:
    return _scores(2, query, key, kernel_size, dilation, additional_keys, rpb=bias)


def na3d_qk_with_bias(
    query: Tensor,
    key: Tensor,
    bias: Tensor | None,
    kernel_size_d: int,
    kernel_size: int,
    dilation_d: int,
    dilation: int,
    additional_keys: Tensor | None = None,
) -> Tensor:
    kernel, dilations = _with_depth(kernel_size_d, kernel_size), _with_depth(dilation_d, dilation)
    return _scores(3, query, key, kernel, dilations, additional_keys, rpb=bias)


def na3d_qk_with_depth(
    query: Tensor,
    key: Tensor,
    kernel_size_d: int,
    kernel_size: int,
    dilation_d: int,
    dilation: int,
    additional_keys: Tensor | None = None,
) -> Tensor:
    """``na3d_qk`` of 0.15."""
    kernel, dilations = _with_depth(kernel_size_d, kernel_size), _with_depth(dilation_d, dilation)
    return _scores(3, query, key, kernel, dilations, additional_keys)


def na3d_av_with_depth(
    attn: Tensor,
    value: Tensor,
    kernel_size_d: int,
    kernel_size: int,
    dilation_d: int,
    dilation: int,
    additional_values: Tensor | None = None,
) -> Tensor:
    """``na3d_av`` of 0.15."""
    kernel, dilations = _with_depth(kernel_size_d, kernel_size), _with_depth(dilation_d, dilation)
    return _combine(3, attn, value, kernel, dilations, additional_values)


def _with_depth(depth: int, plane: int) -> tuple[int, int, int]:
    return depth, plane, plane


# 0.14.5 and 0.14.6, kept until 0.17.4.


def natten1dqkrpb(
    query: Tensor, key: Tensor, rpb: Tensor | None, kernel_size: int, dilation: int
) -> Tensor:
    return _scores(1, query, key, kernel_size, dilation, rpb=rpb)


def natten2dqkrpb(
    query: Tensor, key: Tensor, rpb: Tensor | None, kernel_size: int, dilation: int
) -> Tensor:
    return _scores(2, query, key, kernel_size, dilation, rpb=rpb)


def natten3dqkrpb(
    query: Tensor,
    key: Tensor,
    rpb: Tensor | None,
    kernel_size_d: int,
    kernel_size: int,
    dilation_d: int,
    dilation: int,
) -> Tensor:
    return na3d_qk_with_bias(query, key, rpb, kernel_size_d, kernel_size, dilation_d, dilation)


def natten1dqk(query: Tensor, key: Tensor, kernel_size: int, dilation: int) -> Tensor:
    return _scores(1, query, key, kernel_size, dilation)


def natten2dqk(query: Tensor, key: Tensor, kernel_size: int, dilation: int) -> Tensor:
    return _scores(2, query, key, kernel_size, dilation)


def natten3dqk(
    query: Tensor,
    key: Tensor,
    kernel_size_d: int,
    kernel_size: int,
    dilation_d: int,
    dilation: int,
) -> Tensor:
    return na3d_qk_with_depth(query, key, kernel_size_d, kernel_size, dilation_d, dilation)


def natten1dav(attn: Tensor, value: Tensor, kernel_size: int, dilation: int) -> Tensor:
    return _combine(1, attn, value, kernel_size, dilation)


def natten2dav(attn: Tensor, value: Tensor, kernel_size: int, dilation: int) -> Tensor:
    return _combine(2, attn, value, kernel_size, dilation)


def natten3dav(
    attn: Tensor,
    value: Tensor,
    kernel_size_d: int,
    kernel_size: int,
    dilation_d: int,
    dilation: int,
) -> Tensor:
    return na3d_av_with_depth(attn, value, kernel_size_d, kernel_size, dilation_d, dilation)


# 0.14.1 to 0.14.4: the kernel size is that of the bias, or of the weights.


def natten1dqkrpb_of_bias(query: Tensor, key: Tensor, rpb: Tensor, dilation: int) -> Tensor:
    """``natten1dqkrpb`` of 0.14.1 to 0.14.4."""
    return _scores(1, query, key, (rpb.shape[-1] + 1) // 2, dilation, rpb=rpb)


def natten2dqkrpb_of_bias(query: Tensor, key: Tensor, rpb: Tensor, dilation: int) -> Tensor:
    """``natten2dqkrpb`` of 0.14.1 to 0.14.4."""
    return _scores(2, query, key, (rpb.shape[-1] + 1) // 2, dilation, rpb=rpb)


def natten1dav_of_weights(attn: Tensor, value: Tensor, dilation: int) -> Tensor:
    """``natten1dav`` of 0.14.1 to 0.14.4."""
    return _combine(1, attn, value, attn.shape[-1], dilation)


def natten2dav_of_weights(attn: Tensor, value: Tensor, dilation: int) -> Tensor:
    """``natten2dav`` of 0.14.1 to 0.14.4."""
    return _combine(2, attn, value, math.isqrt(attn.shape[-1]), dilation)


def get_num_na_weights(kernel_size: Ints) -> int:
    """Entries of a window, the size of the last axis of scores (``natten.utils``)."""
    sizes = per_axis(kernel_size, 1, "kernel_size") if isinstance(kernel_size, int) else kernel_size
    return math.prod(sizes)
