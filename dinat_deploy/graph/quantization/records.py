"""What can be quantized in a graph, and what is to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# Tensor -> the largest absolute value that its scale must reach; larger ones are clipped.
Ranges = Mapping[str, float]


@dataclass(frozen=True)
class Site:
    """A product with constant weights whose factors are quantized: one Q/DQ pair on the activation
    (shared by all that read it), int8 or fp8 weights with a DequantizeLinear.

    Attributes:
        node: name of the Conv, MatMul or Gemm.
        op_type: which of them.
        activation: name of the tensor in the float32 graph that it reads.
        weight: name of its initializer in the float32 graph.
        axis: of the weights, with a scale for each of its entries: the output channels.
    """

    node: str
    op_type: str
    activation: str
    weight: str
    axis: int


@dataclass(frozen=True)
class Pair:
    """A Q/DQ pair on a tensor that no product reads, such as a residual sum's input.

    Attributes:
        tensor: name in the float32 graph.
        readers: nodes that read the dequantized tensor; others read it as it was.
        reason: why it is there.
    """

    tensor: str
    readers: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Placement:
    """Where a graph is quantized.

    Attributes:
        sites: in the order of the graph.
        pairs: further Q/DQ pairs.
        skipped: products and others that a rule left alone, by name, with the reason.
    """

    sites: list[Site]
    pairs: list[Pair] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def tensors(self) -> list[str]:
        """Tensors that need a range, each once, in the order of the graph."""
        named = [site.activation for site in self.sites] + [pair.tensor for pair in self.pairs]
        return list(dict.fromkeys(named))
