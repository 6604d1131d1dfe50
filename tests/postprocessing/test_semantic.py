"""Logits to classes of pixels, against PyTorch's interpolation and mmsegmentation's sliding windows."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dinat_deploy.models.preprocessing import Preprocessing
from dinat_deploy.postprocessing.axes import Axis, FloatArray, Resized, View
from dinat_deploy.postprocessing.results import UNSEEN
from dinat_deploy.postprocessing.semantic import Strip, best_classes, window_starts


def interpolated(maps: Tensor, size: Sequence[int]) -> Tensor:
    """``[K, h, w]`` to another size."""
    return F.interpolate(maps[None], tuple(size), mode="bilinear", align_corners=False)[0]


def whole(axis: Axis) -> FloatArray:
    used, matrix = axis.dense(0, len(axis))
    full = np.zeros((len(axis), axis.length), np.float32)
    full[:, used] = matrix
    return full


@pytest.mark.parametrize(
    ("length", "size"), [(16, 64), (64, 16), (1, 5), (5, 1), (7, 7), (16, 33), (2, 3)]
)
def test_one_axis_is_interpolated_as_pytorch_does(length: int, size: int) -> None:
    values = torch.randn(1, length, 1)
    expected = interpolated(values, (size, 1))[0].numpy()
    assert whole(Axis.bilinear(length, size)) @ values[0].numpy() == pytest.approx(
        expected, abs=1e-5
    )


@pytest.mark.parametrize(
    "sizes", [(4, 16, 50), (16, 64, 9), (1, 4, 7), (30, 7, 19), (5, 5, 5)], ids=str
)
def test_two_steps_become_one(sizes: tuple[int, int, int]) -> None:
    first, second = Axis.bilinear(*sizes[:2]), Axis.bilinear(*sizes[1:])
    assert whole(second.after(first)) == pytest.approx(whole(second) @ whole(first), abs=1e-6)


@pytest.mark.parametrize("picture", [(90, 120), (120, 90), (31, 200), (64, 64)], ids=str)
@pytest.mark.parametrize("mode", ["contain", "stretch", "cover"])
def test_maps_come_back_to_where_the_picture_was(mode: str, picture: tuple[int, int]) -> None:
    """Resized to the input, what shows the picture cut out, and that resized to the picture."""
    how = Preprocessing(resize_mode=mode, resize=(80, 80), crop=(64, 48))
    view = View.of(how, picture)
    maps = torch.randn(1, 16, 12)
    (top, bottom), (left, right) = view.shown(0), view.shown(1)
    shown = interpolated(maps, how.crop)[:, top:bottom, left:right]
    found = Resized(view, (16, 12)).whole(maps[0].numpy())
    if mode == "contain":
        assert view.seen(0).all()
        assert view.seen(1).all()
        expected = interpolated(shown, picture)[0].numpy()
        assert found == pytest.approx(expected, abs=1e-4)
        return
    # The part of the picture that was cut out, to within a pixel at its edge.
    (width, height), (x, y, _, _) = how.geometry(picture[::-1])
    rows, columns = np.flatnonzero(view.seen(0)), np.flatnonzero(view.seen(1))
    assert rows[0] == pytest.approx(max(0, y) * picture[0] / height, abs=1)
    assert rows[-1] + 1 == pytest.approx(min(height, y + 64) * picture[0] / height, abs=1)
    assert columns[0] == pytest.approx(max(0, x) * picture[1] / width, abs=1)
    assert columns[-1] + 1 == pytest.approx(min(width, x + 48) * picture[1] / width, abs=1)
    # A pixel of the picture has what the crop shows at its centre.
    row, column = int(rows[len(rows) // 2]), int(columns[len(columns) // 2])
    place = torch.tensor(
        [
            2 * ((column + 0.5) * width / picture[1] - x) / 48 - 1,
            2 * ((row + 0.5) * height / picture[0] - y) / 64 - 1,
        ]
    )
    crop = interpolated(maps, how.crop)[None].double()
    at_center = F.grid_sample(
        crop, place.view(1, 1, 1, 2).double(), align_corners=False, padding_mode="border"
    )
    assert found[row, column] == pytest.approx(at_center.item(), abs=1e-4)


def test_coordinates_come_back_to_the_picture() -> None:
    how = Preprocessing(resize_mode="contain", resize=(64, 64), crop=(64, 64))
    view = View.of(how, (300, 600))  # 32 rows show it, scaled by 64 / 600
    found = view.to_picture(1, np.float32([0, 32, 64, 70]))
    assert found.tolist() == [0, 300, 600, 656.25]
    # What is filled up lies below the picture.
    assert view.to_picture(0, np.float32([16, 32, 60])).tolist() == [150, 300, 562.5]


def slid(
    logits: dict[tuple[int, int], Tensor],
    starts: tuple[list[int], list[int]],
    window: tuple[int, int],
    resized: tuple[int, int],
    picture: tuple[int, int],
) -> Tensor:
    """What mmsegmentation's ``slide_inference`` does, written out: scores ``[K, H, W]``."""
    total = torch.zeros(next(iter(logits.values())).shape[0], *resized)
    count = torch.zeros(resized)
    for (i, j), values in logits.items():
        rows = slice(starts[0][i], starts[0][i] + window[0])
        columns = slice(starts[1][j], starts[1][j] + window[1])
        total[:, rows, columns] += interpolated(values, window)
        count[rows, columns] += 1
    assert count.min() > 0
    return interpolated(total / count, picture)


