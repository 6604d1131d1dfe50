"""The receptive field of one token of every layer: by formula, and exactly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dinat_deploy.choosing.formulas import attention_extent, pixel_extent
from dinat_deploy.choosing.geometry import (
    AxisStep,
    BoolArray,
    Extent,
    Token,
    axis_steps,
    extent,
    position,
    trace,
)
from dinat_deploy.models.config import ModelConfig


@dataclass(frozen=True)
class Area:
    """What a token sees of a map: a product of rows and columns.

    Attributes:
        formula: (rows, columns) from the first to the last, by formula.
        rows, columns: exactly.
        of: (height, width) of the map.
    """

    formula: tuple[int, int]
    rows: Extent
    columns: Extent
    of: tuple[int, int]

    @property
    def lengths(self) -> tuple[int, int]:
        """(rows, columns) from the first to the last, exactly."""
        return self.rows.length, self.columns.length

    @property
    def seen(self) -> int:
        """Positions that are seen."""
        return self.rows.count * self.columns.count

    @property
    def share(self) -> float:
        """Of the whole map."""
        return self.seen / (self.of[0] * self.of[1])

    @property
    def has_gaps(self) -> bool:
        """Whether positions between the first and the last are not seen."""
        return self.rows.count < self.rows.length or self.columns.count < self.columns.length


@dataclass(frozen=True)
class LayerField:
    """What a token of a layer's output sees.

    Attributes:
        layer: of the level, from 0.
        tokens: of the map that the level starts with.
        pixels: of the image.
    """

    level: int
    layer: int
    dilation: int
    tokens: Area
    pixels: Area


def layer_fields(config: ModelConfig, token: Token) -> list[LayerField]:
    """The fields of every layer, for a token of each level at the same place.

    Args:
        config: with the image size that is meant.

    Raises:
        ConfigError: the image is too small for the model.
    """
    return list(_fields(config, token))


def _fields(config: ModelConfig, token: Token) -> Iterator[LayerField]:
    sizes = config.feature_sizes()
    steps = (axis_steps(config, 0), axis_steps(config, 1))
    for layer in config.layers():
        of = sizes[layer.level]
        sets = [
            _of_layer(axis, layer.level, layer.index, position(token, length))
            for axis, length in zip(steps, of, strict=True)
        ]
        run = config.dilations[layer.level][: layer.index + 1]
        by_formula = [
            length if config.global_attention else attention_extent(config.kernel_size, run, length)
            for length in of
        ]
        tokens = Area((by_formula[0], by_formula[1]), extent(sets[0][0]), extent(sets[1][0]), of)
        pixels = Area(
            (
                pixel_extent(config, layer.level, layer.index + 1, 0),
                pixel_extent(config, layer.level, layer.index + 1, 1),
            ),
            extent(sets[0][1]),
            extent(sets[1][1]),
            config.image_size,
        )
        yield LayerField(layer.level, layer.index, layer.dilation, tokens, pixels)


def _of_layer(
    steps: list[AxisStep], level: int, layer: int, place: int
) -> tuple[BoolArray, BoolArray]:
    """(tokens of the level's first map, pixels) that one token of a layer's output sees."""
    numbers = [
        number
        for number, step in enumerate(steps)
        if step.level == level and step.layer is not None and step.layer <= layer
    ]
    tokens = trace(steps[numbers[0] : numbers[-1] + 1], place)
    pixels = tokens
    for step in reversed(steps[: numbers[0]]):
        pixels = step.sources(pixels)
    return tokens, pixels


def field_masks(
    config: ModelConfig, token: Token, level: int, layer: int
) -> tuple[BoolArray, BoolArray]:
    """Masks of what a token of a layer's output sees: of the level's first map, and of the image.

    Returns:
        bool ``[rows, columns]`` of tokens, and of pixels.
    """
    of = config.feature_sizes()[level]
    rows, columns = (
        _of_layer(axis_steps(config, axis), level, layer, position(token, of[axis]))
        for axis in (0, 1)
    )
    return np.outer(rows[0], columns[0]), np.outer(rows[1], columns[1])
