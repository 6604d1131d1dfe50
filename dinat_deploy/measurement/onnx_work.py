"""Multiply-accumulates and bytes of any ONNX file, counted from its operators and their shapes.

Neighborhood attention nodes count as the operator they are, whatever body the file brings for them.
Other functions are inlined first, so that their operators count as often as they are called.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, external_data_helper, helper, inliner, shape_inference

from dinat_deploy.errors import BundleError
from dinat_deploy.graph.reading import load_structure
from dinat_deploy.graph.schema import DOMAIN, OP_TYPES, PACKED
from dinat_deploy.measurement.records import Work

_STANDARD = ("", "ai.onnx")
# Operator -> which of its inputs are the two factors.
_CONVOLUTIONS = {"Conv": (0, 1), "ConvInteger": (0, 1), "QLinearConv": (0, 3)}
_PRODUCTS = {"MatMul": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3)}
_COUNTED = {*_CONVOLUTIONS, *_PRODUCTS, "ConvTranspose", "Gemm", "Einsum"}
# Operators with products inside that are not counted here.
_UNCOUNTED = {"Attention", "DeformConv", "GRU", "LSTM", "RNN"}
# An initializer with more values is replaced by its shape: what shapes are computed from is small.
_SMALL = 1024
# Types of index and shape tables, which are no weights.
_TABLES = {TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL, TensorProto.STRING}


def count_onnx(path: str | Path, shapes: Mapping[str, Sequence[int]] | None = None) -> Work:
    """Count an ONNX file without reading weights that lie in files of their own.

    Counted are convolutions, matrix products and neighborhood attention. ``attention_macs`` are
    the two products of every neighborhood attention node, and the matrix products of which
    neither factor is a weight. What depends on weights alone is computed when a model is loaded,
    and does not count.

    Args:
        shapes: input name -> actual shape, for inputs with dynamic dimensions.

    Raises:
        BundleError: the file cannot be read, a shape cannot be inferred, or an operator's
            products cannot be counted. There is no partial count.
    """
    counted = _counted(Path(path), shapes or {})
    return Work(
        macs=sum(node.macs for node in counted.nodes),
        attention_macs=sum(node.macs for node in counted.nodes if node.of_activations),
        weight_bytes=counted.weight_bytes,
        io_bytes=counted.io_bytes,
        counted_from="onnx",
    )


def macs_by_node(
    path: str | Path, shapes: Mapping[str, Sequence[int]] | None = None
) -> dict[str, int]:
    """Multiply-accumulates of each node that has any, by its name, in the order of the graph.

    Counted as by :func:`count_onnx`, which gives their sum. Nodes of inlined functions have the
    names that inlining gives them.

    Raises:
        BundleError: as of :func:`count_onnx`.
    """
    found: dict[str, int] = {}
    for node in _counted(Path(path), shapes or {}).nodes:
        if node.macs:
            found[node.name] = found.get(node.name, 0) + node.macs
    return found


@dataclass(frozen=True)
class _Node:
    name: str
    macs: int
    of_activations: bool


@dataclass(frozen=True)
class _Counted:
    nodes: list[_Node]
    weight_bytes: int
    io_bytes: int


def _counted(path: Path, shapes: Mapping[str, Sequence[int]]) -> _Counted:
    model = load_structure(path)
    # Bodies of our operator must neither be counted nor be inlined.
    ours = [f for f in model.functions if f.domain == DOMAIN and f.name in OP_TYPES]
    for function in ours:
        model.functions.remove(function)
    if model.functions:
        model = inliner.inline_local_functions(model)
    weights, weight_bytes = _take_out_weights(model.graph, path.parent)
    attention = _take_out_attention(model.graph)
    _set_shapes(model.graph, weights, shapes)
    try:
        model = shape_inference.infer_shapes(model, data_prop=True)
    except (shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        raise BundleError(
            f"The shapes in {path} cannot be inferred: {str(error).splitlines()[0].rstrip('.')}.",
            "Check the shapes of the inputs.",
        ) from None
    known = _Tensors(model.graph)
    constant = _constants(model.graph.node, weights)
    nodes = []
    for node in model.graph.node:
        if constant.issuperset(node.output):
            continue
        replaced = attention.get(node.output[0])
        try:
            count = (
                _count(node, known) if replaced is None else _neighborhood(replaced, node, known)
            )
        except (LookupError, TypeError, ValueError) as error:
            raise BundleError(
                f"How much node {node.name!r} of type {node.op_type} in {path} multiplies is not "
                f"known: {error}.",
                "Export the model again.",
            ) from None
        of_activations = constant.isdisjoint(_factors(node)) and node.op_type not in _CONVOLUTIONS
        nodes.append(_Node(node.name, count, replaced is not None or of_activations))
    ends = [info.name for info in model.graph.input if info.name not in weights]
    ends += [info.name for info in model.graph.output]
    return _Counted(nodes, weight_bytes, sum(known.bytes(name) for name in ends))


def _take_out_attention(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """Replace our nodes by standard ones with the same output shape; output name -> old node."""
    taken: dict[str, onnx.NodeProto] = {}
    numbers = {"dinat/starts": 0, "dinat/axes": 3}
    for node in graph.node:
        if node.domain != DOMAIN or node.op_type not in OP_TYPES:
            continue
        old = onnx.NodeProto()
        old.CopyFrom(node)
        taken[node.output[0]] = old
        if node.op_type == PACKED:
            channels = _attribute(node, "num_heads") * _attribute(node, "head_dim")
            ends = f"dinat/ends{channels}"
            numbers[ends] = channels
            inputs = [node.input[0], "dinat/starts", ends, "dinat/axes"]
            new = helper.make_node("Slice", inputs, [node.output[0]], node.name)
        else:
            new = helper.make_node("Identity", [node.input[0]], [node.output[0]], node.name)
        node.CopyFrom(new)
    graph.initializer.extend(
        helper.make_tensor(name, TensorProto.INT64, [1], [value]) for name, value in numbers.items()
    )
    return taken


def _take_out_weights(graph: onnx.GraphProto, folder: Path) -> tuple[set[str], int]:
    """Leave of large initializers only their shapes.

    Args:
        folder: of the file. Small tables in a file beside it are read, since shapes may be
            computed from them, if that file is there.

    Returns:
        Names of all initializers, and the bytes of those that hold weights and are used; index
        and shape tables are none.
    """
    used = {name for node in _all_nodes(graph.node) for name in node.input}
    names = {tensor.name for tensor in graph.initializer}
    listed = {info.name for info in graph.input}
    size = sum(
        _bytes(tensor.data_type, tensor.dims)
        for tensor in graph.initializer
        if tensor.name in used and tensor.data_type not in _TABLES
    )
    kept = []
    for tensor in graph.initializer:
        if math.prod(tensor.dims) <= _SMALL and _at_hand(tensor, folder):
            kept.append(tensor)
        elif tensor.name not in listed:
            info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            graph.input.append(info)
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return names, size


def _at_hand(tensor: onnx.TensorProto, folder: Path) -> bool:
    """Bring the values of an initializer into the model; whether that was possible."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return True
    try:
        external_data_helper.load_external_data_for_tensor(tensor, str(folder))
    except (OSError, ValueError, onnx.checker.ValidationError):
        return False
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]
    return True


