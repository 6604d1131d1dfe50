"""Passes on graphs made by hand."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from dinat_deploy.errors import ExportError
from dinat_deploy.graph import passes
from tests.graph.op_models import run_model


def model_of(
    nodes: list[onnx.NodeProto],
    initializers: dict[str, np.ndarray] | None = None,
    shape: tuple[int | str, ...] = (2, 3),
    out_shape: tuple[int | str, ...] | None = None,
) -> ir.Model:
    """A model from ``x`` to ``y`` at opset 18."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out_shape)],
        [numpy_helper.from_array(array, name) for name, array in (initializers or {}).items()],
    )
    opsets = [helper.make_opsetid("", 18)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=8))


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    return run_model(ir.to_proto(model), x=x)


X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize("reduction", ["ReduceMean", "ReduceMax", "ReduceL2"])
def test_reductions_get_their_axes_as_an_attribute_in_opset_17(reduction: str) -> None:
    node = helper.make_node(reduction, ["x", "axes"], ["y"], keepdims=0)
    model = model_of([node], {"axes": np.array([1], np.int64)})
    expected = run(model, X)
    passes.lower_to_opset_17(model)
    assert model.graph.opset_imports[""] == 17
    assert "axes" not in model.graph.initializers
    assert np.array_equal(run(model, X), expected)


def test_splits_and_pads_are_lowered() -> None:
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["p"]),
        helper.make_node("Split", ["p", "parts"], ["y", "rest"], axis=0),
    ]
    constants = {"pads": np.array([0, 0, 2, 1], np.int64), "parts": np.array([3, 1], np.int64)}
    model = model_of(nodes, constants, out_shape=(3, 4))
    expected = run(model, X)
    passes.lower_to_opset_17(model)
    onnx.checker.check_model(ir.to_proto(model))
    assert np.array_equal(run(model, X), expected)


def test_resizing_is_lowered_where_it_means_the_same() -> None:
    sizes = {"sizes": np.array([2, 3, 8, 6])}

    def resize(**attributes: object) -> onnx.NodeProto:
        return helper.make_node(
            "Resize", ["x", "", "", "sizes"], ["y"], mode="linear", **attributes
        )

    plain = resize(antialias=0, keep_aspect_ratio_policy="stretch")
    model = model_of([plain], sizes, (2, 3, 4, 5), (2, 3, 8, 6))
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    before = run(model, x)
    passes.lower_to_opset_17(model)
    lowered = ir.to_proto(model)
    onnx.checker.check_model(lowered, full_check=True)
    assert np.array_equal(run(model, x), before)
    smoothed = model_of([resize(antialias=1)], sizes, (2, 3, 4, 5), (2, 3, 8, 6))
    with pytest.raises(ExportError, match="Resize"):
        passes.lower_to_opset_17(smoothed)


def test_what_opset_17_cannot_express_is_named() -> None:
    model = model_of([helper.make_node("Mish", ["x"], ["y"], name="act")])
    with pytest.raises(ExportError, match=r"Mish \(node act\) has no equivalent in opset 17"):
        passes.lower_to_opset_17(model)
    computed = [
        helper.make_node("Shape", ["x"], ["axes"], start=1),
        helper.make_node("ReduceMean", ["x", "axes"], ["y"], name="mean"),
    ]
    with pytest.raises(ExportError, match=r"ReduceMean \(node mean\) computes its axes"):
        passes.lower_to_opset_17(model_of(computed))


def test_weight_transposes_are_stored_and_shared() -> None:
    nodes = [
        helper.make_node("Transpose", ["w"], ["t0"], perm=[1, 0]),
        helper.make_node("Transpose", ["w"], ["t1"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t0"], ["a"]),
        helper.make_node("MatMul", ["x", "t1"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    weight = np.arange(12, dtype=np.float32).reshape(4, 3)
    model = model_of(nodes, {"w": weight})
    passes.fold_weight_transposes(model)
    assert list(model.graph.initializers) == ["w.T"]
    assert [node.op_type for node in model.graph] == ["MatMul", "MatMul", "Add"]
    assert np.allclose(run(model, X), 2 * X @ weight.T)


def test_pads_that_add_nothing_are_dropped_also_at_the_output() -> None:
    nodes = [
        helper.make_node("Pad", ["x", "none"], ["p"]),
        helper.make_node("Relu", ["p"], ["r"]),
        helper.make_node("Pad", ["r", "some"], ["y"]),
    ]
    constants = {"none": np.zeros(4, np.int64), "some": np.array([0, 0, 1, 0], np.int64)}
    model = model_of(nodes, constants)
    passes.drop_empty_pads(model)
    assert [node.op_type for node in model.graph] == ["Relu", "Pad"]
    assert run(model, X).shape == (3, 3)


def test_symbolic_dimensions_are_renamed_within_expressions() -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], shape=("s1", "(s1 + s10)//2"))
    passes.rename_dimensions(model, {"s1": "batch"})
    assert model.graph.inputs[0].shape == ir.Shape(["batch", "(batch + s10)//2"])
