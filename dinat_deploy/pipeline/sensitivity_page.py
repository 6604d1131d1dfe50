"""A report of ``sensitivity`` as Markdown and as an HTML page with plots."""

from __future__ import annotations

import html
from collections.abc import Sequence

from dinat_deploy.measurement.page import document, figure, section, table
from dinat_deploy.measurement.plots import Plot, Trace, bars, label
from dinat_deploy.measurement.report import markdown_table, plain
from dinat_deploy.measurement.tables import Table
from dinat_deploy.pipeline.sensitivity_report import (
    Effect,
    SensitivityReport,
    StepReport,
    UnitReport,
    decibels,
    described,
)

_LEFT_OUT, _KEPT = "#e0812b", "#3b82c4"
_SHOWN = 30
_BAR = 24  # pixels


def units_table(report: SensitivityReport, most: int | None = None) -> Table:
    """A row for each unit, the most harmful first.

    Args:
        most: rows; all by default.
    """
    chosen = set(report.search.excluded) if report.search is not None else set()
    with_metric, without = report.metric is not None, any(unit.without for unit in report.units)
    columns = [(report.by, False), ("MACs", True), ("SQNR alone", True)]
    columns += [("points lost", True)] if with_metric else []
    columns += [("SQNR without", True)] if without else []
    columns += [("points lost without", True)] if without and with_metric else []
    columns += (
        [("own SQNR", True)] if any(unit.local_db is not None for unit in report.units) else []
    )
    columns += [("left out", False)] if report.search is not None else []

    def row(unit: UnitReport) -> list[str]:
        cells = [unit.name, f"{unit.share:.2%}", decibels(unit.alone.sqnr_db)]
        cells += [_points(unit.alone)] if with_metric else []
        if without:
            cells.append(decibels(unit.without.sqnr_db) if unit.without else "")
            cells += [_points(unit.without)] if with_metric else []
        if len(columns) > len(cells) + (report.search is not None):
            cells.append("" if unit.local_db is None else decibels(unit.local_db))
        return cells + (["yes" if unit.name in chosen else ""] if report.search else [])

    heads, numeric = zip(*columns, strict=True)
    return Table(list(heads), list(numeric), [row(unit) for unit in report.units[:most]])


def steps_table(report: SensitivityReport) -> Table:
    """A row for each step of the search."""
    steps = report.search.steps if report.search is not None else []
    heads = [
        "step",
        "left out",
        "MACs",
        report.metric or "",
        "points lost",
        "SQNR",
        "within budget",
    ]
    numeric = [False, True, True, True, True, True, False]
    rows = [
        [
            step.action,
            str(len(step.excluded)),
            f"{step.share:.1%}",
            "" if step.effect.metric is None else f"{step.effect.metric:.2%}",
            _points(step.effect),
            decibels(step.effect.sqnr_db),
            "yes" if step.within else "no",
        ]
        for step in steps
    ]
    if report.metric is None:
        heads, numeric = heads[:3] + heads[5:], numeric[:3] + numeric[5:]
        rows = [row[:3] + row[5:] for row in rows]
    return Table(heads, numeric, rows)


def facts(report: SensitivityReport) -> list[str]:
    """What belongs to the tables, in sentences."""
    found = [
        f"{report.data}, {report.images} images, {report.runtime}. "
        + (f"Ranges by {report.estimator}. " if report.estimator else "")
        + (
            f"In float32: {report.metric} {report.float32:.2%}."
            if report.float32 is not None
            else ""
        ),
        f"All in {report.precision}: {described(report.together, report.metric)}. The noise of the "
        f"units adds up to {decibels(report.predicted_db)}.",
    ]
    if report.search is not None:
        found.append(report.verdict)
    return found + report.notes


def to_markdown(report: SensitivityReport) -> str:
    """The tables to paste, and what belongs to them."""
    parts = [
        f"# {report.precision} in {plain(report.model)}, by {report.by}",
        *map(plain, facts(report)),
        markdown_table(units_table(report), code_columns=1),
    ]
    if report.search is not None:
        parts += ["## Search", markdown_table(steps_table(report), code_columns=0)]
    if report.skipped:
        rows = [[str(len(nodes)), reason] for reason, nodes in report.skipped.items()]
        parts += [
            "## In higher precision anyway",
            markdown_table(Table(["nodes", "why"], [True, False], rows), code_columns=0),
        ]
    return "\n\n".join(parts) + "\n"


def to_html(report: SensitivityReport) -> str:
    """The page, about 5 MB because of plotly's library.

    Raises:
        MissingDependencyError: plotly is not installed.
    """
    shown = [_noise(report), _worth(report)]
    if report.search is not None and report.search.steps:
        shown.append(_path(report))
    title = f"{report.precision} in {report.model}"
    sentences = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in facts(report))
    parts = [
        f"<header><h1>{html.escape(title)}</h1><p class='facts'>{html.escape(report.created_by)}"
        "</p></header>",
        section("Result", sentences),
        *map(figure, shown),
        section("Units", table(units_table(report))),
    ]
    if report.search is not None:
        parts.append(section("Search", table(steps_table(report))))
    return document(f"Sensitivity: {title}", parts, shown)


