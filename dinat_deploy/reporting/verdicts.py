"""Verdicts on artefacts: a mark, a few words and the figures, which are clear without colour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dinat_deploy.evaluation.records import METRICS
from dinat_deploy.measurement.tables import counted, significant
from dinat_deploy.reporting.records import (
    Accuracy,
    ArtefactRecord,
    BundleRecord,
    Parity,
    ReportData,
    Run,
)

Kind = Literal["good", "bad", "better", "worse", "plain", "unknown"]
MARKS: dict[Kind, str] = {
    "good": "✓",
    "bad": "✗",
    "better": "▲",
    "worse": "▼",
    "plain": "•",
    "unknown": "-",
}
# What the marks mean, for a legend.
MEANINGS: dict[Kind, str] = {
    "good": "within its limit",
    "bad": "outside its limit",
    "better": "better than fp32",
    "worse": "worse than fp32",
    "plain": "neither",
    "unknown": "not known",
}

# Sizes, and speeds of which only few rounds are known, that differ by less are called equal.
_SAME = 0.05
_MEGA = 1e6


@dataclass(frozen=True)
class Verdict:
    """One judgement.

    Attributes:
        kind: ``good`` and ``bad`` are of a limit that is kept or not; ``better`` and ``worse`` than
            the bundle's float32 model; ``plain`` is neither.
        text: with the figures.
    """

    kind: Kind
    text: str

    @property
    def marked(self) -> str:
        return f"{MARKS[self.kind]} {self.text}"


@dataclass(frozen=True)
class Judged:
    """All verdicts on one artefact."""

    artefact: ArtefactRecord
    accuracy: Verdict
    parity: Verdict
    speed: Verdict
    size: Verdict

    @property
    def all(self) -> list[Verdict]:
        return [self.accuracy, self.parity, self.speed, self.size]

    @property
    def failed(self) -> list[str]:
        """What an artefact can fail: accuracy and parity; if its files are damaged, nothing else
        counts."""
        if self.artefact.damage is not None:
            return ["damaged"]
        named = (("accuracy", self.accuracy), ("parity", self.parity))
        return [name for name, verdict in named if verdict.kind == "bad"]


def judge(data: ReportData) -> list[Judged]:
    """Every artefact of every bundle, in order."""
    return [
        Judged(
            artefact,
            _accuracy(artefact, bundle),
            _parity(artefact),
            _speed(artefact, bundle),
            _size(artefact, bundle),
        )
        for bundle in data.bundles
        for artefact in bundle.artefacts
    ]


def summary(data: ReportData) -> str:
    """The outcome in a sentence or two."""
    judged = judge(data)
    failed = [
        f"{each.artefact.name} ({' and '.join(each.failed)})" for each in judged if each.failed
    ]
    known = [each for each in judged if each.parity.kind != "unknown"]
    text = f"{counted(len(data.bundles), 'bundle')} with {counted(len(judged), 'artefact')}."
    if failed:
        return f"{text} {counted(len(failed), 'artefact')} failed: {', '.join(failed)}."
    if not known:
        return f"{text} None was compared with PyTorch."
    which = "All" if len(known) == len(judged) else f"{len(known)} of them"
    if len(judged) == 1:
        which = "It"
    verb = "agrees" if len(known) == 1 else "agree"
    return f"{text} {which} {verb} with PyTorch within the limits; nothing failed."


def points(share: float) -> str:
    """A difference of shares in points, without a sign for zero."""
    text = f"{100 * share:.2f}"
    return "0.00" if float(text) == 0 else text


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f} %"


def small(value: float) -> str:
    """An error: two digits, with an exponent where there would be many zeros."""
    return "0" if value == 0 else f"{value:.1e}" if abs(value) < 1e-3 else significant(value, 2)


def megabytes(count: int | None) -> str:
    return "" if count is None else f"{significant(count / _MEGA)} MB"


def primary(accuracy: Accuracy) -> float | None:
    """The score by which it is judged (0 to 1)."""
    found: float | None = getattr(accuracy, accuracy.metric)
    return found


def _accuracy(artefact: ArtefactRecord, bundle: BundleRecord) -> Verdict:
    if not artefact.accuracy:
        return Verdict("unknown", "not evaluated")
    found = artefact.accuracy[-1]
    score, metric = primary(found), METRICS.get(found.metric, found.metric)
    lost, how = found.lost, " (simulated)" if found.simulated else ""
    if found.reference is None and found.metric == "agreement":
        return Verdict("plain", f"the reference of the others{how}")  # which agrees with itself
    if found.reference is None:
        return Verdict("plain", f"{metric} {percent(score)}, the reference{how}")
    if lost is None:
        share = percent(found.agreement)
        kind: Kind = "plain" if found.passed is None else "good" if found.passed else "bad"
        least = "" if found.max_drop is None else f" ({100 - found.max_drop:g} % demanded)"
        return Verdict(kind, f"same best class for {share}{least}{how}")
    if lost.value < 0:
        change = f"gains {points(-lost.value)} points ({points(-lost.high)} to {points(-lost.low)})"
    else:
        amount = f"{points(lost.value)} points" if lost.value else "nothing"
        change = f"loses {amount} ({points(lost.low)} to {points(lost.high)})"
    allowed = "" if found.max_drop is None else f", {found.max_drop:g} allowed"
    text = f"{metric} {percent(score)}, {change}{allowed}{how}"
    if found.passed is not None:
        return Verdict("good" if found.passed else "bad", text)
    # Without a limit only a loss that is certain counts against it.
    return Verdict("worse" if lost.low > 0 else "better" if lost.high < 0 else "plain", text)


def worst_parity(artefact: ArtefactRecord) -> Parity | None:
    """The comparison that counts: one that failed, or else the latest."""
    failed = [each for each in artefact.parity if not each.passed]
    return failed[-1] if failed else artefact.parity[-1] if artefact.parity else None


def _parity(artefact: ArtefactRecord) -> Verdict:
    if artefact.damage is not None:
        return Verdict("bad", f"damaged: {artefact.damage}")
    found = worst_parity(artefact)
    layers = artefact.layers
    outside = layers.first_difference if layers is not None else None
    if found is None and layers is None:
        return Verdict("unknown", "not compared")
    if found is None:
        if outside is None:
            return Verdict("good", "every layer within its limit")
        return Verdict("bad", f"outside the limit from {outside} on")
    how = ", simulated" if found.simulated else ""
    limit = "" if found.limit is None else f" ({small(found.limit)} allowed{how})"
    error = "not finite" if found.max_abs is None else f"{small(found.max_abs)}{limit}"
    if not found.passed:
        return Verdict("bad", f"off by {error}")
    if outside is not None:
        return Verdict("bad", f"outputs within {error}, but {outside} is outside its limit")
    return Verdict("good", f"within {error}")


def fastest(artefact: ArtefactRecord) -> Run | None:
    """The run that stands for an artefact: the fastest for one image."""
    return min(_usual(artefact), key=per_image, default=None)


def _usual(artefact: ArtefactRecord) -> list[Run]:
    """Its runs, if there are others without those in runtimes that the user named: PyTorch says
    nothing of how fast a file is."""
    return [each for each in artefact.runs if each.usual] or artefact.runs


def per_image(run: Run) -> float:
    """Milliseconds: the median run over its images, or with several streams, whose latencies
    overlap, wall time over the number of images."""
    result = run.result
    return 1e3 / result.throughput if run.streams > 1 else result.latency.median / result.batch


def _speed(artefact: ArtefactRecord, bundle: BundleRecord) -> Verdict:
    run = fastest(artefact)
    if run is None:
        return Verdict("unknown", "not measured here")
    time = f"{significant(per_image(run))} ms"
    compared = next((each for each in _usual(artefact) if each.speed is not None), None)
    if compared is None or compared.speed is None or artefact is bundle.float32:
        return Verdict("plain", f"{time} an image")
    speed, time = compared.speed, f"{significant(per_image(compared))} ms"
    interval = ""
    if speed.low is not None and speed.high is not None:
        interval = f" ({speed.low:.2f} to {speed.high:.2f})"
    if _undecided(speed.value, speed.low, speed.high):
        return Verdict("plain", f"{time}, {speed.value:.2f} x{interval}: may be equal to fp32")
    if speed.value > 1:
        return Verdict("better", f"{time}, {speed.value:.2f} x{interval} as fast as fp32")
    return Verdict("worse", f"{time}, slower than fp32: {speed.value:.2f} x{interval} the speed")


def _undecided(value: float, low: float | None, high: float | None) -> bool:
    if low is None or high is None:
        return abs(value - 1) <= _SAME
    return low <= 1 <= high


def _size(artefact: ArtefactRecord, bundle: BundleRecord) -> Verdict:
    own, first = artefact.bytes, bundle.float32.bytes
    if own is None:
        return Verdict("unknown", "not here")
    if artefact is bundle.float32 or not first or artefact.damage or bundle.float32.damage:
        return Verdict("plain", megabytes(own))
    ratio = first / own
    if abs(ratio - 1) <= _SAME:
        return Verdict("plain", f"{megabytes(own)}, as large as fp32")
    if ratio > 1:
        return Verdict("better", f"{megabytes(own)}, {ratio:.1f} x smaller")
    return Verdict("worse", f"{megabytes(own)}, {1 / ratio:.1f} x larger")
