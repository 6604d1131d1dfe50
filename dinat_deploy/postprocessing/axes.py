"""Resizing as data: which values each pixel of a picture is a mixture of, one axis at a time.

Everything between a model's outputs and the picture is linear and separable: the outputs are
resized bilinearly to the size of the model's input, what does not show the picture is cut off,
windows are averaged where they overlap, and the rest is resized bilinearly to the size of the
picture. One :class:`Axis` is all of that along one axis, so that any part of the picture can be
computed by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dinat_deploy.models.preprocessing import Preprocessing

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
_ROWS = 64


@dataclass(frozen=True)
class Axis:
    """``out[i] = sum of weights[i, t] * in[first[i] + t]``, with ``first`` ascending.

    Attributes:
        first: int64 ``[n]``.
        weights: float32 ``[n, taps]``.
        length: of ``in``.
    """

    first: IntArray
    weights: FloatArray
    length: int

    def __len__(self) -> int:
        return len(self.first)

    @classmethod
    def at(cls, positions: npt.NDArray[np.floating[Any]], length: int) -> Axis:
        """Linear interpolation at positions in units of elements; beyond the ends the end counts.

        Args:
            positions: ascending; 0 is the centre of the first element.
            length: number of elements.
        """
        inside = positions.clip(0, length - 1)
        low = np.floor(inside).astype(np.int64).clip(0, max(length - 2, 0))
        share = (inside - low)[:, None]
        weights = np.hstack([1 - share, share]) if length > 1 else np.ones_like(share)
        return cls(low, weights.astype(np.float32), length)

    @classmethod
    def bilinear(cls, length: int, size: int) -> Axis:
        """From ``length`` to ``size`` elements as ``torch.nn.functional.interpolate`` does with
        ``mode="bilinear"`` and ``align_corners=False``: without antialiasing."""
        return cls.at((np.arange(size) + 0.5) * (length / size) - 0.5, length)

    def after(self, inner: Axis) -> Axis:
        """The same as ``inner`` and then this one."""
        columns = [self.first + tap for tap in range(self.weights.shape[1])]
        spans = inner.first[columns[-1]] - inner.first[columns[0]]
        taps = int(spans.max(initial=0)) + inner.weights.shape[1]
        first = np.minimum(inner.first[columns[0]], inner.length - taps)
        weights = np.zeros((len(self), taps), np.float32)
        rows = np.arange(len(self))
        for outer_tap, middle in enumerate(columns):
            for tap in range(inner.weights.shape[1]):
                share = self.weights[:, outer_tap] * inner.weights[middle, tap]
                weights[rows, inner.first[middle] - first + tap] += share
        return Axis(first, weights, inner.length)

    def picked(self, index: IntArray, factors: FloatArray) -> Axis:
        """Some of the outputs, each times a factor: ``[n]`` both, the index ascending."""
        return Axis(self.first[index], self.weights[index] * factors[:, None], self.length)

    def reach(self) -> tuple[int, int]:
        """The range of outputs that are not all zero; empty ones are (0, 0)."""
        used = np.flatnonzero(self.weights.any(axis=1))
        return (int(used[0]), int(used[-1]) + 1) if used.size else (0, 0)

    def dense(self, start: int, stop: int) -> tuple[slice, FloatArray]:
        """The outputs ``start`` to ``stop`` as a matrix, and the part of ``in`` that it is for."""
        first = self.first[start:stop]
        low, taps = int(first[0]), self.weights.shape[1]
        matrix = np.zeros((stop - start, int(first[-1]) + taps - low), np.float32)
        rows = np.arange(stop - start)
        for tap in range(taps):
            matrix[rows, first - low + tap] = self.weights[start:stop, tap]
        return slice(low, low + matrix.shape[1]), matrix


@dataclass(frozen=True)
class View:
    """Where a model's input shows a picture.

    Attributes:
        picture, resized: (height, width) of the picture, before and after resizing.
        offset: (top, left) of the model's input in the resized picture; negative where the input
            reaches beyond it.
        window: (height, width) of the model's input.
    """

    picture: tuple[int, int]
    resized: tuple[int, int]
    offset: tuple[int, int]
    window: tuple[int, int]

    @classmethod
    def of(cls, preprocessing: Preprocessing, picture: tuple[int, int]) -> View:
        """As :class:`~dinat_deploy.models.preprocessing.Preprocessing` cuts it.

        Args:
            picture: (height, width).
        """
        (width, height), (left, top, _, _) = preprocessing.geometry((picture[1], picture[0]))
        return cls(picture, (height, width), (top, left), preprocessing.crop)

    def shown(self, axis: int) -> tuple[int, int]:
        """The range of the input's pixels that show the picture, along 0 (down) or 1 (across)."""
        offset, size = self.offset[axis], self.resized[axis]
        return max(0, -offset), min(self.window[axis], size - offset)

    def positions(self, axis: int) -> npt.NDArray[np.floating[Any]]:
        """Where the centres of the picture's pixels are in the input, in units of its pixels."""
        old, new = self.picture[axis], self.resized[axis]
        return (np.arange(old) + 0.5) * (new / old) - 0.5 - self.offset[axis]

    def seen(self, axis: int) -> BoolArray:
        """Which rows or columns of the picture the input shows."""
        places = self.positions(axis)
        return (places >= -0.5) & (places < self.window[axis] - 0.5)

    def from_input(self, axis: int) -> Axis:
        """The picture's pixels from those of the input, without what is filled up around it."""
        begin, end = self.shown(axis)
        inner = Axis.at(self.positions(axis) - begin, end - begin)
        return Axis(inner.first + begin, inner.weights, self.window[axis])

    def from_outputs(self, axis: int, length: int) -> Axis:
        """The picture's pixels from maps of ``length`` elements, which are first resized to the
        input and then, without what does not show the picture, to the picture."""
        return self.from_input(axis).after(Axis.bilinear(length, self.window[axis]))

    def to_picture(self, axis: int, values: FloatArray) -> FloatArray:
        """Coordinates in the input (0 to its extent, not pixel centres) as those in the picture;
        what is filled up around it lies beyond its ends."""
        scale = self.picture[axis] / self.resized[axis]
        moved = (values.astype(np.float64) + self.offset[axis]) * scale
        return moved.astype(np.float32)


class Resized:
    """Maps at the size of a picture, some rows at a time: few rows depend on few rows only.

    Args:
        view: where the model looked at the picture.
        size: (height, width) of the maps.
    """

    def __init__(self, view: View, size: tuple[int, int]) -> None:
        self._rows = view.from_outputs(0, size[0])
        columns = view.from_outputs(1, size[1])
        self._used_columns, across = columns.dense(0, len(columns))
        self._across = np.ascontiguousarray(across.T)

    def blocks(self) -> Iterator[tuple[slice, slice, FloatArray]]:
        """Parts of the picture from the top down: its rows, the rows of maps that they depend on,
        and how: a matrix."""
        for top in range(0, len(self._rows), _ROWS):
            bottom = min(top + _ROWS, len(self._rows))
            yield slice(top, bottom), *self._rows.dense(top, bottom)

    def block(self, values: FloatArray, used: slice, down: FloatArray) -> FloatArray:
        """A part of a map ``[h, w]``, as :meth:`blocks` says: float32 ``[rows, W]``."""
        return down @ (values[used, self._used_columns] @ self._across)

    def whole(self, values: FloatArray) -> FloatArray:
        """All of a map ``[h, w]``: float32 ``[H, W]``."""
        return np.concatenate([self.block(values, used, how) for _, used, how in self.blocks()])
