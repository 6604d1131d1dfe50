"""Where the elements of a tensor come from, through nodes that only move them.

Query, key and value usually come out of one projection by a chain of Reshape, Transpose, Slice,
Split, Gather of one index, Squeeze and Unsqueeze, which every model writes another way. Following
the chain says which element of the projection's output each element is; two chains that differ in
spelling are then equal.

An axis of a tensor is written as *digits*: numbers of a mixed radix, most significant first. A
digit runs over ``size`` steps of ``weight`` elements along one axis of the source. A source of
shape ``[B, H, W, 3*heads*dim]`` reshaped to ``[B, H, W, 3, heads, dim]`` has the last axis split
in three digits of weights ``heads*dim``, ``dim`` and 1; a Transpose permutes the axes, an index
takes a digit away and leaves an offset. Sizes may be symbolic; they are then compared by name.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir


@dataclass(frozen=True)
class Size:
    """A product of an integer and symbolic dimensions."""

    count: int = 1
    symbols: tuple[str, ...] = ()

    @staticmethod
    def of(dim: int | ir.SymbolicDim | None) -> Size | None:
        """The size that a dimension of a shape says; None if it says nothing."""
        if isinstance(dim, int):
            return Size(dim)
        if dim is None or dim.value is None:
            return None
        text = str(dim.value).replace(" ", "")
        if any(sign in text for sign in "+-/("):
            return Size(1, (text,))
        count, symbols = 1, []
        for factor in text.split("*"):
            if factor.isdigit():
                count *= int(factor)
            else:
                symbols.append(factor)
        return Size(count, tuple(sorted(symbols)))

    @property
    def is_one(self) -> bool:
        return self.count == 1 and not self.symbols

    @property
    def static(self) -> int | None:
        return None if self.symbols else self.count

    def times(self, other: Size) -> Size:
        return Size(self.count * other.count, tuple(sorted(self.symbols + other.symbols)))

    def over(self, other: Size) -> Size | None:
        """The quotient if it is whole for all values of the symbols."""
        left, right = Counter(self.symbols), Counter(other.symbols)
        if other.count == 0 or self.count % other.count or right - left:
            return None
        return Size(self.count // other.count, tuple(sorted((left - right).elements())))


@dataclass(frozen=True)
class Digit:
    """``size`` steps of ``weight`` elements along ``axis`` of the source."""

    axis: int
    weight: Size
    size: Size


Axis = tuple[Digit, ...]
"""Digits of one axis, most significant first; empty if its size is 1."""


@dataclass(frozen=True)
class Layout:
    """Where the elements of a tensor are in its source.

    Attributes:
        axes: the digits of every axis.
        offsets: axis of the source -> its first element (absent: 0).
    """

    axes: tuple[Axis, ...]
    offsets: tuple[tuple[int, int], ...] = ()

    def offset(self, axis: int) -> int:
        return dict(self.offsets).get(axis, 0)

    def with_axes(self, axes: Iterable[Axis]) -> Layout:
        return Layout(tuple(map(_merged, axes)), self.offsets)

    def shifted(self, axis: int, by: int) -> Layout:
        moved = dict(self.offsets)
        moved[axis] = moved.get(axis, 0) + by
        return Layout(self.axes, tuple(sorted((a, o) for a, o in moved.items() if o)))


def _merged(axis: Iterable[Digit]) -> Axis:
    """Neighbouring digits that together are one, as one."""
    made: list[Digit] = []
    for digit in axis:
        last = made[-1] if made else None
        if (
            last is not None
            and last.axis == digit.axis
            and last.weight == digit.weight.times(digit.size)
        ):
            made[-1] = Digit(digit.axis, digit.weight, last.size.times(digit.size))
        else:
            made.append(digit)
    return tuple(made)


def identity(shape: Sequence[Size]) -> Layout:
    """A tensor that is its own source."""
    return Layout(
        tuple(
            () if size.is_one else (Digit(axis, Size(), size),) for axis, size in enumerate(shape)
        )
    )


def transposed(layout: Layout, order: Sequence[int]) -> Layout:
    return layout.with_axes(layout.axes[axis] for axis in order)


def reshaped(layout: Layout, shape: Sequence[Size]) -> Layout | None:
    """The layout after a Reshape; None if an axis would have to be cut within a step."""
    left = [digit for axis in layout.axes for digit in axis][::-1]
    axes: list[Axis] = []
    for size in shape:
        need, taken = size, []
        while not need.is_one:
            if not left:
                return None
            digit = left.pop()
            rest = need.over(digit.size)
            if rest is not None:
                taken.append(digit)
                need = rest
                continue
            low = digit.size.over(need)
            if low is None:
                return None
            taken.append(Digit(digit.axis, digit.weight.times(low), need))
            left.append(Digit(digit.axis, digit.weight, low))
            need = Size()
        axes.append(tuple(taken))
    return None if left else layout.with_axes(axes)


def taken(layout: Layout, axis: int, start: int, count: int) -> Layout | None:
    """``count`` entries from ``start`` on along an axis, which stays."""
    digits = layout.axes[axis]
    extent = math.prod(digit.size.static or 0 for digit in digits)
    if extent == 0 or not 0 <= start < start + count <= extent:
        return None
    if (start, count) == (0, extent):
        return layout
    kept: list[Digit] = []
    moved = layout
    remaining = extent
    for position, digit in enumerate(digits):
        # Entries that one step of this digit spans.
        size, weight = digit.size.static, digit.weight.static
        if size is None or weight is None:
            return None
        remaining //= size
        first, rest = divmod(start, remaining)
        if start + count <= (first + 1) * remaining:  # all within one step
            moved = moved.shifted(digit.axis, first * weight)
            start = rest
            if (start, count) == (0, remaining):
                kept += digits[position + 1 :]
                break
            continue
        if rest or count % remaining:
            return None
        moved = moved.shifted(digit.axis, first * weight)
        kept += [Digit(digit.axis, digit.weight, Size(count // remaining)), *digits[position + 1 :]]
        break
    axes = list(moved.axes)
    axes[axis] = tuple(kept)
    return moved.with_axes(axes)


@dataclass(frozen=True)
class Traced:
    """Where a tensor comes from.

    Attributes:
        source: a tensor that is not moved but computed.
        layout: of the traced tensor in ``source``.
        factor: number that the elements were multiplied with on the way.
    """

    source: ir.Value
    layout: Layout
    factor: float = 1.0


@dataclass
class Tracer:
    """Traces tensors of a graph; results are kept, so use a new one after changing the graph.

    Args:
        through_scaling: also follow multiplication and division by a constant number.
    """

    through_scaling: bool = False
    _known: dict[ir.Value, Traced] = field(default_factory=dict)

    def trace(self, value: ir.Value) -> Traced | None:
        """None if nothing is known of the shape."""
        chain = [value]
        while chain[-1] not in self._known and (above := self._above(chain[-1])) is not None:
            chain.append(above)
        for current in reversed(chain):
            if current not in self._known:
                found = self._step(current)
                if found is None:
                    shape = sizes(current)
                    if shape is None:
                        continue
                    found = Traced(current, identity(shape))
                self._known[current] = found
        return self._known.get(value)

    def _above(self, value: ir.Value) -> ir.Value | None:
        node = value.producer()
        if node is None or not node.inputs or node.domain not in ("", "ai.onnx"):
            return None
        if node.op_type in _MOVES or (self.through_scaling and _scaling(node) is not None):
            position = 0 if node.op_type in _MOVES else _scaled_input(node)
            return node.inputs[position]
        return None

    def _step(self, value: ir.Value) -> Traced | None:
        """From the tensor above, if the node between moves (or scales) only."""
        above = self._above(value)
        before = self._known.get(above) if above is not None else None
        node = value.producer()
        if before is None or node is None:
            return None
        if node.op_type not in _MOVES:
            return Traced(before.source, before.layout, before.factor * (_scaling(node) or 1.0))
        layout = _moved(node, value, before.layout)
        return None if layout is None else Traced(before.source, layout, before.factor)


_MOVES = {"Identity", "Reshape", "Transpose", "Gather", "Slice", "Split", "Squeeze", "Unsqueeze"}


def sizes(value: ir.Value) -> tuple[Size, ...] | None:
    """The shape of a tensor; None if a dimension is unknown."""
    if value.shape is None:
        return None
    found = [Size.of(dim) for dim in value.shape]
    known = tuple(size for size in found if size is not None)
    return known if len(known) == len(found) else None


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The contents of a tensor that is constant."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def constant_number(value: ir.Value | None) -> float | None:
    """The number in a constant tensor of one element."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.size != 1:
        return None
    return float(tensor.numpy().astype(np.float64).item())


