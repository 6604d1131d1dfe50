"""RoiAlign written out for TensorRT-RTX, against ONNX Runtime's."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from dinat_deploy.graph import roi_align

MAP = (1, 8, 40, 60)


def boxes_of(sides: tuple[float, float], count: int = 60) -> np.ndarray:
    """Boxes with sides in cells within these bounds, wherever they fit in the map, borders too."""
    rng = np.random.default_rng(0)
    extent = rng.uniform(*sides, (count, 2))
    low = rng.uniform(size=(count, 2)) * (np.array([MAP[3], MAP[2]]) - extent)
    return np.concatenate([low, low + extent], axis=1).astype(np.float32)


def model_of(count: int, size: int = 7, opset: int = 20, **attributes: object) -> onnx.ModelProto:
    settings = {"spatial_scale": 1.0, "coordinate_transformation_mode": "half_pixel", **attributes}
    node = helper.make_node(
        "RoiAlign", ["x", "boxes", "batch"], ["y"], "align",
        output_height=size, output_width=size, **settings,
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, MAP),
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [count, 4]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [count, MAP[1], size, size])],
        [numpy_helper.from_array(np.zeros(count, np.int64), "batch")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def run(model: onnx.ModelProto, boxes: np.ndarray) -> np.ndarray:
    features = np.random.default_rng(1).standard_normal(MAP).astype(np.float32)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"x": features, "boxes": boxes})[0])


def both(model: onnx.ModelProto, boxes: np.ndarray, samples: int) -> tuple[np.ndarray, np.ndarray]:
    rewritten = ir.from_proto(model)
    assert roi_align.replace(rewritten, samples) == 1
    proto = ir.to_proto(rewritten)
    types = {node.op_type for node in proto.graph.node}
    assert "RoiAlign" not in types
    assert "GridSample" in types
    return run(model, boxes), run(proto, boxes)


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize(
    ("samples", "sides", "elongated"),
    [(4, (0, 21), 1), (9, (0, 35), 1), (9, (0, 35), 0.2), (20, (0, 38), 1), (20, (20, 30), 0.1)],
)
def test_bins_up_to_a_size_come_out_the_same(
    samples: int, sides: tuple[float, float], elongated: float, opset: int
) -> None:
    boxes = boxes_of(sides)
    # Higher or lower, and their middle where it was.
    middle, half = (boxes[:, 1] + boxes[:, 3]) / 2, (boxes[:, 3] - boxes[:, 1]) / 2
    if elongated < 1:
        boxes[:, 1], boxes[:, 3] = middle - elongated * half, middle + elongated * half
    expected, found = both(model_of(len(boxes), opset=opset), boxes, samples)
    assert np.abs(found - expected).max() < 2e-4


def test_boxes_outside_of_the_map_and_without_extent_come_out_the_same() -> None:
    boxes = np.array([[-9, -9, 4, 4], [55, 35, 75, 50], [5, 5, 5, 9], [9, 9, 3, 3]], np.float32)
    expected, found = both(model_of(len(boxes)), boxes, 9)
    assert np.abs(found - expected).max() < 2e-4
    assert not found[2:].any()


def test_larger_bins_are_the_mean_of_fewer_samples() -> None:
    boxes = boxes_of((36.0, 39.0))  # six samples an axis, and three are taken
    expected, found = both(model_of(len(boxes)), boxes, 9)
    fewer = run(model_of(len(boxes), sampling_ratio=3), boxes)
    assert np.abs(found - fewer).max() < 2e-4
    assert np.abs(found - expected).max() > 1e-2


def test_many_boxes_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = boxes_of((1.0, 30.0), count=50)
    model = model_of(len(boxes))
    monkeypatch.setattr(roi_align, "_LARGEST", 20 * 4 * MAP[1] * 7 * 7 * roi_align.SAMPLES)
    rewritten = ir.from_proto(model)
    roi_align.replace(rewritten)
    assert [node.op_type for node in rewritten.graph].count("GridSample") == 3
    assert np.abs(run(ir.to_proto(rewritten), boxes) - run(model, boxes)).max() < 2e-4


@pytest.mark.parametrize(
    "other",
    [
        {"mode": "max"},
        {"sampling_ratio": 2},
        {"coordinate_transformation_mode": "output_half_pixel"},
    ],
    ids=str,
)
def test_other_kinds_are_left_alone(other: dict[str, object]) -> None:
    model = ir.from_proto(model_of(3, **other))
    assert roi_align.replace(model) == 0
    assert [node.op_type for node in model.graph] == ["RoiAlign"]
