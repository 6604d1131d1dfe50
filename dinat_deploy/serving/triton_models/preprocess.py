"""Pictures to a model's input, in Triton's Python back end.

Written by dinat-deploy. It needs numpy and Pillow; the numbers are in ``preprocessing.json``.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found, unused-ignore]
from PIL import Image, ImageOps, UnidentifiedImageError

LARGEST_PIXEL = 255


def opened(encoded: bytes) -> Image.Image:
    """A JPEG, PNG or other picture, upright as its camera says."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise ValueError("it is none that Pillow can read") from None
    if not upright.mode.startswith("I"):
        return upright
    # 16-bit grey pictures would be clipped, not scaled, by a conversion to RGB.
    values = np.asarray(upright, dtype=np.float64) / 257.0
    return Image.fromarray(values.clip(0, 255).round().astype(np.uint8))


def resized(size: tuple[int, int], settings: dict[str, Any]) -> tuple[int, int]:
    """(width, height) that a picture of ``size`` (width, height) is resized to."""
    mode = settings["resize_mode"]
    height, width = settings["crop"] if mode == "contain" else settings["resize"]
    if mode == "stretch":
        return width, height
    if mode == "contain":
        scale = min(height / size[1], width / size[0])
        return (
            min(width, max(1, round(size[0] * scale))),
            min(height, max(1, round(size[1] * scale))),
        )
    # The side that is short in proportion gets its extent exactly, the other is cut down.
    if size[0] * height >= size[1] * width:
        return int(height * size[0] / size[1]), height
    return width, int(width * size[1] / size[0])


def pixels(image: Image.Image, settings: dict[str, Any]) -> Any:
    """A picture, resized and cropped: uint8 ``[C, H, W]``."""
    channels = len(settings["mean"])
    height, width = settings["crop"]
    size = resized(image.size, settings)
    if size[0] * size[1] > settings["largest_area"]:
        raise ValueError(
            f"{image.width}x{image.height} pixels would be resized to {size[0]}x{size[1]}"
        )
    image = image.convert("L" if channels == 1 else "RGB")
    image = image.resize(size, Image.Resampling[settings["interpolation"].upper()])
    if settings["resize_mode"] == "contain":
        pixel = tuple(
            min(max(round(mean * LARGEST_PIXEL), 0), LARGEST_PIXEL) for mean in settings["mean"]
        )
        whole = Image.new(image.mode, (width, height), pixel if channels > 1 else pixel[0])
        whole.paste(image, (0, 0))
        image = whole
    else:
        left = round((image.size[0] - width) / 2.0)
        top = round((image.size[1] - height) / 2.0)
        image = image.crop((left, top, left + width, top + height))
    array = np.asarray(image, dtype=np.uint8).reshape(height, width, channels)
    return np.ascontiguousarray(array.transpose(2, 0, 1))


def prepare(encoded: bytes, settings: dict[str, Any]) -> Any:
    """An encoded picture as the model's input ``[C, H, W]``, in its element type."""
    array = pixels(opened(encoded), settings)
    if settings["dtype"] == "uint8":
        return array  # the graph normalises it
    mean, std = (np.array(settings[name], np.float32).reshape(-1, 1, 1) for name in ("mean", "std"))
    normalized = (array.astype(np.float32) / np.float32(LARGEST_PIXEL) - mean) / std
    return normalized.astype(settings["dtype"])


class TritonPythonModel:
    """What Triton calls."""

    def initialize(self, args: dict[str, str]) -> None:
        folder = Path(args["model_repository"]) / args["model_version"]
        text = (folder / "preprocessing.json").read_text(encoding="utf-8")
        self.settings: dict[str, Any] = json.loads(text)

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self.answer(request) for request in requests]

    def answer(self, request: Any) -> Any:
        encoded = pb_utils.get_input_tensor_by_name(request, self.settings["input"]).as_numpy()
        try:
            batch = np.stack([prepare(picture, self.settings) for picture in encoded.reshape(-1)])
        except Exception as error:  # the request's fault: others go on
            message = f"A picture cannot be decoded: {error}"
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(message))
        made = pb_utils.Tensor(self.settings["output"], batch)
        return pb_utils.InferenceResponse(output_tensors=[made])
