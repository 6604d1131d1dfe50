"""scikit-learn's handwritten digits: 1,797 real scans of 8x8 pixels, 10 classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from dinat_deploy.data.classes import match_classes
from dinat_deploy.data.dataset import Sample, Task
from dinat_deploy.errors import DataError, MissingDependencyError
from dinat_deploy.models.preprocessing import Preprocessing

LABELS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
Part = Literal["train", "test"]
_NAME = "digits"


@dataclass(frozen=True)
class Scans:
    """Scans, uint8 ``[N, 8, 8]``, and their classes, int64 ``[N]``."""

    pixels: npt.NDArray[np.uint8]
    classes: npt.NDArray[np.int64]


@lru_cache(maxsize=2)
def read_digits(part: Part) -> Scans:
    """The training scans (80 %) or the held-out ones (20 %), the same on every machine.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise MissingDependencyError(
            "The digits come with scikit-learn, which is not installed.", "pip install scikit-learn"
        ) from None
    digits = load_digits()
    scans = np.round(digits.images * (255 / 16)).astype(np.uint8)
    train, test, train_classes, test_classes = train_test_split(
        scans, digits.target, test_size=0.2, random_state=0, stratify=digits.target
    )
    if part == "train":
        return Scans(train, train_classes.astype(np.int64))
    return Scans(test, test_classes.astype(np.int64))


def digits_part(source: str) -> Part | None:
    """The part that a name like ``digits:train`` means; the plain name means the held-out one.

    Raises:
        DataError: there is no such part.
    """
    name, colon, part = source.partition(":")
    if name != _NAME:
        return None
    if colon and part not in get_args(Part):
        raise DataError(f"The digits have no part {part!r}.", "Write digits:train or digits:test.")
    return "train" if part == "train" else "test"


@dataclass(frozen=True)
class Digits:
    """One part of the digits as a dataset, which needs no scikit-learn any more.

    Attributes:
        indices: the model's class of every digit.
    """

    part: Part
    scans: Scans
    preprocessing: Preprocessing
    classes: list[str] | None
    indices: list[int]
    task: Task | None = "classification"
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{_NAME}:{self.part}"

    def __len__(self) -> int:
        return len(self.scans.classes)

    def name_of(self, index: int) -> str:
        return f"{self.name}[{index}]"

    def class_of(self, index: int) -> int:
        return self.indices[int(self.scans.classes[index])]

    def load(self, index: int) -> Sample:
        picture = Image.fromarray(self.scans.pixels[index])
        return Sample(self.name_of(index), self.preprocessing(picture), self.class_of(index))


def open_digits(part: Part, preprocessing: Preprocessing, labels: Sequence[str] | None) -> Digits:
    """The digits for a model.

    Raises:
        DataError: the model's classes are no digits.
        MissingDependencyError: scikit-learn is not installed.
    """
    scans = read_digits(part)
    if labels is None:
        return Digits(part, scans, preprocessing, LABELS, list(range(10)))
    if len(labels) != len(LABELS):
        raise DataError(
            f"The digits have {len(LABELS)} classes, and the model {len(labels)} "
            f"({', '.join(labels[:4])}, ...).",
            "Take a model that was trained on them.",
        )
    # Words or figures, whichever the model has.
    words = any(label.strip().casefold() in LABELS for label in labels)
    names = LABELS if words else [str(number) for number in range(len(LABELS))]
    matching = match_classes(f"{_NAME}:{part}", names, labels, None)
    indices = [matching.indices[name] for name in names]
    return Digits(part, scans, preprocessing, list(labels), indices)
