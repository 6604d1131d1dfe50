"""Images that are arrays already: an ``.npz`` file, or any iterable in Python."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dinat_deploy.archives import read_header
from dinat_deploy.data.dataset import IGNORED, Sample, Task
from dinat_deploy.data.pictures import fit_mask, image_of
from dinat_deploy.errors import DataError
from dinat_deploy.models.preprocessing import Preprocessing

Array = npt.NDArray[Any]
_IMAGES, _LABELS = "images", "labels"
_LOCAL_HEADER = 30  # bytes of a zip archive's local file header before its two variable fields


class ArrayFile:
    """The arrays ``images`` and perhaps ``labels`` of an ``.npz`` file, as a dataset.

    ``images`` are float32 ``[N, C, H, W]`` of the model's size, normalised already; or uint8 pixels
    with the channels first or last, which are treated like picture files. ``labels`` are integers,
    ``[N]`` classes or ``[N, H, W]`` classes of pixels. What was saved without compression is mapped
    into memory and not read as a whole.

    Raises:
        DataError: the file cannot be read, or its arrays are none of these.
    """

    def __init__(
        self, path: Path, preprocessing: Preprocessing, labels: Sequence[str] | None
    ) -> None:
        self.name = str(path)
        self.notes: list[str] = []
        self.classes = None if labels is None else list(labels)
        self._path = path
        self._preprocessing = preprocessing
        self._open()

    def _open(self) -> None:
        arrays = _read(self._path)
        if _IMAGES not in arrays:
            raise DataError(
                f"{self._path} has no array {_IMAGES!r}, only {', '.join(arrays) or 'none'}.",
                "Save it with np.savez(path, images=..., labels=...).",
            )
        self._images = arrays[_IMAGES]
        if self._images.ndim not in (3, 4) or not len(self._images):
            raise DataError(
                f"{_IMAGES!r} in {self._path} has the shape {list(self._images.shape)}; expected "
                "[N, C, H, W] or, for pixels, [N, H, W, C].",
                "Stack at least one image along the first axis.",
            )
        self._labels = arrays.get(_LABELS)
        if self._labels is not None:
            _check_labels(self._labels, len(self._images), self._path)

    def __getstate__(self) -> dict[str, Any]:
        # Whoever gets a copy opens the file again.
        return {k: v for k, v in vars(self).items() if k not in ("_images", "_labels")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    @property
    def task(self) -> Task | None:
        if self._labels is None:
            return None
        return "classification" if self._labels.ndim == 1 else "segmentation"

    def __len__(self) -> int:
        return len(self._images)

    def name_of(self, index: int) -> str:
        return f"{self._path.name}[{index}]"

    def class_of(self, index: int) -> int | None:
        if self._labels is None or self._labels.ndim != 1:
            return None
        return int(self._labels[index])

    def load(self, index: int) -> Sample:
        label = None if self._labels is None else self._labels[index]
        return _sample(
            self._images[index],
            label,
            self._preprocessing,
            self.classes,
            self.name_of(index),
            f"{self._path}[{index}]",
        )


@dataclass(frozen=True)
class Arrays:
    """Arrays in memory, or whatever else hands them out by number, as a dataset.

    Attributes:
        items: each an array as :func:`dinat_deploy.data.pictures.image_of` takes it, or a pair of
            an array and its label: a class, or integers ``[H, W]``.
    """

    items: Sequence[Any]
    preprocessing: Preprocessing
    classes: list[str] | None
    task: Task | None
    name: str = "data in memory"
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.items)

    def name_of(self, index: int) -> str:
        return f"image {index}"

    def class_of(self, index: int) -> int | None:
        if self.task != "classification":
            return None
        label = _parts(self.items[index])[1]
        return None if label is None else int(label)

    def load(self, index: int) -> Sample:
        image, label = _parts(self.items[index])
        name = self.name_of(index)
        if (label is None) != (self.task is None):
            raise DataError(
                f"{name} has {'no' if label is None else 'a'} label, unlike the first one.",
                "Give one to all, or to none.",
            )
        return _sample(image, label, self.preprocessing, self.classes, name, name)


def iterable(
    items: Iterable[Any], preprocessing: Preprocessing, labels: Sequence[str] | None
) -> Arrays:
    """A dataset of an iterable; one that has no length and no numbers is read into memory.

    Raises:
        DataError: it is empty.
    """
    indexed = hasattr(items, "__len__") and hasattr(items, "__getitem__")
    held: Sequence[Any] = items if indexed else list(items)  # type: ignore[assignment]
    if not len(held):
        raise DataError("The data hold no images.", "Pass at least one array.")
    label = _parts(held[0])[1]
    task: Task | None = None
    if label is not None:
        task = "segmentation" if np.ndim(label) == 2 else "classification"
    return Arrays(held, preprocessing, None if labels is None else list(labels), task)


def _parts(item: Any) -> tuple[Array, Any]:
    if isinstance(item, tuple | list) and len(item) == 2:
        return np.asarray(item[0]), item[1]
    return np.asarray(item), None


def _sample(
    image: Array,
    label: Any,
    preprocessing: Preprocessing,
    classes: Sequence[str] | None,
    name: str,
    place: str,
) -> Sample:
    """One sample; ``place`` is what errors call it."""
    prepared = image_of(np.asarray(image), preprocessing, place)
    if label is None:
        return Sample(name, prepared)
    if np.ndim(label) == 0:
        return Sample(name, prepared, checked_class(int(label), classes, place))
    size = _size(np.asarray(image))
    mask = np.asarray(label)
    if mask.shape != size:
        raise DataError(
            f"The label of {place} is {_by(mask.shape)} pixels and its image {_by(size)}.",
            "Both must have the same size.",
        )
    check_mask(mask, classes, place)
    if image.dtype == np.uint8:
        mask = fit_mask(mask.astype(np.int64), preprocessing)
    return Sample(name, prepared, np.ascontiguousarray(mask, np.int64))


def checked_class(label: int, classes: Sequence[str] | None, place: str) -> int:
    """The class, if the model has it.

    Raises:
        DataError: it has not.
    """
    if label < 0 or (classes is not None and label >= len(classes)):
        have = f"the model has {len(classes)}" if classes is not None else "classes are numbers"
        raise DataError(
            f"{place} has the class {label}, and {have}, counted from 0.", "Correct its label."
        )
    return label


def check_mask(mask: Array, classes: Sequence[str] | None, place: str) -> None:
    """Raise DataError if a mask holds a class that the model has not."""
    if mask.dtype.kind not in "iu":
        raise DataError(
            f"The mask of {place} has the type {mask.dtype}; expected integers.", "Convert it."
        )
    beyond = (mask < 0) if classes is None else (mask < 0) | (mask >= len(classes))
    bad = mask[beyond & (mask != IGNORED)]
    if bad.size:
        have = f"the model has {len(classes)}, counted from 0" if classes else "that is none"
        raise DataError(
            f"The mask of {place} has {bad.size} pixels of the class {int(bad[0])}, and {have}.",
            f"Pixels that do not count are {IGNORED}.",
        )


def _size(image: Array) -> tuple[int, ...]:
    """Height and width of pixels (channels first, last or none) or of a normalised image."""
    if image.ndim == 2:
        return image.shape
    if image.dtype == np.uint8 and image.shape[2] in (1, 3):
        return image.shape[:2]
    return image.shape[1:]


def _by(shape: Sequence[int]) -> str:
    return " x ".join(str(size) for size in shape)


def _check_labels(labels: Array, images: int, path: Path) -> None:
    if labels.dtype.kind not in "iu" or labels.ndim not in (1, 3):
        raise DataError(
            f"{_LABELS!r} in {path} is {labels.dtype} {list(labels.shape)}; expected integers, "
            "[N] or [N, H, W].",
            "Save the index of each class.",
        )
    if len(labels) != images:
        raise DataError(
            f"{path} has {images} images and {len(labels)} labels.", "Save one for each image."
        )


def _read(path: Path) -> dict[str, Array]:
    """The arrays of a file, mapped where they are not compressed."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted = {name: members[name] for name in (_IMAGES, _LABELS) if name in members}
            arrays = dict.fromkeys(members, np.empty(0))
            for name, info in wanted.items():
                arrays[name] = _member(archive, info, path)
            return arrays
    except FileNotFoundError:
        raise DataError(f"There is no file {path}.", "Check the path.") from None
    except Exception as error:  # damaged archives fail in many ways
        said = str(error) or type(error).__name__
        raise DataError(f"{path} is no readable .npz file: {said}.", "Save it again.") from None


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> Array:
    with archive.open(info) as stream:
        shape, fortran, dtype = read_header(stream)
        header = stream.tell()
        if info.compress_type != zipfile.ZIP_STORED or fortran:
            stream.seek(0)
            return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
    with path.open("rb") as raw:
        raw.seek(info.header_offset)
        local = raw.read(_LOCAL_HEADER)
    extra = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    begin = info.header_offset + _LOCAL_HEADER + extra + header
    if not np.prod(shape):
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", begin, shape)
