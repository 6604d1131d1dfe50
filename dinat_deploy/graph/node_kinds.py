"""What the standard operators do, as far as a choice of types depends on it."""

from __future__ import annotations

import onnx_ir as ir

STANDARD = ("", "ai.onnx")
NORMALIZATIONS = frozenset(
    {
        "BatchNormalization",
        "GroupNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "LpNormalization",
        "MeanVarianceNormalization",
        "RMSNormalization",
    }
)
SUMS = frozenset(
    {
        "AveragePool",
        "CumSum",
        "Exp",
        "GlobalAveragePool",
        "Log",
        "LogSoftmax",
        "Pow",
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceMean",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
        "Softmax",
        "Softplus",
        "Sqrt",
    }
)
PRODUCTS = frozenset({"Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"})
MOVES = frozenset(
    {
        "Concat",
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "Pad",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)
# They read the shape of whatever they are given.
TYPELESS = frozenset({"Shape", "Size"})


def is_move(node: ir.Node) -> bool:
    """Whether a node only moves values, and computes nothing."""
    return node.op_type in MOVES and node.domain in STANDARD
