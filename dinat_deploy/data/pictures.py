"""Pictures and masks as arrays, from files or from pixels in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from dinat_deploy.data.dataset import IGNORED, FloatArray
from dinat_deploy.errors import DataError, ImageError
from dinat_deploy.models.preprocessing import Preprocessing, open_image

SUFFIXES = frozenset(
    {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)  # fmt: skip
# Of a mask: palette, grey, black and white, and the two names for 16-bit grey.
_MASK_MODES = ("P", "L", "1", "I", "I;16")


def is_picture(path: Path) -> bool:
    """Whether a file is named like a picture and is not hidden."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def pictures_below(folder: Path) -> list[Path]:
    """All picture files of a folder and the folders in it, but for hidden ones, in order.

    Raises:
        DataError: a folder cannot be read.
    """
    try:
        found = [
            path
            for path in folder.rglob("*")
            if is_picture(path)
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
            and not path.is_dir()
        ]
    except OSError as error:
        raise DataError(
            f"{folder} cannot be read: {error.strerror or error}.", "Mend its permissions."
        ) from None
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def open_picture(path: Path) -> Image.Image:
    """Read a picture file, upright.

    Raises:
        DataError: there is no such file, or it cannot be decoded.
    """
    try:
        return open_image(path)
    except ImageError as error:
        raise DataError(error.cause, error.cure) from None
    except Exception as error:  # Pillow's decoders let through whatever they stumble over
        raise DataError(
            f"{path} cannot be decoded: {type(error).__name__}: {error}.", "Repair or replace it."
        ) from None


def read_picture(path: Path, preprocessing: Preprocessing) -> FloatArray:
    """A picture file as the model's input, float32 ``[C, H, W]``; raises as open_picture."""
    return preprocessing(open_picture(path))


def open_mask(path: Path) -> npt.NDArray[np.int64]:
    """The classes in a mask, int64 ``[H, W]``.

    Raises:
        DataError: it cannot be decoded, or holds colours instead of classes.
    """
    try:
        with Image.open(path) as image:
            image.load()
            mode = image.mode
            # The palette of a mask is for the eye; its indices are the classes.
            values = np.asarray(image) if mode in _MASK_MODES else None
    except FileNotFoundError:
        raise DataError(f"There is no mask {path}.", "Check the path.") from None
    except Exception as error:
        raise DataError(
            f"The mask {path} cannot be decoded: {error}.", "Repair or replace it."
        ) from None
    if values is None:
        raise DataError(
            f"The mask {path} holds colours ({mode}), not the index of each pixel's class.",
            "Write it as a PNG of one channel.",
        )
    return values.astype(np.int64)


def fit_mask(
    mask: npt.NDArray[np.int64], preprocessing: Preprocessing
) -> npt.NDArray[np.int64]:  # fmt: skip
    """A mask resized and cut like its picture, by nearest neighbour.

    Args:
        mask: int64 ``[H, W]``.

    Returns:
        int64 of the crop's size, :data:`IGNORED` where that reaches beyond the mask.
    """
    (width, height), (left, top, right, bottom) = preprocessing.geometry(mask.shape[::-1])
    rows = _nearest(mask.shape[0], height, top, bottom)
    columns = _nearest(mask.shape[1], width, left, right)
    inside = (rows >= 0)[:, None] & (columns >= 0)[None, :]
    return np.where(inside, mask[rows[:, None], columns[None, :]], IGNORED)


def _nearest(size: int, resized: int, begin: int, end: int) -> npt.NDArray[np.int64]:
    """Which element each one of the crop shows, -1 for none; as Pillow does, by pixel centres."""
    position = np.arange(begin, end)
    source = np.floor((position + 0.5) * size / resized).astype(np.int64)
    return np.where((position >= 0) & (position < resized), source.clip(0, size - 1), -1)


def image_of(array: npt.NDArray[np.generic], preprocessing: Preprocessing, name: str) -> FloatArray:
    """One array as the model's input.

    Args:
        array: float32 ``[C, H, W]`` of the model's size, already normalised; or pixels, uint8
            ``[H, W, C]``, ``[C, H, W]`` or ``[H, W]``, which are treated like a picture file.
        name: of the sample, for errors.

    Returns:
        float32 ``[C, H, W]``.

    Raises:
        DataError: it is neither, or has values that are no finite numbers.
    """
    if array.dtype == np.uint8:
        return _from_pixels(array, preprocessing, name)
    if array.dtype.kind != "f":
        raise DataError(
            f"{name} has the type {array.dtype}; expected uint8 pixels or normalised float32.",
            "Convert it.",
        )
    expected = (len(preprocessing.mean), *preprocessing.crop)
    if array.shape != expected:
        raise DataError(
            f"{name} has the shape {list(array.shape)}; the model takes normalised images of "
            f"{list(expected)}.",
            "Pass uint8 pixels to have them resized and normalised.",
        )
    bad = int(np.count_nonzero(~np.isfinite(array)))
    if bad:
        raise DataError(
            f"{name} has {bad} values that are no finite numbers.", "Remove or repair it."
        )
    # A copy, so that nobody can change what the next reader gets.
    return np.array(array, np.float32, order="C")


def _from_pixels(
    array: npt.NDArray[np.generic], preprocessing: Preprocessing, name: str
) -> FloatArray:
    channels = len(preprocessing.mean)
    pixels = np.asarray(array)
    if pixels.ndim == 3 and pixels.shape[2] not in (1, 3) and pixels.shape[0] in (1, 3):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or pixels.size == 0:
        raise DataError(
            f"{name} has the shape {list(array.shape)}; expected pixels of 1 or 3 channels, "
            "first or last.",
            "Convert it.",
        )
    if pixels.shape[2] == 3 and channels == 1:
        raise DataError(f"{name} has 3 channels, and the model takes {channels}.", "Convert it.")
    picture = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
    return preprocessing(Image.fromarray(np.ascontiguousarray(picture)))
