"""Timing of rivals call by call in turn, so that drift of the machine hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def interleaved(
    rivals: Mapping[str, Callable[[], object]], rounds: int, least_ms: float = 8.0
) -> dict[str, float]:
    """Median milliseconds of one call of each rival.

    Args:
        rounds: how often each is measured, in turn with the others.
        least_ms: fast calls are repeated within a measurement to take at least this long.
    """
    repeats: dict[str, int] = {}
    samples: dict[str, list[float]] = {name: [] for name in rivals}
    for name, call in rivals.items():
        call()
        started = time.perf_counter()
        call()
        once = 1e3 * (time.perf_counter() - started)
        repeats[name] = max(1, round(least_ms / max(once, 1e-3)))
    for _ in range(rounds):
        for name, call in rivals.items():
            started = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            samples[name].append(1e3 * (time.perf_counter() - started) / repeats[name])
    return {name: statistics.median(values) for name, values in samples.items()}
