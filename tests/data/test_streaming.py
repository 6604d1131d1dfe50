"""Bad samples are named, and refused or skipped as asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinat_deploy.data.opening import open_dataset
from dinat_deploy.data.streaming import samples
from dinat_deploy.errors import DataError
from dinat_deploy.models.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(resize=(10, 10), crop=(8, 8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of three pictures the second cannot be decoded."""
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(tmp_path / name)
    content = (tmp_path / "b.jpg").read_bytes()
    (tmp_path / "b.jpg").write_bytes(content[: len(content) // 2])
    return tmp_path


def test_a_bad_picture_is_refused_by_its_name(folder: Path) -> None:
    found = samples(open_dataset(folder, PREPROCESSING))
    assert next(found).name == "a.jpg"
    with pytest.raises(DataError, match=r"b\.jpg cannot be decoded") as raised:
        next(found)
    assert "skip" in raised.value.cure


def test_a_bad_picture_is_skipped_with_a_note(folder: Path) -> None:
    skipped: list[str] = []
    notes: list[str] = []
    dataset = open_dataset(folder, PREPROCESSING)
    found = list(samples(dataset, on_bad="skip", skipped=skipped, note=notes.append))
    assert [sample.name for sample in found] == ["a.jpg", "c.jpg"]
    assert skipped == ["b.jpg"]
    assert len(notes) == 1
    assert str(folder / "b.jpg") in notes[0]


@pytest.mark.parametrize(
    "content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"BM\0\0", b"II*\0\xff"]
)
def test_if_nothing_can_be_used_that_is_an_error(content: bytes, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"None of the 2 images in .* The first: .*a\.png"):
        list(samples(open_dataset(tmp_path, PREPROCESSING), on_bad="skip"))


def test_pictures_that_went_away_are_named(folder: Path) -> None:
    dataset = open_dataset(folder, PREPROCESSING)
    (folder / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"a\.jpg"):
        next(samples(dataset))


def test_labels_beyond_the_models_classes_are_named(folder: Path) -> None:
    (folder / "l.txt").write_text("a.jpg 0\nc.jpg 2\n")
    dataset = open_dataset(folder / "l.txt", PREPROCESSING, labels=["x", "y"])
    with pytest.raises(DataError, match=r"c\.jpg has the class 2 in .*l\.txt.* has 2"):
        list(samples(dataset))


def test_samples_are_the_readers_own(folder: Path) -> None:
    images = np.zeros((1, 3, 8, 8), np.float32)
    dataset = open_dataset(images, PREPROCESSING)
    dataset.load(0).image[:] = 1
    assert not dataset.load(0).image.any()
