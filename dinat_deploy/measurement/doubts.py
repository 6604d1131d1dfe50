"""What makes the figures of a measurement doubtful, in words; thresholds are trtexec's."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from dinat_deploy.measurement.measuring import Measured
from dinat_deploy.measurement.records import BenchOptions, Statistics
from dinat_deploy.measurement.statistics import LEAST_ROUNDS, samples_for

UNSTABLE = 0.025
ENQUEUE_BOUND = 0.8
_DRIFT = 0.05
_LEAST_FOR_DRIFT = 9


def doubts(
    measured: Measured,
    options: BenchOptions,
    *,
    latency: Statistics,
    compute: Statistics,
    enqueue: Statistics | None,
    company: bool,
) -> list[str]:
    """Everything that is doubtful about one artefact.

    Args:
        company: whether it was compared with others.
    """
    found = [*_unstable(measured, compute), *_drift([t.latency for t in measured.timings])]
    found += _few(latency.count, options)
    if measured.kind == "gpu":
        found += _bound(measured, compute, enqueue, options)
    if company and len(measured.blocks) < LEAST_ROUNDS:
        found.append(
            f"Too few rounds ({len(measured.blocks)}) for a confidence interval of the ratio; "
            f"{LEAST_ROUNDS} are needed."
        )
    if measured.restless:
        found.append(
            "Its threads keep the processor busy while others are measured; --one-alive frees it "
            "before the next one runs."
        )
    return found


def _unstable(measured: Measured, compute: Statistics) -> list[str]:
    variation = compute.coefficient_of_variation
    if variation <= UNSTABLE:
        return []
    what, cure = (
        ("GPU compute time", "lock the GPU's clocks")
        if measured.kind == "gpu"
        else ("latency", "stop other programs and fix the processor's clocks")
    )
    return [f"The {what} is unstable: it varies by {variation:.1%} (over {UNSTABLE:.1%}); {cure}."]


def _drift(latencies: Sequence[float]) -> list[str]:
    if len(latencies) < _LEAST_FOR_DRIFT:
        return []
    third = len(latencies) // 3
    first = statistics.median(latencies[:third])
    last = statistics.median(latencies[-third:])
    if first <= 0 or abs(last / first - 1) <= _DRIFT:
        return []
    way = "slower" if last > first else "faster"
    return [
        f"It drifted: the last third of the runs is {abs(last / first - 1):.0%} {way} than the "
        "first (heat, clocks, or other load); warm up longer, or measure again."
    ]


def _few(count: int, options: BenchOptions) -> list[str]:
    wanting = {p: samples_for(p) for p in options.percentiles if samples_for(p) > count}
    if not wanting:
        return []
    names = ", ".join(f"p{p:g}" for p in sorted(wanting))
    guess = "is a guess" if len(wanting) == 1 else "are guesses"
    return [
        f"{names} {guess} from so few runs ({count}); --iterations {max(wanting.values())} is "
        "enough."
    ]


def _bound(
    measured: Measured, compute: Statistics, enqueue: Statistics | None, options: BenchOptions
) -> list[str]:
    found = []
    if enqueue is not None and enqueue.median > ENQUEUE_BOUND * compute.median:
        graph = "" if options.cuda_graph else " --cuda-graph launches all of it at once."
        found.append(
            f"Throughput may be bound by launching: enqueueing takes {enqueue.median:.3f} ms, the "
            f"GPU {compute.median:.3f} ms.{graph}"
        )
    for way, copies in (
        ("of the inputs", [timing.host_to_device for timing in measured.timings]),
        ("of the outputs", [timing.device_to_host for timing in measured.timings]),
    ):
        median = statistics.median(copies)
        if median >= compute.median > 0:
            found.append(
                f"Throughput may be bound by copies {way}: they take {median:.3f} ms, the GPU "
                f"{compute.median:.3f} ms."
            )
    if options.streams > 1:
        found.append(
            f"{options.streams} streams overlap, so latencies include waiting; compare throughput."
        )
    return found
