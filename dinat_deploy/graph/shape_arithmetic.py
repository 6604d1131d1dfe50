"""Passes that shorten the arithmetic on sizes which the exporter writes for dynamic axes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def fix_reshapes(model: ir.Model) -> None:
    """Give every Reshape to a shape with one dynamic size, such as the batch, a constant with -1
    for it instead of a computed shape. So no shape arithmetic is left for it, which ONNX's shape
    inference would not follow everywhere."""
    graph = model.graph
    for node in list(graph):
        if node.op_type != "Reshape" or node.domain not in ("", "ai.onnx"):
            continue
        asked, shape = node.inputs[1], node.outputs[0].shape
        if asked is None or asked.const_value is not None or shape is None:
            continue
        sizes = [size if isinstance(size, int) else -1 for size in shape]
        if sizes.count(-1) > 1 or 0 in sizes:
            continue
        name = f"shape:{'x'.join(map(str, sizes))}"
        value = graph.initializers.get(name)
        if value is None:
            tensor = ir.tensor(np.array(sizes, np.int64), name=name)
            value = ir.Value(
                name=name,
                shape=ir.Shape([len(sizes)]),
                type=ir.TensorType(tensor.dtype),
                const_value=tensor,
            )
            graph.register_initializer(value)
        node.replace_input_with(1, value)
        node.attributes["allowzero"] = ir.AttrInt64("allowzero", 0)


def drop_detours(model: ir.Model) -> None:
    """Remove a Squeeze of one size to a number where a Reshape makes a list of it again."""
    for node in list(model.graph):
        if node.op_type != "Reshape":
            continue
        number, asked = node.inputs[0], node.inputs[1]
        before = number.producer() if number is not None else None
        if before is None or before.op_type != "Squeeze" or asked is None:
            continue
        source = before.inputs[0]
        lists = asked.const_value is not None and asked.const_value.numpy().tolist() == [-1]
        if lists and source is not None and source.shape == ir.Shape([1]):
            node.outputs[0].replace_all_uses_with(source)
            model.graph.remove(node, safe=True)
