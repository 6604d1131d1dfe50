"""What is named as data becomes the same samples each time, with the model's classes."""

from __future__ import annotations

import os
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinat_deploy.data.opening import open_dataset
from dinat_deploy.data.streaming import samples
from dinat_deploy.errors import DataError, MissingDependencyError
from dinat_deploy.models.labels import imagenet1k
from dinat_deploy.models.preprocessing import Preprocessing, load_batch

PREPROCESSING = Preprocessing(resize=(10, 10), crop=(8, 8))
GREY = Preprocessing(resize_mode="stretch", resize=(8, 8), crop=(8, 8), mean=(0.5,), std=(0.5,))


def picture(path: Path, value: int = 0, size: tuple[int, int] = (12, 9)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(value)
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return path


def class_folders(place: Path, counts: dict[str, int]) -> Path:
    for number, (name, count) in enumerate(counts.items()):
        (place / name).mkdir(parents=True)
        for index in range(count):
            picture(place / name / f"{index:03d}.png", 100 * number + index)
    return place


def labels_by_name(place: Path, labels: list[str] | None) -> dict[str, int]:
    dataset = open_dataset(place, PREPROCESSING, labels=labels)
    return {sample.name: sample.label for sample in samples(dataset)}


# ---------------------------------------------------------------- folders and lists of pictures


def test_a_flat_folder_has_no_labels_and_the_order_of_names(tmp_path: Path) -> None:
    paths = [picture(tmp_path / name, seed) for seed, name in enumerate(["b.png", "a.JPG"])]
    (tmp_path / "notes.md").write_text("no picture")
    picture(tmp_path / ".hidden.png")
    dataset = open_dataset(str(tmp_path), PREPROCESSING, labels=["x", "y"])
    found = list(samples(dataset))
    assert [sample.name for sample in found] == ["a.JPG", "b.png"]
    assert [sample.label for sample in found] == [None, None]
    assert dataset.task is None
    expected = load_batch([paths[1], paths[0]], PREPROCESSING)
    np.testing.assert_array_equal([sample.image for sample in found], expected)


@pytest.mark.parametrize(
    ("labels", "folders", "expected"),
    [
        (["cat", "dog"], ["dog", "cat"], {"cat": 0, "dog": 1}),
        (["dog", "great grey owl, owl"], ["Owl", "dog"], {"dog": 0, "Owl": 1}),
        (
            ["dog", "hot dog", "cat"],
            ["hot_dog", "cat"],
            {"cat": 2, "hot_dog": 1},
        ),  # not all of them
        (["crane, bird", "crane, machine"], ["bird", "machine"], {"bird": 0, "machine": 1}),
        (["zero", "one", "two"], ["0", "2"], {"0": 0, "2": 2}),
        (["tench", "goldfish"], ["n01", "n02"], {"n01": 0, "n02": 1}),  # ImageNet's own folders
        (None, ["b", "a"], {"a": 0, "b": 1}),
        (None, ["10", "9"], {"9": 9, "10": 10}),
    ],
)
def test_class_folders_get_the_models_classes(
    labels: list[str] | None, folders: list[str], expected: dict[str, int], tmp_path: Path
) -> None:
    class_folders(tmp_path, dict.fromkeys(folders, 1))
    found = labels_by_name(tmp_path, labels)
    assert found == {f"{name}/000.png": index for name, index in expected.items()}


def test_classes_in_alphabetical_order_are_to_be_checked_by_the_user(tmp_path: Path) -> None:
    class_folders(tmp_path, {"n02": 1, "n01": 1})
    dataset = open_dataset(tmp_path, PREPROCESSING, labels=["tench", "goldfish"])
    assert ["alphabetical" in note for note in dataset.notes] == [True]
    by_name = open_dataset(tmp_path, PREPROCESSING, labels=["n01", "n02"])
    assert by_name.notes == []


def test_every_class_of_imagenet_is_found_by_its_name() -> None:
    from dinat_deploy.data.classes import match_classes

    labels = imagenet1k()
    names = [label for label in labels if label != "crane"]  # a bird and a machine
    found = match_classes("x", sorted(names), labels, None)
    assert [labels[found.indices[name]] for name in names] == names
    assert len(set(found.indices.values())) == len(names) == 998
    with pytest.raises(DataError, match="crane, which is not exactly one"):
        match_classes("x", ["crane", "tench"], labels, None)


def test_classes_txt_gives_the_order(tmp_path: Path) -> None:
    class_folders(tmp_path, {"left": 1, "right": 1})
    (tmp_path / "classes.txt").write_text("right\nleft\n")
    assert labels_by_name(tmp_path, ["x", "y"]) == {"left/000.png": 1, "right/000.png": 0}
    assert open_dataset(tmp_path, PREPROCESSING).classes == ["right", "left"]


@pytest.mark.parametrize(
    ("labels", "folders", "words"),
    [
        (["cat", "dog", "owl"], ["n01", "n02"], ["2 classes (n01, n02)", "3 (cat, dog, owl)"]),
        (["cat", "dog"], ["cat", "dgo"], ["has the class dgo", "cat, dog"]),
        (["cat", "dog"], ["0", "2"], ["has the class 2", "the model has 2"]),
        (["cat, tom", "dog"], ["cat", "tom"], ["cat and tom", "same class 0"]),
        (None, ["1", "01"], ["01 and 1", "same class 1"]),
    ],
)
def test_classes_that_do_not_fit_are_refused_with_both_sides(
    labels: list[str] | None, folders: list[str], words: list[str], tmp_path: Path
) -> None:
    class_folders(tmp_path, dict.fromkeys(folders, 1))
    with pytest.raises(DataError) as raised:
        open_dataset(tmp_path, PREPROCESSING, labels=labels)
    assert all(word in raised.value.cause for word in words), raised.value.cause
    assert str(tmp_path) in raised.value.cause


@pytest.mark.parametrize(
    ("order", "words"),
    [("a\n", "lists 1 classes, and the model has 2"), ("a\na\n", "a twice"), ("a\nc\n", "class b")],
)
def test_a_wrong_classes_txt_is_refused(order: str, words: str, tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 1, "b": 1})
    (tmp_path / "classes.txt").write_text(order)
    with pytest.raises(DataError, match=words):
        open_dataset(tmp_path, PREPROCESSING, labels=["x", "y"])


