"""``NeighborhoodAttention1D/2D/3D`` of 0.14 to 0.17: projection, attention, projection.

Parameters have NATTEN's names (``qkv``, ``rpb``, ``proj``), so its checkpoints load. Inputs and
outputs are channels-last, ``[B, *sizes, dim]``. Up to 0.15.1 a map smaller than
``kernel_size * dilation`` is zero-padded at its end before the projection and cropped after the
attention: the padded tokens are not masked, they act as keys and values equal to the projection's
bias. From 0.17 on such a map is an error.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.init import trunc_normal_

from dinat_deploy.errors import OperatorError
from dinat_deploy.natten import attending
from dinat_deploy.natten.attending import Bools, Ints, or_default, or_false
from dinat_deploy.natten.functional_rpb import check_odd
from dinat_deploy.ops.functional import neighborhood_attention_qkv_2d, per_axis

Size = int | torch.SymInt


class _Attention(nn.Module):
    """What the modules of all versions share; the constructors differ.

    Args:
        pads: zero-pad maps that are too small (height and width; never a depth, as in NATTEN).
    """

    rpb: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        num_heads: int,
        kernel: Sequence[int],
        dilations: Sequence[int],
        causal: Sequence[bool],
        *,
        has_rpb: bool,
        qkv_bias: bool,
        qk_scale: float | None,
        attn_drop: float,
        proj_drop: float,
        pads: bool,
    ) -> None:
        super().__init__()
        if has_rpb and any(causal):
            raise OperatorError("rel_pos_bias is not defined together with is_causal.")
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.scale = qk_scale or self.head_dim**-0.5
        self._kernel, self._dilations, self._causal = tuple(kernel), tuple(dilations), tuple(causal)
        self._pads = pads
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)
        if has_rpb:
            self.rpb = nn.Parameter(torch.zeros(num_heads, *(2 * size - 1 for size in kernel)))
            trunc_normal_(self.rpb, std=0.02, mean=0.0, a=-2.0, b=2.0)
        else:
            self.register_parameter("rpb", None)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def _dilations_for(self, sizes: Sequence[Size]) -> tuple[int, ...]:
        return self._dilations

    def forward(self, x: Tensor) -> Tensor:
        """``[B, *sizes, dim]`` -> ``[B, *sizes, dim]``."""
        rank = len(self._kernel)
        if x.dim() != rank + 2:
            raise OperatorError(
                f"{type(self).__name__} expected a tensor of {rank + 2} dimensions, "
                f"[batch, {rank} of tokens, channels], and got {tuple(x.shape)}."
            )
        sizes = x.shape[1:-1]
        dilations = self._dilations_for(sizes)
        spans = [k * d for k, d in zip(self._kernel, dilations, strict=True)]
        padded = self._pads and not all(map(_known_at_least, sizes[-2:], spans[-2:]))
        if padded:
            x = _pad_end(x, sizes[-2:], spans[-2:])
        x = self._attend(self.qkv(x), dilations)
        if padded:
            crop = tuple(slice(size) for size in sizes)
            # A copy: asking a view of symbolic size whether it is contiguous fixes its size.
            window = (slice(None), *crop)
            x = x[window].clone(memory_format=torch.contiguous_format)
        return self.proj_drop(self.proj(x))

    def _attend(self, qkv: Tensor, dilations: tuple[int, ...]) -> Tensor:
        dropout = self.attn_drop.p if self.training else 0.0
        if len(self._kernel) == 2 and not any(self._causal) and dropout == 0:
            return neighborhood_attention_qkv_2d(
                qkv,
                self.rpb,
                num_heads=self.num_heads,
                kernel_size=self._kernel,
                dilation=dilations,
                scale=self.scale,
            )
        query, key, value = attending.thirds(qkv, self.num_heads)
        return attending.attend(
            query,
            key,
            value,
            self.rpb,
            kernel_size=self._kernel,
            dilation=dilations,
            is_causal=self._causal,
            scale=self.scale,
            dropout=dropout,
        ).flatten(-2)

    def extra_repr(self) -> str:
        return (
            f"head_dim={self.head_dim}, num_heads={self.num_heads}, kernel_size={self._kernel}, "
            f"dilation={self._dilations}, is_causal={self._causal}, "
            f"rel_pos_bias={self.rpb is not None}"
        )


def _known_at_least(size: Size, minimum: int) -> bool:
    """Whether ``size >= minimum`` holds, without forcing a symbolic size to a value."""
    if isinstance(size, int):
        return size >= minimum
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(size >= minimum)


def _pad_end(x: Tensor, sizes: Sequence[Size], spans: Sequence[int]) -> Tensor:
    """Zero-pad the last axes before the channels to at least ``spans``."""
    pads: list[Size] = [0, 0]
    for size, span in zip(reversed(sizes), reversed(spans), strict=True):
        missing = torch.sym_max(size, span) - size  # type: ignore[no-untyped-call]
        pads += [0, missing]
    return F.pad(x, pads)  # type: ignore[arg-type]


class _Ranked(_Attention):
    """0.17: every parameter one value or one per axis."""

    rank: int

    def __init__(
        self,
        dim: int,
        num_heads: int,
        kernel_size: Ints,
        dilation: Ints = 1,
        is_causal: Bools = False,
        rel_pos_bias: bool = False,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        use_experimental_ops: bool = False,
    ) -> None:
        self_rank = type(self).rank
        super().__init__(
            dim,
            num_heads,
            per_axis(kernel_size, self_rank, "kernel_size"),
            per_axis(or_default(dilation), self_rank, "dilation"),
            per_axis(or_false(is_causal), self_rank, "is_causal"),
            has_rpb=rel_pos_bias,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            attn_drop=attn_drop,
            proj_drop=proj_drop,
            pads=False,
        )
        self.kernel_size, self.dilation, self.is_causal = (
            self._kernel,
            self._dilations,
            self._causal,
        )


class NeighborhoodAttention1D(_Ranked):
    """0.17: ``[B, L, dim]`` -> ``[B, L, dim]``."""

    rank = 1


class NeighborhoodAttention2D(_Ranked):
    """0.17: ``[B, H, W, dim]`` -> ``[B, H, W, dim]``."""

    rank = 2


class NeighborhoodAttention3D(_Ranked):
    """0.17: ``[B, D, H, W, dim]`` -> ``[B, D, H, W, dim]``."""

    rank = 3


class _Padded(_Attention):
    """0.14.5 to 0.15.1: one kernel size and dilation, bias by default, padding."""

    rank: int

    def __init__(
        self,
        dim: int,
        num_heads: int,
        kernel_size: int,
        dilation: int | None = 1,
        bias: bool = True,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        check_odd(kernel_size)
        rank, step = type(self).rank, dilation or 1
        super().__init__(
            dim,
            num_heads,
            (kernel_size,) * rank,
            (step,) * rank,
            (False,) * rank,
            has_rpb=bias,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            attn_drop=attn_drop,
            proj_drop=proj_drop,
            pads=True,
        )
        self.kernel_size, self.dilation, self.window_size = kernel_size, step, kernel_size * step


class PaddedNeighborhoodAttention1D(_Padded):
    """``NeighborhoodAttention1D`` of 0.14.5 to 0.15.1."""

    rank = 1


class PaddedNeighborhoodAttention2D(_Padded):
    """``NeighborhoodAttention2D`` of 0.14.5 to 0.15.1."""

    rank = 2


class PaddedNeighborhoodAttention3D(_Attention):
    """``NeighborhoodAttention3D`` of 0.15: a kernel size and dilation of its own for the depth."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        kernel_size: int,
        kernel_size_d: int | None = None,
        dilation: int | None = 1,
        dilation_d: int | None = None,
        bias: bool = True,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        step = dilation or 1
        kernel = (kernel_size_d or kernel_size, kernel_size, kernel_size)
        check_odd(kernel)
        super().__init__(
            dim,
            num_heads,
            kernel,
            (dilation_d or step, step, step),
            (False,) * 3,
            has_rpb=bias,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            attn_drop=attn_drop,
            proj_drop=proj_drop,
            pads=True,
        )
        self.kernel_size_d, self.kernel_size = kernel[0], kernel_size
        self.dilation_d, self.dilation = dilation_d or step, step
        self.window_size, self.window_size_d = kernel_size * step, kernel[0] * self.dilation_d


class _Early(_Attention):
    """0.14.1 to 0.14.4: kernel size before heads, always a bias; a string dilation is the largest
    that fits the map at hand."""

    rank: int

    def __init__(
        self,
        dim: int,
        kernel_size: int,
        num_heads: int,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        dilation: int | str | None = None,
    ) -> None:
        check_odd(kernel_size)
        rank = type(self).rank
        step = 1 if isinstance(dilation, str) else dilation or 1
        super().__init__(
            dim,
            num_heads,
            (kernel_size,) * rank,
            (step,) * rank,
            (False,) * rank,
            has_rpb=True,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            attn_drop=attn_drop,
            proj_drop=proj_drop,
            pads=True,
        )
        self.kernel_size = kernel_size
        self.dilation = None if isinstance(dilation, str) else step
        self.window_size = None if self.dilation is None else kernel_size * step

    def _dilations_for(self, sizes: Sequence[Size]) -> tuple[int, ...]:
        if self.dilation is not None:
            return self._dilations
        return (max(min(map(int, sizes)) // self.kernel_size, 1),) * len(self._kernel)


class EarlyNeighborhoodAttention1D(_Early):
    """``NeighborhoodAttention1D`` of 0.14.1 to 0.14.4."""

    rank = 1


class EarlyNeighborhoodAttention2D(_Early):
    """``NeighborhoodAttention2D`` of 0.14.1 to 0.14.4."""

    rank = 2
