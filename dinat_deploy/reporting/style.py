"""Marks, patterns and axes that a report's plots share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dinat_deploy.measurement.plots import colour, logarithmic

_MARKS = (
    "circle", "square", "diamond", "cross", "triangle-up", "star", "hexagon", "pentagon", "x",
    "triangle-down",
)  # fmt: skip
# Beyond this ratio of the longest to the shortest time an axis is logarithmic.
_WIDE = 20.0


def marker(number: int, size: int) -> dict[str, Any]:
    return {
        "size": size,
        # Open, so that marks at the same place are seen.
        "symbol": f"{_MARKS[number % len(_MARKS)]}-open",
        "color": colour(number),
        "line": {"width": 2.5},
    }


def pattern_of(shape: str) -> dict[str, Any]:
    return {"shape": shape, "fillmode": "overlay", "fgopacity": 0.6}


def log_where_wide(axis: dict[str, Any], values: Sequence[float]) -> None:
    """Make an axis of times logarithmic where they differ much."""
    positive = [value for value in values if value > 0]
    if positive and max(positive) / min(positive) > _WIDE:
        logarithmic(axis, min(positive) / 1.3, max(positive) * 1.3)


def of_scale(layout: dict[str, Any]) -> str:
    return " The axis is logarithmic." if layout["xaxis"].get("type") == "log" else ""


def rounded(value: float) -> float:
    """Six digits, which is more than a plot shows."""
    return float(f"{value:.6g}")
