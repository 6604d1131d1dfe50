"""The roofline: what runs achieve, under what their devices allow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dinat_deploy.measurement.plots import Plot, Trace, label, logarithmic
from dinat_deploy.measurement.records import Floor
from dinat_deploy.measurement.tables import significant
from dinat_deploy.reporting.records import Run
from dinat_deploy.reporting.style import marker, rounded
from dinat_deploy.reporting.verdicts import per_image

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_ROOF = "#8fa3b8"
_LEGEND_ROW = 24  # pixels
# Roofs that differ by less are drawn as one.
_SAME = 0.05


def roofline(runs: Sequence[Run]) -> list[Plot]:
    """Achieved rates under the roofs of their devices, on two logarithmic axes."""
    known = [
        (run, run.result.floor, run.result.work)
        for run in runs
        if run.result.floor is not None
        and run.result.work is not None
        and min(run.result.floor.peak_tflops, run.result.floor.bandwidth_gbs) > 0
    ]
    found = []
    for run, floor, work in known:
        assert floor is not None and work is not None
        moved = work.weight_bytes + work.io_bytes
        seconds = per_image(run) * run.result.batch / 1e3
        if work.macs and moved and seconds:
            found.append((run, floor, 2 * work.macs / moved, 2 * work.macs / seconds / 1e12))
    if not found:
        return []
    intensities = [x for _, _, x, _ in found]
    roofs = _roofs([floor for _, floor, _, _ in found])
    ridges = [1e3 * floor.peak_tflops / floor.bandwidth_gbs for floor in roofs]
    low, high = min(*intensities, *ridges) / 4, max(*intensities, *ridges) * 4
    traces = [_roof(floor, number, low, high) for number, floor in enumerate(roofs)]
    for number, (run, floor, intensity, rate) in enumerate(found):
        limit = min(floor.peak_tflops, intensity * floor.bandwidth_gbs / 1e3)
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": label(run.name),
                "x": [rounded(intensity)],
                "y": [rounded(rate)],
                "marker": marker(number, 13),
                "hovertext": f"{label(run.name)}: {significant(rate)} TFLOP/s, {rate / limit:.0%} "
                f"of what {label(floor.device)} allows",
                "hoverinfo": "text",
            }
        )
    layout: dict[str, Any] = {
        "height": 400 + _LEGEND_ROW * math.ceil(len(traces) / 3),
        "xaxis": {
            "title": {"text": "operations for each byte"},
        },
        "yaxis": {"title": {"text": "TFLOP/s"}},
        "hovermode": "closest",
        "showlegend": True,
    }
    rates = [*(rate for _, _, _, rate in found), *(floor.peak_tflops for floor in roofs)]
    logarithmic(layout["xaxis"], low, high)
    logarithmic(layout["yaxis"], min(rates) / 5, max(rates) * 1.5)
    left_out = len(runs) - len(found)
    return [
        Plot(
            "roofline",
            "Roofline",
            "The slope is what the memory allows, the level what the arithmetic does; a mark below "
            "a roof leaves so much unused. Operations are two for each multiply-accumulate, bytes "
            "those of weights, inputs and outputs, read or written once."
            + (f" {_left_out(left_out)}" if left_out else ""),
            traces,
            layout,
        )
    ]


def _left_out(number: int) -> str:
    if number == 1:
        return "One run is left out: the rate of its device in its precision is not known."
    return f"{number} runs are left out: the rate of their device in their precision is not known."


def _roofs(floors: Sequence[Floor]) -> list[Floor]:
    """Those that differ."""
    kept: list[Floor] = []
    for floor in floors:
        if not any(
            floor.device == other.device
            and abs(floor.peak_tflops / other.peak_tflops - 1) < _SAME
            and abs(floor.bandwidth_gbs / other.bandwidth_gbs - 1) < _SAME
            for other in kept
        ):
            kept.append(floor)
    return kept


def _roof(floor: Floor, number: int, low: float, high: float) -> Trace:
    ridge = 1e3 * floor.peak_tflops / floor.bandwidth_gbs
    slope = floor.bandwidth_gbs / 1e3
    name = (
        f"{label(floor.device)}, {floor.source}: {significant(floor.peak_tflops)} TFLOP/s, "
        f"{significant(floor.bandwidth_gbs)} GB/s"
    )
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [rounded(x) for x in (low, ridge, high)],
        "y": [rounded(y) for y in (low * slope, floor.peak_tflops, floor.peak_tflops)],
        "line": {"width": 2, "color": _ROOF, "dash": _DASHES[number % len(_DASHES)]},
        "hovertext": name,
        "hoverinfo": "text",
    }
