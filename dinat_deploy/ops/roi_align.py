"""RoIAlign: the features within boxes, each resampled to a small grid.

Mask R-CNN (He et al., arXiv 1703.06870), section 3; with the half-pixel correction and the numbers
of samples of ONNX's ``RoiAlign`` (``half_pixel``, ``avg``, ``sampling_ratio`` 0), which are those
of mmcv's ``RoIAlign(aligned=True, sampling_ratio=0)``.

One axis of a map of n cells, and a box from a to b in pixels of an image that is ``1 / scale``
times as large; P bins:

    start = a scale - 1/2,   bin = (b - a) scale / P,   k = ceil(bin)
    x[p, j] = start + (p + (j + 1/2) / k) bin            p = 0 .. P - 1,  j = 0 .. k - 1

A sample outside of -1 .. n is 0. The others are moved into 0 .. n - 1 and interpolated linearly
between the two cells beside them. The value of a bin is the mean of its samples, over both axes; 0
if a side of the box has no extent.

All of that is one factor for each axis, so that a box is a product of three matrices: weights of
the rows, the map, weights of the columns. That is how it is computed here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dinat_deploy.ops.library import NAMESPACE


@torch.library.custom_op(f"{NAMESPACE}::roi_align", mutates_args=())
def roi_align(features: Tensor, boxes: Tensor, size: int, scale: float) -> Tensor:
    """Resample a map within boxes; not differentiable.

    Args:
        features: ``[1, C, H, W]``.
        boxes: ``[n, 4]``, left, top, right and bottom.
        size: bins on a side of the output.
        scale: of the boxes' coordinates to the map's.

    Returns:
        ``[n, C, size, size]``, in the type of the features.
    """
    wide, n = features[0].float(), len(boxes)
    output = features.new_empty(n, features.shape[1], size, size)
    # One axis at a time: columns from left and right, rows from top and bottom.
    scaled = boxes.double().cpu() * scale
    columns = [_axis(a, b, size, wide.shape[2]) for a, b in scaled[:, 0::2].tolist()]
    rows = [_axis(a, b, size, wide.shape[1]) for a, b in scaled[:, 1::2].tolist()]
    for number in range(n):
        (top, y), (left, x) = rows[number], columns[number]
        part = wide[:, top : top + y.shape[1], left : left + x.shape[1]]
        output[number] = y.to(wide.device) @ part @ x.to(wide.device).T
    return output


@roi_align.register_fake
def _(features: Tensor, boxes: Tensor, size: int, scale: float) -> Tensor:
    return features.new_empty(boxes.shape[0], features.shape[1], size, size)


def _axis(begin: float, end: float, size: int, cells: int) -> tuple[int, Tensor]:
    """The first cell that the bins read along an axis, and the weights of it and the following
    ones, float32 ``[size, n]``."""
    width = (end - begin) / size
    count = max(0, math.ceil(width))
    if count == 0:
        return 0, torch.zeros(size, 1)
    share = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    place = begin - 0.5 + (torch.arange(size, dtype=torch.float64)[:, None] + share) * width
    inside = (place >= -1) & (place <= cells)
    place = place.clamp(0, cells - 1)
    first = int(place.min())
    cell = torch.arange(first, min(int(place.max()) + 1, cells - 1) + 1, dtype=torch.float64)
    near = (1 - (place[..., None] - cell).abs()).clamp(min=0) * inside[..., None]
    return first, near.mean(dim=1).float()


OPERATOR = torch.ops.dinat.roi_align.default
