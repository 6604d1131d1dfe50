"""From a picture to the model's input: data that travels with the model, and its application."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field, model_validator

from dinat_deploy.errors import ConfigError, ImageError
from dinat_deploy.models.limits import LARGEST_AREA, Side, check_area

FloatArray = npt.NDArray[np.float32]
PixelArray = npt.NDArray[np.uint8]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_LARGEST_PIXEL = 255


class Preprocessing(BaseModel):
    """Resize, centre crop, scale to 0..1, normalise.

    Attributes:
        resize_mode: ``cover`` keeps the aspect ratio and makes the picture just cover ``resize``;
            ``stretch`` resizes to exactly that; ``contain`` keeps the aspect ratio, makes the
            picture just fit into the crop, and fills up with the mean at the right or the bottom.
        resize, crop: (height, width) in pixels; the crop is the model's input size.
        interpolation: how pixels are resampled (antialiased, as Pillow does).
        mean, std: per channel, in units of the 0..1 pixel range, RGB order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    resize_mode: Literal["cover", "stretch", "contain"] = "cover"
    resize: tuple[Side, Side]
    crop: tuple[Side, Side]
    interpolation: Interpolation = "bicubic"
    mean: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = Field(
        default=IMAGENET_MEAN, min_length=1
    )
    std: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = Field(
        default=IMAGENET_STD, min_length=1
    )

    @model_validator(mode="after")
    def _check(self) -> Preprocessing:
        check_area("resize", self.resize)
        check_area("crop", self.crop)
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean is of {len(self.mean)} channels and std of {len(self.std)}")
        return self

    @classmethod
    def for_evaluation(cls, image_size: tuple[int, int], crop_fraction: float) -> Preprocessing:
        """The evaluation of the published models: the crop is a fraction of the resized side."""
        height, width = image_size
        resize = math.floor(height / crop_fraction), math.floor(width / crop_fraction)
        return cls(resize=resize, crop=image_size)

    def with_crop(self, crop: tuple[int, int]) -> Preprocessing:
        """The same for another input size; what surrounds the crop grows in proportion."""
        if crop == self.crop:
            return self
        resize = tuple(
            max(new, round(side * new / old))
            for side, new, old in zip(self.resize, crop, self.crop, strict=True)
        )
        return self.model_copy(update={"crop": crop, "resize": resize})

    def __call__(self, image: Image.Image) -> FloatArray:
        """An RGB (or, for one channel, grey) picture as normalised float32 ``[C, H, W]``."""
        return self.normalize(self.pixels(image))

    def pixels(self, image: Image.Image) -> PixelArray:
        """The same picture, resized and cropped only: uint8 ``[C, H, W]``.

        Raises:
            ConfigError: the model takes no pictures, as its inputs have other channels.
            ImageError: the picture is so long and thin that it would take all of the memory.
        """
        if len(self.mean) not in (1, 3):
            raise ConfigError(
                f"The model takes {len(self.mean)} channels, and pictures have 1 or 3.",
                "Pass normalised arrays instead.",
            )
        resized, box = self.geometry(image.size)
        if resized[0] * resized[1] > LARGEST_AREA:
            raise ImageError(
                f"A picture of {image.width}x{image.height} pixels would be resized to "
                f"{resized[0]}x{resized[1]}, to cover {self.resize[1]}x{self.resize[0]}.",
                "Cut it into parts that are less long.",
            )
        image = image.convert("L" if len(self.mean) == 1 else "RGB")
        height, width = self.crop
        image = image.resize(resized, _FILTERS[self.interpolation])
        if self.resize_mode == "contain":
            whole = Image.new(image.mode, (width, height), self._mean_pixel())
            whole.paste(image, (0, 0))
            image = whole
        else:
            image = image.crop(box)
        pixels = np.asarray(image, dtype=np.uint8).reshape(height, width, len(self.mean))
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def normalize(self, pixels: npt.NDArray[Any]) -> FloatArray:
        """Pixels 0 to 255 ``[..., C, H, W]`` as the model's float32 input."""
        mean, std = self._channels()
        return (pixels.astype(np.float32) / np.float32(_LARGEST_PIXEL) - mean) / std

    def nearest_pixels(self, images: FloatArray) -> PixelArray:
        """The pixels whose normalised values are closest to ``images`` ``[..., C, H, W]``, which
        need not be pixels: they are rounded, and clipped to 0 to 255."""
        mean, std = self._channels()
        exact = (images * std + mean) * np.float32(_LARGEST_PIXEL)
        return exact.round().clip(0, _LARGEST_PIXEL).astype(np.uint8)

    def mean_pixels(self, size: tuple[int, int]) -> PixelArray:
        """An empty picture, whose pixels come closest to 0 when normalised: uint8 ``[C, H, W]``.

        Args:
            size: (height, width).
        """
        pixel = np.array(self._mean_pixel(), np.uint8).reshape(-1, 1, 1)
        return np.broadcast_to(pixel, (len(self.mean), *size)).copy()

    def _mean_pixel(self) -> int | tuple[int, ...]:
        """The pixel that comes closest to 0 when normalised."""
        exact = (round(mean * _LARGEST_PIXEL) for mean in self.mean)
        pixel = tuple(min(max(value, 0), _LARGEST_PIXEL) for value in exact)
        return pixel if len(pixel) > 1 else pixel[0]

    def _channels(self) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation as they go with ``[..., C, H, W]``."""
        shape = len(self.mean), 1, 1
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        return mean.reshape(shape), std.reshape(shape)

    def geometry(self, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
        """Where the pixels of a picture go.

        Args:
            size: (width, height) of the picture.

        Returns:
            Its (width, height) after resizing, and the box that is cut from that: left, top, right
            and bottom, which may lie outside of it.
        """
        resized = self._resized(size)
        height, width = self.crop
        if self.resize_mode == "contain":
            return resized, (0, 0, width, height)
        left = round((resized[0] - width) / 2.0)
        top = round((resized[1] - height) / 2.0)
        return resized, (left, top, left + width, top + height)

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) after resizing a picture of ``size`` (width, height)."""
        height, width = self.crop if self.resize_mode == "contain" else self.resize
        if self.resize_mode == "stretch":
            return width, height
        if self.resize_mode == "contain":
            scale = min(height / size[1], width / size[0])
            return (
                min(width, max(1, round(size[0] * scale))),
                min(height, max(1, round(size[1] * scale))),
            )
        # The side that is short in proportion gets its extent exactly, the other is cut down.
        if size[0] * height >= size[1] * width:
            return int(height * size[0] / size[1]), height
        return width, int(width * size[1] / size[0])


