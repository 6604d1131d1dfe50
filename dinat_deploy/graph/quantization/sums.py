"""Which nodes of a quantized graph must not become 16-bit: the sums of products."""

from __future__ import annotations

import onnx_ir as ir

from dinat_deploy.graph.quantization.records import Placement


class QuantizedSums:
    """A rule for :func:`dinat_deploy.graph.islands.find_islands`: quantized products, and the
    biases that are added to them, keep their float32 type.

    TensorRT-RTX (1.7) takes the type of a MatMul between DequantizeLinear nodes for the sums that
    it has not scaled yet, and for the products of both scales. In float16, sums of int8 products
    overflow beyond 65504, which two int8 vectors of length 5 can reach, and scale products around
    1e-5 are subnormal numbers. In float32 the weights' scales are exact, too, and integers are
    multiplied all the same; what follows the bias is 16-bit again.
    """

    def __init__(self, graph: ir.Graph, placement: Placement) -> None:
        names = {site.node for site in placement.sites}
        products = [node for node in graph if node.name in names]
        biases = [_bias(node) for node in products]
        self._nodes = {*products, *(node for node in biases if node is not None)}

    def reason(self, node: ir.Node) -> str | None:
        if node in self._nodes:
            return "sums of quantized products are scaled in float32"
        return None


def _bias(product: ir.Node) -> ir.Node | None:
    """The node that adds a constant to a product, if nothing else reads it."""
    result = product.outputs[0]
    readers = [use.node for use in result.uses()]
    if len(readers) != 1 or readers[0].op_type != "Add" or result.is_graph_output():
        return None
    constant = [v for v in readers[0].inputs if v is not None and v.is_initializer()]
    return readers[0] if constant else None
