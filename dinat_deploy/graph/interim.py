"""Operators that stand in the graph between the exporter and the passes, and in no file.

The exporter writes what PyTorch called; :mod:`dinat_deploy.graph.fusion` makes the project's two
operators of what it can, :mod:`dinat_deploy.graph.expansion` standard operators of the rest. All
tensors are as in :mod:`dinat_deploy.ops.functional` (``GENERAL``, heads-last) and
:mod:`dinat_deploy.ops.unfused` (``SCORES`` and ``COMBINE``, heads-first).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import onnx_ir as ir

from dinat_deploy.graph.schema import DOMAIN, OPSET_VERSION
from dinat_deploy.ops.windows import AxisWindow

GENERAL = "GeneralNeighborhoodAttention"
SCORES = "NeighborhoodScores"
COMBINE = "NeighborhoodCombine"


_INPUTS = {
    GENERAL: ("query", "key", "value"),
    SCORES: ("query", "key"),
    COMBINE: ("weights", "value"),
}


def register() -> None:
    """Make the operators known to this process's ``onnx``, as the exporter asks (idempotent)."""
    schema = onnx.defs.OpSchema
    lists = ("kernel_size", "dilation", "stride", "is_causal")
    for op_type, names in _INPUTS.items():
        if onnx.defs.has(op_type, DOMAIN):
            continue
        inputs = [schema.FormalParameter(name, "T") for name in names]
        if op_type != COMBINE:
            optional = schema.FormalParameterOption.Optional
            inputs.append(schema.FormalParameter("rpb", "T", param_option=optional))
        attributes = [
            schema.Attribute(name, schema.AttrType.INTS, "one per axis", required=True)
            for name in lists
        ]
        if op_type == GENERAL:
            attributes.append(
                schema.Attribute("scale", schema.AttrType.FLOAT, "on the product", required=True)
            )
        types = [f"tensor({name})" for name in ("float", "double", "float16", "bfloat16")]
        onnx.defs.register_schema(
            schema(
                op_type,
                DOMAIN,
                OPSET_VERSION,
                inputs=inputs,
                outputs=[schema.FormalParameter("output", "T")],
                type_constraints=[("T", types, "floating point")],
                attributes=attributes,
            )
        )


def window_attributes(
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    stride: Sequence[int],
    is_causal: Sequence[bool],
) -> dict[str, Any]:
    """The windows as attributes of a node."""
    return {
        "kernel_size": list(kernel_size),
        "dilation": list(dilation),
        "stride": list(stride),
        "is_causal": [int(causal) for causal in is_causal],
    }


def windows(node: ir.Node) -> tuple[AxisWindow, ...]:
    """The windows that a node's attributes say, one per axis."""
    lists = [
        list(node.attributes[name].as_ints())
        for name in ("kernel_size", "dilation", "stride", "is_causal")
    ]
    return tuple(AxisWindow(k, d, s, bool(c)) for k, d, s, c in zip(*lists, strict=True))


def is_plain(axes: Sequence[AxisWindow]) -> bool:
    """Whether no axis is strided or causal."""
    return all(axis.stride == 1 and not axis.is_causal for axis in axes)


def nodes(model: ir.Model, *op_types: str) -> list[ir.Node]:
    """Nodes of these operators in the main graph, in order."""
    return [node for node in model.graph if node.domain == DOMAIN and node.op_type in op_types]