def _set_shapes(
    graph: onnx.GraphProto, weights: set[str], shapes: Mapping[str, Sequence[int]]
) -> None:
    """Fix the inputs' shapes and forget all others, which may hold names of dimensions."""
    inputs = {info.name: info for info in graph.input if info.name not in weights}
    for name, shape in shapes.items():
        if name not in inputs:
            raise BundleError(
                f"The model has no input {name!r}; it has {', '.join(map(repr, inputs))}.",
                "Check the names of the inputs.",
            )
        kind = inputs[name].type.tensor_type
        declared = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
        fits = len(declared) == len(shape) and all(
            want in (None, have) for want, have in zip(declared, shape, strict=True)
        )
        if kind.HasField("shape") and not fits:
            wanted = " x ".join(str(dim.dim_value or dim.dim_param) for dim in kind.shape.dim)
            raise BundleError(
                f"Input {name!r} has shape {wanted}, not {' x '.join(map(str, shape))}.",
                "Give a shape that the model takes.",
            )
        inputs[name].CopyFrom(helper.make_tensor_value_info(name, kind.elem_type, list(shape)))
    del graph.value_info[:]
    for info in graph.output:
        info.type.tensor_type.ClearField("shape")


class _Tensors:
    """Shapes and types of a graph's tensors."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        infos = (*graph.value_info, *graph.input, *graph.output)
        self._infos = {info.name: info.type.tensor_type for info in infos}
        self._stored = {tensor.name: tensor for tensor in graph.initializer}

    def shape(self, name: str) -> list[int]:
        """Raise BundleError if it is not known."""
        if name in self._stored:
            return list(self._stored[name].dims)
        kind = self._infos.get(name)
        if kind is not None and kind.HasField("shape"):
            sizes = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim]
            if -1 not in sizes:
                return sizes
        raise BundleError(
            f"The shape of tensor {name!r} cannot be inferred, and so the products that it takes "
            "part in cannot be counted.",
            "Give the shapes of all inputs.",
        )

    def bytes(self, name: str) -> int:
        return _bytes(self._infos[name].elem_type, self.shape(name))


def _constants(nodes: Iterable[onnx.NodeProto], weights: set[str]) -> set[str]:
    """Tensors that depend on weights alone."""
    constant = set(weights)
    for node in nodes:
        inputs = [name for name in node.input if name]
        random = node.op_type.startswith(("Random", "Bernoulli", "Multinomial"))
        # A graph inside the node may read tensors that are not among its inputs.
        closed = not any(True for attribute in node.attribute if attribute.HasField("g"))
        if closed and not random and constant.issuperset(inputs):
            constant.update(node.output)
    return constant


def _all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterable[onnx.NodeProto]:
    """The nodes and those of the graphs inside them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _all_nodes(attribute.g.node)


