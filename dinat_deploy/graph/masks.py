"""Where minus infinity in a graph is a mask, and not an overflow.

A mask of an attention is minus infinity where a query must not look, and is added to the scores
before the softmax. It begins with a constant, which the model chooses with a Where or holds whole.
From there it is moved and added, until a softmax makes zeros of it. Any other minus infinity was
computed, out of numbers that were too large.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from dinat_deploy.graph.expressions import Builder, Expr
from dinat_deploy.graph.node_kinds import STANDARD, is_move

_FLOAT = ir.DataType.FLOAT


def masked_tensors(graph: ir.Graph) -> set[ir.Value]:
    """Tensors that may hold minus infinity as a mask: constants that do, what moves or selects
    their values, and sums with these. ``graph`` is in the order of computation."""
    found: set[ir.Value] = set()
    for node in graph:
        if is_move(node) or (node.op_type in ("Add", "Where") and node.domain in STANDARD):
            read = [value for value in node.inputs if value is not None]
            found.update(value for value in read if _holds_minus_infinity(value))
            if not found.isdisjoint(read):
                found.update(value for value in node.outputs if value.dtype == _FLOAT)
    return found


def _holds_minus_infinity(value: ir.Value) -> bool:
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.dtype != _FLOAT:
        return False
    return bool(np.isneginf(tensor.numpy()).any())


def without_mask(b: Builder, value: ir.Value, masked: Collection[ir.Value]) -> Expr:
    """A tensor with zeros in place of a mask, and of nothing else.

    What moves values computes none: each minus infinity in it is in one of the tensors that it
    reads. A sum computes, and may overflow: its mask is only where that of a summand is.

    Args:
        masked: as of :func:`masked_tensors`.
    """
    result = b.wrap(value)
    if value not in masked:
        return result
    node = value.producer()
    adds = node is not None and node.op_type == "Add"
    read = node.inputs if node is not None and adds else [value]
    for source in read:
        if source is not None and source in masked:
            result = b.Where(b.Equal(b.wrap(source), -math.inf), 0.0, result)
    return result
