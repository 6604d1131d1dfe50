"""The range of a tensor, from the histogram of its absolute values.

A range ``r`` stands for symmetric quantization: the scale is ``r`` over the largest level, and
values beyond ``r`` are clipped. What the estimators weigh against each other is the error of those
against that of rounding all others.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from dinat_deploy.calibration.histogram import SMALLEST_EXPONENT, Histogram
from dinat_deploy.calibration.record import DEFAULT_PERCENTILE, ESTIMATORS, Estimator
from dinat_deploy.errors import ConfigError
from dinat_deploy.graph.formats import QuantizedPrecision

# Of int8 on each side, zero counted.
LEVELS = 128
# Which estimators suit which format. Entropy and mse assume levels of equal distance. In float8
# (E4M3) the error of rounding is relative to each value, up to 1/16 of it down to 2**-15 of the
# range, so that a smaller range hardly makes it smaller, while clipping costs as ever: with the
# largest value as the range, the squared error is within 11 % of the least possible for nine
# distributions tried, and with the 99.99th percentile up to 500 times as large.
SUITED: dict[QuantizedPrecision, tuple[Estimator, ...]] = {
    "int8": ("max", "entropy", "percentile", "mse"),
    "fp8": ("max",),
}
_ALL_ZERO = 1.0
_SMALLEST = 2.0**SMALLEST_EXPONENT
_LEAST_DIVERGENCE = 1e-9  # nats; below, two ranges are as good as each other
_COARSE, _FINE = 0.98, 33  # ratio of neighbouring ranges tried by mse; how many between two of them
_NARROWEST = 1 / 256
_ENDS_AT_ONCE = 64  # ranges tried by entropy; with 128 levels 64 KiB an array
_AT_ONCE = 8  # ranges; with 4096 bins 256 KiB an array, so that a few of them fit the cache

_Floats = npt.NDArray[np.float64]


def estimate(
    histogram: Histogram,
    estimator: Estimator,
    *,
    levels: int = LEVELS,
    percentile: float = DEFAULT_PERCENTILE,
) -> float:
    """The largest absolute value that a tensor's scale must reach.

    It is a positive float32 for any tensor: 1 if all values are zero, where any range will do;
    the value itself, by every estimator, if all that are not zero have the same size; at least
    2**-100, below which scales would be subnormal; at most the largest value otherwise.

    Args:
        estimator:
            ``max``: the largest value; nothing is clipped.
            ``entropy``: see :func:`_entropy`.
            ``percentile``: the smallest range, in whole bins, that clips no more than the rest;
            zeros count as values. If there are so many zeros that it would clip all others, it is
            the largest value.
            ``mse``: the least expected squared error; see :func:`_mse`.
        levels: of one side, zero counted: the largest is ``levels - 1`` scales.
        percentile: in percent.

    Raises:
        ConfigError: an argument has an impossible value.
    """
    if estimator not in ESTIMATORS:
        raise ConfigError(
            f"{estimator!r} is no estimator of ranges.", f"Choose one of {', '.join(ESTIMATORS)}."
        )
    bins = histogram.counts.size
    if not 2 <= levels <= bins // 2:
        raise ConfigError(
            f"{levels} levels cannot be told apart in {bins} bins.",
            f"Choose 2 to {bins // 2} levels.",
        )
    if not 0 < percentile <= 100:
        raise ConfigError(f"The percentile is {percentile:g}.", "Choose more than 0, up to 100.")
    if not histogram.max:
        return _ALL_ZERO
    found = histogram.max
    if np.count_nonzero(histogram.counts) > 1:
        if estimator == "entropy":
            found = _entropy(histogram, levels)
        elif estimator == "mse":
            found = _mse(histogram, levels)
        elif estimator == "percentile":
            found = _percentile(histogram, percentile)
    return float(np.float32(max(min(found, histogram.max), _SMALLEST)))


def _percentile(histogram: Histogram, percentile: float) -> float:
    # In the decimal fraction that was written: 99.9 is a little less as a float64.
    rank = math.ceil(Fraction(str(float(percentile))) * histogram.values / 100)
    if rank <= histogram.zeros:
        return histogram.max
    reached = histogram.zeros + np.cumsum(histogram.counts)
    return (int(np.searchsorted(reached, rank)) + 1) * histogram.width


def _entropy(histogram: Histogram, levels: int) -> float:
    """The range at which quantization loses the least information, as TensorRT's calibrator does.

    Source: S. Migacz, 8-bit Inference with TensorRT, GTC 2017. Every range of whole bins from
    ``levels`` bins on is tried. The reference distribution is that of the bins inside, with all
    that is outside added to the last of them. The quantized one has in each level what the bins of
    that level have inside, spread evenly over those that are not empty in the reference. The range
    with the smallest Kullback-Leibler divergence wins, the widest one of equals.

    Exact zeros are left out: every range represents them exactly, and after an activation there may
    be so many that nothing else counts (NVIDIA's pytorch-quantization leaves out the first bin for
    that reason).

    With ``c`` the counts inside, ``c'`` with the outliers, ``C`` and ``C'`` their sums over a level
    and ``n`` its bins that are not empty, the divergence is

        sum(c' log c') / sum(c') - sum(C' log(C / n)) / sum(c') + log sum(c) - log sum(c')

    so that sums up to each bin are all that is needed.
    """
    occupied = histogram.occupied
    counts = histogram.counts[:occupied].astype(np.float64)
    inside, used, own = _sums(counts), _sums(counts > 0), _sums(_x_log_x(counts))
    total = inside[-1]
    ends = np.arange(min(levels, occupied), occupied + 1)
    last = counts[ends - 1]
    outside = total - inside[ends]
    crossed = np.empty(ends.size)
    for at in range(0, ends.size, _ENDS_AT_ONCE):
        some = slice(at, at + _ENDS_AT_ONCE)
        bounds = _level_bounds(histogram.counts.size, levels)[ends[some] - levels]
        quantized = np.diff(inside[bounds])
        bins = np.diff(used[bounds])
        bins[:, -1] += (outside[some] > 0) & (last[some] == 0)
        reference = quantized.copy()
        reference[:, -1] += outside[some]
        # A level of nothing but outliers makes it infinite; empty ones have no part in it.
        with np.errstate(divide="ignore"):
            logarithms = np.log(quantized / np.maximum(bins, 1.0))
        np.multiply(reference, logarithms, out=reference, where=reference > 0)
        crossed[some] = reference.sum(axis=1)
    own = own[ends] - _x_log_x(last) + _x_log_x(last + outside)
    divergence = np.full(ends.size, np.inf)
    some_inside = inside[ends] > 0
    shares = inside[ends[some_inside]] / total
    divergence[some_inside] = (own - crossed)[some_inside] / total + np.log(shares)
    best = np.flatnonzero(divergence <= divergence.min() + _LEAST_DIVERGENCE)[-1]
    return float(ends[best]) * histogram.width


@lru_cache(maxsize=4)
def _level_bounds(bins: int, levels: int) -> npt.NDArray[np.intp]:
    """For ``levels`` bins and more: the first bin of each level, and the end."""
    ends = np.arange(levels, bins + 1)[:, None]
    return -(-ends * np.arange(levels + 1) // levels)


def _sums(values: npt.NDArray[np.generic]) -> _Floats:
    """Sums of all before each, and of all."""
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


def _x_log_x(values: _Floats) -> _Floats:
    return values * np.log(np.maximum(values, 1.0))  # counts are 0, 1 and more


def _mse(histogram: Histogram, levels: int) -> float:
    """The range with the least expected squared error of quantizing and dequantizing.

    Ranges from the largest value down to 1/256 of it, each 2 % narrower than the one before, then
    finer about the best.
    """
    coarse = histogram.max * _COARSE ** np.arange(np.log(_NARROWEST) / np.log(_COARSE))
    best = coarse[np.argmin(expected_errors(histogram, coarse, levels))]
    fine = best * np.geomspace(1 / _COARSE, _COARSE, _FINE)
    fine = fine[fine <= histogram.max]
    return float(fine[np.argmin(expected_errors(histogram, fine, levels))])


def expected_errors(histogram: Histogram, ranges: _Floats, levels: int = LEVELS) -> _Floats:
    """Expected squared error of a value for each range, if values are spread evenly in their bins.

    The error's integral ``F`` from 0 is known: with ``s`` the scale, ``k`` the nearest level to
    ``x`` (the largest one beyond it) and ``u = x / s - k``, it is ``s**3 * (k / 12 + u**3 / 3)``.
    A bin from ``a`` to ``b`` with ``c`` values has ``c * (F(b) - F(a)) / (b - a)``.

    Args:
        ranges: float64 ``[N]``.
        levels: as of :func:`estimate`.

    Returns:
        float64 ``[N]``.
    """
    # Each edge takes part in two bins; where both have as many values, it cancels.
    change = -np.diff(histogram.counts[: histogram.occupied], prepend=0, append=0)
    edges = np.flatnonzero(change)
    weights = change[edges].astype(np.float64)
    positions = edges * histogram.width
    largest = levels - 1
    sums = np.empty(len(ranges))
    for at in range(0, len(ranges), _AT_ONCE):
        scales = ranges[at : at + _AT_ONCE, None] / largest
        u = positions / scales
        k = np.minimum(np.rint(u), largest)
        u -= k
        k /= 12
        k += u * u * u / 3
        sums[at : at + _AT_ONCE] = (k @ weights) * scales[:, 0] ** 3
    return sums / (histogram.width * histogram.values)
