"""Dilations for an image size: the bound of every level, published schedules, suggestions.

A window fits a map of n tokens if ``kernel_size * dilation <= n``, so a level's dilation is at most
``floor(n / kernel_size)``; the shorter axis decides, as a layer has one dilation for both. The
published models (arXiv 2209.15001) alternate layers without dilation and dilated ones, in this
order:

* *maximum*: every dilated layer has the bound of its level (classification);
* *gradual*: the dilated layers of a level rise to the bound in equal steps, again and again; the
  last level has its bound throughout (detection).

Both suggestions give the published dilations where these follow the rule: *maximum* those of
classification at 224 and 384 pixels, *gradual* those of detection at 800 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

from dinat_deploy.models.config import Dilations, ModelConfig
from dinat_deploy.models.presets import preset
from dinat_deploy.models.zoo import Variant

_LONGEST_RISE = 4


@dataclass(frozen=True)
class LevelBound:
    """How far the layers of a level can be dilated.

    Attributes:
        size: (height, width) in tokens.
        by_axis: the bound of each axis; 0 if not even an undilated window fits.
    """

    level: int
    size: tuple[int, int]
    by_axis: tuple[int, int]

    @property
    def bound(self) -> int:
        """The largest dilation without padding, of the shorter axis; 0 if there is none."""
        return min(self.by_axis)


def level_bounds(config: ModelConfig) -> list[LevelBound]:
    """The bounds of all levels at the configuration's image size.

    Raises:
        ConfigError: the image is too small for the model.
    """
    kernel = config.kernel_size
    return [
        LevelBound(level, (height, width), (height // kernel, width // kernel))
        for level, (height, width) in enumerate(config.feature_sizes())
    ]


@dataclass(frozen=True)
class Fit:
    """Dilations held against the maps of an image size.

    Attributes:
        name: of the schedule.
        kernel_size: that it is held against the maps with.
        padded: the levels on which a window is larger than the map, which is then padded with
            zeros: (level, tokens that the largest window spans, tokens of the shorter axis).
    """

    name: str
    dilations: Dilations
    kernel_size: int
    padded: tuple[tuple[int, int, int], ...]

    @property
    def fits(self) -> bool:
        """Whether no level is padded."""
        return not self.padded


def fit(name: str, dilations: Dilations, config: ModelConfig) -> Fit:
    """Hold dilations of all levels against the configuration's image and kernel size."""
    padded = []
    for level, size in enumerate(config.feature_sizes()):
        span = config.kernel_size * max(dilations[level])
        if span > min(size):
            padded.append((level, span, min(size)))
    return Fit(name, dilations, config.kernel_size, tuple(padded))


def published(variant: Variant, config: ModelConfig) -> list[Fit]:
    """The schedules that a variant was published with, held against an image and kernel size.

    Args:
        config: of the same depths. Its kernel size counts, except for Mask2Former, whose schedule
            was published with another one.
    """
    found = [fit("classification", variant.config.dilations, config)]
    for name, dilations in variant.schedules.items():
        used = config
        if name == "mask2former":
            settings = preset(variant, "mask2former", "panoptic", "coco")
            used = config.replace(kernel_size=settings["kernel_size"])
        found.append(fit(name, dilations, used))
    return found


def maximum(config: ModelConfig) -> Dilations:
    """Layers without dilation and with the largest one in turn."""
    return tuple(
        _alternating(depth, [each.bound] * (depth // 2))
        for depth, each in zip(config.depths, level_bounds(config), strict=True)
    )


def gradual(config: ModelConfig) -> Dilations:
    """Layers without dilation and with a rising one in turn."""
    bounds = level_bounds(config)
    chosen = []
    for depth, each in zip(config.depths, bounds, strict=True):
        flat = len(bounds) > 1 and each.level == len(bounds) - 1
        dilated = depth // 2
        rise = 1 if flat else _rise(dilated, each.bound)
        values = [-(-each.bound * (number % rise + 1) // rise) for number in range(dilated)]
        if values:
            values[-1] = each.bound
        chosen.append(_alternating(depth, values))
    return tuple(chosen)


def _rise(dilated: int, bound: int) -> int:
    """Steps after which a gradual schedule starts anew, as published: 9 layers in three of 3.

    There are no more of them than dilations from 2 to the bound.
    """
    steps = dilated
    if dilated > _LONGEST_RISE:
        steps = next((steps for steps in (3, 4, 2) if dilated % steps == 0), 3)
    return max(1, min(steps, bound - 1))


def _alternating(depth: int, dilated: list[int]) -> tuple[int, ...]:
    return tuple(max(1, dilated[layer // 2]) if layer % 2 else 1 for layer in range(depth))
