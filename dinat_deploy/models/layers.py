"""Building blocks of the models. Tensors are channels-last, ``[B, H, W, C]``, between them.

Module and parameter names are those of the published checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dinat_deploy.ops.functional import neighborhood_attention_qkv_2d

Size = int | torch.SymInt


def _known_at_least(size: Size, minimum: int) -> bool:
    """Whether ``size >= minimum`` holds, without forcing a symbolic size to a value."""
    if isinstance(size, int):
        return size >= minimum
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(size >= minimum)


def _larger(size: Size, minimum: int) -> Size:
    larger: Size = torch.sym_max(size, minimum)  # type: ignore[no-untyped-call]
    return larger


def _pad_to(x: Tensor, height: Size, width: Size) -> Tensor:
    """Zero-pad ``[B, H, W, C]`` at the bottom and the right to ``height`` x ``width``."""
    rows, columns = height - x.shape[1], width - x.shape[2]
    return F.pad(x, (0, 0, 0, columns, 0, rows))  # type: ignore[arg-type]


def _round_up(size: Size, multiple: int) -> Size:
    """The next multiple, in a form that symbolic shapes can see is divisible."""
    return multiple * ((size + multiple - 1) // multiple)


class NeighborhoodAttention(nn.Module):
    """Multi-head neighborhood attention with relative positional bias.

    A map smaller than ``kernel_size * dilation`` is zero-padded at the bottom and right before
    the qkv projection and cropped before the output projection, as in NATTEN up to 0.15: padded
    tokens are not masked, they act as keys and values equal to the projection's bias.
    """

    def __init__(self, dim: int, num_heads: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.qkv = nn.Linear(dim, 3 * dim)
        self.rpb = nn.Parameter(torch.zeros(num_heads, 2 * kernel_size - 1, 2 * kernel_size - 1))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, dim]`` -> ``[B, H, W, dim]``."""
        height, width = x.shape[1], x.shape[2]
        span = self.kernel_size * self.dilation
        fits = _known_at_least(height, span) and _known_at_least(width, span)
        if not fits:
            x = _pad_to(x, _larger(height, span), _larger(width, span))
        x = neighborhood_attention_qkv_2d(
            self.qkv(x),
            self.rpb,
            num_heads=self.num_heads,
            kernel_size=self.kernel_size,
            dilation=self.dilation,
        )
        if not fits:
            # A copy: asking a view of symbolic size whether it is contiguous fixes its size.
            x = x[:, :height, :width].clone(memory_format=torch.contiguous_format)
        return self.proj(x)

    def extra_repr(self) -> str:
        return f"heads={self.num_heads}, kernel={self.kernel_size}, dilation={self.dilation}"


class Mlp(nn.Module):
    """Two Linears with an exact (erf) GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class DropPath(nn.Module):
    """Stochastic depth: while training, drop a residual branch for whole samples."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(1 - self.rate)
        return x * keep / (1 - self.rate)


class Block(nn.Module):
    """Pre-norm transformer layer with an optional layer scale on both branches."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        kernel_size: int,
        dilation: int,
        hidden: int,
        layer_scale: float | None,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = NeighborhoodAttention(dim, num_heads, kernel_size, dilation)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, hidden)
        self.drop_path = DropPath(drop_path)
        self.gamma1: nn.Parameter | None = None
        self.gamma2: nn.Parameter | None = None
        if layer_scale is not None:
            self.gamma1 = nn.Parameter(torch.full((dim,), layer_scale))
            self.gamma2 = nn.Parameter(torch.full((dim,), layer_scale))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, dim]`` -> ``[B, H, W, dim]``."""
        attended = self.attn(self.norm1(x))
        x = x + self.drop_path(attended if self.gamma1 is None else self.gamma1 * attended)
        mixed = self.mlp(self.norm2(x))
        return x + self.drop_path(mixed if self.gamma2 is None else self.gamma2 * mixed)


class ConvTokenizer(nn.Module):
    """Two 3x3 convolutions of stride 2, then LayerNorm (NAT, DiNAT)."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Conv2d(in_channels, dim // 2, 3, stride=2, padding=1),
            nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1),
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, image: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, ceil(H/4), ceil(W/4), dim]``."""
        return self.norm(self.proj(image).permute(0, 2, 3, 1))


class PatchTokenizer(nn.Module):
    """Non-overlapping patches, then LayerNorm (DiNAT_s: padded 4x4; isotropic: 16x16)."""

    def __init__(self, in_channels: int, dim: int, patch: int, pad: bool) -> None:
        super().__init__()
        self.patch = patch
        self.pad = pad
        self.proj = nn.Conv2d(in_channels, dim, patch, stride=patch)
        self.norm = nn.LayerNorm(dim)

    def forward(self, image: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, H/patch, W/patch, dim]``, rounded up if padding, else down."""
        if self.pad:
            height, width = image.shape[2], image.shape[3]
            rows = _round_up(height, self.patch) - height
            columns = _round_up(width, self.patch) - width
            image = F.pad(image, (0, columns, 0, rows))  # type: ignore[arg-type]
        return self.norm(self.proj(image).permute(0, 2, 3, 1))


class ConvDownsampler(nn.Module):
    """3x3 convolution of stride 2 without bias, then LayerNorm (NAT, DiNAT)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Conv2d(dim, 2 * dim, 3, stride=2, padding=1, bias=False)
        self.norm = nn.LayerNorm(2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, dim]`` -> ``[B, ceil(H/2), ceil(W/2), 2*dim]``."""
        return self.norm(self.reduction(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """The four phases of every 2x2 patch side by side, LayerNorm, Linear (DiNAT_s)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, dim]`` -> ``[B, ceil(H/2), ceil(W/2), 2*dim]``."""
        x = _pad_to(x, _round_up(x.shape[1], 2), _round_up(x.shape[2], 2))
        # Phase order (row, column): (0, 0), (1, 0), (0, 1), (1, 1).
        phases = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(phases, dim=-1)))


class Level(nn.Module):
    """The layers of one resolution and the downsampler to the next (holds them, runs nothing)."""

    def __init__(self, blocks: list[Block], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample
