"""The inputs on which ``verify`` compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from dinat_deploy.bundle import Bundle, Case, TensorSpec
from dinat_deploy.engine.profiles import parse_profile
from dinat_deploy.models.preprocessing import load_batch
from dinat_deploy.models.seeding import seeded_image
from dinat_deploy.pipeline.artefact import Artefact

Origin = Literal["recorded", "random", "image"]
Shapes = dict[str, list[int]]

# Pixels of the largest input that is compared without being asked for. PyTorch takes about a minute
# for so many on a CPU.
_MOST_PIXELS = 2 << 20


@dataclass(frozen=True)
class Work:
    """One case and where it comes from."""

    origin: Origin
    case: Case


def recorded_work(artefact: Artefact, bundle: Bundle, notes: list[str]) -> list[Work]:
    """The recorded cases whose shapes the artefact takes.

    Args:
        notes: gets those that it does not.

    Raises:
        BundleError: the file with the cases is damaged.
    """
    work = []
    for case in bundle.reference():
        shapes = {name: list(array.shape) for name, array in case.inputs.items()}
        if artefact.covers(shapes):
            work.append(Work("recorded", case))
        else:
            sizes = ", ".join(_text(shape) for shape in shapes.values())
            notes.append(f"{artefact.name} does not take the recorded case {case.name}, {sizes}.")
    return work


def random_work(shapes: Sequence[Shapes], count: int, seed: int) -> list[Work]:
    """Made-up inputs, ``count`` of every shape."""
    work = []
    for sizes in shapes:
        shown = f", {' '.join(_text(shape) for shape in sizes.values())}" if shapes[1:] else ""
        for number in range(count):
            own = seed + number
            inputs = {name: seeded_image(shape, own) for name, shape in sizes.items()}
            work.append(Work("random", Case(f"random {own}{shown}", inputs, {})))
    return work


def image_work(artefact: Artefact, bundle: Bundle, images: Sequence[str | Path]) -> list[Work]:
    """Pictures, each in a batch of its own that is filled with copies of it.

    Raises:
        ImageError: a file is no picture.
        ConfigError, EngineError: the artefact does not take the size of the preprocessing.
    """
    spec = artefact.image_input
    work = []
    for path in images:
        one = load_batch([path], bundle.manifest.preprocessing)
        batch = smallest_batch(artefact, spec)
        filled = np.repeat(one, batch, axis=0)
        artefact.check_shapes({spec.name: list(filled.shape)})
        work.append(Work("image", Case(str(path), {spec.name: filled}, {})))
    return work


def smallest_batch(artefact: Artefact, spec: TensorSpec) -> int:
    """The fewest images that one run takes."""
    if isinstance(spec.shape[0], int):
        return spec.shape[0]
    lows = [profile[spec.name].min[0] for profile in artefact.profiles if spec.name in profile]
    return min(lows, default=1)


def shapes_to_compare(
    artefact: Artefact, asked: Sequence[str | Mapping[str, Sequence[int]]], notes: list[str]
) -> list[Shapes]:
    """Shapes of the made-up inputs.

    By default the smallest, best and largest shape of every profile of an engine, and otherwise the
    model's own shape.

    Args:
        asked: like ``image=1x3x64x64``, or three of them as in a profile.
        notes: gets shapes that are left out because they are large.

    Raises:
        EngineError: they are not written as they should be.
        ConfigError, EngineError: the artefact does not take one.
    """
    found: list[Shapes] = []
    for entry in asked:
        if not isinstance(entry, str):
            found.append({name: list(shape) for name, shape in entry.items()})
            continue
        ranges = parse_profile(entry)
        for end in ("min", "opt", "max"):
            found.append({name: list(getattr(each, end)) for name, each in ranges.items()})
    if not asked and artefact.profiles:
        found = _corners(artefact, notes)
    elif not asked:
        found = [artefact.default_shapes()]
    for shapes in found:
        artefact.check_shapes(shapes)
    return [shapes for place, shapes in enumerate(found) if shapes not in found[:place]]


def _corners(artefact: Artefact, notes: list[str]) -> list[Shapes]:
    fixed = {
        spec.name: [size for size in spec.shape if isinstance(size, int)]
        for spec in artefact.inputs
    }
    found: list[Shapes] = []
    for profile in artefact.profiles:
        for end in ("min", "opt", "max"):
            shapes = fixed | {name: list(getattr(each, end)) for name, each in profile.items()}
            pixels = max(_pixels(shape) for shape in shapes.values())
            if pixels <= _MOST_PIXELS:
                found.append(shapes)
                continue
            named = ",".join(f"{name}={_text(shape)}" for name, shape in shapes.items())
            note = f"The large shape {named} is left out; --shapes {named} compares it."
            if note not in notes:
                notes.append(note)
    return found


def _pixels(shape: Sequence[int]) -> int:
    # Dimensions are batch, channels, height, width.
    return shape[0] * shape[2] * shape[3] if len(shape) == 4 else int(np.prod(shape))


def _text(shape: Sequence[int | str]) -> str:
    return "x".join(str(size) for size in shape)
