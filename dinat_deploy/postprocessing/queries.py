"""Answers of Mask2Former and OneFormer: each query has a class and a mask.

The formulas are those of Mask2Former's own code (``maskformer_model.py``: ``semantic_inference``,
``panoptic_inference``, ``instance_inference``), which OneFormer's repeats. transformers' image
processors differ from it, and so in these points from what is done here:

- they resize all masks to 384x384 pixels first; the original, to the model's input, whose filled-up
  part it then cuts off;
- panoptic: they multiply masks with the score before they compare them with 0.5, and give a segment
  pixels where its mask is below that; and an overlap that equals the threshold is too small;
- instance: they keep as many pairs of query and class as there are queries, and drop those with a
  score below a threshold; the original keeps 100, and drops the stuff of models for both;
- instance: they threshold masks before they resize them to the picture; the original, after.

All masks are resized one at a time, so that memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from dinat_deploy.postprocessing.axes import (
    Axis,
    BoolArray,
    FloatArray,
    IntArray,
    Resized,
    View,
)
from dinat_deploy.postprocessing.results import (
    NO_SEGMENT,
    IdArray,
    Instances,
    PanopticMap,
    Segment,
    SemanticMap,
    instance_of,
)
from dinat_deploy.postprocessing.semantic import Strip, best_classes

TOP_INSTANCES = 100
_HALF = 0.5
_ROWS = 128  # of a map at a time


def softmax(logits: FloatArray) -> FloatArray:
    """Along the last axis."""
    weights: FloatArray = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def sigmoid(values: FloatArray) -> FloatArray:
    """Element by element, without overflow."""
    return np.float32(0.5) * (np.tanh(np.float32(0.5) * values) + np.float32(1))


def semantic(class_logits: FloatArray, mask_logits: FloatArray, view: View) -> SemanticMap:
    """The class of every pixel: the largest sum over queries of softmax(class) x sigmoid(mask).

    Args:
        class_logits: float32 ``[Q, K + 1]``, the last of "nothing".
        mask_logits: float32 ``[Q, h, w]``.
        view: where the model looked at the picture.

    The sum is taken at the size of the model's input and then resized to the picture.
    """
    weights = softmax(class_logits)[:, :-1]
    queries, height, width = mask_logits.shape
    rows = Axis.bilinear(height, view.window[0])
    columns = Axis.bilinear(width, view.window[1])
    _, across = columns.dense(0, len(columns))
    scores = np.empty((weights.shape[1], *view.window), np.float32)
    for top in range(0, view.window[0], _ROWS):
        bottom = min(top + _ROWS, view.window[0])
        used, down = rows.dense(top, bottom)
        masks = sigmoid(down @ (mask_logits[:, used] @ across.T)).reshape(queries, -1)
        scores[:, top:bottom] = (weights.T @ masks).reshape(-1, bottom - top, view.window[1])
    strips = [Strip([view.from_input(axis)], view.seen(axis)) for axis in (0, 1)]
    return best_classes(strips[0], strips[1], len(scores), lambda _: [scores])


def panoptic(
    class_logits: FloatArray,
    mask_logits: FloatArray,
    view: View,
    *,
    things: Collection[int],
    object_mask_threshold: float,
    overlap_threshold: float,
) -> PanopticMap:
    """Segments that do not overlap.

    A query counts if its best class is not "nothing" and has a probability above
    ``object_mask_threshold``. A pixel goes to the query with the largest probability of class x
    mask, if its mask is 0.5 there or more. Queries that win less than ``overlap_threshold`` of the
    pixels with a mask of 0.5 or more are dropped. Stuff of one class is one segment.

    Args:
        class_logits, mask_logits, view: as of :func:`semantic`.
        things: classes whose instances are segments of their own.
    """
    probabilities = softmax(class_logits)
    classes, scores = probabilities.argmax(axis=-1), probabilities.max(axis=-1)
    nothing = class_logits.shape[-1] - 1
    kept = np.flatnonzero((classes != nothing) & (scores > object_mask_threshold))
    winner, sure, own = _winners(mask_logits, scores, kept, view)
    ids = np.full(view.picture, NO_SEGMENT, np.int32)
    segments: list[Segment] = []
    stuff: dict[int, int] = {}  # class -> place in segments
    won = np.bincount(winner[winner >= 0], minlength=len(kept))
    for number, query in enumerate(kept):
        mask = (winner == number) & sure
        area = int(np.count_nonzero(mask))
        if not area or won[number] / own[number] < overlap_threshold:
            continue
        label, score = int(classes[query]), float(scores[query])
        if label in stuff:
            known = segments[stuff[label]]
            ids[mask] = known.id
            score = max(score, known.score)
            segments[stuff[label]] = Segment(known.id, label, score, known.area + area, False)
            continue
        if label not in things:
            stuff[label] = len(segments)
        segments.append(Segment(len(segments) + 1, label, score, area, label in things))
        ids[mask] = segments[-1].id
    return PanopticMap(ids, segments)


def _winners(
    mask_logits: FloatArray, scores: FloatArray, kept: IntArray, view: View
) -> tuple[IdArray, BoolArray, IntArray]:
    """Which of the kept queries has each pixel of the picture (-1: none), whether its mask is 0.5
    there or more, and how many pixels each one's mask is 0.5 or more at."""
    resized = Resized(view, (mask_logits.shape[1], mask_logits.shape[2]))
    winner = np.full(view.picture, -1, np.int32)
    sure = np.zeros(view.picture, np.bool_)
    own = np.zeros(len(kept), np.int64)
    seen = view.seen(0)[:, None] & view.seen(1)
    # Rows outside, queries inside: what is compared stays in the processor's cache.
    for rows, used, down in resized.blocks():
        best = np.full((rows.stop - rows.start, view.picture[1]), -1, np.float32)
        for number, query in enumerate(kept):
            mask = sigmoid(resized.block(mask_logits[query], used, down))
            inside = (mask >= _HALF) & seen[rows]
            own[number] += np.count_nonzero(inside)
            mask *= scores[query]
            better = (mask > best) & seen[rows]
            np.copyto(best, mask, where=better)
            winner[rows][better] = number
            np.copyto(sure[rows], inside, where=better)
    return winner, sure, own


