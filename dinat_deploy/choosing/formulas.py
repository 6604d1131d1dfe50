"""How far a token sees after some layers, in closed form (arXiv 2209.15001, table 1).

Extents are numbers of tokens (or pixels) along one axis, from the first to the last that is seen,
of a token that is far from all borders; all are capped at the length of the axis. Window size k,
l layers, dilations d:

=========================  ==========================================
depthwise convolution      ``l(k-1) + 1``
windows, not shifted       ``k``
windows, shifted in turn   ``l*k``
NA, NA                     ``l(k-1) + 1``
NA, DiNA                   ``1 + (k-1) * sum(d)``, up to ``k^l``
self attention             the whole axis
=========================  ==========================================

The sum is what the paper's bounds come from: all d = 1 give its lower one, d = 1, k, k^2, ... its
upper one. With larger dilations than that, or twice the same dilation in a row, windows leave gaps;
:mod:`dinat_deploy.choosing.geometry` has the exact sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dinat_deploy.models.config import ModelConfig


@dataclass(frozen=True)
class Growth:
    """Extent of one method after 1, 2, ... layers, in tokens along one axis."""

    method: str
    formula: str
    extents: tuple[int, ...]


def attention_extent(kernel: int, dilations: Sequence[int], length: int) -> int:
    """Extent after neighborhood attention layers with these dilations."""
    return min(length, 1 + (kernel - 1) * sum(dilations))


def widest_extent(kernel: int, layers: int, length: int) -> int:
    """The most that any dilations give without gaps: ``kernel ** layers``."""
    return min(length, kernel ** min(layers, 64))


def growths(kernel: int, dilations: Sequence[int], length: int) -> list[Growth]:
    """The methods side by side, each with as many layers as there are dilations."""
    layers = range(1, len(dilations) + 1)

    def capped(name: str, formula: str, extents: Sequence[int]) -> Growth:
        return Growth(name, formula, tuple(min(length, extent) for extent in extents))

    linear = [layer * (kernel - 1) + 1 for layer in layers]
    return [
        capped("depthwise convolution (ConvNeXt)", "l(k-1)+1", linear),
        capped("windows, not shifted (WSA-WSA)", "k", [kernel for _ in layers]),
        capped("shifted windows (Swin)", "l*k", [layer * kernel for layer in layers]),
        capped("neighborhood attention (NAT)", "l(k-1)+1", linear),
        capped(
            "these dilations (DiNAT)",
            "1+(k-1)*sum(d)",
            [attention_extent(kernel, dilations[:layer], length) for layer in layers],
        ),
        capped(
            "the most without gaps",
            "k^l",
            [widest_extent(kernel, layer, length) for layer in layers],
        ),
        capped("self attention (ViT)", "n", [length for _ in layers]),
    ]


def pixel_extent(config: ModelConfig, level: int, layers: int, axis: int) -> int:
    """Extent in pixels of a token of a level after some of the level's layers.

    From the token back to the image: a layer adds ``(k-1)*d``, a 3x3 convolution of stride 2
    makes r to ``2(r-1) + 3``, patches of p make it to ``p*r``; capped at the map each time.

    Args:
        layers: of that level that have run; 0 is its input.
        axis: 0 for rows, 1 for columns of the configuration's image size.
    """
    lengths = [size[axis] for size in config.feature_sizes()]
    seen = 1
    for current in range(level, -1, -1):
        dilations = config.dilations[current]
        run = dilations[:layers] if current == level else dilations
        if config.global_attention and run:
            seen = lengths[current]
        else:
            seen = min(lengths[current], seen + (config.kernel_size - 1) * sum(run))
        if current:
            wider = 2 * seen + 1 if config.architecture == "dinat" else 2 * seen
            seen = min(lengths[current - 1], wider)
    pixels = config.image_size[axis]
    if config.architecture == "dinat":
        half = min(-(-pixels // 2), 2 * seen + 1)
        return min(pixels, 2 * half + 1)
    return min(pixels, seen * (16 if config.architecture == "isotropic" else 4))
