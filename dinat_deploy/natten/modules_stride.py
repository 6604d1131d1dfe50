"""``NeighborhoodAttention1D/2D/3D`` of 0.20 and later: stride, no positional bias, no padding."""

from __future__ import annotations

from torch import Tensor, nn

from dinat_deploy.errors import OperatorError
from dinat_deploy.natten import attending
from dinat_deploy.natten.attending import Bools, Ints, or_default, or_false
from dinat_deploy.ops.functional import neighborhood_attention_qkv_2d, per_axis


class NeighborhoodAttentionGeneric(nn.Module):
    """Projection, neighborhood attention over ``na_dim`` axes, projection; channels-last.

    Raises:
        OperatorError: heads that do not divide ``embed_dim``, or values per axis that are not
            ``na_dim`` many.
    """

    def __init__(
        self,
        na_dim: int,
        embed_dim: int,
        num_heads: int,
        kernel_size: Ints,
        stride: Ints | None = 1,
        dilation: Ints | None = 1,
        is_causal: Bools | None = False,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise OperatorError(f"{num_heads} heads do not divide the {embed_dim} channels.")
        self.na_dim = na_dim
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.scale = qk_scale or self.head_dim**-0.5
        self.kernel_size = per_axis(kernel_size, na_dim, "kernel_size")
        self.stride = per_axis(or_default(stride), na_dim, "stride")
        self.dilation = per_axis(or_default(dilation), na_dim, "dilation")
        self.is_causal = per_axis(or_false(is_causal), na_dim, "is_causal")
        self.qkv = nn.Linear(embed_dim, embed_dim * 3, bias=qkv_bias)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, *sizes, embed_dim]`` -> ``[B, *sizes, embed_dim]``."""
        if x.dim() != self.na_dim + 2 or x.shape[-1] != self.embed_dim:
            raise OperatorError(
                f"{type(self).__name__} expected [batch, {self.na_dim} of tokens, "
                f"{self.embed_dim}] and got {tuple(x.shape)}."
            )
        return self.proj_drop(self.proj(self._attend(self.qkv(x))))

    def _attend(self, qkv: Tensor) -> Tensor:
        plain = not any(self.is_causal) and all(step == 1 for step in self.stride)
        if self.na_dim == 2 and plain:
            return neighborhood_attention_qkv_2d(
                qkv,
                num_heads=self.num_heads,
                kernel_size=self.kernel_size,
                dilation=self.dilation,
                scale=self.scale,
            )
        query, key, value = attending.thirds(qkv, self.num_heads)
        return attending.attend(
            query,
            key,
            value,
            kernel_size=self.kernel_size,
            dilation=self.dilation,
            stride=self.stride,
            is_causal=self.is_causal,
            scale=self.scale,
        ).flatten(-2)

    def extra_repr(self) -> str:
        return (
            f"head_dim={self.head_dim}, num_heads={self.num_heads}, "
            f"kernel_size={self.kernel_size}, stride={self.stride}, dilation={self.dilation}, "
            f"is_causal={self.is_causal}"
        )


class NeighborhoodAttention1D(NeighborhoodAttentionGeneric):
    """``[B, L, embed_dim]`` -> ``[B, L, embed_dim]``."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        kernel_size: Ints,
        stride: Ints | None = 1,
        dilation: Ints | None = 1,
        is_causal: Bools | None = False,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__(
            1, embed_dim, num_heads, kernel_size, stride, dilation, is_causal, qkv_bias, qk_scale,
            proj_drop,
        )  # fmt: skip


class NeighborhoodAttention2D(NeighborhoodAttentionGeneric):
    """``[B, H, W, embed_dim]`` -> ``[B, H, W, embed_dim]``."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        kernel_size: Ints,
        stride: Ints | None = 1,
        dilation: Ints | None = 1,
        is_causal: Bools | None = False,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__(
            2, embed_dim, num_heads, kernel_size, stride, dilation, is_causal, qkv_bias, qk_scale,
            proj_drop,
        )  # fmt: skip


class NeighborhoodAttention3D(NeighborhoodAttentionGeneric):
    """``[B, D, H, W, embed_dim]`` -> ``[B, D, H, W, embed_dim]``."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        kernel_size: Ints,
        stride: Ints | None = 1,
        dilation: Ints | None = 1,
        is_causal: Bools | None = False,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__(
            3, embed_dim, num_heads, kernel_size, stride, dilation, is_causal, qkv_bias, qk_scale,
            proj_drop,
        )  # fmt: skip
