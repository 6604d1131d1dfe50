"""Nodes of a float32 graph once more in lower precision, simulated.

A copy computes in float32 with factors that were quantized and dequantized (int8, fp8), or with all
that it reads and writes rounded (fp16, bf16). That gives what a GPU does, whose products of short
numbers are exact and are summed up in 32 bits. ONNX Runtime's own kernels for int8 are kept out of
it: on some processors they saturate in the middle of a sum. So the weights are float32 as well.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from dinat_deploy.graph.formats import Format, QuantizedFormat, rounded
from dinat_deploy.graph.islands import FLOAT
from dinat_deploy.graph.quantization.records import Pair, Placement, Ranges, Site
from dinat_deploy.graph.quantization.weights import channel_scales, quantized, scales

FloatArray = npt.NDArray[np.float32]


class Branch:
    """Nodes that are in no graph yet.

    Args:
        name: the tensors that the nodes write get their names from it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.nodes: list[ir.Node] = []

    def add(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        like: ir.Value,
        attributes: Sequence[ir.Attr] = (),
        *,
        domain: str = "",
        dtype: ir.DataType = FLOAT,
    ) -> ir.Value:
        """Add a node with one output, which has the shape of another tensor."""
        node = ir.Node(domain, op_type, inputs, attributes, name=f"{self._name}/{len(self.nodes)}")
        result = node.outputs[0]
        result.name, result.shape, result.type = node.name, like.shape, ir.TensorType(dtype)
        self.nodes.append(node)
        return result

    def again(self, node: ir.Node, replaced: dict[ir.Value, ir.Value] | None = None) -> ir.Value:
        """Add a node that does what another does.

        Args:
            replaced: what that one reads -> what the new one reads.
        """
        inputs = [(replaced or {}).get(v, v) if v is not None else None for v in node.inputs]
        attributes = list(node.attributes.values())
        return self.add(node.op_type, inputs, node.outputs[0], attributes, domain=node.domain)

    def round(self, value: ir.Value, form: Format) -> ir.Value:
        """Add Casts to a format and back."""
        to = [ir.AttrInt64("to", int(form.data_type))]
        low = self.add("Cast", [value], value, to, dtype=form.data_type)
        return self.add("Cast", [low], value, [ir.AttrInt64("to", int(FLOAT))])


@dataclass(frozen=True)
class Copy:
    """What computes a tensor once more.

    Attributes:
        name: of the node, or of the tensor if nothing but the tensor is quantized.
        exact: the float32 tensor.
        node: that writes it, if it is done again.
        readers: inputs (node, position) that may read the copy instead; None for all.
        branch: the nodes of the copy.
        result: the tensor that they write.
    """

    name: str
    exact: ir.Value
    node: ir.Node | None
    readers: list[tuple[ir.Node, int]] | None
    branch: Branch
    result: ir.Value


def quantized_copies(
    model: ir.Model, placement: Placement, ranges: Ranges, form: QuantizedFormat
) -> Iterator[Copy]:
    """Copies of all sites of a placement in order, then of the tensors of its pairs.

    The graph may be changed between one copy and the next, if names stay.

    Raises:
        ConversionError: a range or a weight has no scale.
    """
    constants = _Quantizing(model.graph, ranges, form)
    nodes = {str(node.name): node for node in model.graph}
    for site in placement.sites:
        yield _quantized_site(nodes[site.node], site, constants)
    for pair in placement.pairs:
        yield _quantized_pair([nodes[name] for name in pair.readers], pair, constants)


def rounded_copies(model: ir.Model, nodes: Collection[ir.Node], form: Format) -> Iterator[Copy]:
    """Copies of some nodes of the main graph that read and write rounded tensors, in order.

    The graph may be changed between one copy and the next, if names stay.
    """
    constants = _Constants(model.graph)
    for node in [node for node in model.graph if node in nodes]:
        branch = Branch(f"{node.name}/low")
        replaced: dict[ir.Value, ir.Value] = {}
        for value in node.inputs:
            if value is None or value.dtype != FLOAT or value in replaced:
                continue
            if value.is_initializer():
                replaced[value] = constants.changed(
                    value, "low", lambda array: rounded(array, form).astype(np.float32)
                )
            else:
                replaced[value] = branch.round(value, form)
        result = branch.round(branch.again(node, replaced), form)
        yield Copy(str(node.name), node.outputs[0], node, None, branch, result)


