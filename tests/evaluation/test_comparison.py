"""Intervals of what is lost: against their definition, and against what they promise."""

from __future__ import annotations

import numpy as np
import pytest

from dinat_deploy.evaluation.comparison import accuracy_loss, loss_of, miou_loss
from dinat_deploy.evaluation.metrics import ClassificationCounter, SegmentationCounter

Z2 = 1.959963984540054**2


def statistic(lost: int, gained: int, images: int, difference: float) -> float:
    """Squared score statistic by brute force: the variance of the difference under the most likely
    probabilities that have this difference, found on a grid."""
    lows = max(0.0, -difference)
    grid = np.linspace(lows, (1 - difference) / 2, 400_001)[1:-1]  # only the other one right
    rest = 1 - 2 * grid - difference
    log = gained * np.log(grid) + lost * np.log(grid + difference)
    log += (images - lost - gained) * np.log(rest)
    best = grid[np.argmax(log)]
    variance = images * (2 * best + difference - difference**2)
    return (lost - gained - images * difference) ** 2 / variance


@pytest.mark.parametrize(
    ("lost", "gained", "images"), [(3, 1, 360), (1, 1, 50), (12, 2, 50), (5, 9, 40), (30, 3, 60)]
)
def test_the_interval_inverts_the_score_test(lost: int, gained: int, images: int) -> None:
    loss = accuracy_loss(lost, gained, images)
    assert loss.value == (lost - gained) / images
    for end in (loss.low, loss.high):
        assert statistic(lost, gained, images, end) == pytest.approx(Z2, rel=2e-3)


def test_without_any_change_there_is_still_doubt() -> None:
    loss = accuracy_loss(0, 0, 360)
    assert loss.value == 0
    assert loss.high == pytest.approx(Z2 / (360 + Z2), rel=1e-6)
    assert loss.low == pytest.approx(-loss.high)


def test_the_interval_turns_with_its_sides() -> None:
    for lost, gained in ((7, 2), (4, 0), (50, 0), (0, 0)):
        loss, gain = accuracy_loss(lost, gained, 50), accuracy_loss(gained, lost, 50)
        assert (loss.low, loss.high) == pytest.approx((-gain.high, -gain.low), abs=1e-9)
        assert -1 <= loss.low <= loss.value <= loss.high <= 1


def test_it_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    only_reference, only_model, images = 0.03, 0.01, 360
    drawn = rng.multinomial(images, [only_reference, only_model, 0.96], 2000)
    known: dict[tuple[int, int], bool] = {}
    covered = 0
    for lost, gained, _ in drawn.tolist():
        if (lost, gained) not in known:
            loss = accuracy_loss(lost, gained, images)
            known[lost, gained] = loss.low <= only_reference - only_model <= loss.high
        covered += known[lost, gained]
    assert 0.935 <= covered / 2000 <= 0.97


@pytest.mark.parametrize(("lost", "gained", "images"), [(0, 0, 0), (2, 2, 3), (-1, 0, 5)])
def test_impossible_counts_are_refused(lost: int, gained: int, images: int) -> None:
    with pytest.raises(ValueError, match="of"):
        accuracy_loss(lost, gained, images)


def test_a_counter_knows_what_it_lost() -> None:
    outputs = np.eye(6, dtype=np.float32)
    labels = np.array([0, 1, 2, 3, 5, 4])
    worse = np.roll(outputs, 1, axis=0)
    worse[4] = [0, 0, 0, 0, 0, 1]
    model, reference = ClassificationCounter(), ClassificationCounter()
    reference.add(0, outputs, labels, outputs)
    model.add(0, worse, labels, outputs)
    loss = loss_of(model, reference)
    assert loss == accuracy_loss(4, 2, 6)
    assert loss_of(reference, reference) == accuracy_loss(0, 0, 6)
    unlabelled = ClassificationCounter()
    unlabelled.add(0, outputs, None, outputs)
    assert loss_of(unlabelled, unlabelled) is None


def test_the_loss_of_iou_is_between_bounds_over_images() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (30, 8, 8))
    exact = (np.arange(3)[None, :, None, None] == labels[:, None]).astype(np.float32)
    reference, model = SegmentationCounter(), SegmentationCounter()
    blurred = exact + 0.8 * rng.random(exact.shape, dtype=np.float32)
    worse = exact + 1.5 * rng.random(exact.shape, dtype=np.float32)
    reference.add(0, blurred, labels, blurred)
    model.add(0, worse, labels, blurred)
    loss = loss_of(model, reference)
    assert loss is not None
    assert loss.metric == "miou"
    drop = reference.scores().miou - model.scores().miou
    assert loss.value == pytest.approx(drop, rel=1e-12)
    assert 0 < loss.low < drop < loss.high < 1
    assert loss == loss_of(model, reference)
    same = loss_of(reference, reference)
    assert (same.low, same.value, same.high) == (0, 0, 0)


def test_few_images_leave_much_doubt() -> None:
    rng = np.random.default_rng(0)
    reference = rng.integers(50, 100, (40, 3, 4))
    reference[:, 0] = np.minimum(reference[:, 0], reference[:, 1:].min(axis=1))
    candidate = reference.copy()
    candidate[:, 0] -= rng.integers(0, 40, (40, 4))
    few, many = miou_loss(reference[:4], candidate[:4]), miou_loss(reference, candidate)
    assert few.high - few.low > 2 * (many.high - many.low)
    with pytest.raises(ValueError, match="cannot be compared"):
        miou_loss(reference[:3], candidate)
