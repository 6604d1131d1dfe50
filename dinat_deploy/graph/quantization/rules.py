"""Which products of a graph are quantized, and why others are not.

Each rule is a class that looks at one node and gives a verdict, or None. The first verdict counts;
a product with constant weights on which no rule has one is quantized. To add a rule, write a class
with a method ``verdict`` and put it into the list that :func:`rules` gives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

import onnx_ir as ir

from dinat_deploy.graph import schema
from dinat_deploy.graph.formats import QuantizedFormat
from dinat_deploy.graph.islands import FLOAT, Head

_STANDARD = ("", "ai.onnx")
# Operators with a product inside. Those with constant weights can be quantized.
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
PRODUCTS = frozenset({*WEIGHTED, "Attention", "DeformConv", "Einsum", "GRU", "LSTM", "RNN"})
# NVIDIA's kernels for float8 convolutions take at least so many channels, as ModelOpt has it.
_LEAST_FP8_CHANNELS = 16


@dataclass(frozen=True)
class Verdict:
    """Whether a product is quantized, and why."""

    quantize: bool
    reason: str


class Rule(Protocol):
    """An opinion on products."""

    def verdict(self, node: ir.Node) -> Verdict | None:
        """On this node, or None. All nodes that :func:`is_product` are asked about."""
        ...


def is_product(node: ir.Node) -> bool:
    """Whether a node multiplies tensors with each other and sums up."""
    if node.domain == schema.DOMAIN:
        return node.op_type in schema.OP_TYPES
    return node.domain in _STANDARD and node.op_type in PRODUCTS


class ConstantWeights:
    """Only products with an initializer as their second factor, one output channel per entry of an
    axis of it, can be quantized: the scales of activations are for whole tensors."""

    def verdict(self, node: ir.Node) -> Verdict | None:
        reason = self._reason(node)
        return Verdict(False, reason) if reason else None

    def _reason(self, node: ir.Node) -> str | None:
        if node.domain == schema.DOMAIN:
            return "neighborhood attention: both factors of its products are computed"
        if node.op_type not in WEIGHTED:
            return f"{node.op_type}: there is no quantized kernel for it"
        first, second = node.inputs[0], node.inputs[1]
        assert first is not None and second is not None
        if not is_constant(second):
            if is_constant(first):
                return "its weights are the first factor"
            return "the other factor is computed too"
        shape = second.const_value.shape.numpy() if second.const_value is not None else ()
        if node.op_type == "MatMul" and len(shape) > 2:
            return f"its weights are {math.prod(shape[:-2])} matrices, with columns of their own"
        if math.prod(shape) == 0:
            return "its weights are empty"
        return None


class Excluded:
    """Products that the user leaves out, by patterns such as ``levels.3.*``."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = patterns

    def verdict(self, node: ir.Node) -> Verdict | None:
        pattern = _matching(node, self._patterns)
        return Verdict(False, f"asked for ({pattern})") if pattern else None


class Included:
    """Products that the user wants whatever the rules after this one say, by patterns."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = patterns

    def verdict(self, node: ir.Node) -> Verdict | None:
        pattern = _matching(node, self._patterns)
        return Verdict(True, f"asked for ({pattern})") if pattern else None


class OutputHead:
    """The last product before an output, whose results are compared with each other."""

    def __init__(self, graph: ir.Graph) -> None:
        self._head = Head(graph)

    def verdict(self, node: ir.Node) -> Verdict | None:
        reason = self._head.reason(node)
        return Verdict(False, reason) if reason else None


class Vector:
    """Products of a matrix and a vector: as long as the weights take to read, which integers do
    not shorten by as much as the Q/DQ nodes cost (ModelOpt leaves them out too)."""

    def verdict(self, node: ir.Node) -> Verdict | None:
        if node.op_type not in ("Gemm", "MatMul"):
            return None
        weight = node.inputs[1]
        assert weight is not None and weight.const_value is not None
        shape = weight.const_value.shape.numpy()
        if len(shape) == 1 or shape[output_axis(node)] == 1:
            return Verdict(False, "a product of a matrix and a vector: it has 1 output column")
        if _rows(node) == 1:
            return Verdict(False, "a product of a vector and a matrix: its input has 1 row")
        return None


class FewChannels:
    """Convolutions with few channels, for which there is no float8 kernel."""

    def verdict(self, node: ir.Node) -> Verdict | None:
        if node.op_type not in ("Conv", "ConvTranspose"):
            return None
        weight = node.inputs[1]
        assert weight is not None and weight.const_value is not None
        least = min(weight.const_value.shape.numpy()[:2])
        if least >= _LEAST_FP8_CHANNELS:
            return None
        return Verdict(
            False,
            f"{least} channels are too few for float8 convolutions, which take "
            f"{_LEAST_FP8_CHANNELS} or more",
        )


def rules(
    model: ir.Model,
    form: QuantizedFormat,
    *,
    exclude: Sequence[str] = (),
    include: Sequence[str] = (),
    head: bool = False,
) -> list[Rule]:
    """All rules for a float32 graph, in the order in which they are asked.

    Args:
        exclude: patterns of names of nodes that are not to be quantized.
        include: patterns of names of nodes that are to be, even if they are the head, products
            with a vector or have few channels. ``exclude`` goes before it.
        head: quantize the last product before an output as well.
    """
    found: list[Rule] = [ConstantWeights(), Excluded(exclude), Included(include)]
    if not head:
        found.append(OutputHead(model.graph))
    found.append(Vector())
    if form.precision == "fp8":
        found.append(FewChannels())
    return found


def is_constant(value: ir.Value) -> bool:
    """Whether it is a float32 weight that no caller can replace."""
    return value.is_initializer() and not value.is_graph_input() and value.dtype == FLOAT


def output_axis(node: ir.Node) -> int:
    """Axis of a product's weights (its second input) that counts the output channels."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm" and node.attributes.get_int("transB"):
        return 0
    return 1


def _rows(node: ir.Node) -> int | None:
    """Rows of the first factor, over all its leading dimensions; None if they are dynamic."""
    first = node.inputs[0]
    assert first is not None
    if first.shape is None:
        return None
    sizes = list(first.shape)
    if node.op_type == "Gemm" and node.attributes.get_int("transA"):
        sizes.reverse()
    rows = [size for size in sizes[:-1] if isinstance(size, int)]
    return math.prod(rows) if len(rows) == len(sizes) - 1 else None


def _matching(node: ir.Node, patterns: Sequence[str]) -> str | None:
    return next((p for p in patterns if fnmatchcase(str(node.name), p)), None)
