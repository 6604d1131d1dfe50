"""scikit-learn's handwritten digits as pictures: 1,797 real scans of 8x8 pixels, 10 classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from dinat_deploy.models.preprocessing import Preprocessing

SIDE = 32
LABELS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
PREPROCESSING = Preprocessing(
    resize_mode="stretch", resize=(SIDE, SIDE), crop=(SIDE, SIDE), mean=(0.3,), std=(0.35,)
)


@dataclass(frozen=True)
class Split:
    """Pictures (8-bit grey, 8x8) and their classes."""

    pictures: list[Image.Image]
    classes: npt.NDArray[np.int64]

    def inputs(self) -> npt.NDArray[np.float32]:
        """The pictures as the model's input, float32 ``[N, 1, 32, 32]``."""
        return np.stack([PREPROCESSING(picture) for picture in self.pictures])


def load() -> tuple[Split, Split]:
    """Training pictures (80 %) and held-out ones (20 %), the same on every machine."""
    digits = load_digits()
    scans = np.round(digits.images * (255 / 16)).astype(np.uint8)
    parts = train_test_split(
        scans, digits.target, test_size=0.2, random_state=0, stratify=digits.target
    )
    train, held_out, train_classes, held_out_classes = parts
    return (
        Split([Image.fromarray(scan) for scan in train], train_classes.astype(np.int64)),
        Split([Image.fromarray(scan) for scan in held_out], held_out_classes.astype(np.int64)),
    )
