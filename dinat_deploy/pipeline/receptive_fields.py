"""``receptive-field``: how far the tokens of a model see, by formula, exactly, and measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dinat_deploy.choosing.chosen import choose
from dinat_deploy.choosing.fields import Area, LayerField, field_masks, layer_fields
from dinat_deploy.choosing.formulas import Growth, growths
from dinat_deploy.choosing.geometry import Token
from dinat_deploy.errors import OutputError
from dinat_deploy.files import write_whole
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.pipeline.picture_files import write_picture

__all__ = ["Area", "FieldReport", "Files", "Growth", "LayerField", "Token", "receptive_field"]


@dataclass(frozen=True)
class Measured:
    """What the gradient of one output token says, beside the exact sets.

    Attributes:
        tokens, pixels: how many of the level's first map, and of the image, have a gradient.
        agrees: whether they are exactly those of the sets.
    """

    level: int
    layer: int
    tokens: int
    pixels: int
    agrees: bool


@dataclass(frozen=True)
class FieldReport:
    """Receptive fields of one model.

    Attributes:
        layers: of every layer in order.
        comparison: level by level, the growth of several methods along the shorter axis.
        measured: of every layer; None if it was not asked for.
    """

    name: str
    config: ModelConfig
    token: Token
    layers: list[LayerField]
    comparison: list[list[Growth]]
    measured: list[Measured] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        """Whether everything that was measured is as computed."""
        return all(each.agrees for each in self.measured or [])

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.name,
            "image_size": self.config.image_size,
            "kernel_size": self.config.kernel_size,
            "token": self.token,
            "layers": [
                {
                    "level": each.level + 1,
                    "layer": each.layer + 1,
                    "dilation": each.dilation,
                    "tokens": _area(each.tokens),
                    "pixels": _area(each.pixels),
                }
                for each in self.layers
            ],
            "comparison": [
                {"level": level + 1, "methods": [asdict(growth) for growth in found]}
                for level, found in enumerate(self.comparison)
            ],
            "measured": None
            if self.measured is None
            else [
                asdict(each) | {"level": each.level + 1, "layer": each.layer + 1}
                for each in self.measured
            ],
            "notes": self.notes,
        }


@dataclass(frozen=True)
class Files:
    """Where pictures go; None is not made.

    Attributes:
        plot: HTML page with the growth over the layers.
        picture: PNG of the tokens that one query sees.
    """

    plot: Path | None = None
    picture: Path | None = None

    def check(self) -> None:
        """Find out before the work whether the files can be made.

        Raises:
            OutputError: a file has another ending, or its place cannot be written to.
            MissingDependencyError: the page needs plotly, which is not installed.
        """
        for path, ending in ((self.plot, ".html"), (self.picture, ".png")):
            if path is None:
                continue
            if path.suffix.lower() != ending:
                raise OutputError(
                    f"{path} does not end in {ending}, which is what it would be.",
                    f"Name it {path.stem}{ending}.",
                )
            if path.is_dir() or not path.absolute().parent.is_dir():
                raise OutputError(
                    f"{path} cannot be written: it is a directory, or its directory is missing.",
                    "Choose another file.",
                )
        if self.plot is not None:
            from dinat_deploy.measurement.page import plotly_library

            plotly_library()


def receptive_field(
    *,
    model: str | None = None,
    config: Path | None = None,
    image_size: tuple[int, int] | None = None,
    dilations: str | None = None,
    kernel_size: int | None = None,
    token: Token = "centre",
    measure: bool = False,
    files: Files | None = None,
) -> FieldReport:
    """The receptive fields of all layers.

    Args:
        model, config, image_size, dilations, kernel_size: as of
            :func:`dinat_deploy.choosing.chosen.choose`.
        token: which one of every map.
        measure: compare with gradients, too; this takes PyTorch.
        files: pictures to make.

    Raises:
        ConfigError, UnknownModelError: the model is not known or does not fit.
        OutputError, MissingDependencyError: as :meth:`Files.check`.
    """
    files = files or Files()
    files.check()
    chosen = choose(
        model, config, dilations=dilations, kernel_size=kernel_size, image_size=image_size
    )
    settings = chosen.config
    layers = layer_fields(settings, token)
    report = FieldReport(
        chosen.name,
        settings,
        token,
        layers,
        _comparison(settings),
        _measure(settings, token) if measure else None,
        [*chosen.notes, *_remarks(settings, token, layers)],
    )
    if files.plot is not None:
        from dinat_deploy.choosing.field_page import to_html

        write_whole(files.plot, to_html(report.name, settings, token, layers, report.comparison))
    if files.picture is not None:
        _draw(report, files.picture)
    return report


def _comparison(config: ModelConfig) -> list[list[Growth]]:
    return [
        growths(config.kernel_size, dilations, min(size))
        for size, dilations in zip(config.feature_sizes(), config.dilations, strict=True)
    ]


def _measure(config: ModelConfig, token: Token) -> list[Measured]:
    from dinat_deploy.choosing.gradient import LinearModel

    found = []
    for each in LinearModel(config).measure(token):
        tokens, pixels = field_masks(config, token, each.level, each.layer)
        found.append(
            Measured(
                each.level,
                each.layer,
                int(each.tokens.sum()),
                int(each.pixels.sum()),
                bool(np.array_equal(tokens, each.tokens) and np.array_equal(pixels, each.pixels)),
            )
        )
    return found


def _remarks(config: ModelConfig, token: Token, layers: list[LayerField]) -> list[str]:
    remarks = []
    for level, size in enumerate(config.feature_sizes()):
        span = config.kernel_size * max(config.dilations[level])
        if not config.global_attention and span > min(size):
            remarks.append(
                f"The largest window of level {level + 1} spans {span} tokens and the map is "
                f"{size[0]}x{size[1]}: it is padded with zeros, which count as tokens of no pixel."
            )
    smaller = [f for f in layers if f.tokens.lengths != f.tokens.formula]
    if smaller and token == "centre":
        first = smaller[0]
        remarks.append(
            f"From level {first.level + 1}, layer {first.layer + 1} on, borders or repeated "
            "dilations keep fields below the formula, which is for tokens far from borders."
        )
    gaps = [f for f in layers if f.tokens.has_gaps and f.layer]
    if gaps:
        first = gaps[0]
        remarks.append(
            f"After layer {first.layer + 1} of level {first.level + 1}, the field has gaps: "
            f"{first.tokens.rows.count} of the {first.tokens.rows.length} rows it spans."
        )
    return remarks


def _draw(report: FieldReport, path: Path) -> None:
    from dinat_deploy.choosing.neighborhood_picture import draw, panels

    height, width = report.config.image_size
    image = draw(
        panels(report.config, report.token),
        f"{report.name}, {height}x{width} pixels, kernel size {report.config.kernel_size}: "
        f"what the token in the {report.token} sees",
    )
    write_picture(image, path)


def _area(area: Area) -> dict[str, Any]:
    return {
        "formula": area.formula,
        "rows": asdict(area.rows),
        "columns": asdict(area.columns),
        "seen": area.seen,
        "of": area.of,
    }
