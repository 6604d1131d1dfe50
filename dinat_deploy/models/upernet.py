"""UPerNet: a decode head that turns the features of a backbone into one class per pixel.

Unified Perceptual Parsing for Scene Understanding (Xiao et al., arXiv 1807.10221), as
mmsegmentation has it, with which the published NAT and DiNAT segmenters were trained;
so the names of modules and parameters are those of its checkpoints. Tensors are channels-first,
``[B, C, H, W]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.convolutions import ConvModule, folded_state
from dinat_deploy.models.decoders import UPerNet
from dinat_deploy.models.headed import HeadedModel
from dinat_deploy.models.layers import Size


class UPerHead(nn.Module):
    """Pyramid pooling on the last features, a feature pyramid over all, one classifier of pixels.

    Args:
        in_channels: of every level, finest first.
    """

    def __init__(self, in_channels: Sequence[int], num_classes: int, settings: UPerNet) -> None:
        super().__init__()
        channels = settings.channels
        self.pool_scales = settings.pool_scales

        def conv(inputs: int, kernel: int) -> ConvModule:
            return ConvModule(inputs, channels, kernel, folded=settings.folded)

        # The first of each pair stands for the pooling, which is done for all scales at once.
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.Identity(), conv(in_channels[-1], 1)) for _ in self.pool_scales
        )
        self.bottleneck = conv(in_channels[-1] + len(self.pool_scales) * channels, 3)
        self.lateral_convs = nn.ModuleList(conv(inputs, 1) for inputs in in_channels[:-1])
        self.fpn_convs = nn.ModuleList(conv(channels, 3) for _ in in_channels[:-1])
        self.fpn_bottleneck = conv(len(in_channels) * channels, 3)
        self.dropout = nn.Dropout2d(settings.dropout)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)
        nn.init.normal_(self.conv_seg.weight, std=0.01)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """One feature map per level, finest first -> logits ``[B, num_classes, h, w]`` of the size
        of the finest."""
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, features[:-1], strict=True)]
        laterals.append(self.bottleneck(self.pyramid(features[-1])))
        for level in range(len(laterals) - 1, 0, -1):
            finer = laterals[level - 1]
            laterals[level - 1] = finer + resize(laterals[level], finer.shape[2:])
        maps = [conv(x) for conv, x in zip(self.fpn_convs, laterals[:-1], strict=True)]
        maps.append(laterals[-1])
        size = maps[0].shape[2:]
        joined = torch.cat([maps[0], *(resize(x, size) for x in maps[1:])], dim=1)
        return self.conv_seg(self.dropout(self.fpn_bottleneck(joined)))

    def pyramid(self, x: Tensor) -> Tensor:
        """A map beside its means over coarse grids: ``[B, C, h, w]`` -> ``[B, C + n * channels,
        h, w]`` for n pool scales."""
        size = x.shape[2:]
        # One product with a matrix that is constant if the size is. It stands first and not second
        # so that it is not taken for a weight, which quantization rounds.
        weights = averaging(self.pool_scales, size[0], size[1]).to(x)
        cells = [scale * scale for scale in self.pool_scales]
        pooled = torch.split(torch.matmul(weights, x.flatten(2).transpose(1, 2)), cells, dim=1)
        parts = [x]
        for scale, means, module in zip(self.pool_scales, pooled, self.psp_modules, strict=True):
            grid = means.transpose(1, 2).reshape(x.shape[0], x.shape[1], scale, scale)
            parts.append(resize(module(grid), size))
        return torch.cat(parts, dim=1)


class FCNHead(nn.Module):
    """The auxiliary head on one level, whose loss helps training and which nothing else needs."""

    def __init__(self, in_channels: int, num_classes: int, settings: UPerNet) -> None:
        super().__init__()
        channels = settings.auxiliary_channels
        assert channels is not None
        inputs = [in_channels, *[channels] * (settings.auxiliary_convs - 1)]
        self.convs = nn.Sequential(*(ConvModule(n, channels, 3, folded=False) for n in inputs))
        self.dropout = nn.Dropout2d(settings.dropout)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)
        nn.init.normal_(self.conv_seg.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_channels, h, w]`` -> logits ``[B, num_classes, h, w]``."""
        return self.conv_seg(self.dropout(self.convs(x)))


