"""What the maps of a pyramid hold within boxes, each box read from the map that suits its size.

Feature Pyramid Networks (Lin et al., arXiv 1612.03144), equation 1, as mmdetection's
``SingleRoIExtractor``: boxes smaller than 112 pixels on a side (the root of their area) are read
from the finest map, twice as large ones from the next, and so on.

To read every box from every map and choose would take four times the work. Instead the maps lie
side by side in one, an atlas, and boxes are moved to where their map is. Each map has a border of
one cell that repeats its edge: RoIAlign reads up to half a cell beyond the edge, and takes the
value of the edge there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dinat_deploy.ops.roi_align import roi_align

_FINEST = 56.0


@dataclass(frozen=True)
class Atlas:
    """Maps of a pyramid side by side.

    Attributes:
        features: ``[1, C, H, W]``; the finest map above, the others in a row below it.
        corners: (x, y) of the first cell of each map.
        strides: of the maps, in pixels.
    """

    features: Tensor
    corners: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, maps: Sequence[Tensor], strides: Sequence[int]) -> Atlas:
        """Lay out maps ``[1, C, h, w]``, finest first."""
        first, *others = [F.pad(x, (1, 1, 1, 1), mode="replicate") for x in maps]
        height = max((x.shape[2] for x in others), default=0)
        width = max(first.shape[3], sum(x.shape[3] for x in others))
        corners, left = [(1, 1)], 0
        for x in others:
            corners.append((left + 1, first.shape[2] + 1))
            left += x.shape[3]
        features = F.pad(first, (0, width - first.shape[3]))
        if others:
            row = torch.cat([F.pad(x, (0, 0, 0, height - x.shape[2])) for x in others], dim=3)
            features = torch.cat([features, F.pad(row, (0, width - left))], dim=2)
        return cls(features, tuple(corners), tuple(strides))

    def read(self, boxes: Tensor, size: int) -> Tensor:
        """Features within boxes ``[n, 4]`` (left, top, right, bottom in pixels, within the image):
        ``[n, C, size, size]``; 0 for a box without extent."""
        extent = boxes[:, 2:] - boxes[:, :2]
        side = (extent[:, 0] * extent[:, 1]).sqrt()
        level = (side / _FINEST + 1e-6).log2().floor().clamp(0, len(self.strides) - 1).long()
        scale = torch.tensor([1 / stride for stride in self.strides]).to(boxes)
        corner = torch.tensor(self.corners).to(boxes).index_select(0, level)
        moved = boxes * scale.index_select(0, level)[:, None] + corner.repeat(1, 2)
        return roi_align(self.features, moved, size, 1.0)
