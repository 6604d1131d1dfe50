"""Mask2Former's and OneFormer's answers, against formulas written out and against transformers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.mask2former.image_processing_pil_mask2former import (
    Mask2FormerImageProcessorPil,
)
from transformers.models.oneformer.image_processing_pil_oneformer import OneFormerImageProcessorPil

from dinat_deploy.models.preprocessing import Preprocessing
from dinat_deploy.postprocessing import queries
from dinat_deploy.postprocessing.axes import View
from dinat_deploy.postprocessing.results import Segment

CLASSES = 5
THINGS = {0, 1, 2}


def view_of(crop: tuple[int, int], picture: tuple[int, int]) -> View:
    how = Preprocessing(resize_mode="contain", resize=crop, crop=crop)
    return View.of(how, picture)


def resized(masks: Tensor, view: View) -> Tensor:
    """As the original does: to the input, what is filled up cut off, to the picture."""
    (_, bottom), (_, right) = view.shown(0), view.shown(1)
    large = F.interpolate(masks[None], view.window, mode="bilinear", align_corners=False)
    cut = large[:, :, :bottom, :right]
    return F.interpolate(cut, view.picture, mode="bilinear", align_corners=False)[0]


def outputs(seed: int, count: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Smooth masks, sure and unsure ones, and classes, likewise."""
    torch.manual_seed(seed)
    coarse = 8 * torch.randn(1, count, 4, 4)
    masks = F.interpolate(coarse, size, mode="bicubic", align_corners=False)[0]
    return 4 * torch.randn(count, CLASSES + 1), masks


@pytest.mark.parametrize("seed", range(4))
def test_panoptic_segments_are_those_of_the_published_formula(seed: int) -> None:
    """``panoptic_inference`` of Mask2Former, pixel by pixel, in the order of the queries."""
    view = view_of((64, 64), (37, 50))
    classes, masks = outputs(seed, 12, (16, 16))
    threshold, overlap = 0.4, 0.25
    probabilities = classes.softmax(-1)
    scores, labels = probabilities.max(-1)
    sigmoid = resized(masks, view).sigmoid()
    kept = [q for q in range(12) if labels[q] != CLASSES and scores[q] > threshold]
    weighted = torch.stack([scores[q] * sigmoid[q] for q in kept])
    winner = weighted.argmax(0)
    expected = torch.zeros(view.picture, dtype=torch.int32)
    segments: list[tuple[int, float]] = []
    known: dict[int, int] = {}
    for place, q in enumerate(kept):
        won, own = winner == place, sigmoid[q] >= 0.5
        mask, label = won & own, int(labels[q])
        if not mask.any() or int(won.sum()) / int(own.sum()) < overlap:
            continue
        if label not in THINGS and label in known:
            expected[mask] = known[label]
            continue
        segments.append((label, float(scores[q])))
        known[label] = len(segments)
        expected[mask] = len(segments)
    found = queries.panoptic(
        classes.numpy(), masks.numpy(), view, things=THINGS,
        object_mask_threshold=threshold, overlap_threshold=overlap,
    )  # fmt: skip
    assert len(segments) > 1
    assert np.mean(found.ids != expected.numpy()) < 2e-3  # rounding at edges
    assert [segment.class_index for segment in found.segments] == [label for label, _ in segments]
    for segment in found.segments:
        assert segment.area == np.count_nonzero(found.ids == segment.id)
        assert segment.is_thing == (segment.class_index in THINGS)
        # Of merged stuff the surest.
        assert segment.score >= segments[segment.id - 1][1] - 1e-5


def scene(size: int) -> tuple[Tensor, Tensor]:
    """Two things that overlap, one that is hidden, one that is unsure, and stuff everywhere in two
    parts: sure masks, so that the points in which transformers differs do not matter."""
    parts = [
        (0, slice(2, 10), slice(2, 12), 6.0),
        (1, slice(6, 14), slice(8, 20), 5.0),
        (2, slice(7, 9), slice(10, 12), 3.5),
        (0, slice(16, 20), slice(16, 20), 0.5),
        (4, slice(0, 24), slice(0, 12), 2.5),
        (4, slice(0, 24), slice(12, 24), 2.6),
    ]
    masks = torch.full((len(parts), 24, 24), -40.0)
    classes = torch.zeros(len(parts), CLASSES + 1)
    for query, (label, rows, columns, sureness) in enumerate(parts):
        masks[query, rows, columns] = 40.0
        classes[query, label] = 2 + sureness
    repeat = size // 24
    return classes, masks.repeat_interleave(repeat, 1).repeat_interleave(repeat, 2)


def as_outputs(classes: Tensor, masks: Tensor) -> Any:
    return SimpleNamespace(class_queries_logits=classes[None], masks_queries_logits=masks[None])


@pytest.mark.parametrize("processor", [Mask2FormerImageProcessorPil, OneFormerImageProcessorPil])
def test_panoptic_segments_are_those_of_transformers_where_masks_are_sure(processor: Any) -> None:
    classes, masks = scene(384)
    (theirs,) = processor().post_process_panoptic_segmentation(
        as_outputs(classes, masks.clone()), threshold=0.8, overlap_mask_area_threshold=0.5,
        label_ids_to_fuse={3, 4},
    )  # fmt: skip
    found = queries.panoptic(
        classes.numpy(), masks.numpy(), view_of((384, 384), (384, 384)), things=THINGS,
        object_mask_threshold=0.8, overlap_threshold=0.5,
    )  # fmt: skip
    assert np.array_equal(found.ids, theirs["segmentation"].numpy())
    listed = {entry["id"]: entry for entry in theirs["segments_info"]}
    assert [segment.id for segment in found.segments] == list(listed) == [1, 2, 3]
    for segment in found.segments:
        assert segment.class_index == listed[segment.id]["label_id"]
        assert segment.is_thing == (not listed[segment.id]["was_fused"])
        assert segment.score == pytest.approx(listed[segment.id]["score"], abs=1e-5)


