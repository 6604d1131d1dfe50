"""Boxes as detectors predict them: corrections of other boxes. Corners are left, top, right, bottom
in pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Sides grow or shrink by no more than this factor (mmdetection's wh_ratio_clip, 16 / 1000).
_MOST = math.log(1000 / 16)


def corrected(
    boxes: Tensor, deltas: Tensor, deviations: Sequence[float], size: tuple[int, int]
) -> Tensor:
    """Move and stretch boxes, and clip them to the image.

    Rich feature hierarchies (Girshick et al., arXiv 1311.2524), appendix C, as mmdetection's
    ``delta2bbox``: with ``d`` the deltas times their standard deviations, the center moves by ``d``
    of the width and height, and those are multiplied by ``exp(d)``.

    Args:
        boxes: ``[..., 4]``.
        deltas: x and y of the center, width, height; ``[..., 4]``.
        deviations: four numbers.
        size: (height, width) of the image.

    Returns:
        ``[..., 4]``.
    """
    scaled = deltas * torch.tensor(deviations).to(deltas)
    low, high = boxes[..., :2], boxes[..., 2:]
    extent = high - low
    center = (low + high) * 0.5 + extent * scaled[..., :2]
    half = extent * scaled[..., 2:].clamp(-_MOST, _MOST).exp() * 0.5
    x, y = torch.stack([center - half, center + half], dim=-2).unbind(-1)
    return torch.stack([x.clamp(0, size[1]), y.clamp(0, size[0])], dim=-1).flatten(-2)


def base_anchors(stride: int, scale: float, ratios: Sequence[float]) -> Tensor:
    """The anchors of a level around the point 0, 0: ``[len(ratios), 4]``.

    Their area is that of a square of ``stride * scale``, their height to width a ratio.
    """
    side = stride * scale
    halves = [(side / math.sqrt(ratio) / 2, side * math.sqrt(ratio) / 2) for ratio in ratios]
    return torch.tensor([(-x, -y, x, y) for x, y in halves])
