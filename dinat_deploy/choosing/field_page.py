"""Receptive fields as one HTML page: the growth over the layers, and all figures."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from dinat_deploy.choosing.fields import Area, LayerField
from dinat_deploy.choosing.formulas import Growth
from dinat_deploy.choosing.geometry import Token
from dinat_deploy.measurement.page import document, figure, section, table
from dinat_deploy.measurement.plots import PALETTE, Plot, Trace, label
from dinat_deploy.measurement.tables import Table
from dinat_deploy.models.config import ModelConfig

# Lines are told apart without colour, too.
_DASHES = ("dot", "dash", "dashdot", "longdash", "solid", "longdashdot", "5px,2px")
_MARKS = ("circle-open", "square-open", "diamond-open", "x-thin-open", "circle", "cross", "star")


def to_html(
    name: str,
    config: ModelConfig,
    token: Token,
    layers: Sequence[LayerField],
    comparison: Sequence[Sequence[Growth]],
) -> str:
    """The page.

    Raises:
        MissingDependencyError: plotly is not installed.
    """
    shown = [_pixels(layers), *(_growth(level, found) for level, found in enumerate(comparison))]
    height, width = config.image_size
    facts = (
        f"{name}, {height}x{width} pixels, kernel size {config.kernel_size}, "
        f"the token in the {token} of every map"
    )
    parts = [
        f"<header><h1>Receptive field</h1><p class='facts'>{html.escape(facts)}</p></header>",
        *map(figure, shown),
        section("All layers", table(layer_table(layers))),
    ]
    return document(f"Receptive field of {name}", parts, shown)


def layer_table(layers: Sequence[LayerField]) -> Table:
    """One row for each layer: extents by formula and exactly, and how much is seen."""
    heads = ["level", "layer", "dilation", "tokens by formula", "tokens", "of the map"]
    heads += ["pixels by formula", "pixels", "of the image"]
    rows = [
        [
            str(each.level + 1),
            str(each.layer + 1),
            str(each.dilation),
            *_cells(each.tokens),
            *_cells(each.pixels),
        ]
        for each in layers
    ]
    return Table(heads, [True] * len(heads), rows)


def _cells(area: Area) -> list[str]:
    return [_pair(area.formula), _pair(area.lengths), f"{area.share:.1%}"]


def _pair(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _pixels(layers: Sequence[LayerField]) -> Plot:
    shorter = 0 if layers[0].pixels.of[0] <= layers[0].pixels.of[1] else 1
    names = [f"level {each.level + 1}, layer {each.layer + 1}" for each in layers]
    places = list(range(1, len(layers) + 1))
    hover = [f"{name}, dilation {each.dilation}" for name, each in zip(names, layers, strict=True)]
    series = (
        ("by formula", [each.pixels.formula[shorter] for each in layers], 0),
        ("exactly", [each.pixels.lengths[shorter] for each in layers], 4),
    )
    traces: list[Trace] = [
        _line(title, places, values, style) | {"text": hover} for title, values, style in series
    ]
    return Plot(
        "pixels",
        "Pixels that a token sees",
        "From the first to the last, along the shorter side of the image, after every layer of the "
        "model.",
        traces,
        _layout("layers of the model", "pixels", 380, len(layers)),
    )


def _growth(level: int, found: Sequence[Growth]) -> Plot:
    places = list(range(1, len(found[0].extents) + 1))
    traces = [
        _line(f"{growth.method}: {growth.formula}", places, list(growth.extents), number)
        for number, growth in enumerate(found)
    ]
    height = 380 + 22 * len(found)  # with the legend
    return Plot(
        f"level-{level}",
        f"Level {level + 1}: growth by formula",
        "Tokens along the shorter axis that one far from borders sees, with windows of the same "
        "size; at most the whole axis.",
        traces,
        _layout(f"layers of level {level + 1}", "tokens", height, len(places)),
    )


def _line(name: str, x: list[int], y: list[int], style: int) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": label(name, 80),
        "x": x,
        "y": y,
        "line": {"width": 2, "color": PALETTE[style], "dash": _DASHES[style]},
        "marker": {"symbol": _MARKS[style], "size": 8},
    }


def _layout(x: str, y: str, height: int, layers: int) -> dict[str, Any]:
    return {
        "height": height,
        # Layers are counted from 1; of many, every other one has its number.
        "xaxis": {
            "title": {"text": x},
            "tick0": 1,
            "dtick": 1 if layers < 20 else 2,
            "range": [0.5, layers + 0.5],
        },
        "yaxis": {"title": {"text": y}, "rangemode": "tozero"},
        "hovermode": "closest",
        "showlegend": True,
    }
