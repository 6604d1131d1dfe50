"""Mask R-CNN's tests as mmdetection 2.x describes them, one box after the other.

Sizes follow the data, maps are read one by one, and suppression is a loop; only the layers with
weights are those of the model under test.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dinat_deploy.models.mask_rcnn import MaskRcnnModel
from dinat_deploy.ops.roi_align import roi_align

STRIDES = (4, 8, 16, 32, 64)
STAGES = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
Found = list[tuple[list[float], float, int, Tensor]]


def moved(
    box: Tensor, delta: Tensor, deviations: tuple[float, ...], height: int, width: int
) -> Tensor:
    dx, dy, dw, dh = (float(d) * s for d, s in zip(delta, deviations, strict=True))
    left, top, right, bottom = box.tolist()
    most = abs(math.log(16 / 1000))
    x = (left + right) / 2 + dx * (right - left)
    y = (top + bottom) / 2 + dy * (bottom - top)
    w = (right - left) * math.exp(min(max(dw, -most), most))
    h = (bottom - top) * math.exp(min(max(dh, -most), most))
    return torch.tensor(
        [
            min(max(x - w / 2, 0), width),
            min(max(y - h / 2, 0), height),
            min(max(x + w / 2, 0), width),
            min(max(y + h / 2, 0), height),
        ]
    )


def overlap(one: Tensor, other: Tensor) -> float:
    extent = (torch.minimum(one[2:], other[2:]) - torch.maximum(one[:2], other[:2])).clamp(min=0)
    both = float(extent.prod())
    areas = sum(float((box[2:] - box[:2]).prod()) for box in (one, other))
    return both / (areas - both) if both else 0.0


def suppressed(boxes: list[tuple[float, Tensor]], iou: float) -> list[tuple[float, Tensor]]:
    kept: list[tuple[float, Tensor]] = []
    for score, box in sorted(boxes, key=lambda each: -each[0]):
        if all(overlap(box, other) <= iou for _, other in kept):
            kept.append((score, box))
    return kept


def proposals(model: MaskRcnnModel, maps: list[Tensor], height: int, width: int) -> list[Tensor]:
    settings, head = model.settings, model.rpn_head
    found: list[tuple[float, Tensor]] = []
    for x, stride in zip(maps, STRIDES, strict=True):
        hidden = head.rpn_conv(x).relu()
        scores, deltas = head.rpn_cls(hidden)[0].sigmoid(), head.rpn_reg(hidden)[0]
        level = []
        for row in range(x.shape[2]):
            for column in range(x.shape[3]):
                for number, ratio in enumerate((0.5, 1.0, 2.0)):
                    half = stride * 8 / 2
                    w, h = half / math.sqrt(ratio), half * math.sqrt(ratio)
                    cx, cy = column * stride, row * stride
                    anchor = torch.tensor([cx - w, cy - h, cx + w, cy + h])
                    delta = deltas[4 * number : 4 * number + 4, row, column]
                    level.append((float(scores[number, row, column]), anchor, delta))
        level.sort(key=lambda each: -each[0])
        best = [
            (score, moved(anchor, delta, (1.0, 1.0, 1.0, 1.0), height, width))
            for score, anchor, delta in level[: settings.proposals_per_level]
        ]
        real = [(s, box) for s, box in best if box[2] > box[0] and box[3] > box[1]]
        found += suppressed(real, settings.proposal_iou)
    found.sort(key=lambda each: -each[0])
    return [box for _, box in found[: settings.proposals]]


def read(maps: list[Tensor], box: Tensor, size: int) -> Tensor:
    side = math.sqrt(float((box[2] - box[0]) * (box[3] - box[1])))
    level = min(max(math.floor(math.log2(side / 56 + 1e-6)), 0), 3)
    return roi_align(maps[level], box[None], size, 1 / STRIDES[level])


def detect(model: MaskRcnnModel, image: Tensor) -> Found:
    """Box, score, class and mask of every detection, best first."""
    settings = model.settings
    height, width = int(image.shape[2]), int(image.shape[3])
    maps = model.neck(model.backbone(image))
    one = settings.stages == 1
    box_heads = [model.roi_head.bbox_head] if one else list(model.roi_head.bbox_head)
    mask_heads = [model.roi_head.mask_head] if one else list(model.roi_head.mask_head)
    classes = model.config.num_classes
    by_class: list[list[tuple[float, Tensor]]] = [[] for _ in range(classes)]
    for box in proposals(model, maps, height, width):
        total = torch.zeros(classes + 1)
        for stage, head in enumerate(box_heads):
            logits, deltas = (each[0] for each in head(read(maps, box, 7)))
            total = total + logits
            refined = [moved(box, delta, STAGES[stage], height, width) for delta in deltas]
            if len(refined) == 1:
                refined = refined * classes
            box = refined[int(logits[:-1].argmax())]
        shares = (total / len(box_heads)).softmax(0)
        for number in range(classes):
            if shares[number] > settings.score_threshold:
                by_class[number].append((float(shares[number]), refined[number]))
    found = [
        (score, number, box)
        for number, boxes in enumerate(by_class)
        for score, box in suppressed(boxes, settings.detection_iou)
    ]
    found.sort(key=lambda each: -each[0])
    return [
        (
            box.tolist(),
            score,
            number,
            torch.stack(
                [head(read(maps, box, 14))[0, number].sigmoid() for head in mask_heads]
            ).mean(0),
        )
        for score, number, box in found[: settings.detections]
    ]
