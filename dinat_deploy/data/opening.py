"""Opens data by what the user names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from dinat_deploy.data.arrays import ArrayFile, iterable
from dinat_deploy.data.dataset import Dataset
from dinat_deploy.data.digits import digits_part, open_digits
from dinat_deploy.data.files import image_folder, image_list
from dinat_deploy.data.segmentation import is_segmentation_folder, segmentation_folder
from dinat_deploy.data.subset import limited
from dinat_deploy.errors import DataError
from dinat_deploy.models.preprocessing import Preprocessing

LISTS = (".txt", ".tsv", ".lst")
KINDS = (
    "a folder of pictures (or of one folder for each class, or with images/ and masks/), a list of "
    f"pictures ({', '.join(LISTS)}), an .npz file, or digits"
)


def open_dataset(
    source: str | Path | Dataset | Iterable[Any],
    preprocessing: Preprocessing,
    *,
    labels: Sequence[str] | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Find samples, without reading their pictures.

    Args:
        source: ``digits`` (the held-out ones), ``digits:train`` or ``digits:test``; a folder with
            pictures, with a folder of pictures for each class, or with ``images/`` and ``masks/``;
            a text file with ``path [class]`` on every line; an ``.npz`` file with ``images`` and
            perhaps ``labels``; in Python also an iterable of arrays or of pairs of array and label,
            or a dataset.
        preprocessing: of the model.
        labels: names of the model's classes, by which folders are matched with them.
        limit: take no more samples than this, spread evenly and balanced over the classes.
        seed: decides which ones.

    Returns:
        A dataset that can be pickled if it is read from files.

    Raises:
        DataError: there is nothing, or nothing that is any of these; classes are not the model's.
        MissingDependencyError: digits are asked for, and scikit-learn is not installed.
    """
    if limit is not None and limit < 1:
        raise DataError(f"{limit} images cannot be taken.", "Take at least one.")
    dataset = _open(source, preprocessing, labels)
    return dataset if limit is None else limited(dataset, limit, seed)


def _open(
    source: str | Path | Dataset | Iterable[Any],
    preprocessing: Preprocessing,
    labels: Sequence[str] | None,
) -> Dataset:
    if isinstance(source, str):
        part = digits_part(source)
        if part is not None:
            return open_digits(part, preprocessing, labels)
    if not isinstance(source, str | Path):
        if hasattr(source, "load") and hasattr(source, "name_of"):
            return cast(Dataset, source)
        return iterable(source, preprocessing, labels)
    path = Path(source)
    try:
        if path.is_dir():
            if is_segmentation_folder(path):
                return segmentation_folder(path, preprocessing, labels)
            return image_folder(path, preprocessing, labels)
        there = path.exists()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}.", "Check the path."
        ) from None
    if not there:
        raise DataError(f"There are no data {source}.", f"Name {KINDS}.")
    if path.suffix == ".npz":
        return ArrayFile(path, preprocessing, labels)
    if path.suffix in LISTS:
        return image_list(path, preprocessing, labels)
    raise DataError(f"{path} is nothing that holds images.", f"Name {KINDS}.")
