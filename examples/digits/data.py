"""scikit-learn's handwritten digits as pictures: 1,797 real scans of 8x8 pixels, 10 classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from dinat_deploy.choosing.ablation_task import digits_preprocessing
from dinat_deploy.data.digits import LABELS as LABELS
from dinat_deploy.data.digits import Part, read_digits

SIDE = 32
PREPROCESSING = digits_preprocessing(SIDE)


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
    return _split("train"), _split("test")


def _split(part: Part) -> Split:
    scans = read_digits(part)
    return Split([Image.fromarray(scan) for scan in scans.pixels], scans.classes)
