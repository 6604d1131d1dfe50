"""What the operators of detectors become in an ONNX file: standard operators.

Written while the exporter translates; the definitions are in :mod:`dinat_deploy.ops.roi_align` and
:mod:`dinat_deploy.ops.non_maximum_suppression`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import numpy_helper
from onnxscript import opset18 as op


def _constant(value: Any, dtype: type[np.generic]) -> Any:
    return op.Constant(value=numpy_helper.from_array(np.asarray(value, dtype)))


def roi_align_node(features: Any, boxes: Any, size: int, scale: float) -> Any:
    """Translate ``dinat::roi_align``: ``[1, C, H, W]``, ``[n, 4]`` -> ``[n, C, size, size]``."""
    return op.RoiAlign(
        features,
        boxes,
        _constant(np.zeros(boxes.shape[0]), np.int64),
        coordinate_transformation_mode="half_pixel",
        mode="avg",
        output_height=size,
        output_width=size,
        sampling_ratio=0,
        spatial_scale=scale,
    )


def suppression_nodes(
    boxes: Any, scores: Any, iou_threshold: float, score_threshold: float, count: int
) -> Any:
    """Translate ``dinat::non_maximum_suppression``.

    As many boxes without a score as are asked for stand behind those that NonMaxSuppression
    leaves, so that there are always enough to take the best of, and the size is known.
    """
    each = scores.shape[1]
    chosen = op.NonMaxSuppression(
        boxes,
        op.Unsqueeze(scores, _constant([1], np.int64)),
        _constant(min(each, count), np.int64),
        _constant(iou_threshold, np.float32),
        _constant(score_threshold, np.float32),
    )
    group = op.Gather(chosen, _constant(0, np.int64), axis=1)
    place = op.Gather(chosen, _constant(2, np.int64), axis=1)
    flat = op.Add(op.Mul(group, _constant(each, np.int64)), place)
    kept = op.Gather(op.Reshape(scores, _constant([-1], np.int64)), flat, axis=0)
    filled = op.Concat(kept, op.CastLike(_constant(np.zeros(count), np.float32), kept), axis=0)
    best, order = op.TopK(filled, _constant([count], np.int64), axis=0)
    places = op.Concat(flat, _constant(np.zeros(count), np.int64), axis=0)
    return op.Gather(places, order, axis=0), best
