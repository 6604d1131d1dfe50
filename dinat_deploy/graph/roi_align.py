"""RoiAlign in operators that every engine builder has.

TensorRT's parser makes a plugin of RoiAlign, which cannot be created on a machine without a GPU.
GridSample is a layer of its own, but it samples at a fixed number of places, and RoiAlign's number
grows with the box: on each axis a bin of w cells is the mean of ``k = ceil(w)`` samples
(:mod:`dinat_deploy.ops.roi_align`).

Up to a size that changes nothing. Samples are never more than a cell apart, so k of them, each
interpolated between two cells, are a weighted sum of at most k + 1 cells in a row. One sample at
the right place between two cells gives any weighted sum of the two, so that ``k // 2 + 1`` weighted
samples are enough, and the product of that over both axes for a bin. Each box divides its T samples
among the axes as it needs: elongated ones too come out as from RoiAlign. Only where T are not
enough, a bin is the mean of as many samples at equal distances on both axes as T allows.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from dinat_deploy.graph.expressions import Builder, Expr

# T. The largest boxes of each level of a pyramid are 28 cells long if they are square, which takes
# 9 samples in each of 7 x 7 bins; 20 are enough for bins of 39 cells by one.
SAMPLES = 20
# Bytes of the samples that are held at a time.
_LARGEST = 128 << 20
_FLOAT = int(ir.DataType.FLOAT)
_TINY = 1e-20


def replace(model: ir.Model, samples: int = SAMPLES) -> int:
    """Write out every RoiAlign as detectors have it, in place: means with half-pixel coordinates
    and an adaptive number of samples, of one image and a known number of boxes.

    Args:
        samples: T, in each bin.

    Returns:
        How many were replaced; others stay as they are.
    """
    nodes = [node for node in model.graph if _is_known(node)]
    for node in nodes:
        builder = Builder(model.graph.opset_imports[""])
        output = _written_out(builder, node, samples)
        for number, made in enumerate(builder.nodes):
            made.name = f"{node.name}/{made.op_type}_{number}"
            made.metadata_props.update(node.metadata_props)
        ir.convenience.replace_nodes_and_values(
            model.graph, node, [node], builder.nodes, [node.outputs[0]], [output.value]
        )
    common.RemoveUnusedNodesPass()(model)
    return len(nodes)


def _is_known(node: ir.Node) -> bool:
    if node.op_type != "RoiAlign" or node.domain not in ("", "ai.onnx"):
        return False
    features, boxes = node.inputs[0], node.inputs[1]
    shapes = [None if value is None else value.shape for value in (features, boxes)]
    if any(shape is None or not shape.is_static() for shape in shapes):
        return False
    attributes = node.attributes
    return (
        shapes[0] is not None
        and shapes[0][0] == 1
        and attributes.get_string("mode", "avg") == "avg"
        and attributes.get_string("coordinate_transformation_mode", "half_pixel") == "half_pixel"
        and attributes.get_int("sampling_ratio", 0) == 0
    )


def _sizes(node: ir.Node) -> tuple[tuple[int, int, int], int, tuple[int, int]]:
    """(C, H, W) of the map, number of boxes, (rows, columns) of bins."""
    features, boxes = node.inputs[0], node.inputs[1]
    assert features is not None and features.shape is not None
    assert boxes is not None and boxes.shape is not None
    channels, height, width = (int(size) for size in features.shape.numpy()[1:])
    bins = [node.attributes.get_int(f"output_{side}", 1) for side in ("height", "width")]
    return (channels, height, width), int(boxes.shape.numpy()[0]), (bins[0], bins[1])


def _written_out(b: Builder, node: ir.Node, samples: int) -> Expr:
    (channels, height, width), count, (rows, columns) = _sizes(node)
    features, boxes = node.inputs[0], node.inputs[1]
    assert features is not None and boxes is not None
    scale = node.attributes.get_float("spatial_scale", 1.0)
    scaled = b.Cast(b.wrap(boxes), to=_FLOAT) * scale - 0.5
    x, y = _Axis(b, scaled, (0, 2), columns, width), _Axis(b, scaled, (1, 3), rows, height)
    across, down = x.needed, y.needed
    enough = b.LessOrEqual(across * down, float(samples))
    side = float(math.isqrt(samples))
    across, down = (b.Where(enough, number, side) for number in (across, down))
    # Sample t is at row t // across and column t % across of its bin.
    index = np.arange(samples, dtype=np.float32).reshape(1, 1, samples)
    row = b.Floor(b.Div(index + np.float32(0.5), across))
    column = b.Sub(index, row * across)
    counts = b.Cast(b.Less(row, down), to=_FLOAT)
    (to, of_column), (at, of_row) = (
        axis.sampled(b, position, number, enough)
        for axis, position, number in ((x, column, across), (y, row, down))
    )
    # AveragePool takes the mean of all T; these are shares of their sum.
    of_row = of_row * counts * float(samples)
    wide = columns * samples
    # GridSample's coordinates: -1 and 1 are the outer edges of the first and the last cell.
    across, down = (
        b.reshape((place * 2.0 + 1.0) * (1.0 / size) - 1.0, count, *layout)
        for place, size, layout in (
            (to, width, (1, columns, samples)),
            (at, height, (rows, 1, samples)),
        )
    )
    full = b.vector(count, rows, columns, samples)
    grid = b.reshape(
        b.Concat(*(b.Unsqueeze(b.Expand(each, full), [4]) for each in (across, down)), axis=4),
        *(count, rows, wide, 2),
    )
    of_bin = b.reshape(of_row, count, rows, 1, samples)
    weights = b.reshape(
        of_bin * b.reshape(of_column, count, 1, columns, samples), count, rows, wide
    )
    chunk = max(1, min(count, _LARGEST // (4 * channels * rows * wide)))
    data = b.Cast(b.wrap(features), to=_FLOAT)
    parts = []
    for first in range(0, count, chunk):
        here = min(chunk, count - first)
        places, shares = (
            b.Slice(each, [first], [first + here], [0]) if here < count else each
            for each in (grid, weights)
        )
        read = b.GridSample(
            data,
            b.reshape(places, 1, here * rows, wide, 2),
            mode="linear" if b.opset >= 20 else "bilinear",
            padding_mode="border",
            align_corners=0,
        )
        weighted = read * b.reshape(shares, 1, 1, here * rows, wide)
        pooled = b.AveragePool(weighted, kernel_shape=[1, samples], strides=[1, samples])
        parts.append(b.reshape(pooled, channels, here, rows, columns))
    joined = parts[0] if len(parts) == 1 else b.Concat(*parts, axis=1)
    return b.CastLike(b.Transpose(joined, perm=[1, 0, 2, 3]), b.wrap(features))


class _Axis:
    """One axis of all boxes.

    Args:
        scaled: boxes in cells ``[n, 4]``, 0 being the center of the first one.
        corners: columns of it that are begin and end.
        bins: of a box; ``cells`` of the map.

    Attributes:
        needed: pairs of cells that the samples of a bin lie in, float32 ``[n, 1, 1]``.
    """

    def __init__(
        self, b: Builder, scaled: Expr, corners: tuple[int, int], bins: int, cells: int
    ) -> None:
        self.begin, end = (b.Unsqueeze(b.Gather(scaled, c, axis=1), [1, 2]) for c in corners)
        self.width = (end - self.begin) * (1.0 / bins)
        self.count = b.Max(b.Ceil(self.width), 0.0)
        self.needed = b.Floor(self.count * 0.5) + 1.0
        self.bins, self.cells = bins, cells

    def sampled(self, b: Builder, position: Expr, number: Expr, enough: Expr) -> tuple[Expr, Expr]:
        """Where samples at these positions of a bin are read, in cells, and their share of the bin:
        both ``[n, bins, T]``.

        Args:
            position: of each sample along this axis, ``[n, 1, T]``.
            number: how many positions there are, ``[n, 1, 1]``; ``enough`` whether these are all
                that are needed.
        """
        # No bin is longer than all cells, but for boxes that reach beyond the map.
        most = math.ceil(self.cells / self.bins) + 1
        index = np.arange(most, dtype=np.float32).reshape(1, 1, most)
        place, inside = self._along(b, b.Div(index + np.float32(0.5), b.Max(self.count, 1.0)))
        lives = b.Unsqueeze(inside * b.Cast(b.Less(index, self.count), to=_FLOAT), [2])
        first = b.Floor(b.Slice(place, [0], [1], [2])) + position * 2.0
        distance = b.Unsqueeze(place, [2]) - b.Unsqueeze(first, [3])

        def mean(cell: float) -> Expr:
            """Weight of a cell of each pair in the mean of the samples."""
            near = b.Max(1.0 - b.Abs(distance - cell), 0.0) * lives
            return b.ReduceSum(near, [3], keepdims=0) / b.Max(self.count, 1.0)

        right = mean(1.0)
        total = mean(0.0) + right
        between = first + right / b.Max(total, _TINY)
        spread, counts = self._along(b, (position + 0.5) / number)
        exact = b.And(enough, b.LessOrEqual(self.count, float(most)))
        return b.Where(exact, between, spread), b.Where(exact, total, counts / number)

    def _along(self, b: Builder, share: Expr) -> tuple[Expr, Expr]:
        """Samples at these shares of every bin ``[n, bins, ...]``, moved to where there are cells,
        and 1 for those that are not too far outside to count."""
        bin_number = np.arange(self.bins, dtype=np.float32).reshape(1, self.bins, 1)
        place = self.begin + b.Add(bin_number, share) * self.width
        inside = b.And(b.GreaterOrEqual(place, -1.0), b.LessOrEqual(place, float(self.cells)))
        return b.Clip(place, 0.0, float(self.cells - 1)), b.Cast(inside, to=_FLOAT)