def test_a_list_names_pictures_relative_to_itself(tmp_path: Path) -> None:
    picture(tmp_path / "in a" / "my cat.png")
    picture(tmp_path / "dog.png")
    lines = ["# comment", "in a/my cat.png 1", "", f"{tmp_path / 'dog.png'}\t0"]
    (tmp_path / "val.txt").write_text("\n".join(lines))
    found = list(samples(open_dataset(tmp_path / "val.txt", PREPROCESSING, labels=["x", "y"])))
    assert [sample.label for sample in found] == [1, 0]
    assert found[0].name == "in a/my cat.png"


def test_a_list_may_name_classes_or_none(tmp_path: Path) -> None:
    for name in ("a.png", "b c.png"):
        picture(tmp_path / name)
    (tmp_path / "named.txt").write_text("a.png owl\nb c.png\thot dog\n")
    (tmp_path / "plain.txt").write_text("a.png\nb c.png\n")
    named = open_dataset(tmp_path / "named.txt", PREPROCESSING, labels=["hot dog", "owl"])
    assert [sample.label for sample in samples(named)] == [1, 0]
    plain = open_dataset(tmp_path / "plain.txt", PREPROCESSING)
    assert [(s.name, s.label) for s in samples(plain)] == [("a.png", None), ("b c.png", None)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# nothing\n", "lists no pictures"),
        ("a.png 0\nb.png\n", "1 of its 2 pictures, and none to b.png"),
        ("a.png cat\n", "a.png the class 'cat'"),
    ],
)
def test_a_bad_list_is_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text(text)
    with pytest.raises(DataError, match=words) as raised:
        open_dataset(tmp_path / "l.txt", PREPROCESSING)
    assert str(tmp_path / "l.txt") in raised.value.cause


# ---------------------------------------------------------------- arrays


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_normalised_arrays_are_taken_as_they_are(
    save: object, tmp_path: Path, rng: np.random.Generator
) -> None:
    images = rng.standard_normal((5, 3, 8, 8), dtype=np.float32)
    save(tmp_path / "d.npz", images=images, labels=np.arange(5))
    dataset = open_dataset(tmp_path / "d.npz", PREPROCESSING)
    found = list(samples(dataset))
    np.testing.assert_array_equal([sample.image for sample in found], images)
    assert [(s.name, s.label) for s in found] == [(f"d.npz[{i}]", i) for i in range(5)]


