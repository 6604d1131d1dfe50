"""Image processors of transformers as our preprocessing, from plain data.

Read are ``preprocessor_config.json`` and, where a processor of pictures and texts was saved,
``image_processor`` in ``processor_config.json``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinat_deploy.errors import CheckpointError
from dinat_deploy.models.decoders import Task
from dinat_deploy.models.json_file import read_json
from dinat_deploy.models.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Interpolation,
    Preprocessing,
)

_PREPROCESS_YOURSELF = "Remove the file, and give the preprocessing in a model card with --config."
_PIL_FILTERS: dict[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
# Every level halves the map, which starts at a quarter of the picture.
_MULTIPLE = 32
# Longest pictures, in widths to heights, that an input is made for if nothing says more.
_WIDEST = 2.0
_USUAL_WIDTH = 1.5

# What the processors of transformers do that go with these models, if nothing is in their files.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "upernet": {"size": {"height": 512, "width": 512}, "resample": 2},
    "mask2former": {"size": {"shortest_edge": 800, "longest_edge": 1333}, "resample": 2},
    "oneformer": {"size": {"shortest_edge": 800, "longest_edge": 1333}, "resample": 2},
}


@dataclass(frozen=True)
class Found:
    """Preprocessing, and what was decided on the way that the user should know."""

    preprocessing: Preprocessing
    notes: list[str]


def find_processor(directory: Path) -> dict[str, Any] | None:
    """The settings of the image processor in a directory, None if there is none.

    Raises:
        CheckpointError: a file is not readable.
    """
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = directory / name
        if not path.exists():
            continue
        data = read_json(path)
        inner = data.get("image_processor")
        if isinstance(inner, dict):
            return inner
        if name == "preprocessor_config.json":
            return data
    return None


def default_processor(model_type: str) -> dict[str, Any] | None:
    """What transformers does for a segmenter whose directory has no processor."""
    return _DEFAULTS.get(model_type)


def parse_preprocessor(
    data: Mapping[str, Any], task: Task, image_size: tuple[int, int] | None = None
) -> Found:
    """An image processor of transformers as our preprocessing.

    Processors that keep a picture's ratio give a model inputs of many sizes, and exports have one:
    pictures then are fitted into it and filled up (``contain``).

    Args:
        task: of the model; those on whole pictures do not crop.
        image_size: (height, width) of the input, None to choose it.

    Raises:
        CheckpointError: it does something that our preprocessing cannot express, or is not valid.
    """
    factor = data.get("rescale_factor", 1 / 255)
    is_number = isinstance(factor, int | float)
    if not (data.get("do_rescale", True) and is_number and abs(255 * factor - 1) <= 1e-3):
        raise CheckpointError(
            "preprocessor_config.json does not scale pixels to 0..1.", _PREPROCESS_YOURSELF
        )
    resample = data.get("resample", 3)
    if not isinstance(resample, int) or resample not in _PIL_FILTERS:
        raise CheckpointError(
            f"preprocessor_config.json resizes with filter {resample!r} of Pillow; "
            f"{', '.join(_PIL_FILTERS.values())} are supported.",
            _PREPROCESS_YOURSELF,
        )
    try:
        return _parse(data, _PIL_FILTERS[resample], task, image_size)
    except (ArithmeticError, KeyError, TypeError, ValueError) as error:
        first = next(iter(str(error).splitlines()), "")
        raise CheckpointError(
            f"preprocessor_config.json is not valid: {first}.", _PREPROCESS_YOURSELF
        ) from None


def _parse(
    data: Mapping[str, Any],
    interpolation: Interpolation,
    task: Task,
    image_size: tuple[int, int] | None,
) -> Found:
    notes: list[str] = []
    fitted = _fitted(data, task)
    fields: dict[str, Any]
    if fitted is not None:
        size, how = image_size or fitted[0], fitted[1]
        fields = {"resize_mode": "contain", "resize": size, "crop": size}
        chosen = "" if image_size else "; --image-size sets another input"
        notes.append(
            f"pictures are fitted into {size[0]}x{size[1]} pixels and filled up, where "
            f"transformers {how}{chosen}"
        )
    else:
        fields = _cut(data)
        if not data.get("do_resize", True):
            crop = image_size or fields["crop"]
            notes.append(
                f"pictures are resized to {crop[0]}x{crop[1]} pixels, where transformers takes "
                "them as they are"
            )
    normalizes = data.get("do_normalize", True)
    found = Preprocessing(
        **fields,
        interpolation=interpolation,
        mean=tuple(data.get("image_mean", IMAGENET_MEAN)) if normalizes else (0.0, 0.0, 0.0),
        std=tuple(data.get("image_std", IMAGENET_STD)) if normalizes else (1.0, 1.0, 1.0),
    )
    return Found(found if image_size is None else found.with_crop(image_size), notes)


def _cut(data: Mapping[str, Any]) -> dict[str, Any]:
    """Resizing to one size, or to cover a crop from the middle."""
    size = data.get("size", 224)
    keeps_ratio = isinstance(size, Mapping) and "shortest_edge" in size
    resize = _extent({"height": size["shortest_edge"]} if keeps_ratio else size)
    crop = _extent(data["crop_size"]) if data.get("do_center_crop") else resize
    return {"resize_mode": "cover" if keeps_ratio else "stretch", "resize": resize, "crop": crop}


def _fitted(data: Mapping[str, Any], task: Task) -> tuple[tuple[int, int], str] | None:
    """The (height, width) to fit pictures into and what transformers does instead; None if the
    processor itself brings all pictures to one size."""
    size = data.get("size", 224)
    if isinstance(size, Mapping) and "max_height" in size:
        extent = int(size["max_height"]), int(size["max_width"])
        return _rounded(*extent), f"fits them into {extent[0]}x{extent[1]}"
    if isinstance(size, Mapping) and "shortest_edge" in size:
        short, long = int(size["shortest_edge"]), size.get("longest_edge")
    elif "max_size" in data and not isinstance(size, Mapping):
        short, long = int(size), data["max_size"]
    else:
        return None
    if long is None and (task == "classification" or data.get("do_center_crop")):
        return None
    limit = "" if long is None else f" and a long one of at most {int(long)}"
    padded = data.get("pad_size")
    if isinstance(padded, Mapping):
        return _extent(padded), f"gives them a short side of {short}{limit} before it fills them up"
    # A longest edge far beyond usual pictures is no more than a limit.
    wide = short * _USUAL_WIDTH if long is None or long > _WIDEST * short else int(long)
    return _rounded(short, wide), f"gives them a short side of {short}{limit}"


def _rounded(height: float, width: float) -> tuple[int, int]:
    """Up to what every level can halve."""
    return (
        _MULTIPLE * math.ceil(height / _MULTIPLE),
        _MULTIPLE * math.ceil(width / _MULTIPLE),
    )


def _extent(size: Any) -> tuple[int, int]:
    """(height, width) of a number, or of a mapping of them."""
    if isinstance(size, Mapping):
        height = int(size["height"])
        return height, int(size.get("width", height))
    return int(size), int(size)
