"""The operator as users call it: checked arguments, defaults, one function per rank.

Tensors are heads-last, ``[B, *sizes, heads, dim]``. Kernel size, dilation, stride and causality
are one value for all axes or one per axis. The definition is in :mod:`dinat_deploy.ops.windows`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from torch import Tensor

from dinat_deploy.errors import OperatorError
from dinat_deploy.ops import library
from dinat_deploy.ops.windows import AxisWindow

T = TypeVar("T", int, bool)


def per_axis(value: T | Sequence[T], rank: int, name: str) -> tuple[T, ...]:
    """One value per axis from one value, or from a sequence of ``rank`` values."""
    if isinstance(value, int | np.integer):
        return (_plain(value),) * rank
    values = tuple(map(_plain, value))
    if len(values) != rank:
        raise OperatorError(
            f"{name} has {len(values)} values {values} for an operator of {rank} axes.",
            f"Pass one value or {rank} of them.",
        )
    return values


def _plain(value: T) -> T:
    """NumPy's integers as Python's, which operator schemas demand."""
    return int(value) if isinstance(value, np.integer) else value


def _check(
    query: Tensor,
    sizes: Sequence[int],
    windows: Sequence[AxisWindow],
    num_heads: int,
    rpb: Tensor | None,
) -> None:
    if not query.is_floating_point():
        raise OperatorError(
            f"neighborhood attention needs floating-point tensors, not {query.dtype}."
        )
    for axis, (size, window) in enumerate(zip(sizes, windows, strict=True)):
        window.check()
        # A symbolic size (torch.export) is left to the run time: comparing it would fix it.
        if isinstance(size, int) and size < window.span:
            raise OperatorError(
                f"kernel_size {window.kernel_size} * dilation {window.dilation} = {window.span} "
                f"exceeds axis {axis} of the map, which has {size} tokens.",
                "Use a larger input, a smaller kernel or dilation, or zero-pad the map first.",
            )
    if rpb is None:
        return
    if any(window.is_causal or window.stride != 1 for window in windows):
        raise OperatorError(
            "rpb is not defined together with stride or causality (no NATTEN release has it).",
            "Pass rpb=None.",
        )
    expected = (num_heads, *(2 * window.kernel_size - 1 for window in windows))
    if tuple(rpb.shape) != expected:
        raise OperatorError(
            f"rpb has shape {tuple(rpb.shape)}, expected {expected} for {num_heads} heads and "
            f"kernel sizes {[window.kernel_size for window in windows]}."
        )


def neighborhood_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rpb: Tensor | None = None,
    *,
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int] = 1,
    stride: int | Sequence[int] = 1,
    is_causal: bool | Sequence[bool] = False,
    scale: float | None = None,
) -> Tensor:
    """Neighborhood attention over one, two or three axes (NATTEN's ``na1d``/``na2d``/``na3d``).

    ``softmax(scale * q @ k.T + rpb) @ v`` over each query's window (Dilated Neighborhood
    Attention Transformer, arXiv 2209.15001, equations 4-7, with the bias added *after* scaling
    as in the code that trained the published weights).

    Args:
        query, key, value: ``[B, *sizes, heads, dim]``, one floating type and device.
        rpb: relative positional bias ``[heads, 2*k-1 per axis]``, or None. Only without stride
            and causality.
        kernel_size: window size in members of the dilation group, even or odd.
        dilation: distance of neighbouring window members in tokens.
        stride: queries that share one window (NATTEN >= 0.20), from 1 to ``kernel_size``.
        is_causal: whether an axis is causal.
        scale: factor on the query-key product, by default ``dim ** -0.5``.

    Returns:
        ``[B, *sizes, heads, dim]`` in the type of ``query``.

    Raises:
        OperatorError: shapes or parameters that the operator is not defined for, for example
            ``kernel_size * dilation`` larger than the axis.
    """
    rank = query.dim() - 3
    if rank not in (1, 2, 3):
        raise OperatorError(
            f"query has {query.dim()} dimensions; expected [batch, 1 to 3 axes, heads, dim]."
        )
    if query.shape != key.shape or query.shape != value.shape:
        raise OperatorError(
            "query, key and value differ in shape: "
            f"{tuple(query.shape)}, {tuple(key.shape)}, {tuple(value.shape)}."
        )
    if query.dtype != key.dtype or query.dtype != value.dtype:
        raise OperatorError(
            f"query, key and value differ in type: {query.dtype}, {key.dtype}, {value.dtype}.",
            "Cast them to one type.",
        )
    kernel = per_axis(kernel_size, rank, "kernel_size")
    dilations = per_axis(dilation, rank, "dilation")
    strides = per_axis(stride, rank, "stride")
    causal = per_axis(is_causal, rank, "is_causal")
    windows = [
        AxisWindow(k, d, s, bool(c))
        for k, d, s, c in zip(kernel, dilations, strides, causal, strict=True)
    ]
    heads, dim = query.shape[-2], query.shape[-1]
    _check(query, query.shape[1:-2], windows, heads, rpb)
    return library.neighborhood_attention(
        query,
        key,
        value,
        None if rpb is None else rpb.to(query.dtype),
        kernel,
        dilations,
        strides,
        causal,
        dim**-0.5 if scale is None else float(scale),
    )


def neighborhood_attention_2d(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rpb: Tensor | None = None,
    *,
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int] = 1,
    scale: float | None = None,
) -> Tensor:
    """2-D neighborhood attention as in NAT and DiNAT.

    Args:
        query, key, value: ``[B, H, W, heads, dim]``.
        rpb: ``[heads, 2*kh-1, 2*kw-1]`` or None; row offset first, growing with key - query.
        kernel_size, dilation: an int, or one per axis ``(h, w)``; ``kernel*dilation`` must not
            exceed the map.
        scale: factor on the query-key product, by default ``dim ** -0.5``.

    Returns:
        ``[B, H, W, heads, dim]``.

    Raises:
        OperatorError: see :func:`neighborhood_attention`.
    """
    if query.dim() != 5:
        raise OperatorError(
            f"query has shape {tuple(query.shape)}; expected [B, H, W, heads, dim]."
        )
    return neighborhood_attention(
        query, key, value, rpb, kernel_size=kernel_size, dilation=dilation, scale=scale
    )


def neighborhood_attention_qkv_2d(
    qkv: Tensor,
    rpb: Tensor | None = None,
    *,
    num_heads: int,
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int] = 1,
    scale: float | None = None,
) -> Tensor:
    """2-D neighborhood attention on the packed output of a qkv Linear.

    Args:
        qkv: ``[B, H, W, 3*heads*dim]``: q, k and v blocks, each head-major.
        rpb: ``[heads, 2*kh-1, 2*kw-1]`` or None.
        num_heads: number of heads; must divide the channels.
        kernel_size, dilation, scale: as in :func:`neighborhood_attention_2d`.

    Returns:
        ``[B, H, W, heads*dim]``, heads concatenated, as an output projection reads it.

    Raises:
        OperatorError: see :func:`neighborhood_attention`.
    """
    if qkv.dim() != 4:
        raise OperatorError(f"qkv has shape {tuple(qkv.shape)}; expected [B, H, W, 3*heads*dim].")
    channels = qkv.shape[-1]
    if num_heads < 1 or channels % (3 * num_heads):
        raise OperatorError(
            f"{channels} qkv channels do not split into 3 x {num_heads} heads.",
            "Check num_heads.",
        )
    kernel = per_axis(kernel_size, 2, "kernel_size")
    dilations = per_axis(dilation, 2, "dilation")
    windows = [AxisWindow(k, d) for k, d in zip(kernel, dilations, strict=True)]
    _check(qkv, qkv.shape[1:-1], windows, num_heads, rpb)
    dim = channels // (3 * num_heads)
    return library.neighborhood_attention_qkv(
        qkv,
        None if rpb is None else rpb.to(qkv.dtype),
        num_heads,
        kernel,
        dilations,
        dim**-0.5 if scale is None else float(scale),
    )