def open_image(path: str | Path) -> Image.Image:
    """Read a picture file, upright as its camera says.

    Raises:
        ImageError: there is no such file, or it holds no picture.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise ImageError(f"There is no file {path}.", "Check the path.") from None
    except IsADirectoryError:
        raise ImageError(f"{path} is a directory.", "Name picture files.") from None
    except UnidentifiedImageError:
        raise ImageError(
            f"{path} is not a picture that Pillow can read.",
            "Pass a JPEG, PNG, WebP, BMP or TIFF file.",
        ) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path} cannot be decoded: {error}.", "Repair or replace it.") from None
    return _to_eight_bits(upright)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey pictures would be clipped, not scaled, by a conversion to RGB."""
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image, dtype=np.float64) / 257.0
    return Image.fromarray(values.clip(0, 255).round().astype(np.uint8))


def load_batch(paths: Sequence[str | Path], preprocessing: Preprocessing) -> FloatArray:
    """Read and preprocess pictures: float32 ``[len(paths), C, H, W]``."""
    return np.stack([preprocessing(open_image(path)) for path in paths])


def load_pixels(paths: Sequence[str | Path], preprocessing: Preprocessing) -> PixelArray:
    """Read, resize and crop pictures: uint8 ``[len(paths), C, H, W]``."""
    return np.stack([preprocessing.pixels(open_image(path)) for path in paths])
