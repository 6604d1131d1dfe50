"""Small ONNX files for tests of sessions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, helper

FLOAT = TensorProto.FLOAT
Sizes = Sequence[int | str]


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[tuple[str, int, Sizes]],
    outputs: Sequence[tuple[str, int, Sizes]],
) -> Path:
    """Write a model of some nodes; inputs and outputs are (name, type, shape)."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(*entry) for entry in inputs],
        [helper.make_tensor_value_info(*entry) for entry in outputs],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def square_model(path: Path, shape: Sizes = ("batch", 4)) -> Path:
    """y = x * x + x, whose product is the tensor ``product``."""
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["product"], name="mul"),
        helper.make_node("Add", ["product", "x"], ["y"], name="add"),
    ]
    return save(path, nodes, [("x", FLOAT, shape)], [("y", FLOAT, shape)])


def nonzero_model(path: Path) -> Path:
    """Positions of what is not zero, and the input doubled."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["positions"], name="nonzero"),
        helper.make_node("Add", ["x", "x"], ["twice"], name="add"),
    ]
    outputs = [("positions", TensorProto.INT64, [1, "count"]), ("twice", FLOAT, ["n"])]
    return save(path, nodes, [("x", FLOAT, ["n"])], outputs)


def identity_model(path: Path, element: int, shape: Sizes = (2, 3)) -> Path:
    """y = x in some type."""
    node = helper.make_node("Identity", ["x"], ["y"], name="identity")
    return save(path, [node], [("x", element, shape)], [("y", element, shape)])


def shift_model(path: Path) -> Path:
    """y = x + shift, where ``shift`` is a vector of int64."""
    nodes = [
        helper.make_node("Cast", ["shift"], ["as_float"], name="cast", to=FLOAT),
        helper.make_node("Add", ["x", "as_float"], ["y"], name="add"),
    ]
    inputs = [("x", FLOAT, ["n", 2]), ("shift", TensorProto.INT64, [2])]
    return save(path, nodes, inputs, [("y", FLOAT, ["n", 2])])


def sum_model(path: Path) -> Path:
    """y = a + b, which have batch sizes of their own."""
    node = helper.make_node("Add", ["a", "b"], ["y"], name="add")
    inputs = [("a", FLOAT, ["n", 4]), ("b", FLOAT, ["m", 4])]
    return save(path, [node], inputs, [("y", FLOAT, ["k", 4])])
