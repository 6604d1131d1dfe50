"""A measurement as one HTML page that needs nothing else: styles, plots and their library inside.

Names of artefacts and layers come from users and files. They are escaped for HTML here, and for
plotly in :mod:`dinat_deploy.measurement.plots`; the page's policy forbids it to load anything.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from dinat_deploy.errors import MissingDependencyError
from dinat_deploy.files import check_places
from dinat_deploy.measurement import tables
from dinat_deploy.measurement.plots import Plot, colour, plots
from dinat_deploy.measurement.records import BenchReport

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)


def to_html(report: BenchReport) -> str:
    """The page, about 5 MB because of plotly's library.

    Raises:
        MissingDependencyError: plotly is not installed.
    """
    shown = plots(report)
    parts = [
        _header(report),
        _cards(report),
        section("Summary", table(tables.summary(report), marked=True) + _reading(report)),
        _remarks(report),
        _power(report),
        *map(figure, shown),
        section("All figures", table(tables.details(report))),
        _conditions(report),
    ]
    return document(f"Benchmark: {', '.join(r.name for r in report.results)}", parts, shown)


def document(title: str, parts: Sequence[str], shown: Sequence[Plot], *, style: str = "") -> str:
    """A page with styles, plots and their library inside.

    Args:
        title: plain text.
        parts: HTML, as of :func:`section`, :func:`table` and :func:`figure`.
        shown: the plots whose places :func:`figure` made.
        style: CSS beside the page's own.

    Raises:
        MissingDependencyError: plotly is not installed.
    """
    library = plotly_library()
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{html.escape(title)}</title>
<style>{_asset("page.css")}{style}</style>
</head>
<body>
<main>
{"".join(parts)}
</main>
<script>{library}</script>
<script type="application/json" id="figures">{_json(shown)}</script>
<script>{_asset("page.js")}</script>
</body>
</html>
"""


def check_page(path: Path | None) -> None:
    """Find out before long work that its page could not be written; None is no page.

    Raises:
        OutputError: its place cannot be written to.
        MissingDependencyError: plotly is not installed.
    """
    if path is not None:
        check_places([path])
        plotly_library()


def plotly_library() -> str:
    """Plotly's library for a page.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise MissingDependencyError(
            "The HTML page needs plotly, which is not installed.",
            "pip install 'dinat-deploy[report]'",
        ) from None
    return str(get_plotlyjs())


def _asset(name: str) -> str:
    return (resources.files("dinat_deploy.measurement") / "assets" / name).read_text(
        encoding="utf-8"
    )


def _json(shown: Sequence[Plot]) -> str:
    """The plots' data; nothing in it can end the script element."""
    figures = {f"plot-{plot.key}": {"data": plot.traces, "layout": plot.layout} for plot in shown}
    encoded = json.dumps(figures, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        encoded = encoded.replace(character, f"\\u{ord(character):04x}")
    return encoded


def _header(report: BenchReport) -> str:
    machine = report.environment.get("GPU") or report.environment.get("processor", "")
    day = report.started.replace("T", " ").replace("+00:00", " UTC")
    facts = [entry for entry in (day, machine, report.created_by) if entry]
    return (
        "<header><h1>Benchmark</h1><p class='facts'>"
        + " &middot; ".join(map(html.escape, facts))
        + "</p></header>"
    )


def _cards(report: BenchReport) -> str:
    """The median latency of every artefact in large figures."""
    streams = report.options.streams
    cards = []
    for index, result in enumerate(report.results):
        median = tables.significant(result.latency.median)
        notes = [f"{tables.significant(result.throughput)} images/s"]
        if len(report.results) > 1:
            ratio = tables.time_ratio(result)
            notes.append("the baseline" if index == 0 else f"time ratio {ratio}")
        times = tables.times_floor(result, streams)
        if times is not None:
            notes.append(f"{tables.significant(times)} times the floor")
        use = result.power
        if use is not None and use.watts is not None and use.joules is not None:
            energy = tables.significant(1e3 * use.joules / result.batch)
            notes.append(f"{tables.significant(use.watts)} W, {energy} mJ an image")
        cards.append(
            f"<article class='card' style='--mark: {colour(index)}'>"
            f"<h2>{html.escape(result.name)}</h2>"
            f"<p class='big'>{median}<small> ms median</small></p>"
            f"<p>{'<br>'.join(map(html.escape, notes))}</p></article>"
        )
    return f"<div class='cards'>{''.join(cards)}</div>"


def _reading(report: BenchReport) -> str:
    sentences = tables.explanations(report)
    return f"<p class='note'>{html.escape(' '.join(sentences))}</p>" if sentences else ""


def _power(report: BenchReport) -> str:
    """Rails, temperatures and clocks, and how they were measured; empty where they were not."""
    if report.power is None:
        return ""
    sentences = html.escape(" ".join(tables.power_described(report)))
    shown = [tables.power(report), tables.conditions(report)]
    return section(
        "Power", f"<p class='note'>{sentences}</p>" + "".join(table(t) for t in shown if t)
    )


def _remarks(report: BenchReport) -> str:
    """Warnings of the machine and of every artefact, then notes."""
    warnings = [("", report.warnings), *((r.name, r.warnings) for r in report.results)]
    power = report.power.notes if report.power else []
    notes = [("", power), *((r.name, r.notes) for r in report.results)]
    found = ""
    for title, kind, groups in (("Warnings", "warning", warnings), ("Notes", "notice", notes)):
        content = ""
        for name, remarks in groups:
            if remarks:
                items = "".join(f"<li>{html.escape(remark)}</li>" for remark in remarks)
                head = f"<h3>{html.escape(name)}</h3>" if name else ""
                content += f"{head}<ul>{items}</ul>"
        if content:
            found += f"<section class='{kind}'><h2>{title}</h2>{content}</section>"
    return found


def figure(plot: Plot) -> str:
    """The place of a plot, with what is said about it."""
    return section(
        plot.title,
        f"<p class='note'>{html.escape(plot.caption)}</p>"
        f"<div class='plot' id='plot-{html.escape(plot.key)}' role='img' "
        f"aria-label='{html.escape(plot.title, quote=True)}'></div>",
    )


def _conditions(report: BenchReport) -> str:
    machine = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>"
        for name, value in report.environment.items()
    )
    return section(
        "How it was measured",
        f"<p>{html.escape(tables.described(report.options))}.</p>"
        f"<pre><code>{html.escape(report.command)}</code></pre><dl>{machine}</dl>",
    )


def section(title: str, content: str) -> str:
    """A part of the page with a heading.

    Args:
        content: HTML.
    """
    return f"<section><h2>{html.escape(title)}</h2>{content}</section>\n"


def table(table: tables.Table, *, marked: bool = False) -> str:
    """A table; ``marked`` gives every row the colour that its artefact has in the plots."""
    kinds = ["number" if numeric else "text" for numeric in table.numeric]

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{tag} class='{kind}'>{html.escape(cell)}</{tag}>"
            for kind, cell in zip(kinds, row, strict=True)
        )

    body = ""
    for index, row in enumerate(table.rows):
        mark = f" class='marked' style='--mark: {colour(index)}'" if marked else ""
        body += f"<tr{mark}>{cells('td', row)}</tr>"
    heads = f"<thead><tr>{cells('th', table.heads)}</tr></thead>"
    return f"<div class='scroll'><table>{heads}<tbody>{body}</tbody></table></div>"
