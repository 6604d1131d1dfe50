"""The straightforward lowering, for comparison: gather the k*k neighbours of every query."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dinat_deploy.ops.windows import AxisWindow, axis_members


def gather_model(
    size: int, heads: int, dim: int, kernel: int, dilation: int, rpb: np.ndarray
) -> onnx.ModelProto:
    """A static model of the operator on ``[1, size, size, 3*heads*dim]``.

    Keys and values are gathered to ``[1, heads, tokens, k*k, dim]`` by a constant index table;
    scores and sums are batched matrix products.
    """
    axis = axis_members(size, AxisWindow(kernel, dilation))
    member = axis.start[:, None] + np.arange(kernel)
    near = axis.group[:, None] + member * dilation
    offset = member - axis.place[:, None] + kernel - 1
    tokens, window = size * size, kernel * kernel
    index = near[:, None, :, None] * size + near[None, :, None, :]
    table = offset[:, None, :, None] * (2 * kernel - 1) + offset[None, :, None, :]
    constants = {
        "split_shape": np.array([1, tokens, 3, heads, dim]),
        "parts": np.array([1, 1, 1]),
        "token_shape": np.array([1, heads, tokens, dim]),
        "column_shape": np.array([1, heads, tokens, dim, 1]),
        "score_shape": np.array([1, heads, tokens, 1, window]),
        "index": index.reshape(tokens, window),
        "scale": np.float32(dim**-0.5),
        "bias": rpb.reshape(heads, -1)[:, table.reshape(tokens, window)][None],
        "flat_scores": np.array([1, heads, tokens, window]),
        "out_shape": np.array([1, size, size, heads * dim]),
    }
    make = helper.make_node
    nodes = [
        make("Reshape", ["qkv", "split_shape"], ["split"]),
        make("Transpose", ["split"], ["first"], perm=[2, 0, 3, 1, 4]),
        make("Split", ["first", "parts"], ["q5", "k5", "v5"], axis=0),
        make("Reshape", ["k5", "token_shape"], ["k"]),
        make("Reshape", ["v5", "token_shape"], ["v"]),
        make("Gather", ["k", "index"], ["near_k"], axis=2),
        make("Gather", ["v", "index"], ["near_v"], axis=2),
        make("Reshape", ["q5", "column_shape"], ["q"]),
        make("Mul", ["q", "scale"], ["scaled"]),
        make("MatMul", ["near_k", "scaled"], ["column"]),
        make("Reshape", ["column", "flat_scores"], ["product"]),
        make("Add", ["product", "bias"], ["scores"]),
        make("Softmax", ["scores"], ["weights"], axis=-1),
        make("Reshape", ["weights", "score_shape"], ["row"]),
        make("MatMul", ["row", "near_v"], ["attended"]),
        make("Reshape", ["attended", "token_shape"], ["heads_first"]),
        make("Transpose", ["heads_first"], ["heads_last"], perm=[0, 2, 1, 3]),
        make("Reshape", ["heads_last", "out_shape"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "gather",
        [helper.make_tensor_value_info("qkv", TensorProto.FLOAT, [1, size, size, 3 * heads * dim])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, size, size, heads * dim])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
