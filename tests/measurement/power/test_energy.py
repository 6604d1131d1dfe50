"""Joules from samples: numbers that can be worked out by hand."""

from __future__ import annotations

import pytest

from dinat_deploy.measurement.power.energy import Sample, at, energy, integral
from dinat_deploy.measurement.power.rails import Total
from dinat_deploy.measurement.power.source import Reading

A, BOTH = Total(("a",), "a"), Total(("a", "b"), "a + b")


def samples(*points: tuple[float, float], joules: list[float] | None = None) -> list[Sample]:
    counts = joules or [None] * len(points)
    return [
        Sample(when, Reading({"a": watts, "b": 1.0}, count))
        for (when, watts), count in zip(points, counts, strict=True)
    ]


def test_a_ramp_is_integrated_by_the_trapezoidal_rule() -> None:
    # From 10 W to 20 W in two seconds: 30 J.
    found = energy(samples((0, 10), (1, 15), (2, 20)), 0, 2, A)
    assert found is not None
    assert (found.joules, found.watts, found.seconds, found.samples) == (30.0, 15.0, 2.0, 3)
    assert found.rails == {"a": 15.0, "b": 1.0}
    assert not found.counted


def test_samples_that_come_unevenly_count_by_the_time_between_them() -> None:
    # 10 W for three seconds, then up to 20 W within one: 30 J + 15 J; the plain mean would be 13.3.
    found = energy(samples((0, 10), (3, 10), (4, 20)), 0, 4, A)
    assert found is not None
    assert found.joules == pytest.approx(45.0)


def test_what_ran_before_and_after_the_window_does_not_count() -> None:
    # 10 W in the window of 3 s; whatever was drawn around it is of something else.
    around = samples((0, 99), (1.5, 10), (2, 10), (3, 10), (4.5, 0))
    found = energy(around, 1, 4, A)
    assert found is not None
    assert (found.joules, found.samples) == (pytest.approx(30.0), 3)


def test_a_counter_is_interpolated_at_the_ends_of_the_window() -> None:
    # C(t) = 100 + 20 t, read at whole seconds: from 0.5 to 3.5 these are 60 J.
    line = samples(*((t, 20.0) for t in range(5)), joules=[100.0 + 20 * t for t in range(5)])
    found = energy(line, 0.5, 3.5, A)
    assert found is not None
    assert (found.joules, found.counted) == (pytest.approx(60.0), True)


def test_rails_are_added_only_as_the_total_says() -> None:
    found = energy(samples((0, 4), (1, 4), (2, 4)), 0, 2, BOTH)
    assert found is not None and found.joules == pytest.approx(10.0)
    none = energy(samples((0, 4), (1, 4), (2, 4)), 0, 2, Total((), "not known"))
    assert none is not None
    assert (none.joules, none.watts) == (None, None)
    assert none.rails == {"a": 4.0, "b": 1.0}


def test_a_counter_goes_before_the_samples_of_power() -> None:
    # A peak of 6 J between two readings of 10 W shows in the counter alone: 26 J in two seconds.
    found = energy(samples((0, 10), (1, 10), (2, 10), joules=[100.0, 116.0, 126.0]), 0, 2, A)
    assert found is not None
    assert (found.joules, found.watts, found.counted) == (26.0, 13.0, True)
    assert found.rails == {"a": 13.0}


def test_a_counter_that_went_back_is_not_believed() -> None:
    found = energy(samples((0, 10), (1, 10), (2, 10), joules=[100.0, 116.0, 5.0]), 0, 2, A)
    assert found is not None
    assert (found.joules, found.counted) == (20.0, False)


@pytest.mark.parametrize("window", [(0.1, 1.9), (5, 6), (2, 2), (2, 0)])
def test_too_few_samples_say_nothing(window: tuple[float, float]) -> None:
    assert energy(samples((0, 1), (1, 1), (2, 1)), *window, A) is None


def test_a_rail_that_came_only_sometimes_has_no_mean() -> None:
    some = samples((0, 1), (1, 1), (2, 1))
    some[1] = Sample(1, Reading({"a": 1.0}))
    found = energy(some, 0, 2, BOTH)
    assert found is not None
    assert (found.rails, found.joules) == ({"a": 1.0}, None)


def test_beyond_the_samples_power_stays_as_it_was() -> None:
    assert [at([1, 2], [10, 20], t) for t in (0, 1, 1.5, 2, 9)] == [10, 10, 15, 20, 20]
    assert integral([1, 2], [10, 20], 0, 4) == pytest.approx(10 + 15 + 40)
