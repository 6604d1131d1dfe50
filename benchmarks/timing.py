"""Timing of rivals call by call in turn, so that drift of the machine hits all alike."""

from __future__ import annotations

import gc
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


def one_alive(
    makers: Mapping[str, Callable[[], Callable[[], object]]], rounds: int, least_ms: float = 20.0
) -> dict[str, float]:
    """Median milliseconds of one call of rivals that are made anew for every measurement.

    For rivals with worker threads that spin while they wait for work, as ONNX Runtime's do by
    default: one that stays alive would take the cores from the next.

    Args:
        makers: each makes a rival; dropping it must end its threads.
        rounds: how often each is made and measured, in turn with the others.
        least_ms: calls of one measurement take together at least this long.
    """
    samples: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(rounds):
        for name, make in makers.items():
            call = make()
            for _ in range(3):
                call()
            calls, started = 0, time.perf_counter()
            while (spent := 1e3 * (time.perf_counter() - started)) < least_ms or calls < 2:
                call()
                calls += 1
            samples[name].append(spent / calls)
            del call
            gc.collect()
    return {name: statistics.median(values) for name, values in samples.items()}
