"""Tables whose cells are more than text: heat maps, bars, verdicts. Every shade has its number."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Sequence

from dinat_deploy.measurement.tables import significant
from dinat_deploy.reporting.records import (
    ArtefactRecord,
    BundleRecord,
    LayerParity,
    ReportData,
    Run,
)
from dinat_deploy.reporting.tables import count
from dinat_deploy.reporting.verdicts import MARKS, MEANINGS, judge, small

# Where a shade begins; it is full at 1. Of an error over its limit, of a relative error, and of
# 1 - cosine, which grows with the square of an error.
_LEAST = {"limit": 1e-4, "relative": 1e-7, "cosine": 1e-14}
_FULL = 75  # percent of the colour, so that the number stays legible
# What a layer of a runtime belongs to, by the name of its nodes.
_BLOCK = re.compile(r"levels\.\d+\.(?:blocks\.\d+|downsample)|patch_embed|\bhead\b")
OTHER = "other"


def verdicts(data: ReportData) -> str:
    """One row for each artefact, which narrow screens show as a list."""
    heads = ("accuracy", "parity with PyTorch", "speed", "size")
    rows = ""
    for each in judge(data):
        cells = "".join(
            f"<td data-head='{head}' class='verdict {verdict.kind}'><div>"
            f"<b>{MARKS[verdict.kind]}</b><span>{html.escape(verdict.text)}</span></div></td>"
            for head, verdict in zip(heads, each.all, strict=True)
        )
        facts = html.escape("; ".join(each.artefact.facts))
        rows += f"<tr><th scope='row'>{html.escape(each.artefact.name)}<small>{facts}</small></th>"
        rows += f"{cells}</tr>"
    head = "".join(f"<th class='text' scope='col'>{text}</th>" for text in ("artefact", *heads))
    legend = ", ".join(f"{MARKS[kind]} {meaning}" for kind, meaning in MEANINGS.items())
    return (
        f"<table class='verdicts'><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        f"<p class='note legend'>{legend}. Limits: of parity those of the precision, of accuracy "
        "--max-drop.</p>"
    )


def heat_maps(data: ReportData) -> str:
    """Errors of each layer of each artefact that was compared, by bundle; empty if none was."""
    maps = [(bundle.name, _heat_map(bundle)) for bundle in data.bundles]
    content = "".join(f"<h3>{html.escape(name)}</h3>{text}" for name, text in maps if text)
    return f"<p class='note'>{html.escape(_SHADES)}</p>{content}" if content else ""


_SHADES = (
    "The output of each layer against PyTorch's, in the order in which they run. The stronger the "
    "colour, the larger, on logarithmic scales: the largest error up to its limit; the same over "
    "the largest value, up to 1; and 1 - cosine of the angle between both outputs, up to 1. "
    f"{MARKS['bad']} and a frame: outside the limit."
)


def _heat_map(bundle: BundleRecord) -> str:
    compared = [a for a in bundle.artefacts if a.layers is not None]
    if not compared:
        return ""
    found = {a.name: {x.name: x for x in a.layers.layers} for a in compared if a.layers}
    names = list(dict.fromkeys(name for layers in found.values() for name in layers))
    groups = "".join(
        f"<th colspan='3' scope='colgroup' class='group'>{html.escape(a.name)}</th>"
        for a in compared
    )
    metrics = "".join(
        f"<th scope='col' class='number{first}'>{head}</th>"
        for _ in compared
        for head, first in (("max. error", " first"), ("relative", ""), ("1 - cosine", ""))
    )
    rows = ""
    for name in names:
        cells = "".join(_errors(found[a.name].get(name)) for a in compared)
        rows += f"<tr><th scope='row'>{html.escape(name)}</th>{cells}</tr>"
    return (
        "<div class='scroll'><table class='heat'><thead>"
        f"<tr><th></th>{groups}</tr><tr><th class='text' scope='col'>layer</th>{metrics}</tr>"
        f"</thead><tbody>{rows}</tbody></table></div>"
        f"<p class='note'>{html.escape(_of_origins(compared))}</p>"
    )


def _of_origins(compared: Sequence[ArtefactRecord]) -> str:
    """What was compared, where, and on which input; what all share is said once."""
    origins: dict[tuple[str, str, str], list[str]] = {}
    for each in compared:
        if each.layers is not None:
            key = (each.layers.runtime, each.layers.case, each.layers.origin)
            origins.setdefault(key, []).append(each.name)
    return " ".join(
        f"{', '.join(names)}: {runtime}, input {case}, {origin}."
        for (runtime, case, origin), names in origins.items()
    )


def _errors(layer: LayerParity | None) -> str:
    if layer is None:
        return "<td class='first'></td><td></td><td></td>"
    share = None
    if layer.max_abs is not None and layer.limit:
        share = layer.max_abs / layer.limit
    angle = None if layer.cosine is None else max(0.0, 1 - layer.cosine)
    failed = "" if layer.passed else f"{MARKS['bad']} "
    outside = "" if layer.passed else " outside"
    return (
        _shaded(f"{failed}{_number(layer.max_abs)}", share, "limit", f"first{outside}")
        + _shaded(_number(layer.relative), layer.relative, "relative", "")
        + _shaded(_number(angle), angle, "cosine", "")
    )


def _shaded(text: str, value: float | None, scale: str, kind: str) -> str:
    return (
        f"<td class='number {kind}' style='--level: {_level(value, _LEAST[scale])}%'>"
        f"{html.escape(text)}</td>"
    )


def _level(value: float | None, least: float) -> int:
    """How strong a shade is, in percent of its colour; not finite is the strongest."""
    if value is None:
        return _FULL
    if value <= least:
        return 0
    return round(_FULL * min(1.0, math.log(value / least) / math.log(1 / least)))


def _number(value: float | None) -> str:
    return "not finite" if value is None else small(value)


def block_bars(data: ReportData) -> str:
    """Time of each block in each run whose layers were timed, beside the calculated work, bundle by
    bundle; empty if neither is known."""
    charts = [(bundle.name, _chart(bundle)) for bundle in data.bundles]
    content = "".join(f"<h3>{html.escape(name)}</h3>{text}" for name, text in charts if text)
    return f"<p class='note'>{html.escape(_BARS)}</p>{content}" if content else ""


_BARS = (
    "Times: measured layer by layer, in runs of their own; a fused layer counts for the block that "
    "its name begins with, and what has no block's name is under other. Work: multiply-accumulates "
    "of one image, calculated from the configuration and not measured. Hatched: neighborhood "
    "attention itself, without its Linears. Bars are relative to the longest of their column."
)


def _chart(bundle: BundleRecord) -> str:
    runs = [run for a in bundle.artefacts for run in a.runs if run.result.layers]
    if not runs and not bundle.blocks:
        return ""
    times = [_times(run) for run in runs]
    work = {block.name: (float(block.macs), float(block.attention_macs)) for block in bundle.blocks}
    names = dict.fromkeys([*work, *(name for each in times for name in each if name != OTHER)])
    if any(OTHER in each for each in times):
        names[OTHER] = None
    columns: list[tuple[str, dict[str, tuple[float, float]], Callable[[float], str]]] = []
    if work:
        columns.append(("calculated work, MACs", work, _macs))
    columns += [
        (f"{run.name}, ms", each, significant) for run, each in zip(runs, times, strict=True)
    ]
    heads = "".join(f"<th class='text' scope='col'>{html.escape(c[0])}</th>" for c in columns)
    rows = ""
    for name in names:
        cells = "".join(
            _bar(values.get(name), max(whole for whole, _ in values.values()), shown)
            for _, values, shown in columns
        )
        rows += f"<tr><th scope='row'>{html.escape(name)}</th>{cells}</tr>"
    absent = "" if runs else "<p class='note'>No layers were timed.</p>"
    return (
        "<div class='scroll'><table class='bars'><thead><tr><th class='text' scope='col'>block"
        f"</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>{absent}"
    )


def _macs(value: float) -> str:
    """Multiply-accumulates for people."""
    return count(round(value)) or "0"


def _times(run: Run) -> dict[str, tuple[float, float]]:
    """Block -> milliseconds, and those of the attention in it."""
    found: dict[str, tuple[float, float]] = {}
    for layer in run.result.layers:
        place = _BLOCK.search(layer.name)
        name = place[0] if place else OTHER
        whole, attention = found.get(name, (0.0, 0.0))
        own = layer.milliseconds
        found[name] = (whole + own, attention + own * layer.attention)
    return found


def _bar(value: tuple[float, float] | None, most: float, shown: Callable[[float], str]) -> str:
    if value is None:
        return "<td></td>"
    whole, attention = value
    scale = 100 / most if most else 0.0
    return (
        "<td><div class='bar'><div class='track'>"
        f"<i class='part attention' style='width: {attention * scale:.1f}%'></i>"
        f"<i class='part' style='width: {(whole - attention) * scale:.1f}%'></i></div>"
        f"<span>{html.escape(shown(whole))}</span></div></td>"
    )
