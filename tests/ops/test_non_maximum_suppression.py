"""Non-maximum suppression against its definition, and against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from dinat_deploy.ops.non_maximum_suppression import non_maximum_suppression


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum(float((box[2] - box[0]) * (box[3] - box[1])) for box in (one, other))
    return float(width * height) / (areas - float(width * height))


def greedy(
    boxes: np.ndarray, scores: np.ndarray, iou: float, floor: float, count: int
) -> list[int]:
    """Places of what stays, in plain loops."""
    stays = []
    for group in range(len(boxes)):
        kept: list[int] = []
        for place in np.argsort(-scores[group], kind="stable"):
            if scores[group, place] <= floor:
                continue
            if all(overlap(boxes[group, place], boxes[group, other]) <= iou for other in kept):
                kept.append(int(place))
        stays += [group * boxes.shape[1] + place for place in kept]
    return sorted(stays, key=lambda place: -scores.ravel()[place])[:count]


def made_up(groups: int, each: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes on a coarse grid, so that many are equal and many overlaps too, and scores with ties."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 8, (groups, each, 2))
    boxes = np.concatenate([low, low + rng.integers(0, 6, (groups, each, 2))], axis=2)
    scores = rng.integers(0, 12, (groups, each)) / 12
    return boxes.astype(np.float32), scores.astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    groups=st.integers(1, 3),
    each=st.integers(1, 14),
    count=st.integers(1, 20),
    iou=st.sampled_from([0.3, 0.49, 0.7, 1.0]),
    seed=st.integers(0, 1000),
)
def test_the_best_of_what_does_not_overlap_is_returned(
    groups: int, each: int, count: int, iou: float, seed: int
) -> None:
    boxes, scores = made_up(groups, each, seed)
    expected = greedy(boxes, scores, iou, 0.1, count)
    places, best = non_maximum_suppression(
        torch.from_numpy(boxes), torch.from_numpy(scores), iou, 0.1, count
    )
    assert places[: len(expected)].tolist() == expected
    assert best[: len(expected)].tolist() == scores.ravel()[expected].tolist()
    assert not places[len(expected) :].any()
    assert not best[len(expected) :].any()


def test_onnxruntime_keeps_the_same_boxes() -> None:
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 100, (3, 200, 2))
    boxes = np.concatenate([low, low + rng.uniform(0, 60, (3, 200, 2))], 2).astype(np.float32)
    scores = rng.uniform(size=(3, 200)).astype(np.float32)
    constants = {"most": np.int64(200), "iou": np.float32(0.5), "floor": np.float32(0.3)}
    graph = helper.make_graph(
        [helper.make_node("NonMaxSuppression", ["boxes", "scores", *constants], ["kept"])],
        "g",
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, boxes.shape),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [3, 1, 200]),
        ],
        [helper.make_tensor_value_info("kept", TensorProto.INT64, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (kept,) = session.run(None, {"boxes": boxes, "scores": scores[:, None]})
    places, best = non_maximum_suppression(
        torch.from_numpy(boxes), torch.from_numpy(scores), 0.5, 0.3, 600
    )
    assert set(places[best > 0].tolist()) == {int(g * 200 + n) for g, _, n in np.asarray(kept)}
    assert 0 < (best > 0).sum() < 400


def test_the_shape_is_known_without_computing() -> None:
    boxes, scores = (torch.from_numpy(array) for array in made_up(2, 9, 0))
    torch.library.opcheck(
        torch.ops.dinat.non_maximum_suppression.default, (boxes, scores, 0.5, 0.0, 30)
    )
