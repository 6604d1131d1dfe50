"""Counts of what a model got right, from which its scores are computed.

All counts are whole numbers, but for the energies of the SQNR, which are kept for every batch and
added up exactly (``math.fsum``). So the scores do not depend on the order in which batches were
counted, or on which process counted them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from dinat_deploy.data.dataset import IGNORED
from dinat_deploy.evaluation.predictions import (
    UNDECIDED,
    FloatArray,
    IntArray,
    best_classes,
    ranks,
    resized,
)
from dinat_deploy.evaluation.records import Scores

_BEST_OF = 5
Self = TypeVar("Self", bound="Counter")


class Counter:
    """What all tasks count: agreement with a reference model, and the energies of the SQNR.

    Attributes:
        images: how many were counted.
        compared: outputs with a reference: images, or pixels for segmentation; ``agreeing`` of them
            prefer the same class.
        energies: of every batch: of the reference's outputs, and of the difference.
    """

    def __init__(self) -> None:
        self.images = 0
        self.compared = 0
        self.agreeing = 0
        self.energies: dict[int, tuple[float, float]] = {}
        self._batches: set[int] = set()

    def merge(self: Self, other: Self) -> None:
        """Add the counts of other batches.

        Raises:
            ValueError: both have counted the same batch.
        """
        self._enter(other._batches)
        self.images += other.images
        self.compared += other.compared
        self.agreeing += other.agreeing
        self.energies.update(other.energies)
        self._merge(other)

    def _merge(self: Self, other: Self) -> None:
        raise NotImplementedError

    def scores(self) -> Scores:
        """The scores of everything that was counted."""
        raise NotImplementedError

    def _enter(self, batches: set[int]) -> None:
        if self._batches & batches:
            raise ValueError(f"batch {min(self._batches & batches)} is counted twice")
        self._batches |= batches

    def _compare(
        self, batch: int, outputs: FloatArray, reference: FloatArray | None
    ) -> FloatArray | None:
        """Note a batch, and its energies if there is a reference."""
        if reference is not None and reference.shape != outputs.shape:
            raise ValueError(f"{outputs.shape} cannot be compared with {reference.shape}")
        self._enter({batch})
        self.images += len(outputs)
        if reference is not None:
            exact = reference.astype(np.float64)
            with np.errstate(invalid="ignore", over="ignore"):
                noise = float(np.square(outputs - exact).sum())
                signal = float(np.square(exact).sum())
            self.energies[batch] = (signal, noise)
        return reference

    def _agree(self, own: IntArray, other: IntArray) -> None:
        self.compared += own.size
        self.agreeing += int(np.count_nonzero(own == other))

    @property
    def _agreement(self) -> float | None:
        return self.agreeing / self.compared if self.compared else None

    @property
    def _sqnr_db(self) -> float | None:
        if not self.energies:
            return None
        signal = math.fsum(signal for signal, _ in self.energies.values())
        noise = math.fsum(noise for _, noise in self.energies.values())
        if not math.isfinite(noise) or not math.isfinite(signal):
            return -math.inf
        if noise == 0:
            return math.inf
        return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


class ClassificationCounter(Counter):
    """Top-1 and top-5.

    Attributes:
        labelled: images with a label; of them ``hits`` have it as their single best class, and
            ``hits5`` among the best five, where ties count against it.
        lost, gained: labelled images that only the reference got right, and that it did not.
        classes: of the outputs; 0 before the first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.labelled = 0
        self.hits = 0
        self.hits5 = 0
        self.lost = 0
        self.gained = 0
        self.classes = 0

    def add(
        self,
        batch: int,
        outputs: FloatArray,
        labels: Sequence[int] | IntArray | None = None,
        reference: FloatArray | None = None,
    ) -> None:
        """Count a batch.

        Args:
            batch: its number.
            outputs: scores, float32 ``[B, K]``.
            labels: ``[B]``, each 0 to K - 1; None if there are none.
            reference: the reference model's scores, ``[B, K]``.

        Raises:
            ValueError: shapes do not fit, or the batch was counted already.
        """
        self._compare(batch, outputs, reference)
        self.classes = outputs.shape[1]
        other = None
        if reference is not None:
            other = reference.argmax(axis=1)
            # Of equal scores both take the first: a model agrees with itself.
            known = ~(np.isnan(outputs).any(axis=1) | np.isnan(reference).any(axis=1))
            self._agree(np.where(known, outputs.argmax(axis=1), UNDECIDED), other)
        if labels is None:
            return
        wanted = np.asarray(labels, np.int64)
        place = ranks(outputs, wanted)
        right = place == 0
        self.labelled += len(wanted)
        self.hits += int(np.count_nonzero(right))
        self.hits5 += int(np.count_nonzero(place < _BEST_OF))
        if reference is not None:
            before = ranks(reference, wanted) == 0
            self.lost += int(np.count_nonzero(before & ~right))
            self.gained += int(np.count_nonzero(right & ~before))

    def _merge(self, other: Self) -> None:
        assert isinstance(other, ClassificationCounter)
        for name in ("labelled", "hits", "hits5", "lost", "gained"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.classes = self.classes or other.classes

    def scores(self) -> Scores:
        labelled = self.labelled
        return Scores(
            images=self.images,
            top1=self.hits / labelled if labelled else None,
            # With five classes or fewer every label is among the best five.
            top5=self.hits5 / labelled if labelled and self.classes > _BEST_OF else None,
            agreement=self._agreement,
            sqnr_db=self._sqnr_db,
        )


class SegmentationCounter(Counter):
    """Mean intersection over union, counted over all images together.

    Attributes:
        confusion: int64 ``[K, K + 1]``: pixels by class (row) and by the class that the model
            prefers; the last column is for those without a single one.
        per_image: int64 ``[3, K]`` of every image by batch and place in it: right pixels, pixels of
            each class, pixels for which the model prefers it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.confusion: IntArray = np.zeros((0, 1), np.int64)
        self.per_image: dict[tuple[int, int], IntArray] = {}

    def add(
        self,
        batch: int,
        outputs: FloatArray,
        labels: Sequence[IntArray] | IntArray | None = None,
        reference: FloatArray | None = None,
    ) -> None:
        """Count a batch.

        Outputs of another size than the labels are resized to theirs bilinearly before the best
        class is taken, as mmsegmentation does; without labels they are compared as they are.

        Args:
            batch: its number.
            outputs: scores, float32 ``[B, K, h, w]``.
            labels: int64 ``[B, H, W]``, or a ``[H, W]`` for each image; 0 to K - 1, or
                :data:`IGNORED` where a pixel does not count.
            reference: the reference model's scores, as ``outputs``.

        Raises:
            ValueError: shapes do not fit, or the batch was counted already.
        """
        self._compare(batch, outputs, reference)
        classes = outputs.shape[1]
        if not len(self.confusion):
            self.confusion = np.zeros((classes, classes + 1), np.int64)
        for index, scores in enumerate(outputs):
            label = None if labels is None else np.asarray(labels[index], np.int64)
            found = _preferred(scores, label)
            if reference is not None:
                # Undecided pixels agree with nothing.
                other = _preferred(reference[index], label)
                self._agree(np.where(found == UNDECIDED, UNDECIDED - 1, found), other)
            if label is not None:
                counts = _confusion(label, found, classes)
                self.confusion = self.confusion + counts
                own = counts[:, :classes]
                self.per_image[batch, index] = np.stack(
                    [own.diagonal(), counts.sum(axis=1), own.sum(axis=0)]
                )

    def _merge(self, other: Self) -> None:
        assert isinstance(other, SegmentationCounter)
        if len(other.confusion):
            mine = self.confusion if len(self.confusion) else np.zeros_like(other.confusion)
            self.confusion = mine + other.confusion
        self.per_image.update(other.per_image)

    def scores(self) -> Scores:
        pixels = int(self.confusion.sum())
        counts = sum(self.per_image.values(), np.zeros((3, len(self.confusion)), np.int64))
        return Scores(
            images=self.images,
            miou=mean_iou(counts) if pixels else None,
            pixel_accuracy=int(counts[0].sum()) / pixels if pixels else None,
            agreement=self._agreement,
            sqnr_db=self._sqnr_db,
        )


def mean_iou(counts: npt.NDArray[np.int64]) -> float:
    """Mean over the classes that occur in the labels or are preferred anywhere.

    Args:
        counts: int64 ``[3, K]`` as of :attr:`SegmentationCounter.per_image`, of any images.
    """
    right, labelled, preferred = counts
    union = labelled + preferred - right
    occurring = union > 0
    if not occurring.any():
        return 0.0
    return float(np.mean(right[occurring] / union[occurring]))


def _preferred(scores: FloatArray, label: IntArray | None) -> IntArray:
    sized = scores if label is None else resized(scores, (label.shape[0], label.shape[1]))
    return best_classes(sized[None])[0]


def _confusion(label: IntArray, found: IntArray, classes: int) -> IntArray:
    counted = label != IGNORED
    rows, columns = label[counted], found[counted]
    if rows.size and (rows.min() < 0 or rows.max() >= classes):
        raise ValueError(f"labels go from {rows.min()} to {rows.max()} with {classes} classes")
    columns = np.where(columns == UNDECIDED, classes, columns)
    flat = np.bincount(rows * (classes + 1) + columns, minlength=classes * (classes + 1))
    return flat.reshape(classes, classes + 1)
