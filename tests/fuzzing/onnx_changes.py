"""Changes to ONNX files: what a node reads, sizes, types, places of weights."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, ModelProto, TensorProto, helper

from tests.fuzzing.byte_changes import mutate_bytes
from tests.fuzzing.values import PLACES, TEXTS

_SIZES = (-1, 0, 1, 2, 5, 1000, 2**31 - 1, 2**31, 2**40, 2**62, -(2**63))
_NAMES = tuple(text for text in TEXTS if "\ud800" not in text)


def mutate_onnx(rng: Random, content: bytes) -> tuple[bytes, str]:
    """A model with one or several changes; mostly still one that protobuf can read."""
    if rng.random() < 0.25:
        return mutate_bytes(rng, content)
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        return mutate_bytes(rng, content)
    said = []
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        change = rng.choice(_CHANGES)
        change(rng, model)
        said.append(change.__name__.strip("_"))
    return model.SerializeToString(), "onnx: " + ", ".join(said)


def _external(rng: Random, model: ModelProto) -> None:
    """Weights in another file: of any name, at any place in it."""
    tensors = model.graph.initializer
    if not tensors:
        return
    outside = [tensor for tensor in tensors if tensor.external_data]
    tensor = rng.choice(outside or list(tensors))
    location = rng.choice((*PLACES, "model.onnx.data", "model.onnx", "weights.bin", ""))
    entries = {"location": location}
    for key in ("offset", "length", "checksum", "basepath"):
        if rng.random() < 0.6:
            entries[key] = str(rng.choice((*_SIZES, "", "x", "1e3", "0x10", 64, 128)))
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    tensor.data_location = TensorProto.EXTERNAL


def _weight(rng: Random, model: ModelProto) -> None:
    if not model.graph.initializer:
        return
    tensor = rng.choice(model.graph.initializer)
    choices: tuple[Callable[[], object], ...] = (
        lambda: tensor.dims.append(rng.choice(_SIZES)),
        lambda: tensor.dims.__setitem__(0, rng.choice(_SIZES)) if tensor.dims else None,
        lambda: tensor.__setattr__("data_type", rng.randrange(-1, 30)),
        lambda: tensor.__setattr__("raw_data", tensor.raw_data[: len(tensor.raw_data) // 2]),
        lambda: tensor.__setattr__("raw_data", b""),
        lambda: tensor.__setattr__("name", rng.choice(_NAMES)),
        lambda: tensor.float_data.extend([1.0, float("nan")]),
        lambda: model.graph.initializer.append(tensor),
        lambda: model.graph.initializer.remove(tensor),
    )
    rng.choice(choices)()


def _input(rng: Random, model: ModelProto) -> None:
    side = rng.choice((model.graph.input, model.graph.output, model.graph.value_info))
    if not side:
        return
    value = rng.choice(side)
    dims = value.type.tensor_type.shape.dim
    choices: tuple[Callable[[], object], ...] = (
        lambda: rng.choice(dims).__setattr__("dim_value", rng.choice(_SIZES)) if dims else None,
        lambda: rng.choice(dims).__setattr__("dim_param", rng.choice(_NAMES)) if dims else None,
        lambda: rng.choice(dims).Clear() if dims else None,
        lambda: dims.add(dim_value=3),
        lambda: value.type.Clear(),
        lambda: value.type.tensor_type.ClearField("shape"),
        lambda: value.type.tensor_type.__setattr__("elem_type", rng.randrange(0, 30)),
        lambda: value.type.sequence_type.elem_type.tensor_type.__setattr__("elem_type", 1),
        lambda: value.__setattr__("name", rng.choice(_NAMES)),
        lambda: side.append(value),
        lambda: side.remove(value),
    )
    rng.choice(choices)()


def _node(rng: Random, model: ModelProto) -> None:
    graphs = [model.graph.node, *(function.node for function in model.functions)]
    nodes = rng.choice([nodes for nodes in graphs if nodes] or [model.graph.node])
    if not nodes:
        return
    node = rng.choice(nodes)
    names = [output for each in nodes for output in each.output] or [""]
    choices: tuple[Callable[[], object], ...] = (
        lambda: nodes.remove(node),
        lambda: nodes.append(node),
        lambda: node.input.append(rng.choice(names)),
        lambda: node.input.__setitem__(0, rng.choice((*names, ""))) if node.input else None,
        lambda: node.output.__setitem__(0, rng.choice(names)) if node.output else None,
        lambda: node.ClearField("input"),
        lambda: node.ClearField("output"),
        lambda: node.__setattr__("op_type", rng.choice(("Loop", "If", "Einsum", "", "Resize"))),
        lambda: node.__setattr__(
            "domain",
            rng.choice(("dinat", "ai.onnx.ml", "x", "")),
        ),
        lambda: node.__setattr__("op_type", rng.choice(nodes).op_type),
    )
    rng.choice(choices)()


def _attention(rng: Random, model: ModelProto) -> None:
    """Attributes of the attention nodes, which the body, the plugin and the counts go by."""
    nodes = [node for node in model.graph.node if node.domain == "dinat"] or model.graph.node
    if not nodes:
        return
    node = rng.choice(nodes)
    if not node.attribute:
        return
    attribute = rng.choice(node.attribute)
    name = attribute.name
    values = (
        rng.choice(_SIZES), [rng.choice(_SIZES)] * 2, [], [3], 1.5, float("nan"), "text", b"\xff",
        [1.5], ["a"], helper.make_tensor("t", TensorProto.FLOAT, [1], [0.0]),
    )  # fmt: skip
    node.attribute.remove(attribute)
    if rng.random() < 0.8:
        value = rng.choice(values)
        if value == []:
            empty = AttributeProto(name=name, type=AttributeProto.INTS)
            node.attribute.append(empty)
        else:
            node.attribute.append(helper.make_attribute(name, value))


def _function(rng: Random, model: ModelProto) -> None:
    if not model.functions:
        return
    function = rng.choice(model.functions)
    call = onnx.NodeProto(op_type=function.name, domain=function.domain)
    call.input.extend(function.input[:1])
    call.output.append("again")
    choices: tuple[Callable[[], object], ...] = (
        lambda: model.functions.remove(function),
        lambda: model.functions.append(function),
        lambda: function.node.append(call),  # it calls itself
        lambda: function.ClearField("opset_import"),
        lambda: function.ClearField("output"),
        lambda: function.ClearField("attribute"),
        lambda: function.__setattr__("name", rng.choice(_NAMES)),
        lambda: function.__setattr__("domain", ""),
    )
    rng.choice(choices)()


def _version(rng: Random, model: ModelProto) -> None:
    choices: tuple[Callable[[], object], ...] = (
        lambda: model.__setattr__("ir_version", rng.choice((0, 1, 3, 99, 2**40, -1))),
        lambda: model.ClearField("opset_import"),
        lambda: model.opset_import.add(domain="dinat", version=2**40),
        lambda: (
            model.opset_import[0].__setattr__("version", rng.choice((0, 1, 7, 99, -5)))
            if model.opset_import
            else None
        ),
        lambda: model.__setattr__("producer_name", rng.choice(_NAMES)),
        lambda: model.metadata_props.add(key=rng.choice(_NAMES), value="x"),
    )
    rng.choice(choices)()


def _deep(rng: Random, model: ModelProto) -> None:
    """Graphs in graphs."""
    inner = onnx.GraphProto(name="deepest")
    for level in range(rng.choice((3, 40, 90))):
        graph = onnx.GraphProto(name=f"level {level}")
        node = graph.node.add(op_type="If", input=["condition"], output=[f"o{level}"])
        node.attribute.add(name="then_branch", type=AttributeProto.GRAPH, g=inner)
        node.attribute.add(name="else_branch", type=AttributeProto.GRAPH, g=inner)
        if graph.ByteSize() > 1 << 18:  # it doubles with every level
            break
        inner = graph
    model.graph.node.extend(inner.node)


_CHANGES: tuple[Callable[[Random, ModelProto], None], ...] = (
    _external, _external, _weight, _weight, _input, _input, _node, _node, _attention, _attention,
    _function, _version, _deep,
)  # fmt: skip
