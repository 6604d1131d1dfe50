"""Put new nodes where an old one stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from dinat_deploy.graph.schema import DOMAIN

Dim = int | ir.SymbolicDim


class Site:
    """The place of a node, where the nodes that replace it are collected.

    New tensors get the shape and type that they have, and new nodes the module that the old one
    came from, so that later passes know as much of them as of the others.
    """

    def __init__(self, node: ir.Node) -> None:
        self._node = node
        self._made: list[ir.Node] = []

    def node(
        self,
        op_type: str,
        *inputs: ir.Value,
        shape: ir.Shape | None,
        domain: str = "",
        **attributes: Any,
    ) -> ir.Value:
        """A node with one output, of the type of its first input."""
        node = ir.node(op_type, list(inputs), attributes or None, domain=domain)
        node.metadata_props.update(self._node.metadata_props)
        output = node.outputs[0]
        output.type = inputs[0].type
        output.shape = None if shape is None else ir.Shape(list(shape))
        self._made.append(node)
        return output

    def own(
        self, op_type: str, inputs: Sequence[ir.Value], shape: ir.Shape | None, **attributes: Any
    ) -> ir.Value:
        """A node of the project's domain."""
        return self.node(op_type, *inputs, shape=shape, domain=DOMAIN, **attributes)

    def constant(self, array: np.ndarray) -> ir.Value:
        tensor = ir.tensor(array)
        node = ir.node("Constant", [], {"value": tensor})
        output = node.outputs[0]
        output.const_value, output.type = tensor, ir.TensorType(tensor.dtype)
        output.shape = ir.Shape(array.shape)
        self._made.append(node)
        return output

    def initializer(self, tensor: ir.LazyTensor, name: str) -> ir.Value:
        """A weight of the model."""
        graph = self._node.graph
        assert isinstance(graph, ir.Graph)
        if name in graph.initializers:
            return graph.initializers[name]
        tensor.name = name
        value = ir.Value(
            name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        graph.register_initializer(value)
        return value

    def number(self, value: float, like: ir.Value) -> ir.Value:
        """A constant of one number in another tensor's type."""
        kind = np.dtype(np.float32) if like.dtype is None else like.dtype.numpy()
        return self.constant(np.array(value, kind))

    def transpose(self, value: ir.Value, order: Sequence[int]) -> ir.Value:
        shape = None if value.shape is None else ir.Shape([value.shape[axis] for axis in order])
        return self.node("Transpose", value, shape=shape, perm=list(order))

    def reshape(self, value: ir.Value, target: Sequence[int], shape: Sequence[Dim]) -> ir.Value:
        """Args:
        target: what the node is told: 0 copies a size, -1 infers one.
        shape: what comes of it.
        """
        told = self.constant(np.array(target, np.int64))
        return self.node("Reshape", value, told, shape=ir.Shape(list(shape)))

    def unsqueeze(self, value: ir.Value, axis: int) -> ir.Value:
        shape = None
        if value.shape is not None:
            dims = list(value.shape)
            shape = ir.Shape([*dims[:axis], 1, *dims[axis:]])
        return self.node("Unsqueeze", value, self.constant(np.array([axis])), shape=shape)

    def squeeze(self, value: ir.Value, *axes: int) -> ir.Value:
        shape = None
        if value.shape is not None:
            shape = ir.Shape([dim for axis, dim in enumerate(value.shape) if axis not in axes])
        return self.node("Squeeze", value, self.constant(np.array(axes)), shape=shape)

    def replace(self, output: ir.Value) -> None:
        """Put the collected nodes into the graph, ``output`` for the old node's."""
        graph = self._node.graph
        assert isinstance(graph, ir.Graph)
        ir.convenience.replace_nodes_and_values(
            graph, self._node, [self._node], self._made, [self._node.outputs[0]], [output]
        )
