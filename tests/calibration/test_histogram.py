"""Histograms: exact, whatever the order of the data and however they are split."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dinat_deploy.calibration.histogram import Histogram, NotFiniteError

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
ARRAYS = hnp.arrays(np.float32, st.integers(0, 60), elements=FINITE | st.sampled_from([0.0, -0.0]))
CUTS = st.lists(st.integers(0, 60), max_size=4)


def counted(*arrays: np.ndarray, bins: int = 16) -> Histogram:
    histogram = Histogram(bins)
    for array in arrays:
        histogram.add(array)
    return histogram


def content(histogram: Histogram) -> tuple[object, ...]:
    return (
        histogram.counts.tolist(),
        histogram.exponent,
        histogram.values,
        histogram.zeros,
        histogram.max,
    )


@given(ARRAYS, CUTS, st.randoms())
def test_order_and_splits_do_not_matter(values, cuts, random):
    shuffled = values[random.sample(range(values.size), values.size)]
    ends = [0, *sorted(min(cut, values.size) for cut in cuts), values.size]
    parts = [shuffled[begin:end] for begin, end in pairwise(ends)]
    assert content(counted(*parts)) == content(counted(values))


@given(ARRAYS, ARRAYS)
def test_two_histograms_add_up_to_that_of_all_data(first, second):
    merged = counted(first)
    merged.merge(counted(second))
    assert content(merged) == content(counted(np.concatenate([first, second])))


@given(ARRAYS)
def test_bins_hold_the_values_between_their_edges(values):
    found = counted(values)
    sizes = np.abs(values.astype(np.float64))
    edges = np.arange(17) * found.width
    expected = [
        int(np.sum((edges[i] <= sizes) & (sizes < edges[i + 1]) & (sizes > 0))) for i in range(16)
    ]
    assert found.counts.tolist() == expected
    assert found.zeros == np.sum(values == 0)
    assert found.values == values.size
    assert found.max == (sizes.max() if values.size else 0)
    assert found.occupied == np.max(np.flatnonzero(expected), initial=-1) + 1


@pytest.mark.parametrize("largest", [1.0, 0.999, 3.5, 1e-30, 3.4e38])
def test_the_largest_value_lies_in_the_upper_half_of_the_range(largest):
    found = counted(np.array([largest, 0.0], np.float32), bins=64)
    assert 32 < found.occupied <= 64
    assert math.log2(found.width).is_integer()


def test_arrays_larger_than_a_block_are_counted_whole(rng):
    values = rng.standard_normal(300_000, dtype=np.float32)
    values[-1] = 77  # the range is widened by the last block
    values[100_000:150_000] = 0
    found = counted(values.reshape(3, 1000, 100), bins=4096)
    index = (np.abs(values[values != 0]).astype(np.float64) / found.width).astype(int)
    np.testing.assert_array_equal(found.counts, np.bincount(index, minlength=4096))
    assert (found.values, found.zeros, found.max) == (300_000, 50_000, 77.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_and_nothing_is_counted(rng, bad):
    found = counted(np.array([1, 2], np.float32))
    before = content(found)
    values = rng.standard_normal(200_000, dtype=np.float32)
    values[190_000] = bad
    with pytest.raises(NotFiniteError) as caught:
        found.add(values)
    assert math.isnan(caught.value.value) == math.isnan(bad)
    assert content(found) == before


def test_bins_must_be_a_power_of_two_and_the_same_to_merge():
    with pytest.raises(ValueError, match="100 bins"):
        Histogram(100)
    with pytest.raises(ValueError, match="32 bins cannot be added to 16"):
        Histogram(16).merge(Histogram(32))
