"""Attaching and stripping the operator's body."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from dinat_deploy.graph import functions, schema
from tests.graph.op_models import op_model, run_model


def two_nodes(first: dict[str, object], second: dict[str, object]) -> ir.Model:
    """A model of two operators in a row, ``second`` after ``first`` and a widening MatMul."""
    models = [
        op_model(
            (1, 8, 8, 2, 4), kernel_size=(3, 3), dilation=(1, 1), scale=0.5, with_body=False, **f
        )
        for f in (first, second)
    ]
    widen = numpy_helper.from_array(np.eye(8, 24, dtype=np.float32), "widen")
    nodes = [models[0].graph.node[0], models[1].graph.node[0]]
    nodes[0].output[0], nodes[0].name = "mid", "na0"
    nodes[1].input[0], nodes[1].name = "wide", "na1"
    initializers = [widen]
    for node, model, name in ((nodes[0], models[0], "rpb0"), (nodes[1], models[1], "rpb1")):
        for tensor in model.graph.initializer:
            tensor.name = name
            node.input[1] = name
            initializers.append(tensor)
    graph = helper.make_graph(
        [nodes[0], helper.make_node("MatMul", ["mid", "widen"], ["wide"]), nodes[1]],
        "two",
        [helper.make_tensor_value_info("qkv", TensorProto.FLOAT, ["batch", 8, 8, 24])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 8, 8, 8])],
        initializers,
        value_info=[helper.make_tensor_value_info("wide", TensorProto.FLOAT, ["batch", 8, 8, 24])],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(schema.DOMAIN, 1)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=9))


RPB = {"rpb": np.random.default_rng(0).standard_normal((2, 5, 5)).astype(np.float32)}


@pytest.mark.parametrize("first", [{}, RPB])
@pytest.mark.parametrize("second", [{}, RPB])
@pytest.mark.parametrize("sizes", [("none", "none"), ("none", "size"), ("size", "size")])
def test_nodes_of_different_kinds_share_one_body(
    first: dict[str, object],
    second: dict[str, object],
    sizes: tuple[str, str],
    rng: np.random.Generator,
) -> None:
    qkv = rng.standard_normal((2, 8, 8, 24)).astype(np.float32)
    widen = np.eye(8, 24, dtype=np.float32)

    def alone(settings: dict[str, object], x: np.ndarray) -> np.ndarray:
        model = op_model(
            (1, 8, 8, 2, 4),
            kernel_size=(3, 3),
            dilation=(1, 1),
            scale=0.5,
            dynamic="batch",
            **settings,
        )
        return run_model(model, qkv=x)

    expected = alone(second, alone(first, qkv) @ widen)
    model = two_nodes({**first, "dynamic": sizes[0]}, {**second, "dynamic": sizes[1]})
    functions.attach_body(model)
    proto = ir.to_proto(model)
    assert len(proto.functions) == 1
    onnx.checker.check_model(proto, full_check=True)
    assert np.abs(run_model(proto, qkv=qkv) - expected).max() <= 1e-5


def test_stripping_leaves_the_nodes_with_what_a_plugin_needs() -> None:
    model = two_nodes(RPB, RPB)
    functions.attach_body(model)
    functions.strip_body(model)
    proto = ir.to_proto(model)
    assert not proto.functions
    schema.register()
    onnx.checker.check_model(proto)
    for node in functions.op_nodes(model):
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        assert attributes["plugin_namespace"] == schema.PLUGIN_NAMESPACE
        assert attributes["plugin_version"] == schema.PLUGIN_VERSION
        assert (attributes["height"], attributes["width"]) == (8, 8)


def test_attaching_twice_is_attaching_once() -> None:
    model = two_nodes(RPB, {})
    functions.attach_body(model)
    once = ir.to_proto(model).SerializeToString(deterministic=True)
    functions.attach_body(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == once


def test_a_model_without_the_operator_stays_as_it_is() -> None:
    proto = helper.make_model(
        helper.make_graph(
            [helper.make_node("Relu", ["x"], ["y"])],
            "plain",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        )
    )
    model = ir.from_proto(proto)
    functions.attach_body(model)
    assert not model.functions
    assert schema.DOMAIN not in model.graph.opset_imports