def instances(
    class_logits: FloatArray,
    mask_logits: FloatArray,
    view: View,
    *,
    things: Collection[int] | None = None,
    top: int = TOP_INSTANCES,
    min_score: float = 0.0,
) -> Instances:
    """Things that may overlap.

    The ``top`` pairs of query and class with the largest probability are kept. A mask is where its
    logit is above 0, and the score the probability of the class x the mean of sigmoid(mask) there.

    Args:
        class_logits, mask_logits, view: as of :func:`semantic`.
        things: classes that count, of a model that tells stuff as well; None for all.
        min_score: leave out what is below.
    """
    probabilities = softmax(class_logits)[:, :-1]
    num_classes = probabilities.shape[1]
    order = np.argsort(-probabilities.ravel(), kind="stable")[:top]
    resized = Resized(view, (mask_logits.shape[1], mask_logits.shape[2]))
    seen = view.seen(0)[:, None] & view.seen(1)
    by_query: dict[int, list[int]] = {}
    for pair in order:
        query, label = divmod(int(pair), num_classes)
        # A score is not larger than the probability of the class.
        if probabilities[query, label] >= min_score and (things is None or label in things):
            by_query.setdefault(query, []).append(label)
    found = []
    for query, labels in by_query.items():
        mask = np.zeros(view.picture, np.bool_)
        sureness = 0.0
        for rows, used, down in resized.blocks():
            # Mixtures of logits that are not above 0 are not either.
            if mask_logits[query, used].max() > 0:
                logits = resized.block(mask_logits[query], used, down)
                mask[rows] = (logits > 0) & seen[rows]
                sureness += float(sigmoid(logits[mask[rows]]).sum(dtype=np.float64))
        sureness /= np.count_nonzero(mask) + 1e-6
        for label in labels:
            score = float(probabilities[query, label]) * sureness
            one = instance_of(label, score, mask) if score >= min_score else None
            if one is not None:
                found.append(one)
    return Instances(view.picture, sorted(found, key=lambda one: -one.score))
