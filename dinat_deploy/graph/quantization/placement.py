"""Where a float32 graph is quantized: at products with constant weights, and at what is asked for
beside them."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from dinat_deploy.errors import ConversionError
from dinat_deploy.graph import schema
from dinat_deploy.graph.functions import op_nodes
from dinat_deploy.graph.islands import FLOAT, data_nodes
from dinat_deploy.graph.precision import check_convertible
from dinat_deploy.graph.quantization.records import Pair, Placement, Site
from dinat_deploy.graph.quantization.rules import Rule, is_product, output_axis

# Between a product and the sum that it is added in: biases, layer scales, normalizations that fold.
_POINTWISE = frozenset({"Add", "BatchNormalization", "Div", "Mul", "Reshape", "Sub", "Transpose"})


def place(
    model: ir.Model, rules: Iterable[Rule], *, residual: bool = False, attention: bool = False
) -> Placement:
    """Decide where a float32 graph is quantized. The graph is unchanged.

    Args:
        rules: as of :func:`~dinat_deploy.graph.quantization.rules.rules`.
        residual: quantize the shortcut of every sum of a shortcut and a quantized product; see
            :func:`residual_pairs`.
        attention: quantize the packed queries, keys and values that neighborhood attention reads.
            What it returns is quantized for the product that reads it.

    Raises:
        ConversionError: the graph is not purely float32, is quantized already, or has nodes of
            equal names.
    """
    check_convertible(model)
    rules = list(rules)
    data = data_nodes(model.graph)
    _check_names(data)
    sites, skipped = [], {}
    for node in data:
        if not is_product(node):
            continue
        verdicts = (rule.verdict(node) for rule in rules)
        verdict = next((found for found in verdicts if found is not None), None)
        if verdict is None or verdict.quantize:
            sites.append(_site(node))
        else:
            skipped[str(node.name)] = verdict.reason
    pairs = attention_pairs(model) if attention else []
    if residual:
        pairs += residual_pairs(model.graph, sites)
    order = {str(node.name): number for number, node in enumerate(data)}
    pairs.sort(key=lambda pair: order[pair.readers[0]])
    return Placement(sites=sites, pairs=pairs, skipped=skipped)


def attention_pairs(model: ir.Model) -> list[Pair]:
    """A pair in front of every neighborhood attention node with packed inputs."""
    found = []
    for node in op_nodes(model):
        packed = node.inputs[0]
        if node.op_type == schema.PACKED and packed is not None:
            reason = "queries, keys and values of neighborhood attention"
            found.append(Pair(str(packed.name), (str(node.name),), reason))
    return found


def residual_pairs(graph: ir.Graph, sites: Iterable[Site]) -> list[Pair]:
    """A pair on the shortcut of every residual sum.

    Of the two tensors that a sum adds, one comes straight from a quantized product, and stays as it
    is: TensorRT adds the other in the epilogue of that product's kernel, and does so on integers if
    the other one, the shortcut, is quantized. So do pytorch-quantization's ResNet
    (``quantize_residual``) and ModelOpt (``build_non_residual_input_map``). If both come from
    products, the later one in the graph is the one whose kernel adds.
    """
    products = {site.node: number for number, site in enumerate(sites)}
    found = []
    for node in graph:
        if node.op_type != "Add" or node.domain not in ("", "ai.onnx"):
            continue
        terms = [value for value in node.inputs if value is not None and _is_computed(value)]
        if len(terms) != 2 or terms[0] is terms[1]:
            continue
        numbers = [products.get(str(_product(value, node)), -1) for value in terms]
        if max(numbers) < 0:
            continue
        shortcut = terms[1 - numbers.index(max(numbers))]
        found.append(Pair(str(shortcut.name), (str(node.name),), "shortcut of a residual sum"))
    return found


def _product(value: ir.Value, reader: ir.Node) -> str | None:
    """Name of the product that a tensor comes from through nodes that a kernel's epilogue can do,
    if nothing but ``reader`` reads it on the way."""
    while (node := value.producer()) is not None:
        if len(value.uses()) != 1 or value.is_graph_output():
            return None
        if is_product(node):
            return str(node.name)
        sources = [v for v in node.inputs if v is not None and _is_computed(v)]
        if node.op_type not in _POINTWISE or len(sources) != 1:
            return None
        value = sources[0]
    return None


def _is_computed(value: ir.Value) -> bool:
    return value.dtype == FLOAT and not value.is_initializer()


def _site(node: ir.Node) -> Site:
    activation, weight = node.inputs[0], node.inputs[1]
    assert activation is not None and weight is not None
    return Site(
        node=str(node.name),
        op_type=node.op_type,
        activation=str(activation.name),
        weight=str(weight.name),
        axis=output_axis(node),
    )


def _check_names(nodes: Iterable[ir.Node]) -> None:
    """Nodes are told apart by their names."""
    seen: set[str] = set()
    for node in nodes:
        if not node.name or node.name in seen:
            raise ConversionError(
                f"A node of type {node.op_type} has "
                + (f"the name {node.name} of another." if node.name else "no name."),
                "Give every node a name of its own.",
            )
        seen.add(node.name)
