"""``dilations``: what fits an image size, what was published, what to train with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dinat_deploy.choosing import schedules
from dinat_deploy.choosing.chosen import choose
from dinat_deploy.choosing.schedules import Fit, LevelBound
from dinat_deploy.errors import ConfigError
from dinat_deploy.models.config import Architecture, ModelConfig
from dinat_deploy.models.zoo import Variant, format_dilations, get_variant

__all__ = ["DilationChoice", "Fit", "LevelBound", "choose_dilations", "format_dilations"]

_REPRESENTATIVE: dict[Architecture, str] = {
    "dinat": "dinat_tiny",
    "dinat_s": "dinat_s_tiny",
    "isotropic": "dinat_isotropic_small",
}
# What NAT-Tiny and DiNAT-Tiny lose when they are run with dilations they were not trained with.
_WARNING = (
    "Dilations belong to the weights. Published ImageNet accuracy of NAT-Tiny: 83.2 % with the "
    "dilations 1 that it was trained with, 81.0 % when run with 8,4,2,1; of DiNAT-Tiny: 82.7 % "
    "with its 8,4,2,1, and 78.2 % without. Change them to train or fine-tune a model, not to run "
    "one."
)


@dataclass(frozen=True)
class DilationChoice:
    """What there is to choose from.

    Attributes:
        name: of the variant or file.
        published: schedules of the variant; empty if the depths or the architecture are others.
        suggested: patterns for this image size, of which every one fits unless a level is smaller
            than the window itself.
        warning: what changing dilations of trained weights costs.
        notes: what is left out, and what else must be known.
    """

    name: str
    config: ModelConfig
    levels: list[LevelBound]
    published: list[Fit]
    suggested: list[Fit]
    warning: str = _WARNING
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.name,
            "architecture": self.config.architecture,
            "image_size": self.config.image_size,
            "kernel_size": self.config.kernel_size,
            "depths": self.config.depths,
            "levels": [
                {
                    "level": each.level + 1,
                    "size": each.size,
                    "bound_by_axis": each.by_axis,
                    "bound": each.bound,
                }
                for each in self.levels
            ],
            "published": [_fit(each) for each in self.published],
            "suggested": [_fit(each) for each in self.suggested],
            "warning": self.warning,
            "notes": self.notes,
        }


def choose_dilations(
    *,
    model: str | None = None,
    config: Path | None = None,
    architecture: Architecture | None = None,
    image_size: tuple[int, int] | None = None,
    kernel_size: int | None = None,
    depths: tuple[int, ...] | None = None,
) -> DilationChoice:
    """Bounds, published schedules and suggestions for an image size.

    Args:
        model, config: as of :func:`dinat_deploy.choosing.chosen.choose`; DiNAT-Tiny if no model
            is said.
        architecture: in place of a model: its smallest variant with the usual depths.
        depths: layers of each level, in place of the model's.

    Raises:
        ConfigError, UnknownModelError: the model is not known or does not fit, or has no windows.
    """
    if architecture is not None:
        if model is not None or config is not None:
            given = "--model" if model is not None else "--config"
            raise ConfigError(
                f"{given} and --architecture both say what the model is like.", "Drop one."
            )
        model = _REPRESENTATIVE[architecture]
    elif model is None and config is None:
        model = _REPRESENTATIVE["dinat"]
    if model is not None and get_variant(model).config.global_attention:
        raise _nothing_to_dilate(get_variant(model).name)
    chosen = choose(model, config, kernel_size=kernel_size, image_size=image_size)
    settings = chosen.config
    if settings.global_attention:
        raise _nothing_to_dilate(chosen.name)
    if depths is not None and depths != settings.depths:
        settings = _of_depths(settings, depths)
    notes, published = list(chosen.notes), _published(chosen.variant, settings)
    if chosen.variant is not None and not published:
        notes.append(f"{chosen.variant.name} was not published with these depths.")
    if chosen.variant is not None and kernel_size not in (None, chosen.variant.config.kernel_size):
        notes.append(
            f"{chosen.variant.name} was published with kernel size "
            f"{chosen.variant.config.kernel_size}; {kernel_size} is another model."
        )
    if chosen.variant is not None and chosen.variant.name.startswith("nat_"):
        notes.append(f"{chosen.variant.name} was trained without dilation for all tasks.")
    levels = schedules.level_bounds(settings)
    for each in levels:
        if each.bound == 0:
            notes.append(
                f"Level {each.level + 1} has {_pair(each.size)} tokens, fewer than the "
                f"{settings.kernel_size} of the window: it is padded whatever the dilation."
            )
    suggested = [
        schedules.fit("maximum", schedules.maximum(settings), settings),
        schedules.fit("gradual", schedules.gradual(settings), settings),
    ]
    return DilationChoice(chosen.name, settings, levels, published, suggested, notes=notes)


def _nothing_to_dilate(name: str) -> ConfigError:
    return ConfigError(
        f"In {name} every token sees all others: there is nothing to dilate.",
        "Choose a NAT or DiNAT variant.",
    )


def _of_depths(config: ModelConfig, depths: tuple[int, ...]) -> ModelConfig:
    if len(depths) != len(config.depths):
        raise ConfigError(
            f"--depths lists {len(depths)} levels and the model has {len(config.depths)}.",
            f"List {len(config.depths)}.",
        )
    return config.replace(depths=depths)


def _published(variant: Variant | None, config: ModelConfig) -> list[Fit]:
    if variant is None or variant.config.depths != config.depths:
        return []
    return schedules.published(variant, config)


def _fit(each: Fit) -> dict[str, Any]:
    return {
        "name": each.name,
        "dilations": format_dilations(each.dilations),
        "kernel_size": each.kernel_size,
        "fits": each.fits,
        "padded": [
            {"level": level + 1, "window": span, "map": size} for level, span, size in each.padded
        ],
    }


def _pair(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
