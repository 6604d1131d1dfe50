"""Made-up scenes for segmentation: shapes that hide each other, over textured backgrounds.

    python examples/shapes/data.py --count 200 --seed 1 --output out/shapes-data

Writes ``images/`` and ``masks/`` as ``dinat-deploy calibrate`` and ``evaluate`` read them, and
``classes.txt``. Shapes are brighter than what is behind them; which class one has, only its outline
tells. Every scene has its own generator, so that it depends on the seed and its number alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from dinat_deploy.models.preprocessing import Preprocessing

SIDE = 64
LABELS = ["background", "disc", "ring", "square", "triangle", "star", "cross"]
PREPROCESSING = Preprocessing(
    resize_mode="stretch", resize=(SIDE, SIDE), crop=(SIDE, SIDE), mean=(0.5,) * 3, std=(0.25,) * 3
)
# Seeds of the three sets that the example uses; any other ones give other scenes.
TRAINING, CALIBRATION, HELD_OUT = 0, 1, 2
_PLACES = ((0.15, 0.85), (0.15, 0.85), (0.2, 0.3))  # centre and radius, of the side
_LEAST_GAP = 0.65  # between two centres, of the sum of the radii
_STAR_TIP, _STAR_CORNER = 1.15, 0.55  # their distances from its centre
_BACKGROUND, _FOREGROUND = (0.1, 0.45), (0.45, 0.95)  # of each channel, 0..1

Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]


def scene(seed: int, number: int) -> tuple[Pixels, Pixels]:
    """One scene.

    Returns:
        The picture, uint8 ``[SIDE, SIDE, 3]``, and the classes of its pixels, ``[SIDE, SIDE]``.
    """
    rng = np.random.default_rng([seed, number])
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    base = rng.uniform(*_BACKGROUND, 3)
    picture = base + 0.12 * rng.uniform(-1, 1, 3) * _grating(rng, rows, columns)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    placed: list[tuple[float, float, float]] = []
    for _ in range(rng.integers(1, 5)):
        kind = int(rng.integers(1, len(LABELS)))
        y, x, radius = (rng.uniform(low, high) * SIDE for low, high in _PLACES)
        if any(np.hypot(y - v, x - u) < _LEAST_GAP * (radius + r) for v, u, r in placed):
            continue  # it would hide so much that nobody could tell what is below
        placed.append((y, x, radius))
        inside = _inside(LABELS[kind], rows - y, columns - x, radius, rng.uniform(0, 2 * np.pi))
        colour = rng.uniform(*_FOREGROUND, 3) + 0.08 * _grating(rng, rows, columns)
        picture = np.where(inside[..., None], colour, picture)
        mask[inside] = kind
    light = 1 + 0.15 * (columns / SIDE - 0.5)[..., None] * rng.uniform(-1, 1)
    noisy = picture * light + 0.04 * rng.standard_normal(picture.shape)
    return (255 * noisy.clip(0, 1)).round().astype(np.uint8), mask


def _grating(rng: np.random.Generator, rows: Floats, columns: Floats) -> Floats:
    """Waves of a random direction, length and phase, -1..1, ``[SIDE, SIDE, 1]``."""
    angle, length, phase = rng.uniform(0, np.pi), rng.uniform(4, 20), rng.uniform(0, 2 * np.pi)
    along = rows * np.sin(angle) + columns * np.cos(angle)
    return np.sin(2 * np.pi * along / length + phase)[..., None]


def _inside(
    kind: str, dy: Floats, dx: Floats, radius: float, angle: float
) -> npt.NDArray[np.bool_]:
    """Which pixels belong to a shape of that radius, turned by an angle, around (0, 0)."""
    y = dy * np.cos(angle) + dx * np.sin(angle)
    x = dx * np.cos(angle) - dy * np.sin(angle)
    distance = np.hypot(x, y) / radius
    if kind == "disc":
        return distance <= 0.85
    if kind == "ring":
        return (distance <= 1) & (distance >= 0.55)
    if kind == "square":
        return np.maximum(np.abs(x), np.abs(y)) <= 0.75 * radius
    if kind == "cross":
        long, short = np.maximum(np.abs(x), np.abs(y)), np.minimum(np.abs(x), np.abs(y))
        return (long <= radius) & (short <= 0.3 * radius)
    direction = np.arctan2(y, x)
    if kind == "triangle":
        return distance * np.cos((direction % (2 * np.pi / 3)) - np.pi / 3) <= 0.55
    # A star of five points: within a sector the edge is a line from a tip to an inner corner.
    sector = np.abs((direction % (2 * np.pi / 5)) - np.pi / 5)
    across, along = distance * np.sin(sector), distance * np.cos(sector)
    slope = (_STAR_TIP * np.cos(np.pi / 5) - _STAR_CORNER) / (_STAR_TIP * np.sin(np.pi / 5))
    return along <= _STAR_CORNER + across * slope


def scenes(seed: int, count: int) -> tuple[list[Image.Image], npt.NDArray[np.int64]]:
    """The first scenes of a set: pictures, and their masks, int64 ``[count, SIDE, SIDE]``."""
    made = [scene(seed, number) for number in range(count)]
    return [Image.fromarray(picture) for picture, _ in made], np.stack(
        [mask for _, mask in made]
    ).astype(np.int64)


def write_folder(directory: Path, seed: int, count: int) -> None:
    """Write the first scenes of a set as PNG files, and the names of the classes."""
    for name in ("images", "masks"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        for name, pixels in zip(("images", "masks"), scene(seed, number), strict=True):
            Image.fromarray(pixels).save(directory / name / f"{number:04}.png")
    (directory / "classes.txt").write_text("\n".join(LABELS) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("out/shapes-data"))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=HELD_OUT)
    options = parser.parse_args()
    write_folder(options.output, options.seed, options.count)
    print(f"{options.count} scenes of {SIDE}x{SIDE} pixels in {options.output}")


if __name__ == "__main__":
    main()
