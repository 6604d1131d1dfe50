"""What is in a box, where exactly, and which of its pixels belong to it.

Mask R-CNN (He et al., arXiv 1703.06870), figure 4 on the right, and Cascade R-CNN (Cai and
Vasconcelos, arXiv 1906.09756), as mmdetection's ``StandardRoIHead`` and ``CascadeRoIHead`` test
them:

1. A box head reads 7x7 features of each proposal and gives the logits of its classes and a
   correction, for each class or, class-agnostic, one.
2. In a cascade the corrected boxes are the proposals of the next of three box heads, whose
   corrections are ever finer. The logits of all are averaged (the boxes they are about have
   moved meanwhile), and the last corrections count.
3. Softmax. Of each class the boxes with a score above ``score_threshold`` go through non-maximum
   suppression; the best ``detections`` of all classes stay.
4. A mask head reads 14x14 features of each detection and gives 28x28 logits for every class, of
   which those of the detection's class count. A cascade has three, whose sigmoids are averaged.

Names of parameters are those of mmdetection's checkpoints: ``bbox_head.shared_fcs.0`` for one
stage, ``bbox_head.2.shared_fcs.0`` in a cascade.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dinat_deploy.models.boxes import corrected
from dinat_deploy.models.convolutions import ConvModule, PlainConv
from dinat_deploy.models.decoders import MaskRCNN
from dinat_deploy.models.roi_features import Atlas
from dinat_deploy.ops.non_maximum_suppression import non_maximum_suppression

BOX_GRID, MASK_GRID = 7, 14
# Standard deviations of the corrections, by stage.
_DEVIATIONS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))


class BoxHead(nn.Module):
    """Convolutions, linear layers, a classifier and a regressor of boxes."""

    def __init__(self, num_classes: int, settings: MaskRCNN) -> None:
        super().__init__()
        channels, dim = settings.channels, settings.box_dim
        self.boxes = 1 if settings.class_agnostic else num_classes
        if settings.box_convs:
            self.shared_convs = nn.Sequential(
                *(
                    ConvModule(channels, channels, 3, folded=settings.folded)
                    for _ in range(settings.box_convs)
                )
            )
        inputs = [channels * BOX_GRID**2, *[dim] * (settings.box_linears - 1)]
        self.shared_fcs = nn.ModuleList(nn.Linear(n, dim) for n in inputs)
        self.fc_cls = nn.Linear(dim, num_classes + 1)
        self.fc_reg = nn.Linear(dim, 4 * self.boxes)
        self.convolves = settings.box_convs > 0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``[n, channels, 7, 7]`` -> logits ``[n, num_classes + 1]``, the last one of "nothing",
        and corrections ``[n, boxes, 4]``."""
        if self.convolves:
            x = self.shared_convs(x)
        x = x.flatten(1)
        for linear in self.shared_fcs:
            x = F.relu(linear(x))
        return self.fc_cls(x), self.fc_reg(x).view(-1, self.boxes, 4)


class MaskHead(nn.Module):
    """Convolutions, one that doubles the size, and a classifier of pixels for every class."""

    def __init__(self, num_classes: int, settings: MaskRCNN) -> None:
        super().__init__()
        channels = settings.channels
        self.convs = nn.ModuleList(
            PlainConv(channels, channels, 3) for _ in range(settings.mask_convs)
        )
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.conv_logits = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, channels, 14, 14]`` -> logits ``[n, num_classes, 28, 28]``."""
        for conv in self.convs:
            x = F.relu(conv(x))
        return self.conv_logits(F.relu(self.upsample(x)))


class RoiHead(nn.Module):
    """From proposals to detections with masks."""

    def __init__(self, num_classes: int, settings: MaskRCNN) -> None:
        super().__init__()
        self.num_classes, self.settings = num_classes, settings
        many = settings.stages > 1
        boxes = [BoxHead(num_classes, settings) for _ in range(settings.stages)]
        masks = [MaskHead(num_classes, settings) for _ in range(settings.stages)]
        self.bbox_head: nn.Module = nn.ModuleList(boxes) if many else boxes[0]
        self.mask_head: nn.Module = nn.ModuleList(masks) if many else masks[0]

    def forward(
        self, atlas: Atlas, proposals: Tensor, found: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Proposals ``[n, 4]``, of which those with a score ``found`` ``[n]`` above 0 count, of an
        image of ``size`` (height, width) -> boxes ``[d, 4]``, scores ``[d]``, classes ``[d]``
        (int64) and masks ``[d, 28, 28]`` of d ``detections``, best first; 0 where there are fewer,
        but for the masks, which mean nothing there."""
        logits, boxes = self._refine(atlas, proposals, size)
        shares = logits.softmax(dim=1)[:, :-1] * (found > 0).to(logits)[:, None]
        groups = boxes.transpose(0, 1).expand(self.num_classes, -1, -1)
        settings = self.settings
        places, scores = non_maximum_suppression(
            groups.contiguous(),
            shares.T.contiguous(),
            settings.detection_iou,
            settings.score_threshold,
            settings.detections,
        )
        labels = places // len(proposals)
        chosen = groups.reshape(-1, 4).index_select(0, places)
        chosen = chosen * (scores > 0).to(chosen)[:, None]
        return chosen, scores, labels, self._masks(atlas, chosen, labels)

    def _refine(self, atlas: Atlas, boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Averaged logits ``[n, num_classes + 1]`` and boxes ``[n, 1 or num_classes, 4]``."""
        total: Tensor | None = None
        heads = self._heads(self.bbox_head)
        for number, (head, deviations) in enumerate(zip(heads, _DEVIATIONS, strict=False)):
            logits, deltas = head(atlas.read(boxes, BOX_GRID))
            total = logits if total is None else total + logits
            refined = corrected(boxes[:, None], deltas, deviations, size)
            if number < len(heads) - 1:
                boxes = self._of_best_class(refined, logits)
        assert total is not None
        return total / len(heads), refined

    def _of_best_class(self, boxes: Tensor, logits: Tensor) -> Tensor:
        """The box of each one's best class: ``[n, 1 or num_classes, 4]`` -> ``[n, 4]``."""
        if self.settings.class_agnostic:
            return boxes[:, 0]
        best = logits[:, :-1].argmax(dim=1)
        return boxes.flatten(0, 1).index_select(0, _rows(best, self.num_classes))

    def _masks(self, atlas: Atlas, boxes: Tensor, labels: Tensor) -> Tensor:
        features = atlas.read(boxes, MASK_GRID)
        wanted = _rows(labels, self.num_classes)
        heads = self._heads(self.mask_head)
        parts = [head(features).flatten(0, 1).index_select(0, wanted).sigmoid() for head in heads]
        return torch.stack(parts).mean(dim=0) if len(parts) > 1 else parts[0]

    @staticmethod
    def _heads(module: nn.Module) -> Sequence[nn.Module]:
        return list(module) if isinstance(module, nn.ModuleList) else [module]


def _rows(column: Tensor, width: int) -> Tensor:
    """Place of an entry of every row in a flattened table of ``width`` columns: ``[n]``."""
    return torch.arange(len(column), device=column.device) * width + column
