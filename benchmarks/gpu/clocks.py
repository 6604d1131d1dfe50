"""Timing: CUDA graphs and events on a GPU, the wall clock on a CPU; contestants in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

Sampler = Callable[[], float]
"""One measurement: milliseconds of one call."""


class Clock(Protocol):
    def sampler(self, call: Callable[[int], object], calls: int, least_ms: float) -> Sampler:
        """Prepare to time ``call(0) ... call(calls-1)``; a sample takes at least ``least_ms``."""


@dataclass(frozen=True)
class WallClock:
    """For the CPU."""

    def sampler(self, call: Callable[[int], object], calls: int, least_ms: float) -> Sampler:
        def once() -> float:
            started = time.perf_counter()
            for index in range(calls):
                call(index)
            return 1e3 * (time.perf_counter() - started)

        repeats = _repeats(once(), least_ms)
        return lambda: sum(once() for _ in range(repeats)) / (repeats * calls)


@dataclass(frozen=True)
class EagerClock:
    """Launches one by one from Python between two CUDA events."""

    def sampler(self, call: Callable[[int], object], calls: int, least_ms: float) -> Sampler:
        def all_calls() -> None:
            for index in range(calls):
                call(index)

        return _event_sampler(all_calls, calls, least_ms)


@dataclass(frozen=True)
class GraphClock:
    """The calls captured once in a CUDA graph and replayed between two CUDA events."""

    def sampler(self, call: Callable[[int], object], calls: int, least_ms: float) -> Sampler:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for index in range(min(calls, 2)):
                call(index)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            for index in range(calls):
                call(index)
        return _event_sampler(graph.replay, calls, least_ms)


def _event_sampler(work: Callable[[], object], calls: int, least_ms: float) -> Sampler:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def sample(repeats: int) -> float:
        begin.record()
        for _ in range(repeats):
            work()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))

    sample(1)
    repeats = _repeats(sample(1), least_ms)
    return lambda: sample(repeats) / (repeats * calls)


def _repeats(once_ms: float, least_ms: float) -> int:
    return max(1, min(1000, round(least_ms / max(once_ms, 1e-3))))


def interleaved(
    samplers: Mapping[str, Sampler], rounds: int, slow_ms: float = 100.0
) -> dict[str, list[float]]:
    """Samples of each contestant, one round after the other, so that drift hits all alike.

    A contestant whose sample takes more than ``slow_ms`` is measured in three rounds only.
    """
    samples: dict[str, list[float]] = {name: [] for name in samplers}
    slow: set[str] = set()
    for index in range(rounds):
        for name, sampler in samplers.items():
            if index >= 3 and name in slow:
                continue
            started = time.perf_counter()
            samples[name].append(sampler())
            if 1e3 * (time.perf_counter() - started) > slow_ms:
                slow.add(name)
    return samples


@dataclass(frozen=True)
class Timing:
    """Microseconds of one call: median and the spread of the middle half, over ``samples``."""

    median: float
    spread: float
    samples: int

    @classmethod
    def of(cls, milliseconds: list[float]) -> Timing:
        values = sorted(1e3 * value for value in milliseconds)
        quarter = len(values) // 4
        middle = values[quarter : len(values) - quarter]
        return cls(statistics.median(values), middle[-1] - middle[0], len(values))