def _quantized_site(node: ir.Node, site: Site, constants: _Quantizing) -> Copy:
    branch = Branch(f"{site.node}/low")
    activation, weight = node.inputs[0], node.inputs[1]
    assert activation is not None and weight is not None
    replaced = {
        activation: constants.fake_quantized(branch, activation, site.activation),
        weight: constants.weight(weight, site.axis),
    }
    result = branch.again(node, replaced)
    return Copy(site.node, node.outputs[0], node, None, branch, result)


def _quantized_pair(readers: Sequence[ir.Node], pair: Pair, constants: _Quantizing) -> Copy:
    branch = Branch(f"{pair.tensor}/low")
    uses = [
        (node, position, value)
        for node in readers
        for position, value in enumerate(node.inputs)
        if value is not None and value.name == pair.tensor
    ]
    value = uses[0][2]
    result = constants.fake_quantized(branch, value, pair.tensor)
    return Copy(pair.tensor, value, None, [use[:2] for use in uses], branch, result)


class _Constants:
    """New initializers, each made once."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph

    def changed(
        self, value: ir.Value, mark: str, change: Callable[[FloatArray], FloatArray]
    ) -> ir.Value:
        """A changed copy of an initializer, computed while the file is written.

        Args:
            mark: what is put behind its name; it tells this change from others.
        """
        name, exact = f"{value.name}/{mark}", value.const_value
        assert exact is not None
        shape = ir.Shape(exact.shape.numpy())
        lazy = ir.LazyTensor(
            lambda: ir.tensor(change(exact.numpy())), dtype=FLOAT, shape=shape, name=name
        )
        return self.initializer(name, lazy)

    def initializer(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        if name not in self._graph.initializers:
            tensor.name = name
            made = ir.Value(
                name=name,
                shape=ir.Shape(tensor.shape.numpy()),
                type=ir.TensorType(tensor.dtype),
                const_value=tensor,
            )
            self._graph.register_initializer(made)
        return self._graph.initializers[name]


class _Quantizing(_Constants):
    """Quantized weights, and scales of activations."""

    def __init__(self, graph: ir.Graph, ranges: Ranges, form: QuantizedFormat) -> None:
        super().__init__(graph)
        self._ranges, self._form = ranges, form

    def weight(self, value: ir.Value, axis: int) -> ir.Value:
        """A weight as DequantizeLinear gives it, with a scale for each entry of an axis."""
        assert value.const_value is not None
        scale = channel_scales(value.const_value, axis, self._form, FLOAT).values

        def change(array: FloatArray) -> FloatArray:
            shape = [-1 if position == axis else 1 for position in range(array.ndim)]
            stored = quantized(array, scale, axis, self._form)
            return stored.astype(np.float32) * scale.astype(np.float32).reshape(shape)

        return self.changed(value, f"low/{axis}", change)

    def fake_quantized(self, branch: Branch, value: ir.Value, tensor: str) -> ir.Value:
        """Put QuantizeLinear and DequantizeLinear behind a tensor.

        Args:
            tensor: its name among the ranges.
        """
        kind = self._form.data_type
        scale = ir.Tensor(scales(self._ranges[tensor], self._form, FLOAT).values, dtype=FLOAT)
        zero = ir.Tensor(np.zeros((), kind.numpy()), dtype=kind)
        constants = (
            self.initializer(f"{tensor}/scale", scale),
            self.initializer(f"zero_point/{self._form.precision}", zero),
        )
        low = branch.add("QuantizeLinear", [value, *constants], value, dtype=kind)
        return branch.add("DequantizeLinear", [low, *constants], value)
