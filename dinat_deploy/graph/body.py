"""The operator in standard ONNX operators: one function body for every shape.

The body is attached to a model as an ONNX function of the operator's name, so that runtimes
without our plugin or custom op run the same file. All index tables are computed from attributes
(or, for dynamic sizes, from the shape of the input) by integer nodes that a runtime folds to
constants when the sizes are static.

Method (the same as :mod:`dinat_deploy.ops.reference`, with tile sizes measured in ONNX Runtime):
queries are cut into tiles of one dilation group, each tile attends densely to the keys that any
of its queries needs. A group no longer than the window plus one is a single tile; up to 16
members it is cut into two rows of full width; beyond, into 4 x 4 tiles. Which pairs see each other
and with what bias is separable by axis: a table of bias indices per axis, where one index past
the end selects a large negative number.

The softmax is spelled out. Clipping the shifted scores keeps ``Exp`` of masked pairs from
producing denormal numbers, which slow ONNX Runtime's Softmax down tenfold; a masked weight is
e**-60 and vanishes. Shifting by ``log(kh*kw)`` on top of the maximum bounds the sum of the weights
by 1, so that float16 products cannot overflow. Division by the sum comes after the product with
the values, where there is less to divide.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from dinat_deploy.graph.expressions import Builder, Expr
from dinat_deploy.graph.schema import DOMAIN, PACKED

_MASKED = -1e30
_SMALLEST_EXPONENT = -60.0
_WHOLE_GROUP = 16
_TILE = 4
_TILE_ROWS_OF_WHOLE_GROUP = 2
_FLOAT = int(ir.DataType.FLOAT)


@dataclass(frozen=True)
class _Axis:
    """Index tables of one axis; see :class:`dinat_deploy.ops.windows.AxisTiles`."""

    length: Expr
    size: Expr
    reach: Expr
    count: Expr
    query: Expr
    key: Expr
    bias: Expr
    tile: Expr
    slot: Expr


def _checked(b: Builder, kernels: Expr, axis: int, dilation: Expr, length: Expr) -> Expr:
    """Kernel size of an axis; running fails if the window does not fit the map.

    Without this a map that is too small would silently give another operator. ONNX has no
    assertion, so an index out of range stands in; the node's name tells what is wrong.
    """
    fits = b.Gather(kernels, axis) * dilation <= length
    name = "kernel_size_times_dilation_exceeds_the_" + ("height", "width")[axis]
    return b.node("Gather", kernels, b.Where(fits, axis, 2), node_name=name)


def _axis(b: Builder, length: Expr, kernel: Expr, dilation: Expr, rows: bool) -> _Axis:
    one_past_table = kernel * 2 - 1
    longest = (length + dilation - 1) // dilation
    whole = longest if not rows else b.constant(_TILE_ROWS_OF_WHOLE_GROUP)
    size = b.Where(longest <= kernel + 1, longest, b.Where(longest <= _WHOLE_GROUP, whole, _TILE))
    per_group = (longest + size - 1) // size
    reach = b.Min(size + kernel - 1, longest)

    # Tables have the axes [group, tile of the group, query, key].
    group = b.reshape(b.Range(0, dilation, 1), -1, 1, 1)
    members = (length - group + dilation - 1) // dilation
    tiles = b.reshape(b.Range(0, per_group, 1), 1, -1, 1)
    place = b.Min(tiles * size + b.Range(0, size, 1), members - 1)
    start = b.Max(b.Min(place - kernel // 2, members - kernel), 0)
    first = b.Slice(start, [0], [1], [2])
    base = b.Max(b.Min(first, members - reach), 0)
    member = base + b.Range(0, reach, 1)

    def by_query(table: Expr) -> Expr:
        return b.Unsqueeze(table, [3])

    pair = b.Unsqueeze(member, [2])
    seen = (
        (pair >= by_query(start))
        & (pair < by_query(start) + kernel)
        & (pair < by_query(members))
    )  # fmt: skip
    bias = b.Where(seen, pair - by_query(place) + kernel - 1, one_past_table)

    token = b.Range(0, length, 1)
    own_place = token // dilation
    return _Axis(
        length=length,
        size=size,
        reach=reach,
        count=dilation * per_group,
        query=b.reshape(group + place * dilation, -1, size),
        key=b.reshape(group + b.Min(member, members - 1) * dilation, -1, reach),
        bias=b.reshape(bias, -1, size, reach),
        tile=(token % dilation) * per_group + own_place // size,
        slot=own_place % size,
    )


def _pairs(b: Builder, rows: Expr, columns: Expr, row_length: Expr) -> Expr:
    """``[n, s]`` and ``[m, t]`` indices -> flat indices ``[n, m, s, t]``."""
    return b.Unsqueeze(rows, [1, 3]) * row_length + b.Unsqueeze(columns, [0, 2])


def _bias(b: Builder, rpb: Expr | None, kernel: tuple[Expr, ...], axes: list[_Axis]) -> Expr:
    """Additive float32 bias ``[1, heads, tiles, queries, keys]``; very negative where masked."""
    rows, columns = axes
    if rpb is None:
        shape = b.vector(1, kernel[0] * 2 - 1, kernel[1] * 2 - 1)
        table = b.Expand(b.constant(0.0), shape)
    else:
        table = b.Cast(rpb, to=_FLOAT)
    table = b.Pad(table, [0, 0, 0, 0, 1, 1], _MASKED)
    # [heads, n, queries, keys, m, queries, keys] -> [heads, n, m, queries x2, keys x2]
    spread = b.Gather(b.Gather(table, rows.bias, axis=1), columns.bias, axis=4)
    spread = b.Transpose(spread, perm=[0, 1, 4, 2, 5, 3, 6])
    queries, keys = rows.size * columns.size, rows.reach * columns.reach
    heads = b.Gather(b.Shape(table), 0)
    return b.reshape(spread, 1, heads, rows.count * columns.count, queries, keys)


def _attend(
    b: Builder,
    query: Expr,
    key: Expr,
    value: Expr,
    bias: Expr,
    scale: Expr,
    window: Expr,
) -> Expr:
    """Attention of ``[B, heads, tiles, queries | keys, dim]`` with an additive float32 bias."""
    scaled = b.CastLike(b.Cast(query, to=_FLOAT) * scale, query)
    scores = b.MatMul(scaled, b.Transpose(key, perm=[0, 1, 2, 4, 3]))
    scores = b.Cast(scores, to=_FLOAT) + bias
    top = b.reduce_max(scores, -1) + b.Log(b.Cast(window, to=_FLOAT))
    weights = b.Exp(b.Clip(scores - top, _SMALLEST_EXPONENT))
    total = b.ReduceSum(weights, [-1], keepdims=1)
    attended = b.MatMul(b.CastLike(weights, value), value)
    return b.CastLike(b.Cast(attended, to=_FLOAT) / total, value)


@dataclass(frozen=True)
class BodyKind:
    """Which of the bodies a model needs; all its nodes share one.

    Attributes:
        op_type: the operator, :data:`~dinat_deploy.graph.schema.PACKED` or ``SPLIT``.
        static_size: height and width are attributes of every node (else they are read from the
            shape of the input, which runtimes cannot fold to constants).
        has_rpb: every node has the positional bias as its last input (else none has).
    """

    op_type: str
    static_size: bool
    has_rpb: bool


def body(kind: BodyKind, opset: int) -> ir.Function:
    """The function body for one kind of node.

    Args:
        opset: version of the standard operators, 17 to 21.
    """
    b = Builder(opset)
    packed = kind.op_type == PACKED
    names = ["qkv"] if packed else ["query", "key", "value"]
    inputs = [ir.Value(name=name) for name in names]
    rpb = ir.Value(name="rpb") if kind.has_rpb else None
    first = b.wrap(inputs[0])

    kernels, dilations = b.attribute("kernel_size", "ints"), b.attribute("dilation", "ints")
    heads, dim = b.attribute("num_heads", "int"), b.attribute("head_dim", "int")
    scale = b.attribute("scale", "float")
    if kind.static_size:
        sizes = [b.attribute("height", "int"), b.attribute("width", "int")]
    else:
        shape = b.Shape(first, start=1, end=3)
        sizes = [b.Gather(shape, axis) for axis in (0, 1)]
    dilation = b.Gather(dilations, 0), b.Gather(dilations, 1)
    kernel = tuple(_checked(b, kernels, axis, dilation[axis], sizes[axis]) for axis in (0, 1))
    axes = [_axis(b, sizes[axis], kernel[axis], dilation[axis], rows=axis == 0) for axis in (0, 1)]
    rows, columns = axes

    # To [B, heads, tokens, dim] by one Transpose, then one Gather per tensor.
    length = rows.length * columns.length
    if packed:
        tokens = b.reshape(first, -1, length, 3, heads, dim)
        parts = b.split(b.Transpose(tokens, perm=[2, 0, 3, 1, 4]), 3, axis=0)
    else:
        flat = [b.reshape(b.wrap(value), -1, length, heads, dim) for value in inputs]
        parts = [b.Transpose(tokens, perm=[0, 2, 1, 3]) for tokens in flat]
    count, queries = rows.count * columns.count, rows.size * columns.size
    query_index = b.reshape(_pairs(b, rows.query, columns.query, columns.length), count, queries)
    key_index = b.reshape(
        _pairs(b, rows.key, columns.key, columns.length), count, rows.reach * columns.reach
    )
    attended = _attend(
        b,
        b.Gather(parts[0], query_index, axis=2),
        b.Gather(parts[1], key_index, axis=2),
        b.Gather(parts[2], key_index, axis=2),
        _bias(b, None if rpb is None else b.wrap(rpb), kernel, axes),
        scale,
        kernel[0] * kernel[1],
    )

    # Back to [B, H, W, ...]: where each token stands among the tiles' queries.
    tile = b.Unsqueeze(rows.tile, [1]) * columns.count + b.Unsqueeze(columns.tile, [0])
    slot = b.Unsqueeze(rows.slot, [1]) * columns.size + b.Unsqueeze(columns.slot, [0])
    place = b.reshape(tile * queries + slot, -1)
    tiled = b.reshape(attended, -1, heads, count * queries, dim)
    gathered = b.Gather(b.Transpose(tiled, perm=[0, 2, 1, 3]), place, axis=1)
    tail = [heads * dim] if packed else [heads, dim]
    output = b.reshape(gathered, -1, rows.length, columns.length, *tail)
    output.value.name = "output"

    attributes = [
        ir.Attr("num_heads", ir.AttributeType.INT, None),
        ir.Attr("kernel_size", ir.AttributeType.INTS, None),
        ir.Attr("dilation", ir.AttributeType.INTS, None),
        ir.Attr("scale", ir.AttributeType.FLOAT, None),
        ir.Attr("head_dim", ir.AttributeType.INT, None),
    ]
    if kind.static_size:
        attributes += [ir.Attr(name, ir.AttributeType.INT, None) for name in ("height", "width")]
    checks = {node for node in b.nodes if node.name}
    graph = ir.Graph(
        inputs=inputs if rpb is None else [*inputs, rpb],
        outputs=[output.value],
        nodes=b.nodes,
        opset_imports={"": opset},
        name=kind.op_type,
    )
    for node in graph:
        if node not in checks:
            node.name = ""  # made up, says nothing, and is a third of the body's size
    return ir.Function(DOMAIN, kind.op_type, graph=graph, attributes=attributes)
