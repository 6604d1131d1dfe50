"""One graph in which every site's lower precision can be turned on and off while it runs.

Each node in question becomes an ``If`` whose branch an entry of a new input chooses: the node as it
was, or its copy in lower precision. Only the chosen branch runs, so that a switch costs next to no
time, and one session measures every combination.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import onnx_ir as ir

from dinat_deploy.errors import ConversionError
from dinat_deploy.graph.expressions import Builder
from dinat_deploy.graph.formats import Format, QuantizedFormat
from dinat_deploy.graph.islands import FLOAT
from dinat_deploy.graph.precision import check_convertible
from dinat_deploy.graph.quantization.copies import (
    Branch,
    Copy,
    quantized_copies,
    rounded_copies,
)
from dinat_deploy.graph.quantization.records import Placement, Ranges

# The input with an entry for each site: 1 lowers its precision, 0 does not. It is float32, as all
# that sessions take.
SWITCHES = "switches"
# The output of the graph that compares.
ERRORS = "errors"


def add_quantization_switches(
    model: ir.Model, placement: Placement, ranges: Ranges, form: QuantizedFormat
) -> list[str]:
    """Let an input turn the quantization of every site and pair on and off, in place.

    Args:
        placement: what can be quantized in this graph.
        ranges: of the tensors that the placement names.
        form: int8 or fp8.

    Returns:
        What the entries of the input ``switches``, float32 ``[n]``, stand for: the nodes of the
        sites in order, then the tensors of the pairs.

    Raises:
        ConversionError: the graph is not float32, its opset has no Q/DQ nodes of the format, or a
            tensor has no range.
    """
    _check(model, placement, ranges, form)
    return _switched(model, quantized_copies(model, placement, ranges, form))


def add_rounding_switches(model: ir.Model, nodes: Collection[ir.Node], form: Format) -> list[str]:
    """Let an input turn the rounding of all that a node reads and writes on and off, in place.

    Args:
        nodes: of the main graph.
        form: fp16 or bf16.

    Returns:
        The names of the nodes, as the entries of the input ``switches``, float32 ``[n]``.

    Raises:
        ConversionError: the graph is not float32.
    """
    check_convertible(model)
    return _switched(model, rounded_copies(model, nodes, form))


def add_quantization_errors(
    model: ir.Model, placement: Placement, ranges: Ranges, form: QuantizedFormat
) -> list[str]:
    """Let a float32 graph tell what quantizing each site alone changes right there, in place.

    Args:
        placement, ranges, form: as of :func:`add_quantization_switches`.

    Returns:
        What the rows of the new output ``errors``, float32 ``[n, 2]``, stand for, as of
        :func:`add_quantization_switches`. A row has the sums of squares of the site's own output,
        and of what quantization changes in it.

    Raises:
        ConversionError: as of :func:`add_quantization_switches`.
    """
    _check(model, placement, ranges, form)
    return _compared(model, quantized_copies(model, placement, ranges, form))


def add_rounding_errors(model: ir.Model, nodes: Collection[ir.Node], form: Format) -> list[str]:
    """The same for nodes whose inputs and outputs are rounded.

    Args:
        nodes, form: as of :func:`add_rounding_switches`.

    Raises:
        ConversionError: the graph is not float32.
    """
    check_convertible(model)
    return _compared(model, rounded_copies(model, nodes, form))


def _check(model: ir.Model, placement: Placement, ranges: Ranges, form: QuantizedFormat) -> None:
    check_convertible(model)
    opset = model.graph.opset_imports[""]
    if opset < form.opset:
        raise ConversionError(
            f"The model is of opset {opset}, and {form.name} needs {form.opset} or later.",
            f"Export with --opset {form.opset} or later.",
        )
    for tensor in placement.tensors:
        if tensor not in ranges:
            raise ConversionError(
                f"The range of the tensor {tensor} is not recorded.", "Calibrate this model."
            )


def _switched(model: ir.Model, copies: Iterable[Copy]) -> list[str]:
    graph = model.graph
    b = Builder(graph.opset_imports[""])
    switches = ir.Value(name=SWITCHES, type=ir.TensorType(FLOAT))
    chosen = b.Cast(b.wrap(switches), to=int(ir.DataType.BOOL))
    names: list[str] = []
    for copy in copies:
        picked = b.Gather(chosen, b.constant(np.int64(len(names)))).value
        picked.type, picked.shape = ir.TensorType(ir.DataType.BOOL), ir.Shape([])
        _choose(graph, copy, picked)
        names.append(copy.name)
    switches.shape = ir.Shape([len(names)])
    graph.inputs.append(switches)
    graph.insert_before(graph[0], b.nodes)
    return names


def _choose(graph: ir.Graph, copy: Copy, picked: ir.Value) -> None:
    """Put the choice between a tensor and its copy in its place."""
    high = Branch(f"{copy.name}/exact")
    exact, node = copy.exact, copy.node
    same = high.again(node) if node is not None else high.add("Identity", [exact], exact)
    branches = [
        ir.AttrGraph(key, ir.Graph([], [result], nodes=nodes, name=f"{copy.name}/{key}"))
        for key, result, nodes in (
            ("then_branch", copy.result, copy.branch.nodes),
            ("else_branch", same, high.nodes),
        )
    ]
    made = ir.Node("", "If", [picked], branches, name=copy.name)
    result = made.outputs[0]
    result.type, result.shape = exact.type, exact.shape
    producer = exact.producer()
    if producer is None:
        graph.insert_before(graph[0], made)
    else:
        graph.insert_after(producer, made)
    if copy.readers is not None:
        result.name = f"{copy.name}/chosen"
        for reader, position in copy.readers:
            reader.replace_input_with(position, result)
    elif node is not None:
        result.name, exact.name = exact.name, f"{exact.name}/replaced"
        exact.replace_all_uses_with(result, replace_graph_outputs=True)
        graph.remove(node, safe=True)


def _compared(model: ir.Model, copies: Iterable[Copy]) -> list[str]:
    graph = model.graph
    b = Builder(graph.opset_imports[""])
    names, rows = [], []
    for copy in copies:
        exact = b.wrap(copy.exact)
        change = b.wrap(copy.result) - exact
        rows += [b.ReduceSum(x * x, keepdims=0) for x in (exact, change)]
        graph.extend(copy.branch.nodes)
        names.append(copy.name)
    errors = b.reshape(b.Concat(*(b.Unsqueeze(row, [0]) for row in rows), axis=0), -1, 2).value
    errors.name = ERRORS
    errors.type, errors.shape = ir.TensorType(FLOAT), ir.Shape([len(names), 2])
    graph.extend(b.nodes)
    graph.outputs.append(errors)
    return names
