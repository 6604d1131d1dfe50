"""Write ONNX nodes as Python expressions: ``(place + 1) // size`` instead of two named nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir


class Expr:
    """A tensor in a graph under construction; arithmetic on it adds nodes to the graph."""

    def __init__(self, builder: Builder, value: ir.Value) -> None:
        self.builder = builder
        self.value = value

    def _binary(self, op_type: str, left: Operand, right: Operand) -> Expr:
        return self.builder.node(op_type, left, right)

    def __add__(self, other: Operand) -> Expr:
        return self._binary("Add", self, other)

    def __sub__(self, other: Operand) -> Expr:
        return self._binary("Sub", self, other)

    def __rsub__(self, other: Operand) -> Expr:
        return self._binary("Sub", other, self)

    def __mul__(self, other: Operand) -> Expr:
        return self._binary("Mul", self, other)

    def __floordiv__(self, other: Operand) -> Expr:
        """Integer division of what is never negative (ONNX rounds towards zero)."""
        return self._binary("Div", self, other)

    def __truediv__(self, other: Operand) -> Expr:
        return self._binary("Div", self, other)

    def __mod__(self, other: Operand) -> Expr:
        return self._binary("Mod", self, other)

    def __le__(self, other: Operand) -> Expr:
        return self._binary("LessOrEqual", self, other)

    def __lt__(self, other: Operand) -> Expr:
        return self._binary("Less", self, other)

    def __ge__(self, other: Operand) -> Expr:
        return self._binary("GreaterOrEqual", self, other)

    def __and__(self, other: Operand) -> Expr:
        return self._binary("And", self, other)


Operand = Expr | int | float | Sequence[int] | np.ndarray


class Builder:
    """Collects nodes. Methods named like ONNX operators add one: ``b.MatMul(x, y)``.

    Python integers (and lists of them) become int64 constants, floats become float32 scalars.

    Args:
        opset: version of the standard operators that the nodes are written for.
    """

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self._tape = ir.tape.Tape()
        self._constants: dict[Any, Expr] = {}

    @property
    def nodes(self) -> Sequence[ir.Node]:
        return self._tape.nodes

    def wrap(self, value: ir.Value) -> Expr:
        return Expr(self, value)

    def constant(self, value: Any) -> Expr:
        array = np.asarray(value, np.float32 if isinstance(value, float) else None)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            tensor = ir.tensor(array)
            made = self._tape.op("Constant", [], {"value": ir.AttrTensor("value", tensor)})
            self._constants[key] = self.wrap(made)
        return self._constants[key]

    def attribute(self, name: str, kind: str) -> Expr:
        """An attribute of the function under construction: ``int``, ``ints`` or ``float``."""
        kinds = {
            "int": ir.AttributeType.INT,
            "ints": ir.AttributeType.INTS,
            "float": ir.AttributeType.FLOAT,
        }
        reference = ir.RefAttr(f"value_{kind}", name, kinds[kind])
        return self.wrap(self._tape.op("Constant", [], {reference.name: reference}))

    def _coerce(self, operand: Operand) -> ir.Value:
        return operand.value if isinstance(operand, Expr) else self.constant(operand).value

    def node(
        self, op_type: str, *inputs: Operand, node_name: str | None = None, **attributes: Any
    ) -> Expr:
        values = [self._coerce(operand) for operand in inputs]
        return self.wrap(self._tape.op(op_type, values, attributes or None, name=node_name))

    def several(
        self, op_type: str, outputs: int, *inputs: Operand, **attributes: Any
    ) -> tuple[Expr, ...]:
        """A node with that many outputs."""
        values = [self._coerce(operand) for operand in inputs]
        made = self._tape.op_multi_out(op_type, values, attributes or None, num_outputs=outputs)
        return tuple(self.wrap(value) for value in made)

    def split(self, x: Expr, parts: int, axis: int) -> list[Expr]:
        """``x`` of ``parts`` entries along ``axis`` as that many tensors without the axis."""
        sizes = self.constant([1] * parts)
        outputs = self._tape.op_multi_out(
            "Split", [x.value, sizes.value], {"axis": axis}, num_outputs=parts
        )
        return [self.Squeeze(self.wrap(part), [axis]) for part in outputs]

    def reduce_max(self, x: Expr, axis: int) -> Expr:
        """Maximum along an axis, which is kept with size 1."""
        if self.opset < 18:
            return self.node("ReduceMax", x, axes=[axis], keepdims=1)
        return self.node("ReduceMax", x, [axis], keepdims=1)

    def reshape(self, x: Expr, *shape: Expr | int) -> Expr:
        """Reshape to literal sizes (-1 infers one).

        A 0 means an empty axis, not a copied one: TensorRT cannot tell whether a computed size
        is 0, and plans for the worst.
        """
        return self.node("Reshape", x, self.vector(*shape), allowzero=1)

    def vector(self, *items: Expr | int) -> Expr:
        """Scalars side by side as an int64 vector."""
        fixed = [item for item in items if not isinstance(item, Expr)]
        if len(fixed) == len(items):
            return self.constant(fixed)
        parts = [self.Unsqueeze(item, [0]) if isinstance(item, Expr) else [item] for item in items]
        return self.Concat(*parts, axis=0)

    def __getattr__(self, op_type: str) -> Callable[..., Expr]:
        if not op_type[:1].isupper():
            raise AttributeError(op_type)

        def add(*inputs: Operand, **attributes: Any) -> Expr:
            return self.node(op_type, *inputs, **attributes)

        return add