def _factors(node: onnx.NodeProto) -> list[str]:
    positions = {**_CONVOLUTIONS, **_PRODUCTS}.get(node.op_type, (0, 1))
    return [node.input[position] for position in positions if position < len(node.input)]


def _count(node: onnx.NodeProto, known: _Tensors) -> int:
    """Multiply-accumulates of a node of the standard."""
    kind = node.op_type
    if node.domain not in _STANDARD or kind in _UNCOUNTED:
        raise BundleError(
            f"How much operator {'.'.join(filter(None, (node.domain, kind)))} ({node.name!r}) "
            "multiplies is not known."
        )
    inside = {inner.op_type for inner in _all_nodes([node])} - {kind}
    if inside & (_COUNTED | _UNCOUNTED):
        raise BundleError(
            f"How often {kind} ({node.name!r}) runs the products inside it is not known."
        )
    if kind not in _COUNTED:
        return 0
    if kind == "Einsum":
        return _einsum(node, known)
    first, second = (known.shape(name) for name in _factors(node))
    outputs = math.prod(known.shape(node.output[0]))
    if kind in _CONVOLUTIONS:  # weights [out, in / groups, ...]
        return outputs * math.prod(second[1:])
    if kind == "ConvTranspose":  # weights [in, out / groups, ...]
        return math.prod(first) * math.prod(second[1:])
    if kind == "Gemm" and _attribute(node, "transA", 0):
        return outputs * first[0]
    return outputs * first[-1]


def _einsum(node: onnx.NodeProto, known: _Tensors) -> int:
    equation = helper.get_node_attr_value(node, "equation").decode().replace(" ", "")
    terms = equation.split("->")[0].split(",")
    if "." in equation or len(terms) > 2:
        raise BundleError(f"The products of Einsum {equation!r} ({node.name!r}) are not known.")
    if len(terms) == 1:
        return 0
    sizes: dict[str, int] = {}
    for term, name in zip(terms, node.input, strict=True):
        for label, size in zip(term, known.shape(name), strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    return math.prod(sizes.values())


def _neighborhood(old: onnx.NodeProto, new: onnx.NodeProto, known: _Tensors) -> int:
    """Query times key and weights times value: every output element is k*k products, twice."""
    window = math.prod(helper.get_node_attr_value(old, "kernel_size"))
    return 2 * math.prod(known.shape(new.output[0])) * window


def _attribute(node: onnx.NodeProto, name: str, default: int | None = None) -> int:
    for attribute in node.attribute:
        if attribute.name == name:
            return int(attribute.i)
    if default is None:
        raise BundleError(
            f"Node {node.name!r} of type {node.op_type} has no attribute {name}.",
            "Export the model again.",
        )
    return default


def _bytes(element_type: int, shape: Iterable[int]) -> int:
    """Bytes of a tensor; 4-bit types take half a byte each."""
    count = math.prod(shape)
    if TensorProto.DataType.Name(element_type).endswith(("INT4", "FLOAT4E2M1")):
        return (count + 1) // 2
    return count * int(helper.tensor_dtype_to_np_dtype(element_type).itemsize)
