"""Passes that turn the exporter's graph into the one that is shipped.

Each pass does one thing to an :class:`onnx_ir.Model` in place. :func:`simplify` runs them in order;
:mod:`dinat_deploy.graph.functions` attaches the operator's body afterwards, because passes of other
tools inline or drop functions.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer

from dinat_deploy.errors import ExportError
from dinat_deploy.graph import shape_arithmetic

_SCOPES = "pkg.torch.onnx.name_scopes"
TRANSPOSED_SUFFIX = ".T"
# Bytes of a constant that is folded into another: a segmenter's pooling matrix at 2560x640.
_LARGEST_FOLDED = 1 << 19
# What opset 18 added to Resize, and the values that mean what opset 17 does.
_RESIZE_18 = {"antialias": 0, "keep_aspect_ratio_policy": "stretch"}


def simplify(
    model: ir.Model, module_paths: Iterable[str], parameters: Iterable[str] = ()
) -> dict[str, str]:
    """Fold, prune and name; afterwards static shapes leave no shape arithmetic behind.

    Args:
        model: a graph straight from the exporter.
        module_paths: modules whose outputs are to be called by the module's path.
        parameters: initializers that stay as they are: a file can be read back into a PyTorch
            model, and its weights are checked by their digest.

    Returns:
        For every such module its output tensor in the graph (the same name), in order.
    """
    fold_weight_transposes(model)
    kept = frozenset(parameters)

    def should_fold(node: ir.Node) -> bool | None:
        reads = any(value is not None and value.name in kept for value in node.inputs)
        return False if reads else None

    optimizer.fold_constants(model, input_size_limit=_LARGEST_FOLDED, should_fold=should_fold)
    shape_arithmetic.fix_reshapes(model)
    shape_arithmetic.drop_detours(model)
    for cleanup in (
        common.RemoveUnusedNodesPass(),
        common.CommonSubexpressionEliminationPass(),
        common.IdentityEliminationPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.RemoveUnusedNodesPass(),
    ):
        cleanup(model)
    drop_empty_pads(model)
    taps = name_by_module(model, list(module_paths))
    common.RemoveUnusedOpsetsPass()(model)
    # The inference of onnx stops at nothing here: the operator's outputs have their shapes from
    # PyTorch, and quantization tools need the rest (MatMul outputs) as well.
    common.ShapeInferencePass(check_type=True, strict_mode=False, data_prop=True)(model)
    return taps


def fold_weight_transposes(model: ir.Model) -> None:
    """Replace ``Transpose(weight)`` by a weight stored transposed, named ``<weight>.T``."""
    graph = model.graph
    for node in list(graph):
        weight = node.inputs[0] if node.inputs else None
        if node.op_type != "Transpose" or weight is None or weight.const_value is None:
            continue
        tensor = weight.const_value
        if len(tensor.shape) != 2 or tuple(node.attributes.get_ints("perm", (1, 0))) != (1, 0):
            continue
        shape = ir.Shape(reversed(tensor.numpy().shape))
        # Lazy, so that large weights are copied one at a time while the file is written.
        stored = ir.LazyTensor(_transposed(tensor), dtype=tensor.dtype, shape=shape)
        stored.name = f"{weight.name}{TRANSPOSED_SUFFIX}"
        value = graph.initializers.get(stored.name)
        if value is None:
            value = ir.Value(
                name=stored.name,
                shape=shape,
                type=ir.TensorType(tensor.dtype),
                const_value=stored,
            )
            graph.register_initializer(value)
        node.outputs[0].replace_all_uses_with(value)
        graph.remove(node, safe=True)
    _drop_unused_initializers(graph)


def _transposed(tensor: ir.TensorProtocol) -> Callable[[], ir.TensorProtocol]:
    return lambda: ir.tensor(np.ascontiguousarray(tensor.numpy().T))


def _drop_unused_initializers(graph: ir.Graph) -> None:
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def drop_empty_pads(model: ir.Model) -> None:
    """Remove Pad nodes that add nothing."""
    for node in list(model.graph):
        if node.op_type != "Pad":
            continue
        data, pads = node.inputs[0], node.inputs[1]
        if data is None or pads is None or pads.const_value is None:
            continue
        if not np.any(pads.const_value.numpy()):
            _replace(node, data)
    _drop_unused_initializers(model.graph)


def _replace(node: ir.Node, value: ir.Value) -> None:
    """Take a node with one output out of the graph, its users reading ``value`` instead."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    node.outputs[0].replace_all_uses_with(value, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def module_path(node: ir.Node) -> str:
    """Path of the PyTorch module that a node came from, "" if unknown."""
    scopes = node.metadata_props.get(_SCOPES)
    if not scopes:
        return ""
    # The list ends with the name of the traced operation itself.
    paths = [str(scope) for scope in ast.literal_eval(scopes)[:-1]]
    # Arithmetic on sizes belongs to no module; the exporter gives it a scope with an underscore.
    return paths[-1] if paths and not paths[-1].startswith("_") else ""


