"""Mask R-CNN's answers in the picture, and the encodings of results."""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional as F

from dinat_deploy.models.preprocessing import Preprocessing
from dinat_deploy.postprocessing.axes import View
from dinat_deploy.postprocessing.detections import detections, pasted
from dinat_deploy.postprocessing.results import (
    UNSEEN,
    Instance,
    Instances,
    PanopticMap,
    Segment,
    SemanticMap,
    run_lengths,
)

FloatArray = npt.NDArray[np.float32]


def sampled(mask: FloatArray, box: FloatArray, size: tuple[int, int]) -> FloatArray:
    """mmdetection's ``_do_paste_mask``, written out: probabilities ``[H, W]``, 0 outside."""
    left, top, right, bottom = box
    y = (torch.arange(size[0]) + 0.5 - top) / (bottom - top) * 2 - 1
    x = (torch.arange(size[1]) + 0.5 - left) / (right - left) * 2 - 1
    grid = torch.stack([x[None, :].expand(*size), y[:, None].expand(*size)], dim=2)[None]
    found = F.grid_sample(torch.from_numpy(mask)[None, None], grid.float(), align_corners=False)
    return found[0, 0].numpy()


@pytest.mark.parametrize(
    "box",
    [
        (3.2, 4.7, 40.9, 33.3),
        (0, 0, 60, 50),
        (10.5, 10.5, 11.2, 49),
        (57, 47, 60, 50),
        (40.5, -8.5, 75, 90),
    ],
    ids=str,
)
def test_masks_are_pasted_as_mmdetection_does(box: tuple[float, float, float, float]) -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((28, 28), dtype=np.float32)
    (top, left), found = pasted(mask, box, (50, 60))
    expected = sampled(mask, np.float32(box), (50, 60)) >= 0.5
    whole = np.zeros((50, 60), bool)
    whole[top : top + found.shape[0], left : left + found.shape[1]] = found
    assert np.mean(whole != expected) < 1e-3
    # Pixels whose centre is outside of the box are off.
    inside_rows = (np.arange(50) + 0.5 > box[1]) & (np.arange(50) + 0.5 < box[3])
    assert not whole[~inside_rows].any()


def test_boxes_are_scaled_to_the_picture_and_surplus_ones_dropped() -> None:
    how = Preprocessing(resize_mode="contain", resize=(80, 80), crop=(80, 80))
    view = View.of(how, (200, 400))  # five times smaller: 40 rows and 80 columns show it
    boxes = np.float32([[0, 0, 0, 0], [8, 4, 24, 20], [60, 30, 90, 70], [1, 1, 1, 9]])
    masks = np.ones((4, 28, 28), np.float32)
    labels = np.array([0, 1, 2, 1])
    found = detections(boxes, np.float32([0, 0.6, 0.9, 0.7]), labels, masks, view)
    assert [one.class_index for one in found.found] == [2, 1]  # one was empty
    assert found.found[1].box == pytest.approx((40, 20, 120, 100))
    assert found.found[1].area == 80 * 80 - 4  # corners fade towards the zeros around
    # Cut off at the edges of the picture.
    assert found.found[0].box == pytest.approx((300, 150, 400, 200))
    few = detections(boxes, np.float32([0, 0.6, 0.9, 0.7]), labels, masks, view, min_score=0.65)
    assert [one.score for one in few.found] == pytest.approx([0.9])


def test_a_box_that_reaches_beyond_the_picture_keeps_its_mask_in_place() -> None:
    how = Preprocessing(resize_mode="contain", resize=(80, 80), crop=(80, 80))
    view = View.of(how, (80, 160))  # 40 rows show it
    mask = np.zeros((1, 28, 28), np.float32)
    mask[0, :14] = 1  # the upper half of the box, which is what the picture has of it
    found = detections(
        np.float32([[0, 0, 80, 80]]), np.ones(1, np.float32), np.zeros(1), mask, view
    )
    assert found.found[0].box == (0, 0, 160, 80)
    assert found.found[0].mask[2:].mean() > 0.98
    below = np.float32([[0, 40, 80, 80]])
    assert detections(below, np.ones(1, np.float32), np.zeros(1), mask, view).found == []


def decoded(encoded: dict[str, list[int]]) -> npt.NDArray[np.bool_]:
    """COCO's run lengths as it says: down the columns, off and on in turn."""
    height, width = encoded["size"]
    flat: list[bool] = []
    for number, length in enumerate(encoded["counts"]):
        flat += [number % 2 == 1] * length
    return np.array(flat).reshape(width, height).T


def test_masks_survive_coco_run_lengths() -> None:
    rng = np.random.default_rng(1)
    for mask in (*(rng.random((7, 5)) < share for share in (0, 0.2, 0.8, 1)), np.eye(4) > 0):
        encoded = {"size": list(mask.shape), "counts": run_lengths(mask)}
        assert np.array_equal(decoded(encoded), mask)
        assert sum(encoded["counts"]) == mask.size
    # The example of COCO's own documentation: [0 0 1 1 1 0 1] is [2 3 1 1].
    assert run_lengths(np.array([[0, 0, 1, 1, 1, 0, 1]], bool).T) == [2, 3, 1, 1]
    assert run_lengths(np.array([[1, 1, 1, 1, 0, 0]], bool).T) == [0, 4, 2]


def test_results_are_plain_data_with_names() -> None:
    ids = np.int32([[1, 1, 2], [1, 0, 2]])
    segments = [Segment(1, 4, 0.9, 3, False), Segment(2, 0, 0.8, 2, True)]
    data = json.loads(json.dumps(PanopticMap(ids, segments).to_dict(list("abcde"))))
    assert data["size"] == [2, 3]
    assert [entry["label"] for entry in data["segments"]] == ["e", "a"]
    assert np.array_equal(decoded(data["segments"][1]["mask"]), ids == 2)
    instance = Instance(1, 0.5, (1, 0, 3, 1), np.array([[True, False]]), (0, 1))
    instances = Instances(
        (2, 3), [instance, Instance(0, 0.4, (1, 0, 2, 1), np.ones((1, 1), bool), (0, 1))]
    )
    data = json.loads(json.dumps(instances.to_dict()))
    assert data["instances"][0]["label"] is None
    assert data["instances"][0]["area"] == 1
    assert decoded(data["instances"][0]["mask"]).tolist() == [[False, True, False], [False] * 3]
    assert instances.ids().tolist() == [[0, 1, 0], [0, 0, 0]]  # the better one is on top
    classes = np.int32([[2, 2, UNSEEN], [2, 0, UNSEEN]])
    data = SemanticMap(classes, 3).to_dict(["sky", "sea", "sand"])
    assert data["classes"] == [
        {"class": 2, "label": "sand", "share": 0.75},
        {"class": 0, "label": "sky", "share": 0.25},
    ]
