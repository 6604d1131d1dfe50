"""Sentences on whether an artefact keeps the accuracy, and whether it pays."""

from __future__ import annotations

from dataclasses import replace

from dinat_deploy.evaluation.comparison import Loss
from dinat_deploy.evaluation.records import METRICS
from dinat_deploy.pipeline.evaluation_report import (
    ArtefactReport,
    Speed,
    percent,
    points,
)

# Sizes, and speeds of which only few rounds are known, that differ by less are called equal.
_SAME = 0.05
# Rounding of sums of float64 must not turn what is allowed into too much.
_EPSILON = 1e-9


def judged(
    artefact: ArtefactReport, reference: ArtefactReport, max_drop: float | None
) -> ArtefactReport:
    """An artefact with its verdict.

    Args:
        max_drop: points that may be lost; of the agreement with the reference, from 100 %, where
            there are no labels.
    """
    if artefact is reference:
        return artefact
    metric, value = artefact.scores.primary
    lost = artefact.loss.value if artefact.loss is not None else 1 - value
    passed = None if max_drop is None else 100 * lost <= max_drop + _EPSILON
    pays = _pays(artefact)
    parts = [
        _accuracy(artefact, METRICS[metric], value, max_drop, passed),
        _size(artefact, reference),
        # Unless the next sentence says it.
        "" if pays and artefact.over_finer is None else _speed(artefact),
    ]
    sentences = [", ".join(part for part in parts if part) + "."]
    if pays:
        sentences.append(pays)
    doubt = _doubt(artefact.loss, max_drop)
    if doubt:
        sentences.append(doubt)
    return replace(artefact, verdict=" ".join(sentences), passed=passed)


def _accuracy(
    artefact: ArtefactReport, metric: str, value: float, max_drop: float | None, passed: bool | None
) -> str:
    allowed = "" if max_drop is None else f" ({max_drop:g} allowed)"
    failed = "FAILED: " if passed is False else ""
    loss = artefact.loss
    if loss is None:
        what = "pixels" if artefact.scores.pixel_accuracy is not None else "images"
        least = f" ({100 - max_drop:g} % demanded)" if max_drop is not None else ""
        return f"{failed}same best class for {percent(value)} of the {what}{least}"
    if loss.value > 0:
        return f"{failed}loses {points(loss.value)} points of {metric}{allowed}"
    if loss.value < 0:
        return f"gains {points(-loss.value)} points of {metric}"
    return f"loses nothing of {metric}{allowed}"


def _size(artefact: ArtefactReport, reference: ArtefactReport) -> str:
    if not artefact.bytes or not reference.bytes:
        return ""
    ratio = reference.bytes / artefact.bytes
    if abs(ratio - 1) <= _SAME:
        return "as large"
    return f"{ratio:.1f} x smaller" if ratio > 1 else f"{1 / ratio:.1f} x larger"


def _speed(artefact: ArtefactReport) -> str:
    speed = artefact.speed
    if speed is None:
        return "speed not measured" if artefact.simulated else ""
    if _undecided(speed):
        return f"{speed.value:.2f} x the speed, which may be equal"
    return f"{speed.value:.2f} x " + ("faster" if speed.value > 1 else "the speed")


def _pays(artefact: ArtefactReport) -> str:
    """Whether a coarser precision is faster than the fastest finer one."""
    speed = artefact.over_finer or artefact.speed
    if artefact.level == 0 or speed is None:
        return ""
    title = artefact.precision.upper()
    if _undecided(speed):
        return f"{title} does not pay here: it is not measurably faster than {speed.than}."
    if speed.value < 1:
        return (
            f"{title} does not pay here: {speed.value:.2f} x the speed of {speed.than} on this "
            "machine."
        )
    if artefact.over_finer is not None:
        return f"{speed.value:.2f} x faster than {speed.than}."
    return ""


def _undecided(speed: Speed) -> bool:
    """Whether the interval allows for equal speed."""
    if speed.low is None or speed.high is None:
        return abs(speed.value - 1) <= _SAME
    return speed.low <= 1 <= speed.high


def _doubt(loss: Loss | None, max_drop: float | None) -> str:
    """What so many images cannot tell."""
    if loss is None:
        return ""
    between = f"with 95 % confidence between {points(loss.low)} and {points(loss.high)} points"
    if max_drop is not None and loss.low <= max_drop / 100 < loss.high:
        return (
            f"{loss.images} images are too few to tell whether it loses more than {max_drop:g}: "
            f"{between}."
        )
    if max_drop is None and loss.low <= 0 <= loss.high and loss.value:
        return f"{loss.images} images are too few to tell this from no loss: {between}."
    return f"The loss is {between}."
