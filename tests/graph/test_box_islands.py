"""Places and boxes stay in float32, masks are no overflow, and choices can be followed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from dinat_deploy.errors import ConversionError
from dinat_deploy.graph import choices
from dinat_deploy.graph.formats import FORMATS
from dinat_deploy.graph.islands import find_islands, rules, weight_roundings
from dinat_deploy.graph.precision import convert
from dinat_deploy.graph.ranges import Ranges, add_probes, record
from dinat_deploy.graph.simulation import simulate

Arrays = dict[str, np.ndarray]


def graph_of(
    nodes: list[onnx.NodeProto], inputs: Arrays, outputs: list[str], constants: Arrays
) -> ir.Model:
    """A float32 graph with inferred types."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, v.shape) for k, v in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    for number, node in enumerate(graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model, strict_mode=True))


def run(model: ir.Model, feeds: Arrays) -> Arrays:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def detector() -> tuple[ir.Model, Arrays]:
    """Boxes and scores of 6 anchors from products, the 5 that do not overlap too much from the best
    down, and what a map holds in them."""
    corners = np.array([[10.3, 20.6], [700.1, 501.7], [1000.4, 900.2]], np.float32)
    anchors = np.concatenate([corners, corners + 150.7], axis=1)
    anchors = np.concatenate([anchors, anchors + np.float32(300.3)])
    anchors[3] = anchors[0] + 3
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "kernel"], ["map"], name="map"),
        node("MatMul", ["rows", "mix"], ["hidden"], name="hidden"),
        node("MatMul", ["hidden", "regress"], ["deltas"], name="regress"),
        node("Mul", ["deltas", "width"], ["shift"], name="shift"),
        node("Add", ["anchors", "shift"], ["corners"], name="decode"),
        node("MatMul", ["hidden", "classify"], ["logits"], name="classify"),
        node("Sigmoid", ["logits"], ["probabilities"], name="probabilities"),
        node("Reshape", ["corners", "one_group"], ["groups"], name="groups"),
        node("Reshape", ["probabilities", "one_class"], ["classes"], name="classes"),
        node("NonMaxSuppression", ["groups", "classes", "most", "iou"], ["kept"], name="nms"),
        node("Gather", ["kept", "two"], ["places"], axis=1, name="places"),
        node("Reshape", ["probabilities", "flat"], ["all_scores"], name="all_scores"),
        node("Gather", ["all_scores", "places"], ["kept_scores"], name="kept_scores"),
        node("TopK", ["kept_scores", "count"], ["scores", "order"], name="top"),
        node("Gather", ["places", "order"], ["best"], name="best"),
        node("Gather", ["corners", "best"], ["chosen"], name="chosen"),
        node("Greater", ["scores", "zero"], ["found"], name="found"),
        node("Cast", ["found"], ["ones"], to=TensorProto.FLOAT, name="ones"),
        node("Unsqueeze", ["ones", "last"], ["column"], name="column"),
        node("Mul", ["chosen", "column"], ["boxes"], name="boxes"),
        node("Mul", ["boxes", "share"], ["cells"], name="cells"),
        node("RoiAlign", ["map", "cells", "batch"], ["pooled"], name="pool"),
        node("Conv", ["pooled", "kernel"], ["masks"], name="masks"),
    ]
    rng = np.random.default_rng(3)
    constants: Arrays = {
        "kernel": rng.normal(size=(4, 4, 1, 1)).astype(np.float32),
        "mix": rng.normal(size=(8, 8)).astype(np.float32) * 0.3,
        "regress": rng.normal(size=(8, 4)).astype(np.float32) * 0.1,
        "classify": rng.normal(size=(8, 1)).astype(np.float32),
        "width": np.float32(150.7),
        "anchors": anchors,
        "one_group": np.array([1, 6, 4]),
        "one_class": np.array([1, 1, 6]),
        "most": np.array(6),
        "iou": np.array(0.5, np.float32),
        "two": np.array(2),
        "flat": np.array([-1]),
        "count": np.array([5]),
        "zero": np.float32(0),
        "last": np.array([1]),
        "share": np.float32(1 / 128),
        "batch": np.zeros(5, np.int64),
    }
    feeds: Arrays = {
        "image": rng.normal(size=(1, 4, 10, 10)).astype(np.float32),
        "rows": np.round(rng.normal(size=(6, 8)), 1).astype(np.float32),
    }
    return graph_of(nodes, feeds, ["boxes", "scores", "masks"], constants), feeds