def _points(effect: Effect | None) -> str:
    return "" if effect is None or effect.drop is None else f"{effect.drop:.2f}"


def _colours(report: SensitivityReport, units: Sequence[UnitReport]) -> list[str]:
    chosen = set(report.search.excluded) if report.search is not None else set()
    return [_LEFT_OUT if unit.name in chosen else _KEPT for unit in units]


def _hover(report: SensitivityReport, unit: UnitReport) -> str:
    return (
        f"{label(unit.name, 120)}<br>{label(described(unit.alone, report.metric), 120)}<br>"
        f"{unit.share:.2%} of the multiply-accumulates"
    )


def _noise(report: SensitivityReport) -> Plot:
    units = report.units[:_SHOWN]
    total = sum(unit.alone.noise or 0.0 for unit in report.units) or 1.0
    shares = [1.0 if unit.alone.noise is None else unit.alone.noise / total for unit in units]
    trace: Trace = {
        "type": "bar",
        "orientation": "h",
        "x": [round(100 * share, 6) for share in shares],
        "y": list(range(len(units))),
        "text": [decibels(unit.alone.sqnr_db) for unit in units],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": _colours(report, units)},
        "hovertext": [_hover(report, unit) for unit in units],
        "hoverinfo": "text",
    }
    layout = bars([unit.name for unit in units], "% of the noise", bar=_BAR)
    # Room for the text beside the longest bar.
    layout["xaxis"]["range"] = [0, 120 * max(shares) or 1]
    caption = (
        "Share of the noise in the outputs, of all units measured one by one, with the SQNR that "
        f"each leaves. The most harmful {len(units)} of {len(report.units)}."
    )
    return Plot("noise", "Where the noise comes from", caption + _legend(report), [trace], layout)


def _worth(report: SensitivityReport) -> Plot:
    units = [unit for unit in report.units if unit.alone.sqnr_db is not None]
    trace: Trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [round(100 * unit.share, 4) for unit in units],
        "y": [round(unit.alone.sqnr_db or 0.0, 3) for unit in units],
        "marker": {"size": 9, "opacity": 0.8, "color": _colours(report, units)},
        "hovertext": [_hover(report, unit) for unit in units],
        "hoverinfo": "text",
    }
    layout = {
        "height": 380,
        "xaxis": {"title": {"text": "% of the multiply-accumulates"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "SQNR alone, dB"}},
        "hovermode": "closest",
        "showlegend": False,
    }
    caption = (
        "To the right: much work that lower precision may speed up. Below: much harm. What is low "
        "and on the left is worth leaving out first."
    )
    return Plot("worth", "What is worth it", caption + _legend(report), [trace], layout)


def _path(report: SensitivityReport) -> Plot:
    assert report.search is not None
    steps, budget = report.search.steps, report.search.max_drop
    by_metric = budget is not None and all(step.effect.drop is not None for step in steps)
    values = [
        step.effect.drop if by_metric else step.effect.sqnr_db for step in steps
    ]  # None leaves a gap
    limit = budget if by_metric else report.search.min_sqnr

    def hover(step: StepReport) -> str:
        return (
            f"{label(step.action, 120)}<br>{label(described(step.effect, report.metric), 120)}<br>"
            f"{step.share:.1%} of the multiply-accumulates in {report.precision}"
        )

    trace: Trace = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": list(range(1, len(steps) + 1)),
        "y": [None if value is None else round(value, 4) for value in values],
        "line": {"width": 2, "color": _KEPT},
        "marker": {"size": 9, "color": ["#2f9e77" if s.within else _LEFT_OUT for s in steps]},
        "hovertext": [hover(step) for step in steps],
        "hoverinfo": "text",
    }
    layout = {
        "height": 340,
        "xaxis": {"title": {"text": "step"}, "dtick": max(1, len(steps) // 20)},
        "yaxis": {
            "title": {"text": f"points of {report.metric} lost" if by_metric else "SQNR, dB"}
        },
        "hovermode": "closest",
        "showlegend": False,
        "shapes": [
            {
                "type": "line",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": limit,
                "y1": limit,
                "line": {"dash": "dash", "color": _LEFT_OUT},
            }
        ],
    }
    caption = f"Every step is a measurement on {report.search.images} images; dashed: the budget."
    return Plot("search", "The search", caption, [trace], layout)


def _legend(report: SensitivityReport) -> str:
    return " Orange: left out." if report.search is not None and report.search.excluded else ""
