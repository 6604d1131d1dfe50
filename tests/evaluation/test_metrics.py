"""Scores are those of scikit-learn and PyTorch, whatever the order of counting."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, jaccard_score, top_k_accuracy_score

from dinat_deploy.evaluation.metrics import ClassificationCounter, Counter, SegmentationCounter
from dinat_deploy.evaluation.predictions import best_classes, resized
from dinat_deploy.parity import Tolerance, compare


def classification(
    rng: np.random.Generator, images: int = 40, classes: int = 12
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    reference = rng.standard_normal((images, classes), dtype=np.float32)
    outputs = reference + 0.5 * rng.standard_normal((images, classes), dtype=np.float32)
    return outputs, rng.integers(0, classes, images), reference


def test_top1_and_top5_are_scikit_learns(rng: np.random.Generator) -> None:
    outputs, labels, reference = classification(rng, 400)
    counter = ClassificationCounter()
    counter.add(0, outputs, labels, reference)
    scores = counter.scores()
    for k, found in ((1, scores.top1), (5, scores.top5)):
        assert found == top_k_accuracy_score(labels, outputs, k=k, labels=range(12))
    assert scores.images == 400
    assert scores.agreement == np.mean(outputs.argmax(1) == reference.argmax(1))
    errors = compare(reference, outputs, Tolerance())
    assert scores.sqnr_db == pytest.approx(errors.sqnr_db, rel=1e-12)
    right, before = outputs.argmax(1) == labels, reference.argmax(1) == labels
    assert counter.lost == np.sum(before & ~right)
    assert counter.gained == np.sum(right & ~before)


def test_ties_and_nan_are_wrong() -> None:
    nan = math.nan
    outputs = np.array(
        [
            [2, 1, 0, 0, 0, 0],  # right
            [2, 2, 0, 0, 0, 0],  # a tie for the best
            [nan, 1, 0, 0, 0, 0],
            [2, nan, 0, 0, 0, 0],
            [1, 1, 1, 1, 1, 1],  # not even among the best five
            [math.inf, 0, 0, 0, 0, 0],  # right
        ],
        np.float32,
    )
    counter = ClassificationCounter()
    counter.add(0, outputs, [0] * 6)
    assert (counter.hits, counter.hits5, counter.labelled) == (2, 3, 6)
    assert best_classes(outputs).tolist() == [0, -1, -1, -1, -1, 0]


def test_a_model_agrees_with_itself_even_in_ties() -> None:
    outputs = np.array([[1, 1, 0], [0, 1, 0], [math.nan, 0, 0]], np.float32)
    counter = ClassificationCounter()
    counter.add(0, outputs, None, outputs)
    scores = counter.scores()
    assert scores.agreement == 2 / 3
    assert scores.top1 is None
    assert scores.sqnr_db == -math.inf


def test_equal_outputs_have_no_noise(rng: np.random.Generator) -> None:
    outputs = classification(rng)[0]
    counter = ClassificationCounter()
    counter.add(0, outputs, None, outputs.copy())
    assert counter.scores().sqnr_db == math.inf


def test_five_classes_have_no_top5(rng: np.random.Generator) -> None:
    for classes, expected in ((2, False), (5, False), (6, True)):
        outputs, labels, _ = classification(rng, classes=classes)
        counter = ClassificationCounter()
        counter.add(0, outputs, labels)
        assert (counter.scores().top5 is not None) == expected


def segmentation(
    rng: np.random.Generator, images: int = 3
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels = rng.integers(0, 4, (images, 16, 12))
    labels[rng.random(labels.shape) < 0.1] = 255
    reference = rng.standard_normal((images, 6, 8, 6), dtype=np.float32)
    reference[:, 4] -= 100  # neither in the labels nor preferred
    outputs = reference + rng.standard_normal(reference.shape, dtype=np.float32)
    return outputs, labels, reference


def test_confusion_and_iou_are_scikit_learns(rng: np.random.Generator) -> None:
    outputs, labels, reference = segmentation(rng)
    counter = SegmentationCounter()
    counter.add(0, outputs, labels, reference)
    large = torch.nn.functional.interpolate(torch.from_numpy(outputs), (16, 12), mode="bilinear")
    found = large.numpy().argmax(1)
    counted = labels != 255
    expected = confusion_matrix(labels[counted], found[counted], labels=range(6))
    np.testing.assert_array_equal(counter.confusion[:, :6], expected)
    assert not counter.confusion[:, 6].any()
    scores = counter.scores()
    occurring = sorted({*labels[counted], *found[counted]})
    assert 4 not in occurring
    assert 5 in occurring  # preferred somewhere, and never right
    iou = jaccard_score(labels[counted], found[counted], labels=occurring, average="macro")
    assert scores.miou == pytest.approx(iou, rel=1e-12)
    assert scores.pixel_accuracy == np.mean(labels[counted] == found[counted])
    other = torch.nn.functional.interpolate(torch.from_numpy(reference), (16, 12), mode="bilinear")
    assert scores.agreement == np.mean(found == other.numpy().argmax(1))


def test_undecided_pixels_are_wrong_and_agree_with_nothing() -> None:
    outputs = np.zeros((1, 2, 2, 2), np.float32)
    outputs[0, 1, 0, 0] = 1
    outputs[0, 0, 1, 1] = math.nan
    counter = SegmentationCounter()
    counter.add(0, outputs, np.ones((1, 2, 2), int), outputs)
    assert counter.confusion.tolist() == [[0, 0, 0], [0, 1, 3]]
    assert counter.scores().pixel_accuracy == 0.25
    assert counter.scores().agreement == 0.25


def test_outputs_without_labels_are_compared_as_they_are(rng: np.random.Generator) -> None:
    outputs, _, reference = segmentation(rng)
    counter = SegmentationCounter()
    counter.add(0, outputs, None, reference)
    assert counter.scores().agreement == np.mean(outputs.argmax(1) == reference.argmax(1))
    assert counter.scores().miou is None
    assert counter.scores().primary[0] == "agreement"


def test_images_of_different_sizes_in_one_batch(rng: np.random.Generator) -> None:
    outputs, labels, _ = segmentation(rng)
    together, alone = SegmentationCounter(), SegmentationCounter()
    ragged = [labels[0], labels[1][:9], labels[2][:, :7]]
    together.add(0, outputs, ragged)
    for index, label in enumerate(ragged):
        alone.add(index, outputs[index : index + 1], label[None])
    assert together.scores() == alone.scores()


def test_labels_beyond_the_classes_are_an_error(rng: np.random.Generator) -> None:
    outputs, labels, _ = segmentation(rng)
    with pytest.raises(ValueError, match="from 0 to 9 with 6 classes"):
        SegmentationCounter().add(0, outputs, np.where(labels == 3, 9, labels))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 12), st.integers(1, 12))
def test_resizing_is_pytorchs(height: int, width: int, new_height: int, new_width: int) -> None:
    maps = np.random.default_rng(0).standard_normal((2, height, width), dtype=np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(maps)[None], (new_height, new_width), mode="bilinear", align_corners=False
    )
    found = resized(maps, (new_height, new_width))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected[0].numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "make"),
    [(ClassificationCounter, classification), (SegmentationCounter, segmentation)],
)
def test_the_order_of_counting_changes_nothing(kind: type, make: object) -> None:
    """Energies of very different sizes, which a running sum would round differently."""
    parts: list[Counter] = []
    for batch in range(12):
        outputs, labels, reference = make(np.random.default_rng(batch))
        scale = np.float32(10.0 ** (3 * (batch % 5)))
        part = kind()
        part.add(batch, outputs * scale, labels, reference * scale)
        parts.append(pickle.loads(pickle.dumps(part)))
    found = set()
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(12)
        halves = kind(), kind()
        for place, index in enumerate(order):
            halves[place % 2].merge(parts[index])
        halves[seed % 2].merge(halves[1 - seed % 2])
        found.add(halves[seed % 2].scores())
    assert len(found) == 1
    assert found.pop().images == 12 * len(make(np.random.default_rng(0))[0])


def test_no_batch_counts_twice(rng: np.random.Generator) -> None:
    outputs, labels, _ = classification(rng)
    first, second = ClassificationCounter(), ClassificationCounter()
    for counter in (first, second):
        counter.add(3, outputs, labels)
    with pytest.raises(ValueError, match="batch 3 is counted twice"):
        first.merge(second)
    with pytest.raises(ValueError, match="batch 3 is counted twice"):
        first.add(3, outputs, labels)
    assert first.scores() == second.scores()
