"""Registration of neighborhood attention with PyTorch.

Two operators, each opaque to ``torch.compile`` and ``torch.export`` (which is what lets the
exporter find them) and differentiable:

* ``dinat::neighborhood_attention(query, key, value, rpb, kernel_size, dilation, stride,
  is_causal, scale)`` of any rank,
* ``dinat::neighborhood_attention_qkv(qkv, rpb, num_heads, kernel_size, dilation, scale)``, 2-D,
  on the packed output of a qkv Linear.

They check nothing: call them through :mod:`dinat_deploy.ops.functional`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dinat_deploy.ops import reference
from dinat_deploy.ops.windows import AxisWindow

NAMESPACE = "dinat"


def _windows(
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    stride: Sequence[int],
    is_causal: Sequence[bool],
) -> tuple[AxisWindow, ...]:
    per_axis = zip(kernel_size, dilation, stride, is_causal, strict=True)
    return tuple(AxisWindow(k, d, s, bool(c)) for k, d, s, c in per_axis)


@torch.library.custom_op(f"{NAMESPACE}::neighborhood_attention", mutates_args=())
def neighborhood_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rpb: Tensor | None,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    stride: Sequence[int],
    is_causal: Sequence[bool],
    scale: float,
) -> Tensor:
    windows = _windows(kernel_size, dilation, stride, is_causal)
    return reference.attention(query, key, value, rpb, windows, scale)


@neighborhood_attention.register_fake
def _(query: Tensor, *_: Any) -> Tensor:
    return query.new_empty(query.shape)


@torch.library.custom_op(f"{NAMESPACE}::neighborhood_attention_backward", mutates_args=())
def neighborhood_attention_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rpb: Tensor | None,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    stride: Sequence[int],
    is_causal: Sequence[bool],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value and rpb; the last one is empty without rpb."""
    windows = _windows(kernel_size, dilation, stride, is_causal)
    grads = reference.attention_backward(grad, query, key, value, rpb, windows, scale)
    return grads[0], grads[1], grads[2], query.new_empty(0) if grads[3] is None else grads[3]


@neighborhood_attention_backward.register_fake
def _(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, rpb: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    of_rpb = query.new_empty(0) if rpb is None else rpb.new_empty(rpb.shape)
    return (
        query.new_empty(query.shape),
        key.new_empty(key.shape),
        value.new_empty(value.shape),
        of_rpb,
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.settings = inputs[4:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    query, key, value, rpb = ctx.saved_tensors
    grads = neighborhood_attention_backward(grad, query, key, value, rpb, *ctx.settings)
    of_rpb = None if rpb is None else grads[3]
    return grads[0], grads[1], grads[2], of_rpb, *(None for _ in ctx.settings)


neighborhood_attention.register_autograd(_backward, setup_context=_save)


def _unpack(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """``[B, H, W, 3*heads*dim]`` -> three views ``[B, H, W, heads, dim]``."""
    split = qkv.view(*qkv.shape[:-1], 3, num_heads, qkv.shape[-1] // (3 * num_heads))
    query, key, value = split.unbind(-3)
    return query, key, value


_2D: dict[str, Any] = {"stride": [1, 1], "is_causal": [False, False]}


@torch.library.custom_op(f"{NAMESPACE}::neighborhood_attention_qkv", mutates_args=())
def neighborhood_attention_qkv(
    qkv: Tensor,
    rpb: Tensor | None,
    num_heads: int,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
) -> Tensor:
    windows = _windows(kernel_size, dilation, **_2D)
    query, key, value = _unpack(qkv.contiguous(), num_heads)
    return reference.attention(query, key, value, rpb, windows, scale).flatten(-2)


@neighborhood_attention_qkv.register_fake
def _(qkv: Tensor, *_: Any) -> Tensor:
    return qkv.new_empty(*qkv.shape[:-1], qkv.shape[-1] // 3)


def _save_qkv(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    qkv, rpb, ctx.num_heads, ctx.kernel_size, ctx.dilation, ctx.scale = inputs
    ctx.save_for_backward(qkv, rpb)


def _backward_qkv(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    qkv, rpb = ctx.saved_tensors
    query, key, value = _unpack(qkv.contiguous(), ctx.num_heads)
    grads = neighborhood_attention_backward(
        grad.reshape(query.shape),
        query,
        key,
        value,
        rpb,
        ctx.kernel_size,
        ctx.dilation,
        _2D["stride"],
        _2D["is_causal"],
        ctx.scale,
    )
    of_qkv = torch.stack(grads[:3], dim=-3).view(qkv.shape)
    return of_qkv, None if rpb is None else grads[3], None, None, None, None


neighborhood_attention_qkv.register_autograd(_backward_qkv, setup_context=_save_qkv)
