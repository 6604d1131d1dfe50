"""The region proposal network: where something might be.

Faster R-CNN (Ren et al., arXiv 1506.01497), section 3.1, on a feature pyramid, as mmdetection's
``RPNHead`` tests it:

1. A 3x3 convolution with ReLU and two 1x1 ones give each anchor a score and a correction.
2. Of each level the anchors with the highest scores are taken, at most ``proposals_per_level``. (By
   the logit: the sigmoid, by which mmdetection sorts, keeps the order.)
3. They are corrected and clipped to the image; those without extent are left out.
4. Non-maximum suppression within each level; the best ``proposals`` of all levels.

The center of the anchors at row y and column x of a level is at ``(x, y) * stride``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dinat_deploy.models.boxes import base_anchors, corrected
from dinat_deploy.models.decoders import MaskRCNN
from dinat_deploy.ops.non_maximum_suppression import non_maximum_suppression

_DEVIATIONS = (1.0, 1.0, 1.0, 1.0)


class RegionProposals(nn.Module):
    """Proposals from all maps of a pyramid.

    Args:
        strides: of the maps, in pixels.
    """

    def __init__(self, settings: MaskRCNN, strides: Sequence[int]) -> None:
        super().__init__()
        self.settings, self.strides = settings, tuple(strides)
        channels, anchors = settings.channels, len(settings.anchor_ratios)
        self.rpn_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.rpn_cls = nn.Conv2d(channels, anchors, 1)
        self.rpn_reg = nn.Conv2d(channels, 4 * anchors, 1)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Maps ``[1, channels, h, w]`` of an image of ``size`` (height, width) -> boxes ``[n, 4]``
        and scores ``[n]`` of n ``proposals``, best first; both are 0 where there are fewer."""
        settings = self.settings
        chosen = [self._best(x) for x in maps]
        most = max(len(index) for _, index, _ in chosen)
        # Filled up to the same number on every level, with proposals of score 0.
        scores, indices, deltas = (
            torch.stack([F.pad(x, [0, 0] * (x.dim() - 1) + [0, most - len(x)]) for x in parts])
            for parts in zip(*chosen, strict=True)
        )
        anchors = self._anchors(indices, [x.shape[3] for x in maps]).to(deltas)
        boxes = corrected(anchors, deltas, _DEVIATIONS, size)
        extent = boxes[..., 2:] - boxes[..., :2]
        places, best = non_maximum_suppression(
            boxes,
            scores * (extent.amin(dim=-1) > 0).to(scores),
            settings.proposal_iou,
            0.0,
            settings.proposals,
        )
        kept = boxes.flatten(0, 1).index_select(0, places)
        return kept * (best > 0).to(kept)[:, None], best

    def _best(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores ``[k]``, numbers ``[k]`` and corrections ``[k, 4]`` of the best anchors of a
        level."""
        hidden = F.relu(self.rpn_conv(x))
        # Numbered by row, column and shape.
        logits = self.rpn_cls(hidden).permute(0, 2, 3, 1).reshape(-1)
        deltas = self.rpn_reg(hidden).permute(0, 2, 3, 1).reshape(-1, 4)
        best, index = logits.topk(min(self.settings.proposals_per_level, len(logits)))
        return best.sigmoid(), index, deltas.index_select(0, index)

    def _anchors(self, indices: Tensor, widths: Sequence[int]) -> Tensor:
        """The anchors with these numbers, ``[levels, k]`` -> ``[levels, k, 4]``: worked out from
        the number, so that the model holds no table of all."""
        scale, ratios = self.settings.anchor_scale, self.settings.anchor_ratios
        shapes = torch.stack([base_anchors(stride, scale, ratios) for stride in self.strides])
        levels = torch.arange(len(self.strides), device=indices.device)[:, None]
        width = torch.tensor(widths, device=indices.device)[:, None]
        stride = torch.tensor(self.strides, device=indices.device)[:, None]
        cell = indices // len(ratios)
        row = cell // width
        center = torch.stack([cell - row * width, row], dim=-1) * stride[..., None]
        shape = (levels * len(ratios) + indices - cell * len(ratios)).flatten()
        around = shapes.flatten(0, 1).to(indices.device).index_select(0, shape)
        return around.view(*indices.shape, 4) + center.repeat(1, 1, 2).to(around)