class SegmentationModel(HeadedModel):
    """A backbone with UPerNet's heads."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        settings = self.settings
        channels = [config.dim(level) for level in range(len(config.depths))]
        self.decode_head = UPerHead(channels, config.num_classes, settings)
        self.auxiliary_head: FCNHead | None = None
        if settings.auxiliary_channels is not None:
            inputs = channels[settings.auxiliary_level]
            self.auxiliary_head = FCNHead(inputs, config.num_classes, settings)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised pixels ``[B, in_channels, H, W]`` -> logits ``[B, num_classes, h, w]``: of the
        size of the finest features, a quarter of the image's rounded up, or with ``full_size`` of
        the image's."""
        return self._finish(self.decode_head(self.backbone(image)), image)

    def forward_training(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """The logits of :meth:`forward`, and those of the auxiliary head, ``[B, num_classes, h',
        w']`` of its level's size; None if there is no such head. mmsegmentation resizes both to the
        image and adds 0.4 of the second one's cross-entropy to the first one's."""
        features = self.backbone(image)
        logits = self._finish(self.decode_head(features), image)
        if self.auxiliary_head is None:
            return logits, None
        return logits, self.auxiliary_head(features[self.settings.auxiliary_level])

    @property
    def settings(self) -> UPerNet:
        assert isinstance(self.config.decoder, UPerNet)
        return self.config.decoder

    def _finish(self, logits: Tensor, image: Tensor) -> Tensor:
        return resize(logits, image.shape[2:]) if self.settings.full_size else logits

    def for_inference(self) -> SegmentationModel:
        return folded(self)

    def head_names(self) -> list[str]:
        """The decode head's convolutions."""
        head = [f"lateral_convs.{level}" for level in range(len(self.decode_head.lateral_convs))]
        head.append("bottleneck")
        head += [f"fpn_convs.{level}" for level in range(len(self.decode_head.fpn_convs))]
        return [f"decode_head.{name}" for name in (*head, "fpn_bottleneck")]


def resize(x: Tensor, size: Sequence[Size]) -> Tensor:
    """Bilinear, ``align_corners=False``: ``[B, C, H, W]`` -> ``[B, C, *size]``."""
    target = tuple(size)
    return F.interpolate(x, target, mode="bilinear", align_corners=False)  # type: ignore[arg-type]


def averaging(scales: Sequence[int], height: Size, width: Size) -> Tensor:
    """Adaptive average pooling of a map to several grids, as one matrix.

    Cell i of s along an axis of n positions covers ``floor(i n / s) .. ceil((i + 1) n / s) - 1``
    (``torch.nn.AdaptiveAvgPool2d``).

    Returns:
        float32 ``[sum(s * s), height * width]``, cells and positions in row-major order.
    """
    grids = [
        (scale, row, column) for scale in scales for row, column in product(range(scale), repeat=2)
    ]
    cells = torch.tensor(grids)
    by_row = _shares(cells[:, 1:2], cells[:, :1], height)
    by_column = _shares(cells[:, 2:], cells[:, :1], width)
    return (by_row[:, :, None] * by_column[:, None, :]).flatten(1)


def _shares(cell: Tensor, scale: Tensor, size: Size) -> Tensor:
    """Weights of an axis' positions in the mean of every cell: two ``[n, 1]`` -> ``[n, size]``."""
    position = torch.arange(size)[None, :]  # type: ignore[arg-type]
    begin = cell * size // scale
    end = ((cell + 1) * size + scale - 1) // scale
    return ((position >= begin) & (position < end)).float() / (end - begin)


def folded(model: SegmentationModel) -> SegmentationModel:
    """The same function without what inference does not need: every batch normalization becomes
    part of the convolution before it, and the auxiliary head is left out.

    Returns:
        A new model in evaluation mode, whose configuration says ``folded``; the model itself if it
        is one already.
    """
    settings = model.settings
    if settings.folded:
        return model
    config = model.config.replace(
        decoder=settings.model_copy(update={"folded": True, "auxiliary_channels": None})
    )
    state = {
        name: tensor
        for name, tensor in folded_state(model).items()
        if not name.startswith("auxiliary_head.")
    }
    with torch.device("meta"):
        made = SegmentationModel(config)
    made.load_state_dict(state, strict=True, assign=True)
    return made.eval().requires_grad_(False)
