"""The feature pyramid: maps of equal width that know what the coarser ones do.

Feature Pyramid Networks (Lin et al., arXiv 1612.03144), as mmdetection's ``FPN`` with five outputs,
with which the published detectors were trained; so the names of parameters are those of its
checkpoints. Tensors are channels-first, ``[B, C, H, W]``.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from dinat_deploy.models.convolutions import PlainConv


class FeaturePyramid(nn.Module):
    """1x1 convolutions, sums from the coarsest map to the finest, 3x3 convolutions.

    Args:
        in_channels: of every level, finest first.
        channels: of every output.
    """

    def __init__(self, in_channels: Sequence[int], channels: int) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(PlainConv(n, channels, 1) for n in in_channels)
        self.fpn_convs = nn.ModuleList(PlainConv(channels, channels, 3) for _ in in_channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """One map per level, finest first -> as many of the same sizes, and one more: every other
        row and column of the coarsest."""
        maps = [conv(x) for conv, x in zip(self.lateral_convs, features, strict=True)]
        for level in range(len(maps) - 1, 0, -1):
            finer = maps[level - 1]
            maps[level - 1] = finer + F.interpolate(maps[level], finer.shape[2:], mode="nearest")
        outputs = [conv(x) for conv, x in zip(self.fpn_convs, maps, strict=True)]
        return [*outputs, F.max_pool2d(outputs[-1], kernel_size=1, stride=2)]