def sampler() -> tuple[ir.Model, Arrays]:
    """Values of a map of 128 cells at places that are computed from rows."""
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "kernel"], ["map"], name="map"),
        node("MatMul", ["rows", "offsets"], ["cells"], name="offsets"),
        node("Div", ["cells", "size"], ["shares"], name="shares"),
        node("Add", ["shares", "centers"], ["moved"], name="moved"),
        node("Reshape", ["moved", "grid_shape"], ["grid"], name="grid"),
        node("GridSample", ["map", "grid"], ["read"], name="read"),
        node("Conv", ["read", "kernel"], ["out"], name="out"),
    ]
    rng = np.random.default_rng(4)
    constants: Arrays = {
        "kernel": np.ones((1, 1, 1, 1), np.float32),
        "offsets": rng.normal(size=(8, 2)).astype(np.float32),
        "size": np.float32(64),
        "centers": rng.uniform(-0.9, 0.9, (50, 2)).astype(np.float32),
        "grid_shape": np.array([1, 50, 1, 2]),
    }
    feeds: Arrays = {
        # The value of a cell is its number: an error is in cells.
        "image": np.tile(np.arange(128, dtype=np.float32), (1, 1, 128, 1)),
        "rows": rng.normal(size=(50, 8)).astype(np.float32),
    }
    return graph_of(nodes, feeds, ["out"], constants), feeds


def converted(model: ir.Model, precision: str) -> dict[str, str]:
    """Convert in place by all rules; node -> reason to stay in float32."""
    form = FORMATS[precision]
    found = find_islands(model, rules(model, form))
    convert(model, form, found)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return {str(node.name): reason for node, reason in found.items()}


def test_boxes_and_scores_stay_from_the_product_to_the_outputs() -> None:
    model, _ = detector()
    reasons = converted(model, "fp16")
    chosen = "the boxes and scores that NonMaxSuppression chooses by"
    for name in ("regress", "shift", "decode", "classify", "probabilities", "groups", "classes"):
        assert reasons[name] == chosen, name
    assert reasons["pool"] == "RoiAlign reads boxes in the type of the map"
    assert reasons["boxes"] == "the boxes that RoiAlign reads in"
    assert {"top", "all_scores", "kept_scores"} <= reasons.keys()
    assert reasons.keys().isdisjoint({"map", "hidden"})


@pytest.mark.parametrize(("precision", "error"), [("fp16", 0.05), ("bf16", 0.5)])
def test_corners_are_exact_to_a_fraction_of_a_pixel(precision: str, error: float) -> None:
    model, feeds = detector()
    expected = run(model, feeds)["boxes"]
    assert expected.max() > 1000
    # What corrections come from is rounded. Rounded corners cost 0.28 and 4.1 pixels here.
    converted(model, precision)
    simulate(model, FORMATS[precision], inline=False)
    found = run(model, feeds)["boxes"]
    assert 0 < np.abs(found - expected).max() < error


@pytest.mark.parametrize(("precision", "error"), [("fp16", 0.01), ("bf16", 0.1)])
def test_places_are_exact_to_a_fraction_of_a_cell(precision: str, error: float) -> None:
    model, feeds = sampler()
    expected = run(model, feeds)["out"]
    reasons = converted(model, precision)
    assert reasons["moved"] == reasons["grid"] == "the places that GridSample reads at"
    assert "read" in reasons
    assert "offsets" not in reasons  # a product
    simulate(model, FORMATS[precision], inline=False)
    found = run(model, feeds)["out"]
    # Rounded places cost 0.04 and 0.23 cells here.
    assert 0 < np.abs(found - expected).max() < error


def test_a_graph_without_places_or_boxes_has_none_of_these_islands() -> None:
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("MatMul", ["b", "w"], ["c"], name="last"),
    ]
    weights = {"w": np.eye(4, dtype=np.float32)}
    model = graph_of(nodes, {"x": np.zeros((2, 4), np.float32)}, ["c"], weights)
    assert converted(model, "fp16") == {"last": "the head of the output c"}


# --- masks ----------------------------------------------------------------------------------------


