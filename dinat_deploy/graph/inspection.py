"""What an ONNX file holds, as plain data."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from dinat_deploy.graph.reading import load_structure
from dinat_deploy.graph.schema import DOMAIN, OP_TYPES


@dataclass(frozen=True)
class TensorInfo:
    """An input or output; unnamed dynamic dimensions are ``?``."""

    name: str
    type: str
    shape: list[int | str]


@dataclass(frozen=True)
class OpNode:
    """A neighborhood attention node and its attributes."""

    name: str
    op_type: str
    input_shape: list[int | str]
    has_rpb: bool
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Inspection:
    """Summary of an ONNX file.

    Attributes:
        operators: how often each operator occurs in the main graph.
        functions: functions the file brings, ``domain.name`` -> number of nodes.
        weights: for each element type the number of values and their bytes.
        op_nodes: neighborhood attention nodes in order.
    """

    path: str
    producer: str
    ir_version: int
    opsets: dict[str, int]
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    operators: dict[str, int]
    functions: dict[str, int]
    weights: dict[str, dict[str, int]]
    op_nodes: list[OpNode]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def inspect_model(path: str | Path) -> Inspection:
    """Summarise an ONNX file; raises as :func:`~.reading.load_structure`."""
    model = load_structure(Path(path))
    graph = model.graph
    shapes = {info.name: _tensor(info) for info in (*graph.value_info, *graph.input)}
    operators = Counter(_qualified(node.domain, node.op_type) for node in graph.node)
    return Inspection(
        path=str(path),
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        ir_version=model.ir_version,
        opsets={entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        inputs=[_tensor(info) for info in graph.input],
        outputs=[_tensor(info) for info in graph.output],
        operators=dict(operators.most_common()),
        functions={_qualified(f.domain, f.name): len(f.node) for f in model.functions},
        weights=_weights(graph.initializer),
        op_nodes=[
            _op_node(node, shapes)
            for node in graph.node
            if node.domain == DOMAIN and node.op_type in OP_TYPES
        ],
    )


def _qualified(domain: str, name: str) -> str:
    return name if domain in ("", "ai.onnx") else f"{domain}.{name}"


def _tensor(info: onnx.ValueInfoProto) -> TensorInfo:
    kind = info.type.tensor_type
    shape: list[int | str] = [
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?"
        for dim in kind.shape.dim
    ]
    return TensorInfo(info.name, _type_name(kind.elem_type), shape)


def _type_name(elem_type: int) -> str:
    try:
        return str(TensorProto.DataType.Name(elem_type)).lower()
    except ValueError:
        return f"type {elem_type}"


def _weights(initializers: Any) -> dict[str, dict[str, int]]:
    totals: dict[str, dict[str, int]] = {}
    for tensor in initializers:
        count = 1
        for size in tensor.dims:
            count *= size
        entry = totals.setdefault(_type_name(tensor.data_type), {"values": 0, "bytes": 0})
        entry["values"] += count
        entry["bytes"] += count * _item_size(tensor.data_type)
    return totals


def _item_size(data_type: int) -> int:
    try:
        return int(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize)
    except (KeyError, ValueError):
        return 0


def _op_node(node: onnx.NodeProto, shapes: dict[str, TensorInfo]) -> OpNode:
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    known = shapes.get(node.input[0]) if node.input else None
    return OpNode(
        name=node.name,
        op_type=node.op_type,
        input_shape=known.shape if known else [],
        has_rpb=len(node.input) in (2, 4) and bool(node.input[-1]),
        attributes={name: _plain(value) for name, value in sorted(attributes.items())},
    )


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, (int, float, str)):
        return value
    return list(value)
