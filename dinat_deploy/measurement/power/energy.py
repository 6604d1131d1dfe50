"""From samples to watts and joules.

Energy over a window from ``a`` to ``b`` is ``E = integral of P(t) dt``. ``P`` is taken to be
straight between two samples in the window (trapezoidal rule), and constant before the first and
after the last of them, which is at most one interval at each end: samples outside are of what ran
before and after. Where the source has a counter of energy, ``E = C(b) - C(a)``, with ``C``
interpolated between the samples on both sides of each end: the counter misses no peak between two
samples.

With ``n`` inferences in the window and an idle power of ``P0``:

    energy of an inference             E / n
    energy of an inference above idle  (E - P0 * (b - a)) / n
    mean power                         E / (b - a)
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from dinat_deploy.measurement.power.rails import Total
from dinat_deploy.measurement.power.source import Reading

# Fewer say nothing about a mean.
LEAST_SAMPLES = 3


@dataclass(frozen=True)
class Sample:
    """A reading, and when it was taken, in seconds."""

    time: float
    reading: Reading


@dataclass(frozen=True)
class Energy:
    """What a window came to.

    Attributes:
        seconds: its length.
        samples: readings that lie in it.
        rails: rail -> mean W.
        joules: of the whole; None if the rails have no total.
        counted: whether they come from a counter.
    """

    seconds: float
    samples: int
    rails: dict[str, float]
    joules: float | None
    counted: bool

    @property
    def watts(self) -> float | None:
        """Mean power of the whole."""
        return None if self.joules is None else self.joules / self.seconds


def energy(samples: Sequence[Sample], begin: float, end: float, total: Total) -> Energy | None:
    """Energy and mean power from ``begin`` to ``end`` (seconds, of the samples' clock).

    Args:
        samples: in order of time; also the last before and the first after the window.
        total: which rails make the whole.

    Returns:
        None with fewer than three samples in the window, or none of its length.
    """
    inside = [sample for sample in samples if begin <= sample.time <= end]
    if len(inside) < LEAST_SAMPLES or end <= begin:
        return None
    seconds = end - begin
    # A rail that was not in every reading has no mean.
    names = [
        name for name in inside[0].reading.watts if all(name in s.reading.watts for s in inside)
    ]
    times = [sample.time for sample in inside]
    rails = {
        name: integral(times, [s.reading.watts[name] for s in inside], begin, end) / seconds
        for name in names
    }
    counters = [s.reading.joules for s in samples if s.reading.joules is not None]
    if len(counters) == len(samples) and counters == sorted(counters):
        times = [sample.time for sample in samples]
        joules = at(times, counters, end) - at(times, counters, begin)
        if len(total.rails) == 1:
            rails = {total.rails[0]: joules / seconds}
        return Energy(seconds, len(inside), rails, joules, counted=True)
    whole = total.known and set(total.rails) <= set(rails)
    summed = sum(rails[name] for name in total.rails) * seconds if whole else None
    return Energy(seconds, len(inside), rails, summed, counted=False)


def integral(times: Sequence[float], values: Sequence[float], begin: float, end: float) -> float:
    """Area under the straight lines between the points, from ``begin`` to ``end``."""
    first, last = bisect.bisect_right(times, begin), bisect.bisect_left(times, end)
    xs = [begin, *times[first:last], end]
    ys = [at(times, values, begin), *values[first:last], at(times, values, end)]
    return sum((xs[i + 1] - xs[i]) * (ys[i] + ys[i + 1]) / 2 for i in range(len(xs) - 1))


def at(times: Sequence[float], values: Sequence[float], when: float) -> float:
    """Value at a time, on the straight line between its neighbours; beyond the ends as there."""
    right = bisect.bisect_left(times, when)
    if right == 0:
        return values[0]
    if right == len(times):
        return values[-1]
    low, high = times[right - 1], times[right]
    share = (when - low) / (high - low)
    return values[right - 1] + share * (values[right] - values[right - 1])
