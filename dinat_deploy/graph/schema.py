"""The ONNX operators of the project: names, attributes, schemas.

``dinat.NeighborhoodAttention2D`` reads the packed output of a qkv Linear and writes what the output
projection reads, so that no Transpose is needed around it.
``dinat.NeighborhoodAttention2DSplit`` takes query, key and value separately, for models in which
they do not come from one Linear. Both are defined by :mod:`dinat_deploy.ops.windows`; the node
specification is in ``docs/operator.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx

DOMAIN = "dinat"
OPSET_VERSION = 1
PACKED = "NeighborhoodAttention2D"
SPLIT = "NeighborhoodAttention2DSplit"
OP_TYPES = (PACKED, SPLIT)

# TensorRT's parser looks a plugin up under these two. With them on the node, the plugin wins over
# the function body in TensorRT 10.7 and later; without, the body would shadow it.
PLUGIN_NAMESPACE = "dinat"
PLUGIN_VERSION = "1"


def node_attributes(
    *,
    num_heads: int,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
    head_dim: int,
    size: tuple[int, int] | None,
) -> dict[str, Any]:
    """Attributes of a node, all that the function body and the plugin read.

    Args:
        size: (height, width) of the map in tokens when they are static, else None. They let the
            body fold to constants although the batch is dynamic.
    """
    attributes: dict[str, Any] = {
        "num_heads": num_heads,
        "kernel_size": list(kernel_size),
        "dilation": list(dilation),
        "scale": scale,
        "head_dim": head_dim,
    }
    if size is not None:
        attributes["height"], attributes["width"] = size
    attributes["plugin_namespace"] = PLUGIN_NAMESPACE
    attributes["plugin_version"] = PLUGIN_VERSION
    return attributes


def schemas() -> list[onnx.defs.OpSchema]:
    """Schemas of both operators, for the exporter, the checker and shape inference."""
    schema = onnx.defs.OpSchema
    kinds = schema.AttrType
    optional = schema.FormalParameterOption.Optional
    rpb = schema.FormalParameter(
        "rpb", "T", "relative positional bias [heads, 2*kh-1, 2*kw-1]", param_option=optional
    )
    attributes = [
        schema.Attribute("num_heads", kinds.INT, "number of heads", required=True),
        schema.Attribute("kernel_size", kinds.INTS, "window (height, width)", required=True),
        schema.Attribute("dilation", kinds.INTS, "dilation (height, width)", required=True),
        schema.Attribute("scale", kinds.FLOAT, "factor on query x key", required=True),
        schema.Attribute("head_dim", kinds.INT, "channels of a head", required=True),
        schema.Attribute("height", kinds.INT, "rows of the map if static", required=False),
        schema.Attribute("width", kinds.INT, "columns of the map if static", required=False),
        schema.Attribute("plugin_namespace", kinds.STRING, "TensorRT creator", required=False),
        schema.Attribute("plugin_version", kinds.STRING, "TensorRT creator", required=False),
    ]
    types = [("T", [f"tensor({t})" for t in ("float", "float16", "bfloat16")], "floating point")]
    inputs = {
        PACKED: [("qkv", "packed [B, H, W, 3*heads*dim]")],
        SPLIT: [(name, "[B, H, W, heads, dim]") for name in ("query", "key", "value")],
    }
    return [
        schema(
            op_type,
            DOMAIN,
            OPSET_VERSION,
            doc="2-D (dilated) neighborhood attention with relative positional bias",
            inputs=[schema.FormalParameter(name, "T", doc) for name, doc in listed] + [rpb],
            outputs=[schema.FormalParameter("output", "T", "attended values")],
            type_constraints=types,
            attributes=attributes,
        )
        for op_type, listed in inputs.items()
    ]


def register() -> None:
    """Make the schemas known to this process's ``onnx`` (idempotent)."""
    for schema in schemas():
        if not onnx.defs.has(schema.name, schema.domain):
            onnx.defs.register_schema(schema)
