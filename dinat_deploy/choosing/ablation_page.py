"""An ablation as tables, and as one HTML page: every training, and the paper's results beside."""

from __future__ import annotations

import html
from collections.abc import Sequence

from dinat_deploy.choosing.ablation_effects import Cell, Effect
from dinat_deploy.choosing.published_ablation import PUBLISHED_ABLATIONS, SOURCE
from dinat_deploy.measurement.page import document, figure, section, table
from dinat_deploy.measurement.plots import PALETTE, Plot, Trace, bars, label
from dinat_deploy.measurement.tables import Table
from dinat_deploy.models.zoo import format_dilations

# Told apart without colour, too.
_MARKS = ("circle", "square", "diamond", "triangle-up", "star", "cross")
_APART = 0.22  # of a row, between the kernel sizes of an order


def to_html(cells: Sequence[Cell], effects: Sequence[Effect], remarks: Sequence[str]) -> str:
    """The page.

    Raises:
        MissingDependencyError: plotly is not installed.
    """
    shown = [_trainings(cells), *([_effects(effects)] if effects else [])]
    seeds = max(len(cell.accuracies) for cell in cells)
    facts = f"{len(cells)} tiny models, {seeds} training{'s' * (seeds != 1)} of each, on digits"
    notes = "".join(f"<p>{html.escape(remark)}</p>" for remark in remarks)
    parts = [
        f"<header><h1>Ablation</h1><p class='facts'>{html.escape(facts)}</p></header>",
        f"<section class='notice'>{notes}</section>",
        *map(figure, shown),
        section("Measured on digits: accuracy in %", table(accuracy_table(cells))),
    ]
    if effects:
        parts.append(section("Measured on digits: differences", table(effect_table(effects))))
    published = f"<p class='note'>{html.escape(SOURCE)}. Not measured here.</p>"
    parts.append(
        section("Published: ImageNet-1k, COCO, ADE20K", published + table(published_table()))
    )
    return document("Ablation on digits", parts, shown)


def accuracy_table(cells: Sequence[Cell]) -> Table:
    """One row for each model: every training, their mean and spread."""
    heads = ["order", "kernel", "dilations", "trainings", "mean", "deviation", "seconds"]
    rows = [
        [
            cell.order,
            str(cell.kernel_size),
            format_dilations(cell.dilations),
            " ".join(f"{accuracy:.1f}" for accuracy in cell.accuracies),
            f"{cell.mean:.2f}",
            "" if cell.spread is None else f"{cell.spread:.2f}",
            f"{cell.seconds:.0f}",
        ]
        for cell in cells
    ]
    return Table(heads, [False, True, False, True, True, True, True], rows)


def effect_table(effects: Sequence[Effect]) -> Table:
    """One row for each comparison."""
    rows = [
        [
            effect.factor,
            effect.value,
            effect.base,
            f"{effect.difference:+.2f}",
            "" if effect.low is None else f"{effect.low:+.2f} to {effect.high:+.2f}",
            effect.verdict,
        ]
        for effect in effects
    ]
    heads = ["factor", "value", "against", "points", "95 % interval", "verdict"]
    return Table(heads, [False, False, False, True, True, False], rows)


def published_table() -> Table:
    """The paper's results."""
    rows = [
        [entry.factor, entry.value, entry.model, f"{entry.top1:.1f}"]
        + ["" if v is None else f"{v:.1f}" for v in (entry.box_ap, entry.mask_ap, entry.miou)]
        for entry in PUBLISHED_ABLATIONS
    ]
    heads = ["factor", "value", "model", "top-1 %", "box AP", "mask AP", "mIoU"]
    return Table(heads, [False, False, False, True, True, True, True], rows)


def _trainings(cells: Sequence[Cell]) -> Plot:
    orders = list(dict.fromkeys(cell.order for cell in cells))
    kernels = sorted({cell.kernel_size for cell in cells})
    traces: list[Trace] = []
    for number, kernel in enumerate(kernels):
        shift = _APART * (number - (len(kernels) - 1) / 2)
        own = [cell for cell in cells if cell.kernel_size == kernel]
        places = [orders.index(cell.order) + shift for cell in own]
        style = {"color": PALETTE[number % len(PALETTE)], "symbol": _MARKS[number % len(_MARKS)]}
        name = f"kernel size {kernel}"
        shared = {"type": "scatter", "mode": "markers", "name": name, "legendgroup": name}
        traces.append(
            shared
            | {
                "x": [round(a, 3) for cell in own for a in cell.accuracies],
                "y": [p for cell, p in zip(own, places, strict=True) for _ in cell.accuracies],
                "marker": {**style, "size": 7, "opacity": 0.45},
                "showlegend": False,
                "hovertemplate": "%{x:.2f} %",
            }
        )
        traces.append(
            shared
            | {
                "x": [round(cell.mean, 3) for cell in own],
                "y": places,
                "error_x": {"type": "data", "array": [cell.spread or 0 for cell in own]},
                "marker": {**style, "size": 12},
                "hovertemplate": "mean %{x:.2f} %",
            }
        )
    layout = bars(orders, "accuracy on digits, %", bar=34 * (1 + len(kernels)) // 2)
    layout["xaxis"] = {"title": {"text": "accuracy on digits, %"}}
    layout["height"] += 50  # the legend
    return Plot(
        "trainings",
        "Every training",
        "Small marks are trainings, large ones their mean, with one standard deviation to both "
        "sides. Where the marks of two models overlap, one more seed may turn their order round.",
        traces,
        layout | {"showlegend": True, "hovermode": "closest"},
    )


def _effects(effects: Sequence[Effect]) -> Plot:
    names = [effect.name for effect in effects]
    reach = [0.0 if e.high is None else e.high - e.difference for e in effects]
    marks = [
        "circle-open" if "noise" in e.verdict or "seed" in e.verdict else "circle" for e in effects
    ]
    trace: Trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [round(effect.difference, 3) for effect in effects],
        "y": list(range(len(effects))),
        "error_x": {"type": "data", "array": [round(value, 3) for value in reach]},
        "marker": {"color": PALETTE[0], "symbol": marks, "size": 12},
        "text": [label(f"{n}: {e.verdict}", 80) for n, e in zip(names, effects, strict=True)],
        "hovertemplate": "%{text}, %{x:+.2f} points",
    }
    layout = bars(names, "points of accuracy")
    layout["xaxis"] = {"title": {"text": "points of accuracy"}, "zeroline": True}
    return Plot(
        "effects",
        "Differences and their 95 % intervals",
        "An interval that holds 0, drawn with an open mark, shows no difference. Orders are "
        "averaged over kernel sizes, and kernel sizes over orders.",
        [trace],
        layout,
    )
