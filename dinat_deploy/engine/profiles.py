"""Optimisation profiles: the shapes that an engine's dynamic inputs can have.

Written ``image=1x3x224x224:4x3x224x224:8x3x224x224``: the smallest shape, the one to optimise for,
and the largest. A single shape stands for all three. Several inputs are separated by commas.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from dinat_deploy.engine.onnx_file import GraphTensor
from dinat_deploy.errors import EngineError

Shape = tuple[int, ...]
_SYNTAX = "Write NAME=MIN:OPT:MAX, like image=1x3x224x224:4x3x224x224:8x3x224x224."

# What a profile covers by default: engines reserve memory for their largest shape.
DEFAULT_BATCH = (1, 4, 8)
DEFAULT_LARGEST_SIZE = 1024


class Range(BaseModel):
    """Shapes of one input: smallest, optimised for, largest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: Shape
    opt: Shape
    max: Shape

    def __str__(self) -> str:
        return ":".join(_text(shape) for shape in (self.min, self.opt, self.max))


Profile = dict[str, Range]


def describe_profile(profile: Mapping[str, Range]) -> str:
    """The profile as it is written on the command line."""
    return ",".join(f"{name}={shapes}" for name, shapes in profile.items())


def parse_profile(text: str) -> Profile:
    """Read one profile.

    Raises:
        EngineError: it is not written as it should be.
    """
    profile: Profile = {}
    for part in text.split(","):
        name, found, shapes = part.strip().rpartition("=")
        if not found or not name:
            raise EngineError(f"{text!r} is not a profile.", _SYNTAX)
        if name in profile:
            raise EngineError(f"The profile {text!r} gives shapes of {name} twice.", _SYNTAX)
        listed = [_shape(shape, text) for shape in shapes.split(":")]
        if len(listed) == 1:
            listed *= 3
        if len(listed) != 3:
            raise EngineError(
                f"The profile {text!r} has {len(listed)} shapes for {name}, not 3 (or 1).", _SYNTAX
            )
        profile[name] = Range(min=listed[0], opt=listed[1], max=listed[2])
    return profile


def _shape(text: str, profile: str) -> Shape:
    if not re.fullmatch(r"\d+(x\d+)*", text.strip()):
        raise EngineError(f"{text!r} in the profile {profile!r} is not a shape.", _SYNTAX)
    return tuple(int(size) for size in text.strip().split("x"))


def _text(shape: Sequence[int | str]) -> str:
    return "x".join(str(size) for size in shape)


def check_profile(
    profile: Mapping[str, Range],
    inputs: Sequence[GraphTensor],
    size_range: tuple[int, int] | None = None,
) -> Profile:
    """Compare a profile with the model's inputs.

    Args:
        size_range: bounds of dynamic heights and widths (the last two dimensions), if known.

    Returns:
        The profile, in the order of the inputs and without those whose shape is fixed.

    Raises:
        EngineError: an input is unknown or missing, a shape does not fit its input, or the three
            shapes are not in order.
    """
    known = {entry.name: entry for entry in inputs}
    for name in profile:
        if name not in known:
            raise EngineError(
                f"The profile names an input {name}; the model has "
                f"{', '.join(str(entry) for entry in inputs)}.",
                "Use the names of the model's inputs.",
            )
    checked: Profile = {}
    for entry in inputs:
        if entry.name in profile:
            _check_range(profile[entry.name], entry, size_range)
            if entry.dynamic:
                checked[entry.name] = profile[entry.name]
        elif entry.dynamic:
            raise EngineError(
                f"The profile {describe_profile(profile)!r} has no shapes for the dynamic input "
                f"{entry}.",
                "A profile gives shapes for every dynamic input, separated by commas.",
            )
    return checked


def _check_range(shapes: Range, entry: GraphTensor, size_range: tuple[int, int] | None) -> None:
    for shape in (shapes.min, shapes.opt, shapes.max):
        if len(shape) != len(entry.shape):
            raise EngineError(
                f"The profile's shape {_text(shape)} has {len(shape)} dimensions; the input "
                f"{entry} has {len(entry.shape)}.",
                _SYNTAX,
            )
        for axis, (size, own) in enumerate(zip(shape, entry.shape, strict=True)):
            if isinstance(own, int) and size != own:
                raise EngineError(
                    f"The profile's shape {_text(shape)} has {size} at dimension {axis}; the input "
                    f"{entry} is fixed to {own} there.",
                    "Only dimensions with a name are dynamic; export with --dynamic for more.",
                )
            if size < 1:
                raise EngineError(f"The profile's shape {_text(shape)} is empty.", _SYNTAX)
            if size_range and isinstance(own, str) and axis >= len(shape) - 2 >= 2:
                _check_size(size, shape, own, size_range)
    for first, second in ((shapes.min, shapes.opt), (shapes.opt, shapes.max)):
        if any(low > high for low, high in zip(first, second, strict=True)):
            raise EngineError(
                f"The profile's shapes {shapes} of {entry.name} are not in order: "
                f"{_text(first)} exceeds {_text(second)}.",
                _SYNTAX,
            )


def _check_size(size: int, shape: Shape, axis: str, size_range: tuple[int, int]) -> None:
    low, high = size_range
    if not low <= size <= high:
        raise EngineError(
            f"The profile's shape {_text(shape)} has {axis} {size}; the model was exported for "
            f"{low} to {high} pixels.",
            "Export with a wider --size-range, or change the profile.",
        )


def default_profile(
    inputs: Sequence[GraphTensor],
    image_size: tuple[int, int] | None,
    size_range: tuple[int, int] | None,
    *,
    single: bool = False,
) -> Profile:
    """The profile of a model that was given none, from what its bundle says.

    A dynamic batch gets 1:4:8. Dynamic heights and widths go from the smallest size of the export
    over the model's own size to 1024 pixels, or as far as the export goes.

    Args:
        image_size: the model's own (height, width), if it is a bundle's.
        size_range: bounds of dynamic heights and widths, in pixels.
        single: one image of the model's own size and nothing else, which takes least memory.

    Returns:
        An empty profile if no input is dynamic.

    Raises:
        EngineError: an input is dynamic and its meaning is not known.
    """
    profile: Profile = {}
    for entry in (entry for entry in inputs if entry.dynamic):
        if image_size is None or len(entry.shape) != 4:
            raise EngineError(
                f"The input {entry} is dynamic, and nothing says which shapes are wanted.",
                f"Add --profile {entry.name}=MIN:OPT:MAX, each a shape like "
                f"{_text([size if isinstance(size, int) else 1 for size in entry.shape])}.",
            )
        columns = [
            _dimension(axis, size, image_size, size_range) for axis, size in enumerate(entry.shape)
        ]
        shapes = list(zip(*columns, strict=True))
        if single:
            batch = 1 if isinstance(entry.shape[0], str) else entry.shape[0]
            shapes = [(batch, *shapes[1][1:])] * 3
        profile[entry.name] = Range(min=shapes[0], opt=shapes[1], max=shapes[2])
    return profile


def _dimension(
    axis: int,
    size: int | str,
    image_size: tuple[int, int],
    size_range: tuple[int, int] | None,
) -> tuple[int, int, int]:
    if isinstance(size, int):
        return size, size, size
    if axis < 2:
        return DEFAULT_BATCH
    own = image_size[axis - 2]
    low, high = size_range or (own, own)
    most = min(high, max(DEFAULT_LARGEST_SIZE, own, low))
    return low, min(max(own, low), most), most
