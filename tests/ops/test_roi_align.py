"""RoIAlign against its definition sample by sample, and against ONNX Runtime."""

from __future__ import annotations

import math

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from dinat_deploy.ops.roi_align import roi_align


def sampled(features: np.ndarray, box: np.ndarray, size: int, scale: float) -> np.ndarray:
    """One box, one sample after the other: the text of ONNX's operator."""
    left, top, right, bottom = (float(corner) * scale - 0.5 for corner in box)
    tall, wide = (bottom - top) / size, (right - left) / size
    rows, columns = math.ceil(tall), math.ceil(wide)
    output = np.zeros((features.shape[0], size, size))
    for y in range(size):
        for x in range(size):
            for row in range(rows):
                for column in range(columns):
                    at = top + (y + (row + 0.5) / rows) * tall
                    to = left + (x + (column + 0.5) / columns) * wide
                    output[:, y, x] += bilinear(features, at, to)
    return output / max(1, rows * columns)


def bilinear(features: np.ndarray, y: float, x: float) -> np.ndarray:
    height, width = features.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(features.shape[0])
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = min(int(y), max(0, height - 2)), min(int(x), max(0, width - 2))
    total = np.zeros(features.shape[0])
    for row in {top, min(top + 1, height - 1)}:
        for column in {left, min(left + 1, width - 1)}:
            share = max(0.0, 1 - abs(y - row)) * max(0.0, 1 - abs(x - column))
            total += share * features[:, row, column]
    return total


def onnx_roi_align(features: np.ndarray, boxes: np.ndarray, size: int, scale: float) -> np.ndarray:
    node = helper.make_node(
        "RoiAlign", ["x", "boxes", "batch"], ["y"], output_height=size, output_width=size,
        sampling_ratio=0, spatial_scale=scale, coordinate_transformation_mode="half_pixel",
    )  # fmt: skip
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, features.shape),
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, boxes.shape),
        helper.make_tensor_value_info("batch", TensorProto.INT64, boxes.shape[:1]),
    ]
    graph = helper.make_graph(
        [node], "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    batch = np.zeros(len(boxes), np.int64)
    (result,) = session.run(None, {"x": features, "boxes": boxes, "batch": batch})
    return np.asarray(result)


# Sixty-fourths, so that sizes are exact and "how many samples" has one answer in every precision.
corner = st.integers(-64 * 3, 64 * 40).map(lambda value: value / 64)


@settings(max_examples=30, deadline=None)
@given(
    boxes=st.lists(st.tuples(corner, corner, corner, corner), min_size=1, max_size=3),
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    size=st.integers(1, 4),
    scale=st.sampled_from([1.0, 0.5, 0.25]),
)
def test_boxes_anywhere_are_the_means_of_their_samples(
    boxes: list[tuple[float, float, float, float]], shape: tuple[int, int], size: int, scale: float
) -> None:
    features = np.random.default_rng(0).standard_normal((1, 2, *shape)).astype(np.float32)
    array = np.array(boxes, np.float32)
    found = roi_align(torch.from_numpy(features), torch.from_numpy(array), size, scale).numpy()
    for box, each in zip(array, found, strict=True):
        assert each == pytest.approx(sampled(features[0], box, size, scale), abs=1e-5)


def test_onnxruntime_computes_the_same() -> None:
    rng = np.random.default_rng(1)
    features = rng.standard_normal((1, 3, 20, 30)).astype(np.float32)
    boxes = rng.uniform(0, 120, (200, 4)).astype(np.float32)
    boxes[:, 2:] = boxes[:, :2] + rng.uniform(0, 90, (200, 2)).astype(np.float32)
    boxes[0] = 0
    for size in (7, 14):
        found = roi_align(torch.from_numpy(features), torch.from_numpy(boxes), size, 0.25).numpy()
        assert np.abs(found - onnx_roi_align(features, boxes, size, 0.25)).max() < 2e-5
        assert not found[0].any()


def test_the_type_and_the_shape_are_known_without_computing() -> None:
    features, boxes = torch.zeros(1, 4, 5, 5, dtype=torch.float16), torch.zeros(3, 4)
    torch.library.opcheck(torch.ops.dinat.roi_align.default, (features, boxes, 2, 1.0))
    assert roi_align(features, boxes, 2, 1.0).dtype == torch.float16
