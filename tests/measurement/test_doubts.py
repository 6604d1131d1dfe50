"""What makes figures doubtful is said, and only that."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from dinat_deploy.measurement.doubts import doubts
from dinat_deploy.measurement.measuring import Measured
from dinat_deploy.measurement.records import BenchOptions
from dinat_deploy.measurement.statistics import LEAST_ROUNDS, summarize
from dinat_deploy.session.base import Block, Timing

STEADY = [1.0] * 600


def said(
    latencies: list[float],
    *,
    kind: Literal["cpu", "gpu"] = "cpu",
    enqueue: float | None = None,
    copies: float = 0.0,
    rounds: int = 12,
    company: bool = False,
    restless: bool = False,
    **options: Any,
) -> list[str]:
    timings = [Timing(t + 2 * copies, t, copies, copies, enqueue) for t in latencies]
    size = -(-len(timings) // rounds)
    blocks = [Block(timings[at : at + size], 1.0) for at in range(0, len(timings), size)]
    measured = Measured("a", kind, blocks, restless=restless)
    settings = BenchOptions(**options)
    return doubts(
        measured,
        settings,
        latency=summarize([t.latency for t in timings], settings.percentiles),
        compute=summarize(latencies, []),
        enqueue=None if enqueue is None else summarize([enqueue], []),
        company=company,
    )


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_steady_figures_are_not_doubted(kind: Literal["cpu", "gpu"]) -> None:
    assert said(STEADY, kind=kind, enqueue=0.1, company=True) == []


def test_latencies_that_vary_are_unstable() -> None:
    (words,) = said([1.0, 1.06] * 300)
    assert words.startswith("The latency is unstable: it varies by 2.9% (over 2.5%); stop other")
    (words,) = said([1.0, 1.06] * 300, kind="gpu")
    assert words.startswith("The GPU compute time is unstable: ")
    assert words.endswith("lock the GPU's clocks.")
    assert said([1.0, 1.045] * 300) == []


@pytest.mark.parametrize(("last", "way"), [(1.08, "8% slower"), (0.93, "7% faster")])
def test_a_trend_is_drift_and_not_noise(last: float, way: str) -> None:
    drifting = [1.0] * 200 + [1.0] * 200 + [last] * 200
    words = next(text for text in said(drifting) if "drifted" in text)
    assert f"is {way} than the first" in words
    noisy = [1.0, last] * 300
    assert not any("drifted" in text for text in said(noisy))


def test_a_percentile_of_too_few_runs_is_a_guess() -> None:
    (words,) = said([1.0] * 66)
    assert words == "p99 is a guess from so few runs (66); --iterations 299 is enough."
    (words,) = said([1.0] * 10)
    assert words == "p90, p95, p99 are guesses from so few runs (10); --iterations 299 is enough."
    assert said([1.0] * 66, percentiles=[90, 95]) == []
    assert said([1.0] * 66, percentiles=[100]) == []


def test_launching_that_takes_as_long_as_computing_is_said() -> None:
    (words,) = said(STEADY, kind="gpu", enqueue=0.9, cuda_graph=False)
    assert "enqueueing takes 0.900 ms, the GPU 1.000 ms. --cuda-graph launches" in words
    (words,) = said(STEADY, kind="gpu", enqueue=0.9)
    assert "--cuda-graph" not in words
    assert said(STEADY, kind="gpu", enqueue=0.79) == []
    assert said(STEADY, kind="cpu", enqueue=0.9) == []


def test_copies_that_take_as_long_as_computing_are_said() -> None:
    inputs, outputs = said(STEADY, kind="gpu", enqueue=0.1, copies=1.5, transfers=True)
    assert "copies of the inputs: they take 1.500 ms, the GPU 1.000 ms" in inputs
    assert "copies of the outputs" in outputs


def test_latencies_of_overlapping_streams_are_not_to_be_compared() -> None:
    (words,) = said(STEADY, kind="gpu", streams=4)
    assert words.startswith("4 streams overlap")


def test_too_few_rounds_are_only_missed_in_a_comparison() -> None:
    (words,) = said(STEADY, rounds=5, company=True)
    assert words.startswith("Too few rounds (5) for a confidence interval of the ratio; 6 are")
    assert said(STEADY, rounds=5) == said(STEADY, rounds=LEAST_ROUNDS, company=True) == []


def test_threads_that_do_not_rest_are_said() -> None:
    (words,) = said(STEADY, restless=True)
    assert "--one-alive" in words
