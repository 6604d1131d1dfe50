"""Small float32 graphs for the tests of quantization."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

node = helper.make_node
Array = np.ndarray


def graph(
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, Array],
    *,
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Sequence[str] = ("y",),
    opset: int = 20,
) -> ir.Model:
    """A model with all shapes inferred."""
    made = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()],
    )
    proto = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True))


def check(model: ir.Model) -> None:
    """The file is valid, in its types too."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)


def run(model: ir.Model, feeds: Mapping[str, Array], *, exact: bool = False) -> dict[str, Array]:
    """In ONNX Runtime; node by node as written if ``exact``, or with its integer kernels."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if exact:
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def upernet(rng: np.random.Generator) -> ir.Model:
    """Two levels of features, pooled, fused and classified as UPerNet does: 3x3 and 1x1
    convolutions, a top-down sum, Concat and Resize; BatchNormalization and Relu behind."""
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, Array] = {"sizes": np.array([1, 8, 8, 8], np.int64)}

    def conv(source: str, name: str, out: int, inside: int, side: int = 1) -> str:
        weights[f"{name}.weight"] = rng.standard_normal((out, inside, side, side)).astype("f") / 4
        pads = [side // 2] * 4
        nodes.append(node("Conv", [source, f"{name}.weight"], [f"{name}:0"], name, pads=pads))
        norm = [f"{name}.{part}" for part in ("scale", "bias", "mean", "var")]
        weights.update({key: np.ones(out, np.float32) for key in norm})
        nodes.append(node("BatchNormalization", [f"{name}:0", *norm], [f"{name}:1"], f"{name}.bn"))
        nodes.append(node("Relu", [f"{name}:1"], [f"{name}:2"], f"{name}.relu"))
        return f"{name}:2"

    def up(source: str, name: str) -> str:
        nodes.append(node("Resize", [source, "", "", "sizes"], [name], name, mode="linear"))
        return name

    nodes.append(node("GlobalAveragePool", ["low"], ["pooled"], "pool"))
    pooled = conv("pooled", "ppm", 8, 16)
    nodes.append(node("Expand", [pooled, "four"], ["spread"], "spread"))
    weights["four"] = np.array([1, 8, 4, 4], np.int64)
    nodes.append(node("Concat", ["low", "spread"], ["pyramid"], "pyramid", axis=1))
    top = conv("pyramid", "bottleneck", 8, 24, 3)
    side = conv("high", "lateral", 8, 8)
    nodes.append(node("Add", [side, up(top, "upsampled")], ["sum"], "sum"))
    fused = conv("sum", "fpn", 8, 8, 3)
    nodes.append(node("Concat", [fused, "upsampled"], ["all"], "all", axis=1))
    last = conv("all", "fusion", 8, 16, 3)
    weights["classes.weight"] = rng.standard_normal((5, 8, 1, 1)).astype(np.float32)
    weights["classes.bias"] = np.zeros(5, np.float32)
    nodes.append(node("Conv", [last, "classes.weight", "classes.bias"], ["small"], "classes"))
    weights["full"] = np.array([1, 5, 32, 32], np.int64)
    nodes.append(node("Resize", ["small", "", "", "full"], ["y"], "to_image", mode="linear"))
    return graph(nodes, weights, inputs={"high": [1, 8, 8, 8], "low": [1, 16, 4, 4]})
