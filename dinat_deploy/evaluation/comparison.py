"""How much worse one model is than another on the same images, and how sure that is.

Both models see the same images, so that only those count which they judge differently. For the
share of right images that is the score interval for a difference of paired proportions (Tango,
"Equivalence test and confidence interval for the difference in proportions for the paired-sample
design", Statistics in Medicine 17, 1998, 891-908): it inverts the score test, and unlike the usual
interval around McNemar's statistic it has a width even if no image is judged differently, which is
what a good conversion gives. For mean IoU, which is no mean over images, it is the percentile
interval of a bootstrap over images, each drawn with both models' counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dinat_deploy.evaluation.metrics import (
    ClassificationCounter,
    Counter,
    SegmentationCounter,
)
from dinat_deploy.evaluation.predictions import IntArray

CONFIDENCE = 0.95
_Z = 1.959963984540054  # of the normal distribution, for 95 %
_RESAMPLES = 1000
_STEPS = 60


@dataclass(frozen=True)
class Loss:
    """What a model loses against a reference, as a share (0 to 1); negative is a gain.

    Attributes:
        metric: ``top1`` or ``miou``.
        low, high: the 95 % interval.
        lost, gained: images that only the reference got right, and that only this model did; None
            for mean IoU.
        images: how many there are.
    """

    metric: Literal["top1", "miou"]
    value: float
    low: float
    high: float
    images: int
    lost: int | None = None
    gained: int | None = None


def loss_of(counter: Counter, reference: Counter) -> Loss | None:
    """What is lost in the metric of the task; None without labels.

    Args:
        counter: of the model, compared with the reference in every batch.
        reference: of the reference model, on the same images.
    """
    if isinstance(counter, ClassificationCounter) and counter.labelled:
        return accuracy_loss(counter.lost, counter.gained, counter.labelled)
    if isinstance(counter, SegmentationCounter) and isinstance(reference, SegmentationCounter):
        keys = sorted(counter.per_image)
        if keys:
            return miou_loss(
                np.stack([reference.per_image[key] for key in keys]),
                np.stack([counter.per_image[key] for key in keys]),
            )
    return None


def accuracy_loss(lost: int, gained: int, images: int) -> Loss:
    """Loss of top-1 accuracy.

    Args:
        lost, gained: images that only the reference, or only the model, got right.
        images: all of them.

    Raises:
        ValueError: there are no images, or fewer than are judged differently.
    """
    if images < 1 or lost < 0 or gained < 0 or lost + gained > images:
        raise ValueError(f"{lost} and {gained} of {images} images")
    value = (lost - gained) / images

    def distance(difference: float) -> float:
        """Tango's statistic, which falls as the difference grows."""
        return _score(lost, gained, images, difference)

    low = _solve(lambda d: distance(d) - _Z, -1.0, value)
    high = _solve(lambda d: distance(d) + _Z, value, 1.0)
    return Loss("top1", value, low, high, images, lost, gained)


def _score(lost: int, gained: int, images: int, difference: float) -> float:
    """Tango (1998), equations 13 and 14: the difference over its standard error, both under the
    hypothesis that the true difference is this one."""
    a = 2 * images
    b = -lost - gained + (2 * images - lost + gained) * difference
    c = -gained * difference * (1 - difference)
    only_other = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = images * (2 * only_other + difference * (1 - difference))
    excess = lost - gained - images * difference
    if variance <= 0:
        return 0.0 if excess == 0 else math.copysign(math.inf, excess)
    return excess / math.sqrt(variance)


def _solve(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses zero, or the nearest end."""
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if function(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def miou_loss(reference: IntArray, candidate: IntArray, seed: int = 0) -> Loss:
    """Loss of mean IoU.

    Args:
        reference, candidate: int64 ``[N, 3, K]``, of every image what
            :attr:`SegmentationCounter.per_image` holds.
        seed: of the bootstrap.

    Raises:
        ValueError: there are no images, or not as many of both.
    """
    if reference.shape != candidate.shape or not len(reference):
        raise ValueError(f"{reference.shape} cannot be compared with {candidate.shape}")
    images = len(reference)
    rng = np.random.default_rng(seed)
    drawn = np.stack(
        [np.bincount(rng.integers(0, images, images), minlength=images) for _ in range(_RESAMPLES)]
    )
    losses = _mean_ious(drawn, reference) - _mean_ious(drawn, candidate)
    everything = np.ones((1, images), np.int64)
    value = float((_mean_ious(everything, reference) - _mean_ious(everything, candidate))[0])
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(losses, [outside, 1 - outside])
    # A few images may all lie on one side of their mean.
    return Loss("miou", value, min(float(low), value), max(float(high), value), images)


def _mean_ious(drawn: IntArray, counts: IntArray) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Mean IoU of every resample (``[R, N]`` times that each image is in it)."""
    total = np.tensordot(drawn, counts, axes=(1, 0))  # [R, 3, K]
    right, labelled, preferred = total[:, 0], total[:, 1], total[:, 2]
    union = labelled + preferred - right
    shares = np.where(union > 0, right / np.maximum(union, 1), 0.0)
    occurring = np.maximum(np.count_nonzero(union, axis=1), 1)
    result: np.ndarray[tuple[int], np.dtype[np.float64]] = shares.sum(axis=1) / occurring
    return result
