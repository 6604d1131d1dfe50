"""Figures of samples against their definitions, and the coverage of the ratio's interval."""

from __future__ import annotations

import itertools
import math
import statistics
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dinat_deploy.measurement.statistics import LEAST_ROUNDS, paired_ratio, samples_for, summarize

times = st.floats(0, 1e6, allow_nan=False)
samples = st.lists(times, min_size=1, max_size=40)
percents = st.floats(0, 100, allow_nan=False)


def interpolated(values: list[float], percent: float) -> Fraction:
    """The definition, in exact arithmetic: linear between the order statistics around it."""
    ordered = sorted(map(Fraction, values))
    place = Fraction(percent) / 100 * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


@given(samples, percents)
def test_percentiles_are_interpolated_between_order_statistics(
    values: list[float], percent: float
) -> None:
    (found,) = summarize(values, [percent]).percentiles.values()
    assert found == pytest.approx(float(interpolated(values, percent)), rel=1e-9, abs=1e-9)


@given(samples)
def test_figures_are_those_of_the_standard_library_and_of_numpy(values: list[float]) -> None:
    found = summarize(values, [0, 50, 100])
    assert found.count == len(values)
    assert (found.min, found.max) == (min(values), max(values))
    assert found.median == pytest.approx(statistics.median(values))
    assert found.mean == pytest.approx(statistics.fmean(values))
    deviation = statistics.pstdev(values)
    if found.mean > 1e-3:
        assert found.coefficient_of_variation == pytest.approx(
            deviation / found.mean, rel=1e-6, abs=1e-6
        )
    assert found.percentiles["0"] == found.min
    assert found.percentiles["50"] == pytest.approx(float(np.percentile(values, 50)))
    assert found.percentiles["100"] == found.max


@given(samples, st.lists(percents, min_size=2, max_size=4, unique=True))
def test_figures_keep_their_order(values: list[float], wanted: list[float]) -> None:
    found = summarize(values, sorted(wanted))
    assert found.min <= found.mean <= found.max
    assert found.min <= found.median <= found.max
    ordered = [found.percentiles[f"{p:g}"] for p in sorted(wanted)]
    assert all(low <= high + 1e-9 * high for low, high in itertools.pairwise(ordered))


def test_one_sample_is_all_of_its_figures() -> None:
    found = summarize([2.5], [90, 99.9])
    assert (found.min, found.mean, found.median, found.max) == (2.5, 2.5, 2.5, 2.5)
    assert found.percentiles == {"90": 2.5, "99.9": 2.5}
    assert found.coefficient_of_variation == 0.0


@pytest.mark.parametrize(
    ("values", "percentiles", "message"),
    [
        ([], [], "no values"),
        ([1.0, math.nan], [], "nan is no time"),
        ([math.inf], [], "inf is no time"),
        ([1.0, -0.5], [], "-0.5 is no time"),
        ([1.0], [101], "101 is no percentile"),
        ([1.0], [-1], "-1 is no percentile"),
        ([1.0], [math.nan], "nan is no percentile"),
    ],
)
def test_values_that_are_no_times_are_refused(
    values: list[float], percentiles: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        summarize(values, percentiles)


def test_a_percentile_needs_more_samples_the_farther_out_it_is() -> None:
    assert [samples_for(p) for p in (50, 90, 95, 99, 99.9)] == [5, 29, 59, 299, 2995]
    assert samples_for(1) == samples_for(99)
    assert samples_for(0) == samples_for(100) == 0


@given(st.lists(st.floats(0.1, 1e3), min_size=1, max_size=30), st.floats(0.05, 20))
def test_a_constant_factor_is_found_whatever_the_machine_does(
    baseline: list[float], factor: float
) -> None:
    """Drift and disturbances that hit both alike cancel."""
    found = paired_ratio([factor * time for time in baseline], baseline)
    assert found.value == pytest.approx(factor)
    assert found.rounds == len(baseline)
    if len(baseline) < LEAST_ROUNDS:
        assert found.low is None
        assert found.high is None
    else:
        assert found.low == pytest.approx(factor)
        assert found.high == pytest.approx(factor)


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=1, max_size=25))
def test_exchanging_both_inverts_ratio_and_interval(pairs: list[tuple[float, float]]) -> None:
    first, second = ([pair[side] for pair in pairs] for side in (0, 1))
    there, back = paired_ratio(first, second), paired_ratio(second, first)
    assert there.value == pytest.approx(1 / back.value)
    if there.low is not None:
        assert there.high is not None
        assert back.low is not None
        assert there.high == pytest.approx(1 / back.low)
        assert there.low <= there.value <= there.high


@pytest.mark.parametrize("rounds", [6, 9, 12, 20])
def test_the_interval_holds_the_ratios_that_the_signed_rank_test_does_not_reject(
    rounds: int, rng: np.random.Generator
) -> None:
    """scipy's exact test at ratios just inside and just outside of the ends."""
    logs = rng.standard_t(3, rounds) * 0.05
    found = paired_ratio(list(np.exp(logs)), [1.0] * rounds)
    assert found.low is not None
    assert found.high is not None
    for end, outward in ((found.low, -1e-9), (found.high, 1e-9)):
        inside = stats.wilcoxon(logs - math.log(end) + outward, method="exact").pvalue
        outside = stats.wilcoxon(logs - math.log(end) - outward, method="exact").pvalue
        assert outside <= 0.05 < inside


def test_the_interval_covers_the_true_ratio_as_often_as_it_says(rng: np.random.Generator) -> None:
    """Times with heavy tails, as other load makes them; the binomial error is 1 %."""
    covered = 0
    for _ in range(500):
        noise = np.exp(rng.standard_t(3, (2, 12)) * 0.05)
        found = paired_ratio(list(1.3 * noise[0]), list(noise[1]))
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 1.3 <= found.high
    assert 0.92 <= covered / 500 <= 0.985


def test_one_disturbed_round_moves_the_ratio_little() -> None:
    times = [1.1, 1.11, 1.09, 1.1, 1.12, 1.1, 1.1, 1.08, 50.0, 1.1]
    found = paired_ratio(times, [1.0] * 10)
    assert found.value == pytest.approx(1.1, abs=0.02)


def test_thousands_of_rounds_take_no_quadratic_time() -> None:
    found = paired_ratio([2.0] * 100_000, [1.0] * 100_000)
    assert found.value == pytest.approx(2.0)
    assert found.rounds == 100_000


@pytest.mark.parametrize(
    ("times", "baseline"), [([], []), ([1.0], [1.0, 2.0]), ([0.0], [1.0]), ([1.0], [math.nan])]
)
def test_rounds_that_cannot_be_compared_are_refused(
    times: list[float], baseline: list[float]
) -> None:
    with pytest.raises(ValueError, match=r"compare"):
        paired_ratio(times, baseline)
