"""Which nodes of a graph stay in float32 when the rest becomes 16-bit, and why.

Each rule is a class that looks at one node and gives the reason why it must stay, or None. The
first reason counts. Nodes that compute no data (sizes, constants) are left alone and not listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from dinat_deploy.graph import schema
from dinat_deploy.graph.box_islands import Boxes, SampledPlaces
from dinat_deploy.graph.formats import Format, Rounding, measure_rounding
from dinat_deploy.graph.node_kinds import (
    NORMALIZATIONS,
    PRODUCTS,
    STANDARD,
    SUMS,
    TYPELESS,
    is_move,
)
from dinat_deploy.graph.ranges import Ranges

FloatArray = npt.NDArray[np.float32]
FLOAT = ir.DataType.FLOAT
# Recorded values may come this close to the largest number; other inputs may give larger ones.
DEFAULT_MARGIN = 0.25
# Relative root mean square: a tensor of normal float16 numbers changes by about 2e-4.
LARGEST_WEIGHT_ERROR = 1e-3


class Rule(Protocol):
    """A reason to stay in float32."""

    def reason(self, node: ir.Node) -> str | None:
        """Why this node must stay, or None."""
        ...


class Requested:
    """Nodes that the user names, by patterns such as ``levels.3.*``."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = patterns

    def reason(self, node: ir.Node) -> str | None:
        for pattern in self._patterns:
            if fnmatchcase(str(node.name), pattern):
                return f"asked for ({pattern})"
        return None


class NoSuchOperator:
    """Operators that ONNX does not define for the format, or whose types are not known."""

    def __init__(self, form: Format, opset: int) -> None:
        self._form, self._opset = form, opset

    def reason(self, node: ir.Node) -> str | None:
        if node.op_type in ("Cast", "CastLike"):
            return "it converts types itself"
        if not any(value.dtype == FLOAT for value in node.outputs):
            return f"{node.op_type} compares or converts, and gives no floating-point numbers"
        types = accepted_types(node.domain, node.op_type, self._opset)
        if types is None:
            return f"{node.domain}.{node.op_type} is not an operator whose types are known"
        if not any(self._form.data_type in kinds for kinds in types.outputs):
            return f"ONNX defines no {self._form.name} {node.op_type} in opset {self._opset}"
        return None


class Statistics:
    """Normalizations, softmax, means: sums over many values, and exponentials."""

    def reason(self, node: ir.Node) -> str | None:
        if node.domain not in STANDARD:
            return None
        if node.op_type in NORMALIZATIONS:
            return f"{node.op_type}: its statistics are sums over many values"
        if node.op_type in SUMS:
            return f"{node.op_type}: sums and exponentials lose the most to short numbers"
        return None


class Head:
    """The last product before an output and what follows it: the scores that are compared."""

    def __init__(self, graph: ir.Graph) -> None:
        self._nodes: dict[ir.Node, str] = {}
        for value in graph.outputs:
            node = value.producer()
            while node is not None and (source := _only_source(node)) is not None:
                if node.domain not in STANDARD or node.op_type in NORMALIZATIONS:
                    break
                self._nodes.setdefault(node, f"the head of the output {value.name}")
                if node.op_type in PRODUCTS:
                    break
                node = source.producer()

    def reason(self, node: ir.Node) -> str | None:
        return self._nodes.get(node)


class OutOfRange:
    """Nodes with a tensor that reaches, or may reach, the end of the format's range."""

    def __init__(self, form: Format, ranges: Ranges, margin: float) -> None:
        self._form, self._ranges = form, ranges
        self._limit = form.largest * margin

    def reason(self, node: ir.Node) -> str | None:
        limit = f"{self._limit:.3g} is the most that {self._form.name} is trusted with"
        for value in (*node.outputs, *node.inputs):
            found = self._ranges.tensors.get(str(value.name), 0.0) if value is not None else 0.0
            if value is not None and found > self._limit:
                return f"{value.name} reaches {found:.3g}, and {limit}"
        bound = self._ranges.scores.get(str(node.name), 0.0)
        if bound > self._limit:
            return f"its attention scores may reach {bound:.3g}, and {limit}"
        return None


class BadlyRounded:
    """Nodes whose constants do not survive the rounding."""

    def __init__(self, form: Format, weights: Mapping[str, Rounding]) -> None:
        self._form, self._weights = form, weights

    def reason(self, node: ir.Node) -> str | None:
        for value in node.inputs:
            found = self._weights.get(str(value.name)) if value is not None else None
            if value is None or found is None:
                continue
            if found.overflowed:
                return (
                    f"{found.overflowed} of {found.values} values of {value.name} are too large "
                    f"for {self._form.name}"
                )
            if found.error > LARGEST_WEIGHT_ERROR and self._form.precision == "fp16":
                return (
                    f"rounding to {self._form.name} changes {value.name} by {found.error:.1%}: "
                    f"{found.subnormal / found.values:.0%} of its values are subnormal"
                )
        return None


