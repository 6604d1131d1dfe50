"""A comparison as one HTML page: accuracy against latency and work, times beside the base's."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

from dinat_deploy.choosing.comparison import (
    ComparedModel,
    ComparisonReport,
    comparison_table,
    reading,
)
from dinat_deploy.choosing.published import FAMILIES
from dinat_deploy.measurement.page import document, figure, section, table
from dinat_deploy.measurement.plots import PALETTE, Plot, Trace, bars, label
from dinat_deploy.measurement.tables import described, significant

# Families are told apart without colour, too.
_MARKS = ("circle", "square", "diamond", "triangle-up", "cross")
_SPREAD = "#8fa3b8"
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


def to_html(report: ComparisonReport) -> str:
    """The page.

    Raises:
        MissingDependencyError: plotly is not installed.
    """
    shown = _plots(report)
    height, width = report.image_size
    facts = [f"{height}x{width} pixels", f"batch {report.batch}"]
    if report.measured:
        first = report.models[0].result
        facts = [report.machine.get("GPU") or report.machine.get("processor", ""), *facts]
        facts.append(first.runtime if first is not None else report.runtime)
    line = " &middot; ".join(html.escape(fact) for fact in facts if fact)
    parts = [
        f"<header><h1>Models side by side</h1><p class='facts'>{line}</p></header>",
        section("All figures", table(comparison_table(report)) + _paragraphs(reading(report))),
        *map(figure, shown),
        _remarks("Warnings", "warning", report.warnings),
        _remarks("Notes", "notice", report.notes),
        _conditions(report) if report.measured else "",
    ]
    names = ", ".join(model.name for model in report.models)
    return document(f"Comparison: {names}", parts, shown)


def _plots(report: ComparisonReport) -> list[Plot]:
    work = _scatter(
        report.models,
        "work",
        "Accuracy against work",
        "Published top-1 on ImageNet-1k, and multiply-accumulates of one image, counted.",
        "GMAC of an image",
        lambda model: model.macs / 1e9,
    )
    if not report.measured:
        return [work]
    latency = _scatter(
        report.models,
        "latency",
        "Accuracy against latency",
        "Published top-1 on ImageNet-1k, at 224 pixels, and the median latency of a run here. To "
        "the upper left is better.",
        f"ms of a run of {report.batch} image{'s' * (report.batch != 1)}",
        _latency,
    )
    return [latency, work, _ratios(report)]


def _latency(model: ComparedModel) -> float:
    assert model.result is not None
    return model.result.latency.median


def _scatter(
    models: Sequence[ComparedModel],
    key: str,
    title: str,
    caption: str,
    unit: str,
    value: Callable[[ComparedModel], float],
) -> Plot:
    traces: list[Trace] = []
    for number, family in enumerate(FAMILIES):
        own = [model for model in models if model.family == family]
        if not own:
            continue
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers+text" if len(own) > 1 else "markers+text",
                "name": family,
                "x": [round(value(model), 5) for model in own],
                "y": [model.published.top1 for model in own],
                "text": [label(model.name) for model in own],
                "textposition": "bottom center" if number % 2 else "top center",
                "marker": {"size": 12, "color": PALETTE[number], "symbol": _MARKS[number]},
                "line": {"width": 1.5, "color": PALETTE[number], "dash": _DASHES[number]},
                "hovertemplate": "%{text}: %{x:.4~g}, %{y:.1f} %",
                "cliponaxis": False,
            }
        )
    # Room for the names beside the outermost points.
    values = [value(model) for model in models]
    accuracies = [model.published.top1 for model in models]
    wide = 0.18 * (max(values) - min(values)) or 0.2 * max(values)
    high = 0.15 * (max(accuracies) - min(accuracies)) or 0.5
    layout: dict[str, Any] = {
        "height": 460,
        "xaxis": {"title": {"text": unit}, "range": [min(values) - wide, max(values) + wide]},
        "yaxis": {
            "title": {"text": "published top-1, %"},
            "range": [min(accuracies) - high, max(accuracies) + high],
        },
        "hovermode": "closest",
        "showlegend": True,
    }
    return Plot(key, title, caption, traces, layout)


def _ratios(report: ComparisonReport) -> Plot:
    names = [model.name for model in report.models]
    ratios = [model.result.ratio if model.result else None for model in report.models]
    values = [1.0 if ratio is None else ratio.value for ratio in ratios]
    highs = [0.0 if r is None or r.high is None else r.high - r.value for r in ratios]
    lows = [0.0 if r is None or r.low is None else r.value - r.low for r in ratios]
    trace: Trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [round(value, 4) for value in values],
        "y": list(range(len(names))),
        "error_x": {
            "type": "data",
            "symmetric": False,
            "color": _SPREAD,
            "array": [round(value, 4) for value in highs],
            "arrayminus": [round(value, 4) for value in lows],
        },
        "marker": {
            "size": 12,
            "color": [PALETTE[FAMILIES.index(model.family)] for model in report.models],
            "symbol": [_MARKS[FAMILIES.index(model.family)] for model in report.models],
        },
        "text": [f"{label(n)}: {significant(v)}" for n, v in zip(names, values, strict=True)],
        "hovertemplate": "%{text}",
    }
    layout = bars(names, f"time of an image, times {report.base}")
    layout["xaxis"] = {"title": layout["xaxis"]["title"]}
    return Plot(
        "ratios",
        f"Time beside {report.base}",
        "Time of an image over that of the base, from pairs of blocks that ran seconds apart, with "
        "its 95 % confidence interval.",
        [trace],
        layout,
    )


def _paragraphs(sentences: Sequence[str]) -> str:
    return "".join(f"<p class='note'>{html.escape(sentence)}</p>" for sentence in sentences)


def _remarks(title: str, kind: str, remarks: Sequence[str]) -> str:
    if not remarks:
        return ""
    items = "".join(f"<li>{html.escape(remark)}</li>" for remark in remarks)
    return f"<section class='{kind}'><h2>{title}</h2><ul>{items}</ul></section>"


def _conditions(report: ComparisonReport) -> str:
    machine = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>"
        for name, value in report.machine.items()
    )
    how = html.escape(described(report.options))
    return section("How it was measured", f"<p>{how}.</p><dl>{machine}</dl>")
