"""One-node ONNX models of the operator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from dinat_deploy.graph import functions, schema


def op_model(
    shape: Sequence[int],
    *,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
    rpb: np.ndarray | None = None,
    layout: str = schema.PACKED,
    dynamic: str = "none",
    opset: int = 20,
    element_type: int = TensorProto.FLOAT,
    with_body: bool = True,
) -> onnx.ModelProto:
    """A model of one operator node.

    Args:
        shape: of query, key and value, ``[B, H, W, heads, dim]``.
        dynamic: ``none``, ``batch``, or ``size`` (batch, height and width).
    """
    batch, height, width, heads, dim = shape
    rows: int | str = batch if dynamic == "none" else "batch"
    size: tuple[int | str, int | str] = (height, width)
    if dynamic == "size":
        size = ("height", "width")
    tail = [3 * heads * dim] if layout == schema.PACKED else [heads, dim]
    out_tail = [heads * dim] if layout == schema.PACKED else [heads, dim]
    names = ["qkv"] if layout == schema.PACKED else ["query", "key", "value"]
    attributes = schema.node_attributes(
        num_heads=heads,
        kernel_size=kernel_size,
        dilation=dilation,
        scale=scale,
        head_dim=dim,
        size=None if dynamic == "size" else (height, width),
    )
    node = helper.make_node(
        layout, [*names, *(["rpb"] if rpb is not None else [])], ["output"], "na",
        domain=schema.DOMAIN, **attributes,
    )  # fmt: skip
    kind = helper.tensor_dtype_to_np_dtype(element_type)
    graph = helper.make_graph(
        [node],
        "op",
        [helper.make_tensor_value_info(name, element_type, [rows, *size, *tail]) for name in names],
        [helper.make_tensor_value_info("output", element_type, [rows, *size, *out_tail])],
        [] if rpb is None else [numpy_helper.from_array(rpb.astype(kind), "rpb")],
    )
    model = helper.make_model(
        graph,
        opset_imports=[
            helper.make_opsetid("", opset),
            helper.make_opsetid(schema.DOMAIN, schema.OPSET_VERSION),
        ],
        ir_version=helper.OP_SET_ID_VERSION_MAP["ai.onnx", opset],
    )
    if not with_body:
        return model
    converted = ir.from_proto(model)
    functions.attach_body(converted)
    return ir.to_proto(converted)


def run_model(model: onnx.ModelProto, **feeds: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)[0]
