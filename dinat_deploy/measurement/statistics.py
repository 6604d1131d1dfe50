"""Figures of a sample of latencies, and the ratio of two artefacts that were measured in turn.

The ratio is estimated from pairs: the two blocks that ran in the same round, seconds apart, so that
what slows the machine down for longer (heat, clocks, other load) hits both and cancels. Of the
logarithms of the paired ratios it takes the Hodges-Lehmann estimate and the exact interval that
inverts Wilcoxon's signed-rank test. Both bear a disturbed block that an average would not, and
neither takes the times for normally distributed, which they are not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dinat_deploy.measurement.records import Ratio, Statistics

CONFIDENCE = 0.95
# The signed ranks of fewer pairs have no outcome that is rarer than 5 %.
LEAST_ROUNDS = 6
# More pairs than this change nothing that can be seen, and cost quadratic time.
_MOST_PAIRS = 400


def summarize(values: Sequence[float], percentiles: Sequence[float]) -> Statistics:
    """Figures of a sample.

    Args:
        values: in milliseconds, at least one.
        percentiles: which to compute, each in 0..100.

    Raises:
        ValueError: there are no values, or one of them is negative or no finite number, or a
            percentile lies outside its range.
    """
    sample = np.asarray(values, np.float64)
    if sample.ndim != 1 or sample.size == 0:
        raise ValueError("no values to summarize")
    if not np.isfinite(sample).all() or sample.min() < 0:
        bad = sample[~np.isfinite(sample) | (sample < 0)][0]
        raise ValueError(f"{bad} is no time")
    outside = [value for value in percentiles if not 0 <= value <= 100]
    if outside:
        raise ValueError(f"{outside[0]} is no percentile; they go from 0 to 100")
    low, high = float(sample.min()), float(sample.max())
    # Rounding in the sum may leave the range of the sample.
    mean = min(max(float(sample.mean()), low), high)
    return Statistics(
        count=sample.size,
        min=low,
        max=high,
        mean=mean,
        median=float(np.median(sample)),
        percentiles={f"{p:g}": float(np.percentile(sample, p)) for p in percentiles},
        coefficient_of_variation=float(sample.std()) / mean if mean > 0 else 0.0,
    )


def samples_for(percentile: float) -> int:
    """How many samples it takes for the extreme one to lie beyond a percentile, with 95 %
    confidence; with fewer, the figure for the percentile is a guess.

    0 for the ends of the range (0 and 100), which are figures of the sample itself.
    """
    inside = max(percentile, 100 - percentile) / 100
    return 0 if inside >= 1 else math.ceil(math.log(1 - CONFIDENCE) / math.log(inside))


def paired_ratio(times: Sequence[float], baseline: Sequence[float]) -> Ratio:
    """How many times as long as the baseline an artefact takes.

    Args:
        times: one figure of every round, positive.
        baseline: those of the baseline, in the same rounds.

    Raises:
        ValueError: there are no rounds, or not as many of both, or a time is not positive.
    """
    if len(times) != len(baseline) or not times:
        raise ValueError(f"{len(times)} rounds cannot be compared with {len(baseline)}")
    both = np.asarray([times, baseline], np.float64)
    if not np.isfinite(both).all() or both.min() <= 0:
        raise ValueError("times to compare must be positive")
    logs = np.log(both[0]) - np.log(both[1])
    if len(logs) > _MOST_PAIRS:
        logs = np.asarray([part.mean() for part in np.array_split(logs, _MOST_PAIRS)])
    first, second = np.triu_indices(len(logs))
    averages = np.sort((logs[first] + logs[second]) / 2)
    low = high = None
    if len(logs) >= LEAST_ROUNDS:
        outside = _critical(len(logs))
        low = math.exp(averages[outside])
        high = math.exp(averages[len(averages) - 1 - outside])
    return Ratio(
        value=math.exp(float(np.median(averages))),
        low=low,
        high=high,
        confidence=CONFIDENCE,
        rounds=len(times),
    )


def _critical(pairs: int) -> int:
    """How many of the smallest (and of the largest) Walsh averages lie outside the interval.

    The largest number k for which the signed-rank sum of ``pairs`` pairs, which is distributed
    like the sum of a random subset of 1..pairs, is k or less with at most 2.5 % probability.
    """
    counts = np.ones(1)
    for rank in range(1, pairs + 1):
        shifted = np.concatenate([np.zeros(rank), counts])
        # Probabilities instead of counts, which would overflow.
        counts = (np.concatenate([counts, np.zeros(rank)]) + shifted) / 2
    tail = np.cumsum(counts)
    return int(np.searchsorted(tail, (1 - CONFIDENCE) / 2, side="right")) - 1
