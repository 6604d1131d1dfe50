"""Which detection of one run is which of another.

A detector chooses: which boxes stay of those that overlap, and which are the best. Two runs that
differ by a rounding error choose differently where it is a tie, and then rows change places, or one
box stands for another; that says nothing about the model. So rows are paired by class and box
before they are compared, and a row without a partner is left out only if a tie explains it:

* its score is as low as the other run's lowest, or as the threshold below which nothing counts;
* a box of its class whose score is the same, within the tolerance, stands in the other run in its
  place, overlapping it too much for both to stay;
* it overlaps a box of its class that has a partner by just what is too much, or by just less;
* it was freed, or is kept down, by a row that a tie explains.

Any other row without a partner stays, against a row of zeros, and so fails the comparison. So do
all if ties explain more than a few: a model whose boxes are all off looks like one tie after the
other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dinat_deploy.models.decoders import Decoder, MaskRCNN
from dinat_deploy.parity import Errors, FloatArray, Tolerance, compare_all

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
# How far apart intersections over unions may be that count as equal: corners that are off by 0.1
# pixels change that of a box 100 pixels wide by as much.
_SAME_OVERLAP = 2e-3
# Rows of both runs that ties may explain: so many, or this share if that is more.
_FEW, _FEW_OF_ALL = 3, 0.1


@dataclass(frozen=True)
class Aligned:
    """Two runs row by row.

    Attributes:
        reference, candidate: the arrays by name, rows in the same order, unexplained rows without a
            partner against zeros.
        explained: rows of both runs that were left out because a tie explains them.
        unexplained: rows of both runs that have no partner.
    """

    reference: dict[str, FloatArray]
    candidate: dict[str, FloatArray]
    explained: int
    unexplained: int


@dataclass(frozen=True)
class _Run:
    """The rows of one run that are detections."""

    boxes: Floats
    scores: Floats
    labels: Floats
    full: bool

    @classmethod
    def of(cls, outputs: Mapping[str, FloatArray]) -> _Run:
        scores = np.asarray(outputs["scores"], np.float64)
        found = scores > 0
        boxes = np.asarray(outputs["boxes"], np.float64)[found]
        labels = np.asarray(outputs["labels"], np.float64)[found]
        return cls(boxes, scores[found], labels, bool(found.all()))


def compare_outputs(
    reference: Mapping[str, FloatArray],
    candidate: Mapping[str, FloatArray],
    decoder: Decoder | None,
    tolerance: Tolerance,
) -> dict[str, Errors]:
    """Compare two runs output by output, a detector's row by row of what is the same detection.

    Args:
        reference: all its tensors are compared.
        decoder: of the model that ran.
    """
    if isinstance(decoder, MaskRCNN):
        aligned = align(reference, candidate, decoder, tolerance)
        reference, candidate = aligned.reference, aligned.candidate
    return compare_all(reference, candidate, list(reference), tolerance)


def align(
    reference: Mapping[str, FloatArray],
    candidate: Mapping[str, FloatArray],
    decoder: MaskRCNN,
    tolerance: Tolerance,
) -> Aligned:
    """Pair the detections of two runs on one image.

    Args:
        reference, candidate: ``boxes`` ``[n, 4]``, ``scores`` ``[n]``, ``labels`` ``[n]`` and
            ``masks`` ``[n, h, w]``, rows of score 0 being none; other tensors are passed on.
        tolerance: what counts as the same box, and as the same score.
    """
    first, second = _Run.of(reference), _Run.of(candidate)
    limit = tolerance.limit(reference["scores"])
    partner = _paired(first, second, tolerance.limit(reference["boxes"]))
    paired = np.flatnonzero(partner >= 0)
    alone = (
        np.flatnonzero(partner < 0),
        np.setdiff1d(np.arange(len(second.scores)), partner[paired]),
    )
    explained = _explained(
        (first, second), alone, decoder.score_threshold, decoder.detection_iou, limit
    )
    few = max(_FEW, _FEW_OF_ALL * (len(first.scores) + len(second.scores)))
    if sum(int(known.sum()) for known in explained) > few:
        explained = [np.zeros_like(known) for known in explained]
    left = [rows[~known] for rows, known in zip(alone, explained, strict=True)]
    aligned = [dict(reference), dict(candidate)]
    for name in decoder.output_names:
        ours, theirs = (
            np.asarray(run[name])[np.asarray(run["scores"]) > 0] for run in (reference, candidate)
        )
        aligned[0][name] = np.concatenate(
            [ours[paired], ours[left[0]], np.zeros_like(theirs[left[1]])]
        )
        aligned[1][name] = np.concatenate(
            [theirs[partner[paired]], np.zeros_like(ours[left[0]]), theirs[left[1]]]
        )
    return Aligned(
        aligned[0], aligned[1], sum(int(known.sum()) for known in explained), sum(map(len, left))
    )


def _paired(first: _Run, second: _Run, most: float) -> Places:
    """Row in the second run for each row of the first: the nearest box of the same class whose
    corners are off by ``most`` pixels at most; -1 without."""
    partner = np.full(len(first.scores), -1)
    free = np.ones(len(second.scores), bool)
    for row in np.argsort(-first.scores, kind="stable"):
        candidates = np.flatnonzero(free & (second.labels == first.labels[row]))
        if candidates.size == 0:
            continue
        distance = np.abs(second.boxes[candidates] - first.boxes[row]).max(axis=1)
        if distance.min() <= most:
            partner[row] = candidates[distance.argmin()]
            free[partner[row]] = False
    return partner


def _explained(
    runs: tuple[_Run, _Run],
    alone: tuple[Places, Places],
    threshold: float,
    iou: float,
    same_score: float,
) -> list[npt.NDArray[np.bool_]]:
    """For the rows of both runs without a partner, whether a tie explains that.

    Args:
        alone: these rows.
        threshold: scores count above it.
        iou: larger overlaps are too much.
        same_score: how far apart equal scores may be.
    """
    known: set[tuple[int, int]] = set()
    order = [(-runs[side].scores[row], side, int(row)) for side in (0, 1) for row in alone[side]]
    # From the best down: a row can only be kept down, or freed, by a better one.
    for negative, side, row in sorted(order):
        score, other = -negative, runs[1 - side]
        lowest = max(threshold, float(other.scores.min()) if other.full else 0.0)
        if score <= lowest + same_score:
            known.add((side, row))
            continue
        overlaps = _overlaps(runs[side].boxes[row], other.boxes)
        for rival in np.flatnonzero(other.labels == runs[side].labels[row]):
            better = other.scores[rival] >= score - same_score
            too_much = overlaps[rival] - iou
            if rival not in alone[1 - side]:
                tied = abs(too_much) <= _SAME_OVERLAP and better
            else:
                same = abs(other.scores[rival] - score) <= same_score
                chained = better and (1 - side, int(rival)) in known
                tied = too_much >= -_SAME_OVERLAP and (same or chained)
            if tied:
                known.add((side, row))
                break
    return [
        np.array([(side, int(row)) in known for row in rows], bool)
        for side, rows in enumerate(alone)
    ]


def _overlaps(box: Floats, boxes: Floats) -> Floats:
    """Intersections over unions of a box ``[4]`` with others ``[n, 4]``."""
    extent = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    common = extent.clip(min=0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
    return common / np.maximum(areas - common, 1e-9)
