"""Normalised images, which ``model.onnx`` takes, and pixels, which a variant may take instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dinat_deploy.bundle import Bundle, TensorSpec
from dinat_deploy.models.preprocessing import FloatArray, PixelArray, Preprocessing
from dinat_deploy.models.seeding import seeded_image
from dinat_deploy.session.base import Feeds

PIXEL_TYPE = "uint8"


@dataclass(frozen=True)
class Pixels:
    """The way there and back for the inputs of a model.

    Pixels of a picture survive it unchanged, whichever way comes first.

    Attributes:
        names: of the inputs that take pixels; others are left as they are.
        preprocessing: of the bundle.
    """

    names: frozenset[str]
    preprocessing: Preprocessing

    def nearest(self, images: Mapping[str, FloatArray]) -> dict[str, FloatArray | PixelArray]:
        """What to feed: the pixels that come closest to normalised images."""
        return {
            name: self.preprocessing.nearest_pixels(array) if name in self.names else array
            for name, array in images.items()
        }

    def normalized(self, feeds: Feeds) -> dict[str, FloatArray]:
        """What ``model.onnx`` is to be fed to see the same."""
        return {
            name: self.preprocessing.normalize(array)
            if name in self.names
            else array.astype(np.float32, copy=False)
            for name, array in feeds.items()
        }


def pixels_of(inputs: Sequence[TensorSpec], bundle: Bundle) -> Pixels | None:
    """How to feed a model whose input takes pixels; None if it takes what ``model.onnx`` does."""
    names = frozenset(spec.name for spec in inputs if spec.dtype == PIXEL_TYPE)
    return Pixels(names, bundle.manifest.preprocessing) if names else None


def made_up_feeds(
    inputs: Sequence[TensorSpec], shapes: Mapping[str, Sequence[int]], seed: int
) -> dict[str, FloatArray | PixelArray]:
    """Made-up images in the types that a model takes: normal numbers, or pixels around grey."""
    feeds: dict[str, FloatArray | PixelArray] = {}
    for spec in inputs:
        image = seeded_image(shapes[spec.name], seed)
        feeds[spec.name] = _as_pixels(image) if spec.dtype == PIXEL_TYPE else image
    return feeds


def _as_pixels(image: FloatArray) -> PixelArray:
    """Without a bundle: a grey of 0.5, and deviations of 0.25 of the range."""
    channels = image.shape[-3] if image.ndim > 2 else 1
    even = Preprocessing(resize=(1, 1), crop=(1, 1), mean=(0.5,) * channels, std=(0.25,) * channels)
    return even.nearest_pixels(image)