def rules(
    model: ir.Model,
    form: Format,
    *,
    ranges: Ranges | None = None,
    weights: Mapping[str, Rounding] | None = None,
    keep: Sequence[str] = (),
    margin: float = DEFAULT_MARGIN,
) -> list[Rule]:
    """All rules for a graph, in the order in which they are asked.

    Args:
        ranges: recorded with the float32 graph; None where the format has float32's range.
        weights: initializer -> what rounding does to it, as of :func:`weight_roundings`.
        keep: patterns of node names.
        margin: the share of the format's largest number that recorded values may reach.
    """
    found: list[Rule] = [
        Requested(keep),
        NoSuchOperator(form, model.graph.opset_imports[""]),
        Statistics(),
        SampledPlaces(model.graph),
        Boxes(model.graph),
        Head(model.graph),
    ]
    if ranges is not None:
        found.append(OutOfRange(form, ranges, margin))
    if weights is not None:
        found.append(BadlyRounded(form, weights))
    return found


def weight_roundings(model: ir.Model, form: Format) -> dict[str, Rounding]:
    """Initializer -> what rounding to the format does to it, for the float32 ones."""
    return {
        name: measure_rounding(_without_mask(value.const_value.numpy()), form)
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and value.const_value.dtype == FLOAT
    }


def _without_mask(array: FloatArray) -> FloatArray:
    """Zeros in place of minus infinity, which every format has."""
    masked = np.isneginf(array)
    return np.where(masked, np.float32(0), array) if masked.any() else array


def find_islands(model: ir.Model, asked: Iterable[Rule]) -> dict[ir.Node, str]:
    """Nodes that compute data in float32 and must go on to do so, with the reasons, in order."""
    asked = list(asked)
    data = data_nodes(model.graph)
    found: dict[ir.Node, str] = {}
    for node in data:
        reason = next((text for rule in asked if (text := rule.reason(node))), None)
        if reason is not None:
            found[node] = reason
    _close_gaps(data, found)
    return {node: found[node] for node in data if node in found}


def data_nodes(graph: ir.Graph) -> list[ir.Node]:
    """Nodes that compute with what came in: not with sizes or constants alone."""
    data = {value for value in graph.inputs if value.dtype == FLOAT}
    nodes = []
    for node in graph:
        if node.op_type in TYPELESS and node.domain in STANDARD:
            continue
        if any(value in data for value in node.inputs):
            nodes.append(node)
            data.update(value for value in node.outputs if value.dtype == FLOAT)
    return nodes


def _only_source(node: ir.Node) -> ir.Value | None:
    """What a node computes from, if that is one tensor beside constants."""
    sources = [
        value
        for value in node.inputs
        if value is not None and not value.is_initializer() and value.dtype == FLOAT
    ]
    return sources[0] if len(sources) == 1 else None


def _close_gaps(data: Sequence[ir.Node], found: dict[ir.Node, str]) -> None:
    """Values that only move from float32 nodes to others are not rounded on the way."""
    gaps = {node for node in data if is_move(node) and node not in found}
    reach = -1
    while reach != len(gaps):
        reach = len(gaps)
        gaps = {node for node in gaps if all(n in found or n in gaps for n in _neighbours(node))}
    found |= {node: f"{node.op_type} between float32 nodes" for node in gaps}


def _neighbours(node: ir.Node) -> list[ir.Node]:
    """Nodes that write what this one reads (but for sizes), or read what it writes."""
    before = [v.producer() for v in node.inputs if v is not None and v.dtype == FLOAT]
    after = [use.node for value in node.outputs for use in value.uses()]
    return [*(n for n in before if n is not None), *after]


@dataclass(frozen=True)
class OperatorTypes:
    """The element types that an operator accepts for each input and gives for each output; the
    last input and output stand for all further ones."""

    inputs: tuple[frozenset[ir.DataType], ...]
    outputs: tuple[frozenset[ir.DataType], ...]

    def accepts(self, position: int, kind: ir.DataType) -> bool:
        """Whether an input may have a type."""
        return kind in self.inputs[min(position, len(self.inputs) - 1)]


@cache
def accepted_types(domain: str, op_type: str, opset: int) -> OperatorTypes | None:
    """What an operator accepts; None if it is not known."""
    if domain == schema.DOMAIN and op_type in schema.OP_TYPES:
        known = next(entry for entry in schema.schemas() if entry.name == op_type)
    elif domain in STANDARD:
        try:
            known = onnx.defs.get_schema(op_type, opset)
        except onnx.defs.SchemaError:
            return None
    else:
        return None
    return OperatorTypes(
        tuple(_data_types(parameter.types) for parameter in known.inputs),
        tuple(_data_types(parameter.types) for parameter in known.outputs),
    )


def _data_types(names: Iterable[str]) -> frozenset[ir.DataType]:
    known = {
        "tensor(float)": FLOAT,
        "tensor(float16)": ir.DataType.FLOAT16,
        "tensor(bfloat16)": ir.DataType.BFLOAT16,
    }
    return frozenset(known[name] for name in names if name in known)
