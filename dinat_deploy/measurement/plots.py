"""The page's plots, as plain data in plotly's terms; colours of text and grid come from the page.

plotly reads a few tags and entities in texts, so every name goes through :func:`label` first.
"""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dinat_deploy.measurement.records import ArtefactResult, BenchReport
from dinat_deploy.measurement.tables import (
    ATTENTION,
    per_gmac,
    run_time,
    significant,
    time_by_kind,
    times_floor,
)

Trace = dict[str, Any]

# Told apart by people with any colour vision, and legible on white and on black.
PALETTE = (
    "#3b82c4", "#e0812b", "#2f9e77", "#c2539a", "#8f7ae0", "#c9a227", "#4fb3d0", "#a65b4b",
)  # fmt: skip
_HIGHLIGHT, _PLAIN = "#e0812b", "#8fa3b8"
_REMAINDER = "rgba(143, 163, 184, 0.45)"
KIND_COLOURS = ("#2f6ea8", "#74a7d6", "#2f9e77", "#8ecfb4", "#7d6bd0", "#b9aef0", "#5f7486")
_ECDF_POINTS, _TIME_POINTS, _TOP_LAYERS = 400, 1500, 15
_NAME_LENGTH, _SHORT_LENGTH = 42, 16
_BAR, _FRAME = 34, 90  # pixels


@dataclass(frozen=True)
class Plot:
    """A plot and what is said about it.

    Attributes:
        key: unique on the page.
        traces, layout: as plotly wants them.
    """

    key: str
    title: str
    caption: str
    traces: list[Trace]
    layout: dict[str, Any]


def plots(report: BenchReport) -> list[Plot]:
    """All plots for which there are figures, in the order of the page."""
    results, streams = report.results, report.options.streams
    found = [_distribution(results), _over_time(results)]
    if len([r for r in results if r.work]) > 1:
        found.append(_per_mac(results, streams))
    if any(r.floor for r in results):
        found.append(_floors(results, streams))
    if any(r.layers for r in results):
        found.append(_kinds(results))
    found += [_layers(i, r) for i, r in enumerate(results) if r.layers]
    return found


def label(text: str, length: int = _NAME_LENGTH) -> str:
    """A name as plotly shows it literally, shortened in the middle."""
    text = " ".join(text.split())
    if len(text) > length:
        kept = length - 1
        text = f"{text[: kept // 3]}…{text[-(kept - kept // 3) :]}"
    return html.escape(text, quote=False)


def colour(index: int) -> str:
    return PALETTE[index % len(PALETTE)]


def _distribution(results: Sequence[ArtefactResult]) -> Plot:
    traces = []
    for index, result in enumerate(results):
        ordered = sorted(result.samples)
        picked = _spread(len(ordered), _ECDF_POINTS)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": label(result.name),
                "x": [round(ordered[i], 5) for i in (0, *picked)],
                "y": [0.0, *(round(100 * (i + 1) / len(ordered), 3) for i in picked)],
                "line": {"shape": "hv", "width": 2, "color": colour(index)},
                "hovertemplate": "%{y:.1f} % of runs took at most %{x:.4~g} ms",
            }
        )
    low = min(min(r.samples) for r in results)
    high = max(sorted(r.samples)[math.ceil(0.99 * len(r.samples)) - 1] for r in results)
    margin = 0.03 * (high - low) or 0.03 * high
    layout = {
        "height": 380,
        "xaxis": {"title": {"text": "latency in ms"}, "range": [low - margin, high + margin]},
        "yaxis": {"title": {"text": "runs up to it, %"}, "range": [0, 101]},
        "hovermode": "closest",
        "showlegend": len(results) > 1,
    }
    return Plot(
        "distribution",
        "How latencies are distributed",
        "Share of the runs that took at most so long: the steeper, the steadier. The axis ends at "
        "the 99th percentile of the slowest artefact; double-click to see every run.",
        traces,
        layout,
    )


