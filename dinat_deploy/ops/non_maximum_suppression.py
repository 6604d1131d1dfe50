"""Non-maximum suppression: of boxes that overlap too much only the best one stays.

As ONNX's ``NonMaxSuppression`` and mmcv's ``nms`` do it: boxes are taken from the highest score
down (the first of equal ones first), and each leaves out the later ones whose intersection with it
is more than a share of their union. Groups (levels of a pyramid, or classes) do not see each other.

The number of boxes that stay depends on the data, so the operator returns the best ``count`` of
all groups, and fills up.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dinat_deploy.ops.library import NAMESPACE


@torch.library.custom_op(f"{NAMESPACE}::non_maximum_suppression", mutates_args=())
def non_maximum_suppression(
    boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, count: int
) -> tuple[Tensor, Tensor]:
    """The best boxes that do not overlap; not differentiable.

    Args:
        boxes: ``[G, N, 4]`` of G groups; left, top, right and bottom.
        scores: ``[G, N]``, from 0 to 1.
        iou_threshold: larger intersections over unions are too much.
        score_threshold: boxes whose score is not above it are left out; at least 0.
        count: of boxes to return.

    Returns:
        Their places in the flattened groups, int64 ``[count]``, and their scores ``[count]``, from
        the best one down (equal ones as they stand). Where boxes are lacking, both are 0.
    """
    groups = zip(boxes, scores, strict=True)
    stay = [_of_group(*group, iou_threshold, score_threshold) for group in groups]
    kept = torch.cat([number * boxes.shape[1] + places for number, places in enumerate(stay)])
    order = scores.flatten()[kept].argsort(descending=True, stable=True)[:count]
    kept = kept[order]
    places, best = kept.new_zeros(count), scores.new_zeros(count)
    places[: len(kept)] = kept
    best[: len(kept)] = scores.flatten()[kept]
    return places, best


@non_maximum_suppression.register_fake
def _(
    boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, count: int
) -> tuple[Tensor, Tensor]:
    return boxes.new_empty(count, dtype=torch.int64), scores.new_empty(count)


def overlaps(first: Tensor, second: Tensor) -> Tensor:
    """Intersections over unions of boxes ``[n, 4]`` and ``[m, 4]``: ``[n, m]``; 0 with a box that
    has no extent."""
    corner = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    extent = corner - torch.maximum(first[:, None, :2], second[None, :, :2])
    common = extent.clamp(min=0).prod(-1)
    areas = [(each[:, 2:] - each[:, :2]).prod(-1) for each in (first, second)]
    union = areas[0][:, None] + areas[1][None] - common
    return torch.where(common > 0, common / union, torch.zeros_like(common))


def _of_group(boxes: Tensor, scores: Tensor, iou_threshold: float, floor: float) -> Tensor:
    """Places of the boxes that stay, from the best score down."""
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] > floor]
    # One box after the other: on a GPU each would be a launch, and an answer to wait for.
    late = (overlaps(boxes[order], boxes[order]) > iou_threshold).triu(1).cpu().numpy()
    stays = torch.ones(len(order), dtype=torch.bool)
    array = stays.numpy()
    for number in range(len(order)):
        if array[number]:
            array &= ~late[number]
    return order[stays.to(order.device)]


OPERATOR = torch.ops.dinat.non_maximum_suppression.default
