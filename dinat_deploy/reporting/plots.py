"""A report's plots, as of :mod:`dinat_deploy.measurement.plots`.

Marks and patterns tell apart what colours do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dinat_deploy.measurement.plots import (
    KIND_COLOURS,
    KindTimes,
    Plot,
    Trace,
    bars,
    label,
    times_of_kinds,
)
from dinat_deploy.measurement.tables import ATTENTION, significant
from dinat_deploy.reporting.records import ArtefactRecord, ReportData, Run, Sensitivity
from dinat_deploy.reporting.roofline import roofline
from dinat_deploy.reporting.style import (
    log_where_wide,
    marker,
    of_scale,
    pattern_of,
    rounded,
)
from dinat_deploy.reporting.tables import millijoules
from dinat_deploy.reporting.verdicts import fastest, megabytes, per_image, points, primary

_PATTERNS = ("", "\\", "x", "-", ".", "|", "+")
_HIGHLIGHT, _PLAIN = "#e0812b", "#3b82c4"
_REMAINDER = "#8fa3b8"
_LEGEND_ROW = 24  # pixels
_TOP_UNITS = 20


def plots(data: ReportData) -> dict[str, list[Plot]]:
    """All plots for which there are figures, by the part of the page that they belong to."""
    runs = data.runs
    found: dict[str, list[Plot]] = {
        "accuracy": [*_losses(data), *_trade(data)],
        "latency": [_percentiles(runs)] if runs else [],
        "power": _energy(runs),
        "size": _sizes(data.artefacts),
        "roofline": roofline(runs),
        "layers": _kinds([run for run in runs if run.result.layers]),
    }
    number = 0
    for bundle in data.bundles:
        for each in filter(lambda each: each.units, bundle.sensitivity):
            found.setdefault("sensitivity", []).append(_units(number, bundle.name, each))
            number += 1
    return found


def _percentiles(runs: Sequence[Run]) -> Plot:
    """A line from the fastest to the slowest run of each, with marks at the percentiles."""
    rows = list(range(len(runs)))
    results = [run.result for run in runs]
    spans: Trace = {
        "type": "scatter",
        "mode": "lines",
        "name": "fastest to slowest",
        "x": [v for r in results for v in (rounded(r.latency.min), rounded(r.latency.max), None)],
        "y": [v for row in rows for v in (row, row, None)],
        "line": {"width": 3, "color": _REMAINDER},
        "hoverinfo": "skip",
    }
    traces = [spans]
    names = sorted({p for r in results for p in r.latency.percentiles}, key=float)
    for number, name in enumerate(["median", *names]):
        values = [
            r.latency.median if name == "median" else r.latency.percentiles.get(name)
            for r in results
        ]
        known = [(row, value) for row, value in zip(rows, values, strict=True) if value is not None]
        title = name if name == "median" else f"p{name}"
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": title,
                "x": [rounded(value) for _, value in known],
                "y": [row for row, _ in known],
                "marker": marker(number, 11),
                "hovertext": [
                    f"{label(runs[row].name)}: {title} {significant(value)} ms"
                    for row, value in known
                ],
                "hoverinfo": "text",
            }
        )
    layout = bars([run.name for run in runs], "latency in ms") | {
        "showlegend": True,
        "hovermode": "closest",
    }
    layout["height"] += _LEGEND_ROW
    log_where_wide(layout["xaxis"], [v for r in results for v in (r.latency.min, r.latency.max)])
    layout["yaxis"] |= {"range": [len(rows) - 0.5, -0.5], "autorange": False}
    return Plot(
        "latency",
        "Latency percentiles",
        "Circle: the median, which half of the runs are faster than; further marks: the latency "
        "that so many percent of the runs do not exceed. The line goes from the fastest to the "
        "slowest run." + of_scale(layout),
        traces,
        layout,
    )


def _losses(data: ReportData) -> list[Plot]:
    """What artefacts lose against their reference, with intervals."""
    scored = [(a, s) for a in data.artefacts for s in a.accuracy if s.lost is not None]
    if not scored:
        return []
    lost = [s.lost for _, s in scored if s.lost is not None]
    trace: Trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [rounded(100 * each.value) for each in lost],
        "y": list(range(len(lost))),
        "marker": marker(0, 11),
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [rounded(100 * (each.high - each.value)) for each in lost],
            "arrayminus": [rounded(100 * (each.value - each.low)) for each in lost],
            "color": _REMAINDER,
            "thickness": 3,
            "width": 6,
        },
        "hovertext": [
            f"{label(a.name)}: {points(each.value)} points, {points(each.low)} to "
            f"{points(each.high)}"
            for (a, _), each in zip(scored, lost, strict=True)
        ],
        "hoverinfo": "text",
    }
    layout = bars([a.name for a, _ in scored], "loss in points; right of 0 is worse")
    layout["xaxis"] |= {"zeroline": True, "zerolinewidth": 2}
    layout["yaxis"] |= {"range": [len(lost) - 0.5, -0.5], "autorange": False}
    return [
        Plot(
            "loss",
            "Loss of accuracy against the reference",
            "With its 95 % interval: what so many images can tell. An interval on both sides of 0 "
            "may mean no loss at all.",
            [trace],
            layout,
        )
    ]


def _trade(data: ReportData) -> list[Plot]:
    """Accuracy against time of everything of which both are known, on the same data."""
    found = [
        (a, s, run)
        for a in data.artefacts
        if a.accuracy and (run := fastest(a)) is not None
        for s in [a.accuracy[-1]]
        if primary(s) is not None and s.metric != "agreement"
    ]
    if len(found) < 2 or len({(s.metric, s.data, s.images) for _, s, _ in found}) > 1:
        return []
    traces: list[Trace] = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": label(artefact.name),
            "x": [rounded(per_image(run))],
            "y": [rounded(100 * (primary(score) or 0.0))],
            "marker": marker(number, 13),
            "hovertext": f"{label(artefact.name)}: {100 * (primary(score) or 0.0):.2f} %, "
            f"{significant(per_image(run))} ms",
            "hoverinfo": "text",
        }
        for number, (artefact, score, run) in enumerate(found)
    ]
    layout: dict[str, Any] = {
        "height": 360 + _LEGEND_ROW * math.ceil(len(found) / 4),
        "xaxis": {"title": {"text": "ms an image"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "accuracy, %"}},
        "hovermode": "closest",
        "showlegend": True,
    }
    log_where_wide(layout["xaxis"], [per_image(run) for _, _, run in found])
    return [
        Plot(
            "trade",
            "Accuracy against time",
            "Further up is more accurate, further left is faster." + of_scale(layout),
            traces,
            layout,
        )
    ]


def _energy(runs: Sequence[Run]) -> list[Plot]:
    known = [
        (run, use.joules, run.result.batch)
        for run in runs
        if (use := run.result.power) is not None and use.joules is not None
    ]
    if not known:
        return []
    return [
        _plain_bars(
            "energy",
            "Energy of an image",
            "Of the whole device, measured in runs of their own.",
            [run.name for run, _, _ in known],
            [1e3 * joules / images for _, joules, images in known],
            [f"{millijoules(joules, images)} mJ" for _, joules, images in known],
            "mJ",
        )
    ]


def _sizes(artefacts: Sequence[ArtefactRecord]) -> list[Plot]:
    known = [(a, a.bytes) for a in artefacts if a.bytes is not None]
    if not known:
        return []
    return [
        _plain_bars(
            "size",
            "Files on disk",
            "The ONNX file with its weights, or the plan.",
            [a.name for a, _ in known],
            [size / 1e6 for _, size in known],
            [megabytes(size) for _, size in known],
            "MB",
        )
    ]


def _plain_bars(
    key: str,
    title: str,
    caption: str,
    names: Sequence[str],
    values: Sequence[float],
    texts: Sequence[str],
    unit: str,
) -> Plot:
    trace: Trace = {
        "type": "bar",
        "orientation": "h",
        "x": [rounded(value) for value in values],
        "y": list(range(len(names))),
        "text": list(texts),
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": _PLAIN},
        "hoverinfo": "skip",
    }
    layout = bars(names, unit, bar=28)
    # Room for the text beside the longest bar.
    layout["xaxis"]["range"] = [0, 1.2 * max([*values, 1e-9])]
    return Plot(key, title, caption, [trace], layout)


def _look(kind: KindTimes) -> tuple[str, str]:
    """Colour and pattern."""
    if kind.number is not None:
        return KIND_COLOURS[kind.number], _PATTERNS[kind.number]
    return (_HIGHLIGHT, "/") if kind.name == ATTENTION else (_REMAINDER, "x")


def _kinds(runs: Sequence[Run]) -> list[Plot]:
    if not runs:
        return []
    rows = list(range(len(runs)))
    groups = times_of_kinds([run.result for run in runs])
    traces: list[Trace] = []
    for kind in groups:
        shade, pattern = _look(kind)
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": label(kind.name),
                "x": [rounded(100 * share) for share in kind.shares],
                "y": rows,
                "marker": {"color": shade, "pattern": pattern_of(pattern)},
                "hovertext": [
                    f"{label(kind.name)}: {significant(time)} ms, {share:.1%}"
                    for time, share in zip(kind.milliseconds, kind.shares, strict=True)
                ],
                "hoverinfo": "text",
            }
        )
    layout = bars([run.name for run in runs], "% of the time of all layers") | {
        "barmode": "stack",
        "showlegend": True,
    }
    layout["xaxis"]["range"] = [0, 100]
    layout["height"] += _LEGEND_ROW * math.ceil(len(groups) / 4)
    return [
        Plot(
            "kinds",
            "Where the time goes",
            "Share of the layers by type, in runs of their own, in which every layer is timed.",
            traces,
            layout,
        )
    ]


def _units(number: int, name: str, found: Sensitivity) -> Plot:
    shown = found.units[:_TOP_UNITS]
    values = [unit.sqnr_db if unit.sqnr_db is not None else 0.0 for unit in shown]
    traces: list[Trace] = []
    for title, excluded in ((f"kept in {found.precision}", False), ("left out", True)):
        rows = [row for row, unit in enumerate(shown) if unit.excluded == excluded]
        if rows:
            decibels = [shown[row].sqnr_db for row in rows]
            traces.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": title,
                    "x": [rounded(values[row]) for row in rows],
                    "y": rows,
                    "marker": {
                        "color": _HIGHLIGHT if excluded else _PLAIN,
                        "pattern": pattern_of("/" if excluded else ""),
                    },
                    "text": ["not finite" if db is None else f"{db:.1f} dB" for db in decibels],
                    "textposition": "outside",
                    "cliponaxis": False,
                    "hoverinfo": "skip",
                }
            )
    layout = bars([unit.name for unit in shown], "SQNR in dB: shorter is worse", bar=24)
    layout["xaxis"]["range"] = [0, 1.2 * max([*values, 1.0])]
    layout |= {"barmode": "overlay", "showlegend": len(traces) > 1}
    layout["height"] += _LEGEND_ROW * (len(traces) > 1)
    more = len(found.units) - len(shown)
    caption = f"{found.verdict} ({found.data}; {found.origin})"
    if more:
        caption += f" {more} less harmful ones are not shown."
    title = f"What {found.precision} costs in {name}, by {found.by}"
    return Plot(f"sensitivity-{number}", title, caption, traces, layout)