def _scaled_input(node: ir.Node) -> int:
    return 1 if node.op_type == "Mul" and constant_number(node.inputs[1]) is None else 0


def _scaling(node: ir.Node) -> float | None:
    """The constant that a node multiplies one tensor with."""
    if node.op_type not in ("Mul", "Div") or node.domain not in ("", "ai.onnx"):
        return None
    number = constant_number(node.inputs[1 - _scaled_input(node)])
    if number is None or (node.op_type == "Div" and number == 0):
        return None
    other = node.inputs[_scaled_input(node)]
    shape, own = node.outputs[0].shape, None if other is None else other.shape
    if shape is not None and own is not None and len(shape) != len(own):
        return None
    return 1 / number if node.op_type == "Div" else number


def scaling(value: ir.Value) -> tuple[ir.Value, float] | None:
    """The tensor that is multiplied by a constant number to give ``value``, and the number."""
    node = value.producer()
    factor = None if node is None else _scaling(node)
    if node is None or factor is None:
        return None
    other = node.inputs[_scaled_input(node)]
    return None if other is None else (other, factor)


def _moved(node: ir.Node, value: ir.Value, layout: Layout) -> Layout | None:
    """The layout of an output of a node that moves, from that of its first input."""
    rank = len(layout.axes)
    if node.op_type == "Identity":
        return layout
    if node.op_type == "Reshape":
        shape = sizes(value)
        return None if shape is None else reshaped(layout, shape)
    if node.op_type == "Transpose":
        order = node.attributes.get_ints("perm")
        return transposed(layout, order or range(rank)[::-1])
    if node.op_type in ("Squeeze", "Unsqueeze"):
        return _without_or_with(node, layout)
    if node.op_type == "Gather":
        return _gathered(node, layout)
    if node.op_type == "Slice":
        return _sliced(node, layout)
    return _split(node, value, layout)