@pytest.mark.parametrize("seed", range(2))
def test_classes_of_pixels_are_those_of_transformers(seed: int) -> None:
    classes, masks = outputs(seed, 9, (96, 96))
    (theirs,) = Mask2FormerImageProcessorPil().post_process_semantic_segmentation(
        as_outputs(classes, masks), target_sizes=[(150, 150)], return_segmentation_scores=True
    )
    found = queries.semantic(classes.numpy(), masks.numpy(), view_of((384, 384), (150, 150)))
    scores = theirs.segmentation_scores
    chosen = scores.gather(0, torch.from_numpy(found.classes).long()[None])[0]
    assert (scores.max(0).values - chosen).max() < 1e-4
    assert np.mean(found.classes != theirs.segmentation.numpy()) < 1e-3


def test_what_is_filled_up_has_no_part_in_the_picture() -> None:
    """The right half of the input is no picture, and says something else."""
    masks = torch.full((2, 16, 16), -9.0)
    masks[0, :, :8] = 9
    masks[1, :, 8:] = 9
    classes = torch.full((2, 3), -9.0)
    classes[0, 0] = classes[1, 1] = 9
    view = view_of((64, 64), (200, 100))
    found = queries.semantic(classes.numpy(), masks.numpy(), view)
    assert np.unique(found.classes).tolist() == [0]
    split = queries.panoptic(
        classes.numpy(), masks.numpy(), view, things={0, 1},
        object_mask_threshold=0.5, overlap_threshold=0.8,
    )  # fmt: skip
    assert [segment.class_index for segment in split.segments] == [0]


@pytest.mark.parametrize("things", [None, THINGS])
def test_instances_are_those_of_the_published_formula(things: set[int] | None) -> None:
    """``instance_inference`` of Mask2Former."""
    view = view_of((64, 64), (45, 60))
    classes, masks = outputs(7, 10, (16, 16))
    top = 20
    probabilities, large = classes.softmax(-1)[:, :-1], resized(masks, view)
    expected = []
    for pair in probabilities.flatten().topk(top).indices.tolist():
        query, label = divmod(pair, CLASSES)
        mask = large[query] > 0
        if (things is None or label in things) and mask.any():
            sureness = large[query].sigmoid()[mask].mean()
            expected.append((label, float(probabilities[query, label] * sureness), mask.numpy()))
    expected.sort(key=lambda entry: -entry[1])
    found = queries.instances(classes.numpy(), masks.numpy(), view, things=things, top=top)
    assert len(expected) > 5
    assert [one.class_index for one in found.found] == [label for label, _, _ in expected]
    for one, (_, score, mask) in zip(found.found, expected, strict=True):
        assert one.score == pytest.approx(score, abs=1e-4)
        assert np.mean(found.whole_mask(one) != mask) < 2e-3
        left, top_, right, bottom = one.box
        assert mask[int(top_) : int(bottom), int(left) : int(right)].sum() == pytest.approx(
            mask.sum(), abs=3
        )


def test_instances_are_those_of_transformers_where_masks_are_sure() -> None:
    classes, masks = scene(384)
    (theirs,) = Mask2FormerImageProcessorPil().post_process_instance_segmentation(
        as_outputs(classes, masks), threshold=0.75, target_sizes=[(384, 384)],
        return_binary_maps=True,
    )  # fmt: skip
    view = view_of((384, 384), (384, 384))
    found = queries.instances(classes.numpy(), masks.numpy(), view, min_score=0.75)
    assert len(found.found) == 5
    for entry in theirs["segments_info"]:
        (one,) = [x for x in found.found if abs(x.score - entry["score"]) < 1e-5]
        assert one.class_index == entry["label_id"]
        assert np.array_equal(found.whole_mask(one), theirs["segmentation"][entry["id"]].numpy())


def test_no_query_that_is_sure_gives_an_empty_map() -> None:
    classes, masks = outputs(0, 4, (16, 16))
    found = queries.panoptic(
        classes.numpy(), masks.numpy(), view_of((64, 64), (30, 40)), things=THINGS,
        object_mask_threshold=1.0, overlap_threshold=0.8,
    )  # fmt: skip
    assert found.segments == []
    assert not found.ids.any()


def test_stuff_of_one_class_is_one_segment() -> None:
    classes, masks = scene(24)
    found = queries.panoptic(
        classes.numpy(), masks.numpy(), view_of((24, 24), (24, 24)), things=THINGS,
        object_mask_threshold=0.8, overlap_threshold=0.5,
    )  # fmt: skip
    stuff = [segment for segment in found.segments if not segment.is_thing]
    surest = float(classes[5].softmax(-1)[4])
    area = 24 * 24 - 8 * 10 - 8 * 12 + 4 * 4  # less the things, which overlap
    assert stuff == [Segment(3, 4, pytest.approx(surest, abs=1e-6), area, False)]
