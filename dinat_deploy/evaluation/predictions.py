"""From a model's outputs to the classes that it prefers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
# Of an output without a single largest class: one that is not a number, or that has a tie.
UNDECIDED = -1
_ONE = np.float32(1)


def best_classes(scores: FloatArray) -> IntArray:
    """The class with the largest score.

    Args:
        scores: ``[B, K, ...]``.

    Returns:
        int64 ``[B, ...]``; :data:`UNDECIDED` where two classes share the largest score or any
        score is not a number, so that no rule for ties can make a broken model look right.
    """
    largest = scores.max(axis=1, keepdims=True)
    # A maximum that is not a number equals nothing.
    single = np.count_nonzero(scores == largest, axis=1) == 1
    return np.where(single, scores.argmax(axis=1), UNDECIDED).astype(np.int64)


def ranks(scores: FloatArray, labels: IntArray) -> IntArray:
    """How many classes a label is not better than, itself left out: 0 is the best.

    Args:
        scores: ``[B, K]``.
        labels: int64 ``[B]``.

    Returns:
        int64 ``[B]``; K where any score is not a number.
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    found = np.count_nonzero(scores >= own, axis=1) - 1
    return np.where(np.isnan(scores).any(axis=1), scores.shape[1], found).astype(np.int64)


def resized(maps: FloatArray, size: tuple[int, int]) -> FloatArray:
    """Maps resized bilinearly, as mmsegmentation does with logits before it compares them with
    labels: pixel centres aligned, no antialiasing (``torch.nn.functional.interpolate`` with
    ``align_corners=False``).

    Args:
        maps: float32 ``[K, h, w]``.
        size: (height, width) of the result.
    """
    if maps.shape[1:] == size:
        return maps
    low, high, share = _neighbours(maps.shape[1], size[0])
    tall = maps[:, low] * (_ONE - share)[:, None] + maps[:, high] * share[:, None]
    low, high, share = _neighbours(maps.shape[2], size[1])
    wide = tall[:, :, low] * (_ONE - share) + tall[:, :, high] * share
    return wide.astype(np.float32, copy=False)


def _neighbours(old: int, new: int) -> tuple[IntArray, IntArray, FloatArray]:
    """The two elements that each new one lies between, and its share of the second."""
    position = ((np.arange(new) + 0.5) * (old / new) - 0.5).clip(0)
    low = np.floor(position).astype(np.int64).clip(0, old - 1)
    return low, (low + 1).clip(0, old - 1), (position - low).astype(np.float32)
