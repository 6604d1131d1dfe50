"""Times of artefacts by ``bench``, and how many times as fast one is as another."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dinat_deploy.measurement.records import ArtefactResult, Ratio
from dinat_deploy.measurement.statistics import paired_ratio
from dinat_deploy.pipeline.benching import bench
from dinat_deploy.pipeline.evaluation_report import Speed, level_of, short_precision


@dataclass(frozen=True)
class Latency:
    """Time of one image, in milliseconds (median), and speeds as of
    :class:`dinat_deploy.pipeline.evaluation_report.ArtefactReport`."""

    milliseconds: float
    speed: Speed | None
    over_finer: Speed | None


def measure_latency(
    names: Sequence[str],
    precisions: Mapping[str, str],
    duration: float,
    notes: list[str],
    **options: Any,
) -> dict[str, Latency]:
    """Measure artefacts in turn.

    Args:
        names: the first one is the reference.
        precisions: of the artefacts; empty where only the loaded model tells.
        duration: least seconds of measured runs, of every artefact.
        notes: receives what casts doubt on the times.
        options: as of :func:`dinat_deploy.pipeline.benching.bench`.

    Returns:
        Of every name.
    """
    if not names:
        return {}
    report = bench(names, duration=duration, **options)
    notes += report.warnings
    results = dict(zip(names, report.results, strict=True))
    levels = {
        name: level_of(precisions[name] or short_precision(result.precision or ""))
        for name, result in results.items()
    }
    found = {}
    for name, result in results.items():
        notes += [f"{name}: {warning}" for warning in result.warnings]
        finer = [
            other
            for other, rival in results.items()
            if levels[other] < levels[name]
            and (rival.runtime, rival.device) == (result.runtime, result.device)
        ]
        fastest = min(finer, key=lambda other: _per_image(results[other]), default=None)
        over = None
        if fastest is not None and fastest != names[0]:
            over = _speed(fastest, paired_ratio(_rounds(result), _rounds(results[fastest])))
        speed = _speed(names[0], result.ratio) if result.ratio else None
        found[name] = Latency(_per_image(result), speed, over)
    return found


def _per_image(result: ArtefactResult) -> float:
    return result.latency.median / result.batch


def _rounds(result: ArtefactResult) -> list[float]:
    """Median time of an image in every round."""
    medians, begin = [], 0
    for runs in result.blocks:
        medians.append(statistics.median(result.samples[begin : begin + runs]) / result.batch)
        begin += runs
    return medians


def _speed(than: str, ratio: Ratio) -> Speed:
    """Ratios are of times, and slower is more."""
    low = None if ratio.high is None else 1 / ratio.high
    high = None if ratio.low is None else 1 / ratio.low
    return Speed(than, 1 / ratio.value, low, high)
