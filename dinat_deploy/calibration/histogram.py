"""Counts of how often a tensor's values have which size, whatever the order in which they come."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
# TensorRT's method looks for a range among 2048 bins; here at least half of the bins are in use, as
# the largest value lies in the upper half of the range. With 128 levels that is 16 to 32 bins a
# level: a range is found to within 0.05 % of the largest value.
BINS = 4096
# Ranges below 2**-100 tell nothing apart: the scales of such tensors would be subnormal.
SMALLEST_EXPONENT = -100
_BLOCK = 1 << 16  # values, with their indices 1 MiB: as much as a core has for itself


class NotFiniteError(ValueError):
    """A value is infinite or not a number.

    Attributes:
        value: one of the two.
    """

    def __init__(self, value: float) -> None:
        super().__init__(f"{value} cannot be counted")
        self.value = value


class Histogram:
    """Absolute values of a tensor, counted in bins of equal width from 0 to a power of two.

    A value beyond the range doubles it until the value lies inside, folding the bins in pairs. As
    bins begin at multiples of their width, which is a power of two, this is exact: the content
    depends neither on the order of the data nor on how it is split, and two histograms add up to
    that of all the data.

    Args:
        bins: how many, a power of two.

    Attributes:
        counts: int64 ``[bins]``; bin ``i`` holds values in ``[i * width, (i + 1) * width)``,
            without zeros.
        exponent: the range ends at two to this.
        values: how many were counted, zeros included.
        zeros: how many of them were exactly zero.
        max: the largest.
    """

    def __init__(self, bins: int = BINS) -> None:
        if bins < 2 or bins & (bins - 1):
            raise ValueError(f"{bins} bins, and a power of two is needed")
        self.counts: npt.NDArray[np.int64] = np.zeros(bins, np.int64)
        self.exponent = SMALLEST_EXPONENT
        self.values = 0
        self.zeros = 0
        self.max = 0.0

    @property
    def width(self) -> float:
        """Of a bin."""
        return math.ldexp(1.0, self.exponent) / self.counts.size

    @property
    def occupied(self) -> int:
        """How many bins there are up to the one with the largest value; 0 if all are zero."""
        return int(self.max / self.width) + 1 if self.max else 0

    def add(self, values: FloatArray) -> None:
        """Count the values of an array, float32 of any shape.

        Raises:
            NotFiniteError: one is infinite or not a number; nothing was counted then.
        """
        flat = values.reshape(-1)
        found = Histogram(self.counts.size)
        size = min(_BLOCK, flat.size)
        sizes = np.empty(size, np.float32)
        narrow, wide = np.empty(size, np.int32), np.empty(size, np.intp)
        for at in range(0, flat.size, _BLOCK):
            block = flat[at : at + _BLOCK]
            used = slice(block.size)
            found._count(block, sizes[used], narrow[used], wide[used])
        # Zeros came into the first bin with the others.
        found.counts[0] -= found.zeros
        self.merge(found)

    def _count(
        self,
        block: FloatArray,
        sizes: FloatArray,
        narrow: npt.NDArray[np.int32],
        wide: npt.NDArray[np.intp],
    ) -> None:
        """Count a block, zeros in the first bin too, by way of three buffers of its size."""
        np.abs(block, out=sizes)
        largest = float(sizes.max())  # not a number if any is
        if not math.isfinite(largest):
            raise NotFiniteError(largest)
        self._reach(largest)
        self.values += block.size
        self.zeros += int(np.count_nonzero(sizes == 0))
        # Exact, being a power of two.
        np.multiply(sizes, np.float32(1 / self.width), out=sizes)
        # In two steps, as processors convert to int32 several at a time, and to int64 one by one.
        np.copyto(narrow, sizes, casting="unsafe")
        np.copyto(wide, narrow)
        self.counts += np.bincount(wide, minlength=self.counts.size)

    def merge(self, other: Histogram) -> None:
        """Add another histogram of as many bins."""
        if other.counts.size != self.counts.size:
            raise ValueError(f"{other.counts.size} bins cannot be added to {self.counts.size}")
        self._reach(other.max)
        self.counts += _folded(other.counts, self.exponent - other.exponent)
        self.values += other.values
        self.zeros += other.zeros

    def _reach(self, value: float) -> None:
        """Widen the range so that the value lies inside."""
        exponent = math.frexp(value)[1] if value else SMALLEST_EXPONENT
        if exponent > self.exponent:
            self.counts = _folded(self.counts, exponent - self.exponent)
            self.exponent = exponent
        self.max = max(self.max, value)


def _folded(counts: npt.NDArray[np.int64], times: int) -> npt.NDArray[np.int64]:
    """The counts in a range that was doubled so many times."""
    if not times:
        return counts
    together = min(1 << min(times, 63), counts.size)
    folded = np.zeros_like(counts)
    folded[: counts.size // together] = counts.reshape(-1, together).sum(axis=1)
    return folded