def test_arrays_that_are_not_compressed_are_mapped_and_not_read(tmp_path: Path) -> None:
    images = np.zeros((5, 3, 8, 8), np.float32)
    np.savez(tmp_path / "d.npz", other=np.arange(7), images=images, labels=np.arange(5))
    dataset = open_dataset(tmp_path / "d.npz", PREPROCESSING)
    assert isinstance(dataset._images, np.memmap)
    assert len(pickle.dumps(dataset)) < images.nbytes


def test_pixels_are_treated_like_a_picture_file(tmp_path: Path) -> None:
    path = picture(tmp_path / "p.png")
    pixels = np.asarray(Image.open(path))
    expected = load_batch([path], PREPROCESSING)[0]
    for array in (pixels, pixels.transpose(2, 0, 1)):
        np.savez(tmp_path / "d.npz", images=array[None])
        found = next(iter(samples(open_dataset(tmp_path / "d.npz", PREPROCESSING))))
        np.testing.assert_array_equal(found.image, expected)
    grey = pixels[:, :, 0]
    for array in (grey, grey[..., None], grey[None]):
        found = next(iter(samples(open_dataset([array], GREY))))
        np.testing.assert_array_equal(found.image, GREY(Image.fromarray(grey)))


def test_any_iterable_of_arrays_or_pairs_is_a_dataset(rng: np.random.Generator) -> None:
    images = rng.standard_normal((3, 3, 8, 8), dtype=np.float32)
    for source in (images, list(images), iter(images)):
        dataset = open_dataset(source, PREPROCESSING)
        assert dataset.task is None
        np.testing.assert_array_equal([s.image for s in samples(dataset)], images)
    labelled = open_dataset(((image, 2) for image in images), PREPROCESSING)
    assert [sample.label for sample in samples(labelled)] == [2, 2, 2]
    assert open_dataset(labelled, PREPROCESSING) is labelled


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": np.zeros((2, 3, 7, 8), np.float32)}, r"d.npz\[0\] has the shape \[3, 7, 8\]"),
        ({"images": np.zeros((2, 4, 8, 8), np.float32)}, r"takes normalised images of \[3, 8, 8\]"),
        ({"images": np.full((2, 3, 8, 8), np.nan, np.float32)}, r"d.npz\[0\] has 192 values"),
        ({"images": np.zeros((2, 3, 8, 8), np.int64)}, "the type int64"),
        ({"images": np.zeros((2, 8, 8, 2), np.uint8)}, r"has the shape \[8, 8, 2\]"),
        ({"images": np.zeros((8, 8), np.float32)}, r"the shape \[8, 8\]"),
        ({"images": np.zeros((0, 3, 8, 8), np.float32)}, r"the shape \[0, 3, 8, 8\]"),
        ({"pictures": np.zeros((2, 3, 8, 8), np.float32)}, "no array 'images', only pictures"),
        (
            {"images": np.zeros((2, 3, 8, 8), np.float32), "labels": np.zeros(3, np.int64)},
            "2 images and 3 labels",
        ),
        (
            {"images": np.zeros((2, 3, 8, 8), np.float32), "labels": np.zeros(2)},
            r"float64 \[2\]; expected integers",
        ),
        (
            {"images": np.zeros((2, 3, 8, 8), np.float32), "labels": np.array([7, 0])},
            r"d.npz\[0\] has the class 7, and the model has 2",
        ),
        (
            {"images": np.zeros((2, 3, 8, 8), np.float32), "labels": np.array([-1, 0])},
            r"d.npz\[0\] has the class -1",
        ),
        (
            {"images": np.zeros((1, 3, 8, 8), np.float32), "labels": np.zeros((1, 8, 9), int)},
            r"d.npz\[0\] is 8 x 9 pixels and its image 8 x 8",
        ),
        (
            {"images": np.zeros((1, 3, 8, 8), np.float32), "labels": np.full((1, 8, 8), 2)},
            r"d.npz\[0\] has 64 pixels of the class 2",
        ),
        (
            {"images": np.array([None])},
            "Python objects",
        ),
    ],
)
def test_bad_arrays_are_named(arrays: dict[str, np.ndarray], words: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(DataError, match=words) as raised:
        list(samples(open_dataset(tmp_path / "d.npz", PREPROCESSING, labels=["x", "y"])))
    assert "d.npz" in raised.value.cause


# ---------------------------------------------------------------- masks


def segmentation(place: Path, mask: np.ndarray, mode: str = "L") -> Path:
    height, width = mask.shape
    picture(place / "images" / "a.jpg", size=(width, height))
    (place / "masks").mkdir(exist_ok=True)
    image = Image.fromarray(mask.astype(np.uint8), mode="P" if mode == "P" else None)
    if mode == "P":
        image.putpalette([255, 0, 0] * 256)
    image.save(place / "masks" / "a.png")
    return place


@pytest.mark.parametrize("mode", ["L", "P"])
def test_masks_are_cut_like_their_pictures(mode: str, tmp_path: Path) -> None:
    """A picture whose pixels are its classes ends up where its mask does."""
    rng = np.random.default_rng(0)
    mask = np.kron(rng.integers(0, 3, (5, 7)), np.ones((9, 9), int))
    segmentation(tmp_path, mask, mode)
    Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "a.jpg").unlink()
    same = Preprocessing(
        resize=(20, 20), crop=(16, 18), mean=(0.0,), std=(1.0,), interpolation="nearest"
    )
    sample = next(iter(samples(open_dataset(tmp_path, same, labels=["x", "y", "z"]))))
    assert sample.label.dtype == np.int64
    np.testing.assert_array_equal(sample.label, np.round(sample.image[0] * 255))