def _over_time(results: Sequence[ArtefactResult]) -> Plot:
    several = len(results) > 1
    traces: list[Trace] = []
    for index, result in enumerate(results):
        blocks = _blocks(result)
        where = [
            number + (i + 0.5) / len(block)
            for number, block in enumerate(blocks)
            for i in range(len(block))
        ]
        values = [value for block in blocks for value in block]
        picked = _extremes(values, _TIME_POINTS)
        shared = {"name": label(result.name), "legendgroup": str(index)}
        traces.append(
            {
                **shared,
                "type": "scatter",
                "mode": "markers",
                "x": [round(where[i], 4) for i in picked],
                "y": [round(values[i], 5) for i in picked],
                "marker": {"size": 4, "opacity": 0.35, "color": colour(index)},
                "showlegend": False,
                "hovertemplate": "%{y:.4~g} ms",
            }
        )
        traces.append(
            {
                **shared,
                "type": "scatter",
                "mode": "lines",
                "x": [number + 0.5 for number in range(len(blocks))],
                "y": [round(statistics.median(block), 5) for block in blocks],
                "line": {"width": 2.5, "color": colour(index)},
                "showlegend": several,
                "hovertemplate": "median of the block %{y:.4~g} ms",
            }
        )
    ordered = sorted(value for result in results for value in result.samples)
    high = ordered[math.ceil(0.995 * len(ordered)) - 1]
    margin = 0.06 * (high - ordered[0]) or 0.06 * high
    layout = {
        "height": 380,
        "xaxis": {"title": {"text": "round" if several else "block"}, "rangemode": "tozero"},
        "yaxis": {
            "title": {"text": "latency in ms"},
            "range": [ordered[0] - margin, high + margin],
        },
        "hovermode": "closest",
        "showlegend": several,
    }
    turns = (
        "In every round each artefact has one block of runs, so that a disturbance of the machine "
        "shows in all of them. "
        if several
        else ""
    )
    return Plot(
        "time",
        "Latency over the measurement",
        f"{turns}Points are runs, lines the medians of the blocks; a slope is drift.",
        traces,
        layout,
    )


def _per_mac(results: Sequence[ArtefactResult], streams: int) -> Plot:
    known = [(r, value) for r in results if (value := per_gmac(r, streams)) is not None]
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": [round(value, 5) for _, value in known],
        "y": list(range(len(known))),
        "text": [f"{significant(value)} ms" for _, value in known],
        "textposition": "auto",
        "marker": {"color": [colour(list(results).index(r)) for r, _ in known]},
        "hovertext": [_work_of(r) for r, _ in known],
        "hoverinfo": "text",
    }
    return Plot(
        "macs",
        "Time for a billion multiply-accumulates",
        "Models of different size side by side: the time of a run over its work.",
        [trace],
        bars([r.name for r, _ in known], "ms per GMAC"),
    )


def _floors(results: Sequence[ArtefactResult], streams: int) -> Plot:
    known = [r for r in results if r.floor]
    parts = [
        (run_time(r, streams), r.floor.total, times_floor(r, streams)) for r in known if r.floor
    ]
    rows = list(range(len(known)))
    colours = [colour(list(results).index(r)) for r in known]
    hover = [
        f"compute {significant(r.floor.compute)} ms, memory {significant(r.floor.memory)} ms on "
        f"{label(r.floor.device)} ({r.floor.source})"
        for r in known
        if r.floor
    ]
    floor: Trace = {
        "type": "bar",
        "orientation": "h",
        "name": "floor",
        "y": rows,
        "x": [round(total, 6) for _, total, _ in parts],
        "marker": {"color": colours},
        "hovertext": hover,
        "hoverinfo": "text",
    }
    rest: Trace = {
        "type": "bar",
        "orientation": "h",
        "name": "above it",
        "y": rows,
        "x": [round(max(0.0, time - total), 6) for time, total, _ in parts],
        "marker": {"color": colours, "opacity": 0.35},
        "text": [f"{significant(times)} x the floor" for _, _, times in parts if times is not None],
        "textposition": "outside",
        "cliponaxis": False,
        "hovertext": [f"{significant(time)} ms" for time, _, _ in parts],
        "hoverinfo": "text",
    }
    layout = bars([r.name for r in known], "ms") | {"barmode": "stack"}
    # Room for the text beside the longest bar.
    layout["xaxis"]["range"] = [0, 1.35 * max(max(time, total) for time, total, _ in parts)]
    return Plot(
        "floor",
        "How far from the device's limit",
        "Full colour: the larger of the times for the multiplications at the device's peak rate "
        "and for weights, inputs and outputs through its memory once. Pale: what the run takes "
        "beyond that.",
        [floor, rest],
        layout,
    )


@dataclass(frozen=True)
class KindTimes:
    """What the layers of a type take, or of all types beyond those that have a colour.

    Attributes:
        number: of its colour, from 0; None of attention and of the rest.
        milliseconds, shares: of each result; the shares are of the time of all layers (0 to 1).
    """

    name: str
    number: int | None
    milliseconds: list[float]
    shares: list[float]


def times_of_kinds(results: Sequence[ArtefactResult]) -> list[KindTimes]:
    """Attention first, then the types that take most, then the rest as one."""
    listed = time_by_kind(results)
    others = [kind for kind in listed if kind != ATTENTION]
    groups: list[tuple[str, int | None, list[str]]] = []
    if ATTENTION in listed:
        groups.append((ATTENTION, None, [ATTENTION]))
    groups += [(kind, i, [kind]) for i, kind in enumerate(others[: len(KIND_COLOURS)])]
    rest = others[len(KIND_COLOURS) :]
    if rest:
        groups.append((f"{len(rest)} other types", None, rest))
    totals = [sum(layer.milliseconds for layer in r.layers) for r in results]
    found = []
    for name, number, kinds in groups:
        times = [sum(listed[kind][i] for kind in kinds) for i in range(len(results))]
        shares = [time / total if total else 0.0 for time, total in zip(times, totals, strict=True)]
        found.append(KindTimes(name, number, times, shares))
    return found


