"""Non-maximum suppression written out for TensorRT-RTX, against ONNX Runtime's."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from dinat_deploy.exporter import to_onnx
from dinat_deploy.graph import suppression
from dinat_deploy.ops.non_maximum_suppression import non_maximum_suppression


class Suppression(torch.nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, boxes: torch.Tensor, scores: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return non_maximum_suppression(boxes, scores, 0.5, 0.2, self.count)


def crowd(groups: int, each: int, seed: int) -> dict[str, np.ndarray]:
    """Boxes side by side in a narrow strip, so that long chains of them decide about each other."""
    rng = np.random.default_rng(seed)
    left = rng.uniform(0, 3 * each, (groups, each, 1))
    boxes = np.concatenate([left, np.zeros_like(left), left + 20, np.full_like(left, 10)], axis=2)
    boxes[:, 0] = 0  # one without extent
    scores = rng.uniform(size=(groups, each))
    return {"boxes": boxes.astype(np.float32), "scores": scores.astype(np.float32)}


@pytest.fixture(scope="module")
def proto() -> onnx.ModelProto:
    """The best 70 of four groups of 60 boxes."""
    inputs = [torch.from_numpy(array) for array in crowd(4, 60, 0).values()]
    names = {"input_names": ["boxes", "scores"], "output_names": ["places", "best"]}
    return ir.to_proto(to_onnx(Suppression(70), inputs, **names).model)


def run(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return [np.asarray(result) for result in session.run(None, feeds)]


@pytest.mark.parametrize("together", [False, True], ids=["by group", "all together"])
def test_the_same_boxes_stay_in_the_same_order(
    together: bool, proto: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ir.from_proto(proto)
    assert "NonMaxSuppression" in {node.op_type for node in model.graph}
    cases = [crowd(4, 60, seed) for seed in range(5)]
    cases[1]["scores"][:] = 0.1  # nothing counts
    cases[2]["scores"][:] = np.float32(0.5)  # all ties
    expected = [run(model, feeds) for feeds in cases]
    for feeds, (places, best) in zip(cases, expected, strict=True):
        ours = Suppression(70)(torch.from_numpy(feeds["boxes"]), torch.from_numpy(feeds["scores"]))
        assert np.array_equal(ours[0].numpy(), places)
        assert np.array_equal(ours[1].numpy(), best)
    if together:
        monkeypatch.setattr(suppression, "_MOST_PAIRS", 0)
    assert suppression.replace(model) == 1
    types = {node.op_type for node in model.graph}
    assert "NonMaxSuppression" not in types
    assert "Loop" in types
    for feeds, found in zip(cases, expected, strict=True):
        for one, other in zip(run(model, feeds), found, strict=True):
            assert np.array_equal(one, other)
    assert not expected[1][1].any()
    assert 10 < (expected[0][1] > 0).sum() <= 70


def test_too_few_candidates_lose_the_worst_boxes_only(
    proto: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, feeds = ir.from_proto(proto), crowd(4, 60, 0)
    _, expected = run(model, feeds)
    monkeypatch.setattr(suppression, "_MOST_PAIRS", 0)
    suppression.replace(model, candidates=40)
    _, found = run(model, feeds)
    kept = int((found > 0).sum())
    assert 10 < kept < (expected > 0).sum()
    assert np.array_equal(found[:kept], expected[:kept])


def test_suppressions_of_others_are_left_alone(proto: onnx.ModelProto) -> None:
    model = ir.from_proto(proto)
    top = next(node for node in model.graph if node.op_type == "TopK")
    gather = next(use.node for use in top.outputs[1].uses())
    # Nothing takes the best of what stays any more.
    model.graph.outputs[:] = [gather.inputs[0], model.graph.outputs[1]]
    model.graph.remove(gather, safe=True)
    assert suppression.replace(model) == 0
