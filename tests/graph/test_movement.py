"""Tracing moved elements against moving them."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from hypothesis import given, settings
from hypothesis import strategies as st

from dinat_deploy.graph.movement import (
    Layout,
    Size,
    Tracer,
    identity,
    reshaped,
    taken,
    transposed,
)


def elements(layout: Layout, source: tuple[int, ...]) -> np.ndarray:
    """Which element of the source each element is, from a layout."""
    strides = [math.prod(source[axis + 1 :]) for axis in range(len(source))]
    index = np.array(sum(strides[axis] * offset for axis, offset in layout.offsets))
    for axis in layout.axes:
        along = np.zeros(1, np.int64)
        for digit in axis:
            step = digit.weight.count * strides[digit.axis]
            along = np.add.outer(along, step * np.arange(digit.size.count)).ravel()
        index = np.add.outer(index, along)
    return index


def factorings(size: int) -> list[tuple[int, ...]]:
    """Shapes of one to three axes with that many elements."""
    divisors = [n for n in range(1, size + 1) if size % n == 0]
    return [(size,)] + [(n, size // n) for n in divisors] + [
        (n, m, size // n // m) for n in divisors for m in divisors if size % (n * m) == 0
    ]  # fmt: skip


@settings(max_examples=150)
@given(data=st.data())
def test_any_chain_of_moves(data: st.DataObject) -> None:
    source = tuple(data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4)))
    tensor = np.arange(math.prod(source)).reshape(source)
    layout = identity([Size(size) for size in source])
    for _ in range(data.draw(st.integers(1, 5))):
        kind = data.draw(st.sampled_from(["transpose", "reshape", "take"]))
        after: Layout | None = layout
        if kind == "transpose":
            order = data.draw(st.permutations(range(tensor.ndim)))
            moved, after = tensor.transpose(order), transposed(layout, order)
        elif kind == "reshape":
            shape = data.draw(st.sampled_from(factorings(tensor.size)))
            moved, after = tensor.reshape(shape), reshaped(layout, [Size(n) for n in shape])
        else:
            axis = data.draw(st.integers(0, tensor.ndim - 1))
            start = data.draw(st.integers(0, tensor.shape[axis] - 1))
            count = data.draw(st.integers(1, tensor.shape[axis] - start))
            moved = np.take(tensor, range(start, start + count), axis)
            after = taken(layout, axis, start, count) if tensor.shape[axis] > 1 else layout
        if after is None:  # not all moves can be written so; these are left out
            continue
        tensor, layout = moved, after
        assert np.array_equal(elements(layout, source), tensor)


def test_parts_of_a_projection_are_found_under_symbolic_sizes() -> None:
    whole = identity([Size(1, ("b",)), Size(1, ("h",)), Size(1, ("w",)), Size(48)])
    split = reshaped(whole, [*(Size(1, (s,)) for s in "bhw"), Size(3), Size(2), Size(8)])
    assert split is not None
    key = taken(transposed(split, [3, 0, 4, 1, 2, 5]), 0, 1, 1)
    assert key is not None
    assert key.offsets == ((3, 16),)
    flat = reshaped(key, [Size(1, ("b",)), Size(2), Size(1, ("h", "w")), Size(8)])
    assert flat is not None
    again = reshaped(flat, [Size(1, ("b",)), Size(2), Size(1, ("h",)), Size(1, ("w",)), Size(8)])
    assert again is not None
    assert again.axes == key.axes[1:]


def test_a_cut_within_a_step_is_not_written() -> None:
    layout = transposed(identity([Size(4), Size(6)]), [1, 0])
    assert reshaped(layout, [Size(8), Size(3)]) is None
    assert taken(reshaped(layout, [Size(24)]) or layout, 0, 2, 5) is None


def test_sizes_are_products() -> None:
    assert Size.of(ir.SymbolicDim("s1*s0*4")) == Size(4, ("s0", "s1"))
    assert Size.of(ir.SymbolicDim("s0 + 1")) == Size(1, ("s0+1",))
    assert Size.of(ir.SymbolicDim(None)) is None
    assert Size(12, ("a", "b")).over(Size(4, ("b",))) == Size(3, ("a",))
    assert Size(12).over(Size(1, ("a",))) is None


def test_tracing_follows_nodes_up_to_what_is_computed() -> None:
    data = ir.Value(name="x", shape=ir.Shape([2, 12]), type=ir.TensorType(ir.DataType.FLOAT))
    relu = ir.node("Relu", [data])
    relu.outputs[0].shape = ir.Shape([2, 12])
    three = ir.node("Constant", [], {"value": ir.tensor(np.float32(3))})
    scaled = ir.node("Mul", [relu.outputs[0], three.outputs[0]])
    parts = ir.node("Split", [scaled.outputs[0]], {"axis": 1, "num_outputs": 3}, num_outputs=3)
    tracer = Tracer(through_scaling=True)
    traced = tracer.trace(parts.outputs[2])
    assert traced is not None
    assert traced.source is relu.outputs[0]
    assert traced.factor == 3
    assert traced.layout.offsets == ((1, 8),)
    strict = Tracer().trace(parts.outputs[2])
    assert strict is None  # the product's shape is unknown, and it is where this tracer stops