def masked(
    scale: float = 1.0, hole: float = -np.inf, lowest: float = 0.0
) -> tuple[ir.Model, Arrays]:
    """Softmax over scores, minus infinity added to every other one. ``lowest`` is added to all
    scores after that, ``hole`` is what the mask holds."""
    node = helper.make_node
    nodes = [
        node("Mul", ["x", "scale"], ["scores"]),
        node("Where", ["hidden", "hole", "zeros"], ["mask"]),
        node("Unsqueeze", ["mask", "first"], ["mask_row"]),
        node("Add", ["scores", "mask_row"], ["masked"]),
        node("Add", ["masked", "lowest"], ["shifted"]),
        node("Softmax", ["shifted"], ["y"]),
    ]
    constants: Arrays = {
        "scale": np.float32(scale),
        "hidden": np.arange(4) % 2 == 1,
        "hole": np.float32(hole),
        "zeros": np.zeros(4, np.float32),
        "first": np.array([0]),
        "lowest": np.float32(lowest),
    }
    feeds: Arrays = {"x": np.array([[-3, 2, 1, 5]], np.float32)}
    return graph_of(nodes, feeds, ["y"], constants), feeds


def ranges_of(model: ir.Model, feeds: Arrays) -> Ranges:
    probes = add_probes(model)
    ranges = Ranges()
    record(ranges, probes, run(model, feeds), {})
    return ranges


def test_minus_infinity_in_a_mask_is_left_out_of_the_ranges() -> None:
    found = ranges_of(*masked(scale=10)).tensors
    assert found["mask"] == found["mask_row"] == 0
    assert found["scores"] == 50
    assert found["masked"] == found["shifted"] == 30  # of the places that are not masked


@pytest.mark.parametrize(
    ("options", "tensor"),
    [
        ({"scale": -np.inf}, "scores"),
        ({"scale": 2e38}, "scores"),
        ({"scale": 6e37, "lowest": -3e38}, "shifted"),
        ({"hole": np.inf}, "mask"),
        ({"hole": np.nan}, "y"),
    ],
    ids=["infinite", "too large", "a masked sum that overflows elsewhere", "plus", "no number"],
)
def test_any_other_infinity_is_refused(options: dict[str, float], tensor: str) -> None:
    with pytest.raises(
        ConversionError, match=rf"already computes (inf|nan) in the tensor {tensor}"
    ):
        ranges_of(*masked(**options))


def test_what_is_not_a_number_is_found_anywhere_in_an_output() -> None:
    feeds: Arrays = {"x": np.array([1, 0, 2], np.float32)}
    model = graph_of([helper.make_node("Div", ["x", "x"], ["y"])], feeds, ["y"], {})
    with pytest.raises(ConversionError, match="already computes nan in the tensor y"):
        ranges_of(model, feeds)


def test_a_mask_survives_rounding() -> None:
    model, feeds = masked()
    expected = run(model, feeds)["y"]
    assert weight_roundings(model, FORMATS["fp16"])["hole"].overflowed == 0
    form = FORMATS["fp16"]
    found = find_islands(model, rules(model, form, weights=weight_roundings(model, form)))
    convert(model, form, found)
    assert not any("too large" in reason for reason in found.values())
    rounded = run(model, feeds)["y"]
    np.testing.assert_array_equal(rounded[0, [1, 3]], 0)
    np.testing.assert_allclose(rounded, expected, rtol=0, atol=1e-3)


# --- choices --------------------------------------------------------------------------------------


def followed(change: Callable[[Arrays], None]) -> tuple[Arrays, Arrays]:
    """Outputs of the detector with its own choices, and with these as they were changed."""
    model, feeds = detector()
    names = choices.expose(model)
    assert names == ["kept", "order", "found", "cells"]
    own = run(model, feeds)
    prescribed = {name: own[name].astype(np.float32) for name in names}
    change(prescribed)
    again, _ = detector()
    choices.follow(again, names)
    onnx.checker.check_model(ir.to_proto(again), full_check=True)
    return own, run(again, feeds | prescribed)


def test_a_graph_that_follows_its_own_choices_is_the_same() -> None:
    own, found = followed(lambda chosen: None)
    for name in ("boxes", "scores", "masks"):
        np.testing.assert_array_equal(found[name], own[name], name)


def test_prescribed_choices_are_taken_in_place_of_the_own() -> None:
    def turn(chosen: Arrays) -> None:
        chosen["order"] = chosen["order"][::-1]

    own, found = followed(turn)
    np.testing.assert_array_equal(found["boxes"], own["boxes"][::-1])
    np.testing.assert_array_equal(found["scores"], own["scores"][::-1])
    # It reads where it is told to, whatever its own boxes are.
    np.testing.assert_array_equal(found["masks"], own["masks"])
