"""The toy question of the ablation: which tiny DiNATs are compared, and on which digits.

The scans of 8x8 pixels are resized to 56x56, which gives a first map of 14x14 tokens: twice the
largest kernel, so that every window leaves something out and every one can be dilated. As in the
published models, a dilated layer has the largest dilation that its map takes. The model learns from
the smaller part of the scans and is judged on the larger one: few pictures to learn from are what
makes architectures differ, and many to judge on are what makes differences visible.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from dinat_deploy.data.digits import Part, read_digits
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.preprocessing import Preprocessing

SIDE = 56
LEARN, JUDGE = "test", "train"  # parts of the digits: 360 scans, and 1,437
# Which layers of each pair are dilated; the names are the paper's.
ORDERS: dict[str, tuple[bool, bool]] = {
    "NA-NA": (False, False),
    "NA-DiNA": (False, True),
    "DiNA-NA": (True, False),
    "DiNA-DiNA": (True, True),
}
KERNEL_SIZES = (3, 5, 7)
_LARGEST_KERNEL = SIDE // 4 // 2
_MODEL = ModelConfig(
    embed_dim=32,
    depths=(2, 2),
    num_heads=(1, 2),
    kernel_size=3,
    mlp_ratio=2.0,
    num_classes=10,
    in_channels=1,
    image_size=(SIDE, SIDE),
)


def digits_preprocessing(side: int) -> Preprocessing:
    """Scans resized to a square of ``side`` pixels, one channel, normalised."""
    return Preprocessing(
        resize_mode="stretch", resize=(side, side), crop=(side, side), mean=(0.3,), std=(0.35,)
    )


def is_possible(kernel_size: int) -> bool:
    """Whether a kernel size is odd, as all published ones, and the map is twice as long."""
    return kernel_size % 2 == 1 and 3 <= kernel_size <= _LARGEST_KERNEL


def architecture(order: str, kernel_size: int) -> ModelConfig:
    """The model with layers in an order of :data:`ORDERS`."""
    levels = []
    for depth, size in zip(_MODEL.depths, _MODEL.feature_sizes(), strict=True):
        largest = max(1, min(size) // kernel_size)
        pair = [largest if dilated else 1 for dilated in ORDERS[order]]
        levels.append(tuple(pair[layer % 2] for layer in range(depth)))
    return _MODEL.replace(kernel_size=kernel_size, dilations=tuple(levels))


@dataclass(frozen=True)
class Pictures:
    """Normalised scans, float32 ``[N, 1, 56, 56]``, and their classes, int64 ``[N]``."""

    images: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]

    def first(self, limit: int | None) -> Pictures:
        """At most so many of them."""
        return Pictures(self.images[:limit], self.classes[:limit])


@lru_cache(maxsize=2)
def pictures(part: Part) -> Pictures:
    """A part of the digits as the models take it.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    scans = read_digits(part)
    prepare = digits_preprocessing(SIDE)
    return Pictures(
        np.stack([prepare(Image.fromarray(pixels)) for pixels in scans.pixels]), scans.classes
    )
