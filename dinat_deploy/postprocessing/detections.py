"""Answers of Mask R-CNN: boxes, and a small mask in each, brought to the picture.

As mmdetection does it (``FCNMaskHead.get_seg_masks`` and ``_do_paste_mask``): boxes are scaled to
the picture; the mask of a box is sampled bilinearly at the centres of the picture's pixels, with
zeros around it, and is on where it is 0.5 or more. There a box ends with the picture before its
mask is predicted. Here it may reach into what is filled up around the picture, so it is cut off
after its mask has been sampled in all of it.
"""

from __future__ import annotations

import math

import numpy as np

from dinat_deploy.postprocessing.axes import Axis, BoolArray, FloatArray, View
from dinat_deploy.postprocessing.results import Instance, Instances

MASK_THRESHOLD = 0.5


def detections(
    boxes: FloatArray,
    scores: FloatArray,
    labels: np.ndarray,
    masks: FloatArray,
    view: View,
    *,
    min_score: float = 0.0,
    threshold: float = MASK_THRESHOLD,
) -> Instances:
    """Instances in the picture, best first.

    Args:
        boxes: float32 ``[n, 4]``: left, top, right, bottom in pixels of the model's input.
        scores: float32 ``[n]``; rows with 0 are no detections.
        labels: ``[n]``, whole numbers.
        masks: float32 ``[n, h, w]``, probabilities in the box.
        view: where the model looked at the picture.
        min_score: leave out what is below.
        threshold: a mask is on from this probability on.
    """
    found = []
    across = view.to_picture(1, boxes[:, 0::2])
    down = view.to_picture(0, boxes[:, 1::2])
    for row in np.argsort(-scores, kind="stable"):
        if scores[row] <= 0 or scores[row] < min_score:
            break
        (left, right), (top, bottom) = across[row].tolist(), down[row].tolist()
        height, width = view.picture
        shown = max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)
        if shown[2] <= shown[0] or shown[3] <= shown[1]:
            continue
        corner, mask = pasted(masks[row], (left, top, right, bottom), view.picture, threshold)
        found.append(Instance(int(labels[row]), float(scores[row]), shown, mask, corner))
    return Instances(view.picture, found)


def pasted(
    mask: FloatArray,
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    threshold: float = MASK_THRESHOLD,
) -> tuple[tuple[int, int], BoolArray]:
    """A mask in its box at the size of the picture.

    Args:
        mask: float32 ``[h, w]``.
        box: left, top, right, bottom in pixels of the picture, which it may reach beyond.
        size: (height, width) of the picture.

    Returns:
        (top, left) of the part of the picture that the box touches, and the mask there, bool.
    """
    left, top, right, bottom = box
    first_row, rows = _samples(top, bottom, size[0], mask.shape[0])
    first_column, columns = _samples(left, right, size[1], mask.shape[1])
    _, down = rows.dense(0, len(rows))
    _, across = columns.dense(0, len(columns))
    used = slice(rows.first[0], rows.first[0] + down.shape[1])
    beside = slice(columns.first[0], columns.first[0] + across.shape[1])
    around = np.pad(mask, 1)[used, beside]
    return (first_row, first_column), down @ around @ across.T >= threshold


def _samples(low: float, high: float, size: int, length: int) -> tuple[int, Axis]:
    """The first pixel that a side of a box touches, and the pixels from there on as samples of the
    ``length`` cells of a mask with a zero before and behind them."""
    start, stop = max(math.floor(low), 0), min(math.ceil(high), size)
    centres = (np.arange(start, stop) + 0.5 - low) / (high - low)
    return start, Axis.at(centres * length + 0.5, length + 2)