@pytest.mark.parametrize(
    ("resized", "picture"),
    [((32, 70), (61, 133)), ((70, 32), (400, 183)), ((45, 75), (90, 20)), ((32, 32), (32, 600))],
    ids=str,
)
def test_windows_are_averaged_where_they_overlap(
    resized: tuple[int, int], picture: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    window, stride = (32, 32), 21
    starts = window_starts(resized[0], 32, stride), window_starts(resized[1], 32, stride)
    logits = {
        (i, j): torch.randn(6, 8, 8) for i in range(len(starts[0])) for j in range(len(starts[1]))
    }
    asked: list[tuple[int, int]] = []

    def give(places: Sequence[tuple[int, int]]) -> list[FloatArray]:
        asked.extend(places)
        return [logits[place].numpy() for place in places]

    rows, columns = (
        Strip.of_starts(starts[axis], 32, resized[axis], picture[axis], 8) for axis in (0, 1)
    )
    found = best_classes(rows, columns, 6, give)
    assert sorted(asked) == sorted(logits)
    scores = slid(logits, starts, window, resized, picture)
    assert found.classes.shape == picture
    # But for ties, up to rounding.
    best = scores.gather(0, torch.from_numpy(found.classes).long()[None])[0]
    assert (scores.max(0).values - best).max() < 1e-5
    assert np.mean(found.classes != scores.argmax(0).numpy()) < 1e-3


def test_windows_start_as_in_mmsegmentation() -> None:
    assert window_starts(512, 512, 341) == [0]
    assert window_starts(683, 512, 341) == [0, 171]
    assert window_starts(2048, 512, 341) == [0, 341, 682, 1023, 1364, 1536]
    assert window_starts(100, 512, 341) == [0]


def test_what_no_window_saw_has_no_class() -> None:
    how = Preprocessing(resize=(64, 64), crop=(64, 64))
    view = View.of(how, (100, 200))
    rows, columns = (Strip.of_view(view, axis, 16) for axis in (0, 1))
    found = best_classes(rows, columns, 2, lambda _: [np.zeros((2, 16, 16), np.float32)])
    assert (found.classes[:, 50:150] == 0).all()
    assert (found.classes[:, :50] == UNSEEN).all()
    assert (found.classes[:, 150:] == UNSEEN).all()
    assert found.shares().tolist() == [1, 0]


def test_memory_does_not_grow_with_the_picture() -> None:
    """All scores at the size of the picture would be 300 MB; the classes themselves are 12 MB."""
    classes, picture = 25, (1500, 2000)
    starts = [0, 21, 42, 63]
    one = np.random.default_rng(0).normal(size=(classes, 8, 8)).astype(np.float32)
    held: list[int] = []
    rows = Strip.of_starts([0], 32, 32, picture[0], 8)
    columns = Strip.of_starts(starts, 32, 95, picture[1], 8)

    def give(places: Sequence[tuple[int, int]]) -> list[FloatArray]:
        held.append(len(places))
        return [one.copy() for _ in places]

    tracemalloc.start()
    try:
        best_classes(rows, columns, classes, give)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 70e6
    assert max(held) < len(starts)  # not all windows at once
    assert sum(held) == len(starts)