def test_what_lies_outside_of_a_picture_does_not_count(tmp_path: Path) -> None:
    segmentation(tmp_path, np.ones((10, 10), int))
    small = Preprocessing(resize=(4, 4), crop=(8, 6))
    label = next(iter(samples(open_dataset(tmp_path, small)))).label
    expected = np.full((8, 6), 255)
    expected[2:6, 1:5] = 1
    np.testing.assert_array_equal(label, expected)


def test_masks_of_arrays_follow_the_pixels(tmp_path: Path) -> None:
    mask = np.ones((1, 10, 10), np.uint8)
    pixels = np.zeros((1, 10, 10, 3), np.uint8)
    np.savez(tmp_path / "d.npz", images=pixels, labels=mask)
    dataset = open_dataset(tmp_path / "d.npz", PREPROCESSING)
    assert dataset.task == "segmentation"
    np.testing.assert_array_equal(dataset.load(0).label, np.ones((8, 8)))


def test_masks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    place = segmentation(tmp_path, np.full((9, 12), 5))
    dataset = open_dataset(place, PREPROCESSING, labels=["x", "y"])
    with pytest.raises(DataError, match=r"masks/a.png has 108 pixels of the class 5"):
        list(samples(dataset))
    Image.new("L", (12, 10)).save(place / "masks" / "a.png")
    with pytest.raises(DataError, match=r"masks/a.png is 12 x 10 .*images/a.jpg 12 x 9"):
        list(samples(dataset))
    Image.new("RGB", (12, 9)).save(place / "masks" / "a.png")
    with pytest.raises(DataError, match=r"masks/a.png holds colours \(RGB\)"):
        list(samples(dataset))
    (place / "masks" / "a.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"masks/a.png cannot be decoded"):
        list(samples(dataset))
    picture(place / "images" / "b.png")
    with pytest.raises(DataError, match=r"masks belongs to .*images/b.png"):
        open_dataset(place, PREPROCESSING)
    picture(place / "images" / "a.png")
    with pytest.raises(DataError, match=r"a.jpg and .*a.png have the same name before the dot"):
        open_dataset(place, PREPROCESSING)


# ---------------------------------------------------------------- digits


def test_the_held_out_digits_are_none_of_the_training_ones() -> None:
    test, train = open_dataset("digits", GREY), open_dataset("digits:train", GREY)
    assert (len(test), len(train)) == (360, 1437)
    assert test.name == open_dataset("digits:test", GREY).name == "digits:test"
    counts = Counter(sample.label for sample in samples(test))
    assert sorted(counts) == list(range(10))
    assert max(counts.values()) - min(counts.values()) <= 2


def test_digits_follow_the_models_names() -> None:
    names = ["nine", "eight", "seven", "six", "five", "four", "three", "two", "one", "zero"]
    plain = open_dataset("digits", GREY)
    turned = open_dataset("digits", GREY, labels=names)
    figures = open_dataset("digits", GREY, labels=[str(9 - i) for i in range(10)])
    for dataset in (turned, figures):
        assert [dataset.load(i).label for i in range(20)] == [
            9 - plain.load(i).label for i in range(20)
        ]
    with pytest.raises(DataError, match=r"10 classes, and the model 2 \(cat, dog"):
        open_dataset("digits", GREY, labels=["cat", "dog"])
    with pytest.raises(DataError, match="no part 'validation'"):
        open_dataset("digits:validation", GREY)


def test_digits_need_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    from dinat_deploy.data import digits

    digits.read_digits.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(MissingDependencyError, match="scikit-learn"):
        open_dataset("digits", GREY)


# ---------------------------------------------------------------- all of them


def test_a_limit_takes_as_many_of_each_class(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 9, "b": 2, "c": 9})

    def taken(limit: int, seed: int = 0) -> list[str]:
        dataset = open_dataset(tmp_path, PREPROCESSING, limit=limit, seed=seed)
        return [dataset.name_of(index) for index in range(len(dataset))]

    def counts(names: list[str]) -> list[int]:
        return [sum(name.startswith(letter) for name in names) for letter in "abc"]

    assert counts(taken(6)) == [2, 2, 2]
    assert counts(taken(10)) == [4, 2, 4]
    assert sorted(counts(taken(4))) == [1, 1, 2]
    assert counts(taken(100)) == [9, 2, 9]
    assert taken(6) == taken(6) == sorted(taken(6))
    part = open_dataset(tmp_path, PREPROCESSING, limit=10)
    fewer = open_dataset(part, PREPROCESSING, limit=6)
    assert counts([fewer.name_of(index) for index in range(6)]) == [2, 2, 2]
    assert len({tuple(taken(6, seed)) for seed in range(8)}) > 4
    with pytest.raises(DataError, match="0 images"):
        taken(0)


