"""Arithmetic on sizes is shortened without changing what is computed."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from dinat_deploy.graph import shape_arithmetic
from tests.graph.op_models import run_model


def exported(shape: list[int | str], target: list[int | str]) -> ir.Model:
    """``y = reshape(x, (batch, 6, ...))`` as the exporter writes it: the batch read off ``x``,
    squeezed to a number, made a list again and put before the other sizes."""
    nodes = [
        helper.make_node("Shape", ["x"], ["batch"], start=0, end=1),
        helper.make_node("Squeeze", ["batch"], ["number"]),
        helper.make_node("Reshape", ["number", "list"], ["listed"]),
        helper.make_node("Concat", ["listed", "rest"], ["sizes"], axis=0),
        helper.make_node("Reshape", ["x", "sizes"], ["y"], allowzero=1),
    ]
    constants = {"list": np.array([-1]), "rest": np.array([6, -1])}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, target)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
        value_info=[
            helper.make_tensor_value_info("batch", TensorProto.INT64, [1]),
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return ir.from_proto(model)


@pytest.mark.parametrize("batch", [1, 5])
def test_reshapes_with_one_dynamic_size_get_a_constant(batch: int) -> None:
    model = exported(["batch", 2, 3, 4], ["batch", 6, 4])
    shape_arithmetic.fix_reshapes(model)
    reshape = model.graph.node(4)
    assert reshape.inputs[1].const_value.numpy().tolist() == [-1, 6, 4]
    x = np.arange(batch * 24, dtype=np.float32).reshape(batch, 2, 3, 4)
    found = run_model(ir.to_proto(model), x=x)
    assert np.array_equal(found, x.reshape(batch, 6, 4))


def test_reshapes_with_two_dynamic_sizes_are_left_alone() -> None:
    model = exported(["batch", 2, 3, "width"], ["batch", 6, "width"])
    before = ir.to_proto(model).SerializeToString()
    shape_arithmetic.fix_reshapes(model)
    assert ir.to_proto(model).SerializeToString() == before


def test_a_size_is_not_made_a_number_and_a_list_again() -> None:
    model = exported(["batch", 2, 3, "width"], ["batch", 6, "width"])
    shape_arithmetic.drop_detours(model)
    concat = next(node for node in model.graph if node.op_type == "Concat")
    assert concat.inputs[0].name == "batch"
    x = np.arange(2 * 6 * 7, dtype=np.float32).reshape(2, 2, 3, 7)
    found = run_model(ir.to_proto(model), x=x)
    assert np.array_equal(found, x.reshape(2, 6, 7))
    onnx.checker.check_model(ir.to_proto(model))
