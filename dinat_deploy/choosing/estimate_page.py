"""Estimates as one HTML page: where the time goes, and models beside each other."""

from __future__ import annotations

import html
from collections.abc import Sequence

from dinat_deploy.choosing.devices import DEVICES
from dinat_deploy.choosing.estimate import Estimate
from dinat_deploy.measurement.page import document, figure, section, table
from dinat_deploy.measurement.plots import PALETTE, Plot, Trace, bars, label, logarithmic
from dinat_deploy.measurement.tables import Table, significant

NOT_MEASURED = (
    "An estimate: calculated from published rates, nothing was measured. The floor is what bytes "
    "and operations take at the device's peak rates, kernel by kernel; the estimate adds that no "
    "kernel is launched in less than the device's launch time."
)
_KINDS = {
    "attention": ("neighborhood attention", "#e0812b", "/"),
    "linear": ("Linears", "#3b82c4", ""),
    "convolution": ("convolutions", "#2f9e77", "."),
    "rest": ("norms and the rest", "#8fa3b8", "x"),
}
# More than colours, so that no device looks like another.
_MARKS = (
    "circle", "square", "diamond", "cross", "triangle-up", "star", "hexagon", "pentagon", "x",
    "triangle-down", "hexagram", "star-square", "hourglass", "bowtie", "triangle-left",
)  # fmt: skip


def to_html(found: Sequence[tuple[str, Estimate]]) -> str:
    """The page: of one estimate its stages, of several the models on each device.

    Args:
        found: (name of the model, estimate).

    Raises:
        MissingDependencyError: plotly is not installed.
    """
    if len(found) == 1:
        (name, only), shown = found[0], [_stages(found[0][1])]
        title = f"{name} on {only.device.figures.name}, {only.precision}"
        tables = table(stage_table(only))
    else:
        shown, title = [_models(found)], "Models and devices"
        tables = table(model_table(found))
    parts = [
        f"<header><h1>Estimate</h1><p class='facts'>{html.escape(title)}</p></header>",
        f"<section class='notice'><p>{html.escape(NOT_MEASURED)}</p></section>",
        *map(figure, shown),
        section("All figures", tables),
    ]
    return document(f"Estimate: {title}", parts, shown)


def stage_table(found: Estimate) -> Table:
    """One row for each kind of kernel in each stage, and the whole."""
    heads = ["stage", "kernels of", "kernels", "GMAC", "MB", "floor ms", "estimate ms", "share"]
    heads += ["bound by"]
    rows, whole = [], found.whole
    for stage, kind, time in [
        *((row.stage, _KINDS[row.kind][0], row.time) for row in found.rows),
        ("whole model", "", whole),
    ]:
        rows.append(
            [
                stage,
                kind,
                str(time.kernels),
                f"{time.macs / 1e9:.3f}",
                f"{time.bytes / 1e6:.2f}",
                significant(time.floor),
                significant(time.total),
                f"{time.total / whole.total:.1%}",
                time.bound,
            ]
        )
    return Table(heads, [False, False, *[True] * 6, False], rows)


def model_table(found: Sequence[tuple[str, Estimate]]) -> Table:
    """One row for each model, one column of milliseconds for each device."""
    models = list(dict.fromkeys(name for name, _ in found))
    devices = list(dict.fromkeys(each.device.name for _, each in found))
    cells = {(name, each.device.name): each for name, each in found}
    rows = []
    for name in models:
        first = cells[name, devices[0]]
        row = [name, "x".join(map(str, first.image_size)), f"{first.whole.macs / 1e9:.1f}"]
        rows.append([*row, *(significant(cells[name, to].whole.total) for to in devices)])
    return Table(["model", "pixels", "GMAC", *devices], [False, *[True] * (2 + len(devices))], rows)


def _stages(found: Estimate) -> Plot:
    stages = list(dict.fromkeys(row.stage for row in found.rows))
    traces: list[Trace] = []
    for kind, (title, shade, pattern) in _KINDS.items():
        rows = [row for row in found.rows if row.kind == kind]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": title,
                "x": [round(row.time.total, 6) for row in rows],
                "y": [stages.index(row.stage) for row in rows],
                "marker": {
                    "color": shade,
                    "pattern": {"shape": pattern, "fillmode": "overlay", "fgopacity": 0.6},
                },
                "hovertext": [
                    f"{title}: {significant(row.time.total)} ms, floor "
                    f"{significant(row.time.floor)} ms, {row.time.bound}"
                    for row in rows
                ],
                "hoverinfo": "text",
            }
        )
    layout = bars(stages, "ms") | {"barmode": "stack", "showlegend": True}
    layout["height"] += 40  # the legend
    share = f"{found.attention_share:.1%}"
    caption = f"Estimated time by stage; neighborhood attention has {share} of it."
    return Plot("stages", "Where the time goes", caption, traces, layout)


def _models(found: Sequence[tuple[str, Estimate]]) -> Plot:
    models = list(dict.fromkeys(name for name, _ in found))
    devices = list(dict.fromkeys(each.device.name for _, each in found))
    traces: list[Trace] = []
    for number, device in enumerate(devices):
        own = [(name, each) for name, each in found if each.device.name == device]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": label(DEVICES[device].figures.name),
                "x": [round(each.whole.total, 6) for _, each in own],
                "y": [models.index(name) for name, _ in own],
                "marker": {
                    "size": 10,
                    "color": PALETTE[number % len(PALETTE)],
                    # Open, so that marks at the same place are seen.
                    "symbol": f"{_MARKS[number % len(_MARKS)]}-open",
                    "line": {"width": 2},
                },
                "hovertext": [
                    f"{label(name)} on {label(device)}: {significant(each.whole.total)} ms, "
                    f"neighborhood attention {each.attention_share:.0%}"
                    for name, each in own
                ],
                "hoverinfo": "text",
            }
        )
    layout = bars(models, "ms of a pass (estimate)", bar=22)
    layout |= {"showlegend": True, "hovermode": "closest"}
    times = [each.whole.total for _, each in found]
    logarithmic(layout["xaxis"], min(times) / 1.3, max(times) * 1.3)
    layout["height"] += 22 * len(devices)  # the legend
    return Plot(
        "models",
        "Models and devices",
        "Estimated time of a pass; the axis is logarithmic.",
        traces,
        layout,
    )