def _within(path: str, module: str) -> bool:
    return path == module or path.startswith(module + ".")


def name_by_module(model: ir.Model, module_paths: list[str]) -> dict[str, str]:
    """Name nodes and tensors after the modules they came from.

    A node becomes ``<module path>/<op type>``, its output the same (with a number where that is
    taken). The output of each module in ``module_paths`` is called by the module's path.

    Returns:
        module path -> tensor name, for the modules that have an output of their own.
    """
    graph = model.graph
    taps: dict[str, str] = {}
    for module in module_paths:
        inside = {node for node in graph if _within(module_path(node), module)}
        leaving = [
            value
            for node in graph
            if node in inside
            for value in node.outputs
            if value.is_graph_output() or any(use.node not in inside for use in value.uses())
        ]
        if leaving and not leaving[-1].is_graph_output():
            leaving[-1].name = module
        if leaving:
            taps[module] = str(leaving[-1].name)

    fixed = {*graph.initializers, *taps.values()}
    fixed |= {str(value.name) for value in (*graph.inputs, *graph.outputs)}
    count: Counter[str] = Counter()
    for node in graph:
        stem = "/".join(part for part in (module_path(node), node.op_type) if part)
        number = count[stem]
        count[stem] += 1
        node.name = f"{stem}_{number}" if number else stem
        for position, value in enumerate(node.outputs):
            if value.name not in fixed:
                value.name = f"{node.name}:{position}"
        _name_constants(graph, node)
    return taps


def _name_constants(graph: ir.Graph, node: ir.Node) -> None:
    """Call the exporter's anonymous constants after the first node that reads them."""
    for position, value in enumerate(node.inputs):
        if value is None or not value.is_initializer():
            continue
        if re.fullmatch(r"val_\d+", value.name or ""):
            del graph.initializers[str(value.name)]
            value.name = f"{node.name}:constant{position}"
            graph.register_initializer(value)


def rename_dimensions(model: ir.Model, names: Mapping[str, str]) -> None:
    """Rename symbolic dimensions everywhere, also within expressions such as ``(s1+3)//4``."""
    if not names:
        return
    pattern = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in names))

    def renamed(value: ir.Value) -> None:
        if value.shape is None:
            return
        dims = [
            pattern.sub(lambda found: names[found[0]], str(dim.value))
            if isinstance(dim, ir.SymbolicDim) and dim.value is not None
            else dim
            for dim in value.shape
        ]
        value.shape = ir.Shape(dims)

    for value in model.graph.inputs:
        renamed(value)
    for node in model.graph:
        for value in node.outputs:
            renamed(value)


def lower_to_opset_17(model: ir.Model) -> None:
    """Rewrite an opset 18 graph for opset 17.

    Raises:
        ExportError: a node uses what opset 17 cannot express.
    """
    for node in list(model.graph):
        if node.domain not in ("", "ai.onnx"):
            continue
        schema = onnx.defs.get_schema(node.op_type, 18)
        if schema.since_version < 18:
            continue
        if node.op_type.startswith("Reduce"):
            _axes_to_attribute(node)
        elif node.op_type == "Split" and len(node.inputs) == 2:
            node.attributes.pop("num_outputs", None)
        elif node.op_type == "Pad" and len(node.inputs) <= 3:
            continue
        elif node.op_type == "Resize" and _resizes_as_before(node):
            for name in _RESIZE_18:
                node.attributes.pop(name, None)
        else:
            raise ExportError(
                f"{node.op_type} (node {node.name}) has no equivalent in opset 17.",
                "Export with --opset 18 or later.",
            )
    model.graph.opset_imports[""] = 17
    _drop_unused_initializers(model.graph)


def _resizes_as_before(node: ir.Node) -> bool:
    """Whether a Resize uses nothing that opset 18 added."""
    given = {name: node.attributes[name].value for name in _RESIZE_18 if name in node.attributes}
    return "axes" not in node.attributes and all(_RESIZE_18[n] == v for n, v in given.items())


def _axes_to_attribute(node: ir.Node) -> None:
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    if axes is None:
        return
    if axes.const_value is None:
        raise ExportError(
            f"{node.op_type} (node {node.name}) computes its axes, which opset 17 cannot.",
            "Export with --opset 18 or later.",
        )
    values = [int(axis) for axis in axes.const_value.numpy().flatten()]
    node.resize_inputs(1)
    node.attributes["axes"] = ir.AttrInt64s("axes", values)
    node.attributes.pop("noop_with_empty_axes", None)