def _shade(kind: KindTimes) -> str:
    if kind.number is not None:
        return KIND_COLOURS[kind.number]
    return _HIGHLIGHT if kind.name == ATTENTION else _REMAINDER


def _kinds(results: Sequence[ArtefactResult]) -> Plot:
    known = [r for r in results if r.layers]
    rows = list(range(len(known)))
    groups = times_of_kinds(known)
    traces: list[Trace] = []
    for kind in groups:
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": label(kind.name),
                "x": [round(time, 6) for time in kind.milliseconds],
                "y": rows,
                "marker": {"color": _shade(kind)},
                "text": [f"{share:.0%}" if share >= 0.04 else "" for share in kind.shares],
                "textposition": "inside",
                "insidetextanchor": "middle",
                "textangle": 0,
                "hovertext": [
                    f"{label(kind.name)}: {significant(time)} ms, {share:.1%}"
                    for time, share in zip(kind.milliseconds, kind.shares, strict=True)
                ],
                "hoverinfo": "text",
            }
        )
    layout = bars([r.name for r in known], "ms") | {"barmode": "stack", "showlegend": True}
    layout["height"] += _BAR * (1 + len(groups) // 5)  # the legend
    return Plot(
        "kinds",
        "Where the time goes",
        "Time of the layers by type, measured one by one in runs of their own.",
        traces,
        layout,
    )


def _layers(index: int, result: ArtefactResult) -> Plot:
    shown, rest = result.layers[:_TOP_LAYERS], result.layers[_TOP_LAYERS:]
    names = [layer.name for layer in shown]
    times = [layer.milliseconds for layer in shown]
    shares = [layer.share for layer in shown]
    colours = [_HIGHLIGHT if layer.attention else _PLAIN for layer in shown]
    hover = [f"{label(x.name, 120)}<br>{label(x.kind)}" for x in shown]
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": [round(time, 6) for time in times],
        "y": list(range(len(names))),
        "marker": {"color": colours},
        "text": [
            f"{significant(time)} ms, {share:.1%}"
            for time, share in zip(times, shares, strict=True)
        ],
        "textposition": "auto",
        "hovertext": hover,
        "hoverinfo": "text",
    }
    caption = f"The longest {len(shown)} of {len(result.layers)}."
    if rest:
        caption += (
            f" The others take {sum(layer.share for layer in rest):.1%} of the time together."
        )
    if any(layer.attention for layer in result.layers):
        caption += " Highlighted: neighborhood attention."
    layout = bars(names, "ms", bar=24)
    return Plot(f"layers-{index}", f"Layers of {result.name}", caption, [trace], layout)


def bars(names: Sequence[str], unit: str, bar: int = _BAR) -> dict[str, Any]:
    """Layout of horizontal bars, first on top; positions are numbers, as names may be alike."""
    return {
        "height": _FRAME + bar * len(names),
        "bargap": 0.25,
        "xaxis": {"title": {"text": unit}, "rangemode": "tozero"},
        "yaxis": {
            "autorange": "reversed",
            "showgrid": False,
            "zeroline": False,
            "tickmode": "array",
            "tickvals": list(range(len(names))),
            "ticktext": [label(name) for name in names],
            "automargin": True,
        },
        "showlegend": False,
        # For narrow screens; the page's script puts them in place.
        "meta": {"short": [label(name, _SHORT_LENGTH) for name in names]},
    }


def logarithmic(axis: dict[str, Any], low: float, high: float) -> None:
    """Give an axis a logarithmic scale with whole numbers at its ticks."""
    axis.pop("rangemode", None)
    low, high = max(low, 1e-30), min(high, 1e30)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 3e4 else (1,)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    ticks = [tick for tick in ticks if low <= tick <= high]
    axis |= {"type": "log", "range": [math.log10(low), math.log10(high)]}
    axis |= {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def _work_of(result: ArtefactResult) -> str:
    macs = result.work.macs / 1e9 if result.work else 0.0
    return f"{label(result.name)}: {significant(macs)} GMAC"


def _blocks(result: ArtefactResult) -> list[list[float]]:
    blocks, start = [], 0
    for size in result.blocks:
        blocks.append(result.samples[start : start + size])
        start += size
    return [block for block in blocks if block]


def _spread(count: int, most: int) -> list[int]:
    """At most so many positions, evenly spread, with the first and the last."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def _extremes(values: Sequence[float], most: int) -> list[int]:
    """Positions of the lowest and highest value of every stretch, so that no outlier is lost."""
    if len(values) <= most:
        return list(range(len(values)))
    step = math.ceil(2 * len(values) / most)
    picked = set()
    for start in range(0, len(values), step):
        stretch = range(start, min(start + step, len(values)))
        picked |= {min(stretch, key=values.__getitem__), max(stretch, key=values.__getitem__)}
    return sorted(picked)