def _listed(value: ir.Value | None) -> list[int] | None:
    found = constant(value)
    return None if found is None else [int(entry) for entry in found.flatten()]


def _without_or_with(node: ir.Node, layout: Layout) -> Layout | None:
    axes = list(layout.axes)
    listed = _listed(node.inputs[1]) if len(node.inputs) > 1 else None
    if listed is None:
        return None
    if node.op_type == "Unsqueeze":
        rank = len(axes) + len(listed)
        for axis in sorted(entry % rank for entry in listed):
            axes.insert(axis, ())
        return layout.with_axes(axes)
    gone = {entry % len(axes) for entry in listed}
    if any(axes[axis] for axis in gone):
        return None
    return layout.with_axes(digits for axis, digits in enumerate(axes) if axis not in gone)


def _gathered(node: ir.Node, layout: Layout) -> Layout | None:
    index = constant(node.inputs[1])
    if index is None or index.size != 1 or index.ndim > 1:
        return None
    axis = node.attributes.get_int("axis", 0) % len(layout.axes)
    position = int(index.item())
    if position < 0:
        position += math.prod(digit.size.static or 0 for digit in layout.axes[axis])
    chosen = taken(layout, axis, position, 1) if layout.axes[axis] else layout
    if chosen is None or index.ndim == 1:
        return chosen
    return chosen.with_axes(digits for other, digits in enumerate(chosen.axes) if other != axis)


def _sliced(node: ir.Node, layout: Layout) -> Layout | None:
    lists = [_listed(value) for value in node.inputs[1:]]
    if len(lists) < 2 or lists[0] is None or lists[1] is None:
        return None
    axes = lists[2] if len(lists) > 2 else list(range(len(lists[0])))
    steps = lists[3] if len(lists) > 3 else [1] * len(lists[0])
    if axes is None or steps is None or any(step != 1 for step in steps):
        return None
    for entry, start, stop in zip(axes, lists[0], lists[1], strict=True):
        axis = entry % len(layout.axes)
        statics = [digit.size.static for digit in layout.axes[axis]]
        if None in statics:
            if start == 0 and stop >= 2**31 - 1:
                continue  # all of it
            return None
        extent = math.prod(size or 0 for size in statics)
        first, last, _ = slice(start, stop).indices(extent)
        chosen = taken(layout, axis, first, last - first) if extent > 1 else layout
        if chosen is None:
            return None
        layout = chosen
    return layout


def _split(node: ir.Node, value: ir.Value, layout: Layout) -> Layout | None:
    axis = node.attributes.get_int("axis", 0) % len(layout.axes)
    extent = math.prod(digit.size.static or 0 for digit in layout.axes[axis])
    parts = _listed(node.inputs[1]) if len(node.inputs) > 1 else None
    if parts is None:
        share = -(-extent // len(node.outputs))
        parts = [min(share, extent - share * n) for n in range(len(node.outputs))]
    number = list(node.outputs).index(value)
    return taken(layout, axis, sum(parts[:number]), parts[number])