def test_a_limit_spreads_over_data_without_classes() -> None:
    images = np.zeros((100, 3, 8, 8), np.float32)
    dataset = open_dataset(images, PREPROCESSING, limit=10, seed=3)
    numbers = [int(dataset.name_of(i).split()[1]) for i in range(10)]
    assert [number // 10 for number in numbers] == list(range(10))


def test_datasets_open_again_in_another_process(tmp_path: Path) -> None:
    class_folders(tmp_path / "folders", {"a": 2, "b": 2})
    segmentation(tmp_path / "masks", np.ones((9, 12), int))
    np.savez(tmp_path / "d.npz", images=np.ones((4, 3, 8, 8), np.float32), labels=np.arange(4))
    for source in (tmp_path / "folders", tmp_path / "masks", tmp_path / "d.npz"):
        dataset = open_dataset(source, PREPROCESSING, limit=3)
        again = pickle.loads(pickle.dumps(dataset))
        for mine, other in zip(samples(dataset), samples(again), strict=True):
            assert mine.name == other.name
            np.testing.assert_array_equal(mine.image, other.image)
            np.testing.assert_array_equal(mine.label, other.label)
    digits = open_dataset("digits", GREY, limit=2)
    assert pickle.loads(pickle.dumps(digits)).load(1).label == digits.load(1).label


def test_what_is_no_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no pictures"):
        open_dataset(tmp_path / "empty", PREPROCESSING)
    with pytest.raises(DataError, match="There are no data .*nowhere"):
        open_dataset(tmp_path / "nowhere", PREPROCESSING)
    (tmp_path / "x.bin").write_bytes(b"1")
    with pytest.raises(DataError, match=r"x.bin is nothing that holds images"):
        open_dataset(tmp_path / "x.bin", PREPROCESSING)
    (tmp_path / "x.npz").write_bytes(b"1")
    with pytest.raises(DataError, match=r"x.npz is no readable .npz"):
        open_dataset(tmp_path / "x.npz", PREPROCESSING)
    with pytest.raises(DataError, match="hold no images"):
        open_dataset([], PREPROCESSING)
    picture(tmp_path / "mixed" / "a.png")
    picture(tmp_path / "mixed" / "cat" / "b.png")
    with pytest.raises(DataError, match=r"pictures \(a.png\) and folders of pictures \(cat\)"):
        open_dataset(tmp_path / "mixed", PREPROCESSING)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(DataError, match="closed"):
        open_dataset(tmp_path / "closed", PREPROCESSING)
