"""A report as one HTML page that needs nothing else.

What comes from users and files is escaped here, in :mod:`.cells`, and for plotly in
:mod:`dinat_deploy.measurement.plots`.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from importlib import resources

from dinat_deploy.evaluation.records import METRICS
from dinat_deploy.measurement.page import document, figure, section, table
from dinat_deploy.measurement.plots import Plot
from dinat_deploy.measurement.tables import Table, significant
from dinat_deploy.reporting import cells, tables
from dinat_deploy.reporting.plots import plots
from dinat_deploy.reporting.records import BundleRecord, ReportData, Session
from dinat_deploy.reporting.verdicts import megabytes, per_image, percent, primary, summary


def to_html(data: ReportData) -> str:
    """The page, about 5 MB because of plotly's library.

    Raises:
        MissingDependencyError: plotly is not installed.
    """
    drawn = plots(data)
    shown = [plot for group in drawn.values() for plot in group]
    parts = [
        _header(data),
        f"<div class='cards'>{''.join(map(_card, data.bundles))}</div>",
        section("Verdicts", cells.verdicts(data)),
        section("Bundles side by side", table(tables.bundles(data))),
        _remarks(data),
        _group("Accuracy", tables.accuracy(data), drawn["accuracy"], _no_accuracy(data)),
        _group("Latency", tables.latency(data), drawn["latency"], "Nothing was measured."),
        _group("Power", tables.power(data), drawn["power"], _NO_POWER),
        _group("Size and memory", tables.sizes(data), drawn["size"], ""),
        *map(figure, drawn["roofline"]),
        *map(figure, drawn["layers"]),
        *_filled("Blocks", cells.block_bars(data)),
        *_filled("Parity of the layers", cells.heat_maps(data)),
        *map(figure, drawn.get("sensitivity", [])),
        _missing(data),
        _conditions(data),
    ]
    names = ", ".join(bundle.name for bundle in data.bundles)
    style = (resources.files("dinat_deploy.reporting") / "assets" / "report.css").read_text(
        encoding="utf-8"
    )
    return document(f"Report: {names}", parts, shown, style=style)


_NO_POWER = (
    "Not measured. `dinat-deploy report --power` measures it where something tells it (NVML, or "
    "the rails of a Jetson)."
)


def _no_accuracy(data: ReportData) -> str:
    text = "Not measured: `dinat-deploy report --data DATA` evaluates all artefacts."
    known = [f"{b.name}: {score}" for b in data.bundles if (score := tables.published(b))]
    return text + (f" Published: {'; '.join(known)}." if known else "")


def _header(data: ReportData) -> str:
    day = data.started.replace("T", " ").replace("+00:00", " UTC")
    machine = data.environment.get("GPU") or data.environment.get("processor", "")
    facts = [entry for entry in (day, machine, data.created_by) if entry]
    return (
        "<header><h1>Report</h1><p class='facts'>"
        + " &middot; ".join(map(html.escape, facts))
        + f"</p><p class='outcome'>{html.escape(summary(data))}</p></header>"
    )


def _card(bundle: BundleRecord) -> str:
    runs = [run for artefact in bundle.artefacts for run in artefact.runs]
    notes = []
    if runs:
        run = min(runs, key=per_image)
        big, unit = significant(per_image(run)), "ms an image"
        notes.append(f"{run.name}, the fastest of {len(runs)}")
    else:
        size = bundle.float32.bytes
        big, unit = (megabytes(size).split(" ")[0], "MB in float32") if size else ("?", "")
    scored = [a.accuracy[-1] for a in bundle.artefacts if a.accuracy]
    known = [(primary(s) or 0.0, s) for s in scored if s.metric != "agreement"]
    if known:
        best, score = max(known, key=lambda each: each[0])
        notes.append(f"{percent(best)} {METRICS.get(score.metric, score.metric)} at best")
    if bundle.published is not None:
        notes.append(f"published: {bundle.published.percent:.1f} % {bundle.published.measure}")
    if bundle.parameters is not None and bundle.macs is not None:
        notes.append(
            f"{tables.count(bundle.parameters)} parameters, {tables.count(bundle.macs)} MACs"
        )
    if bundle.seeded:
        notes.append("random weights")
    return (
        "<article class='card bundle'>"
        f"<h2>{html.escape(bundle.name)}</h2>"
        f"<p class='big'>{html.escape(big)}<small> {html.escape(unit)}</small></p>"
        f"<p>{'<br>'.join(map(html.escape, notes))}</p></article>"
    )


def _group(title: str, shown: Table | None, drawn: Sequence[Plot], absent: str) -> str:
    """A table and its plots; without figures, what makes them."""
    if shown is None:
        return section(title, f"<p class='note'>{_with_code(absent)}</p>")
    kept, told = tables.without_shared(shown)
    note = f"<p class='note'>{html.escape(told)}</p>" if told else ""
    return section(title, table(kept) + note) + "".join(map(figure, drawn))


def _filled(title: str, content: str) -> list[str]:
    return [section(title, content)] if content else []


def _with_code(text: str) -> str:
    """Escaped, with what stands between backquotes as code."""
    parts = html.escape(text).split("`")
    return "".join(f"<code>{p}</code>" if i % 2 else p for i, p in enumerate(parts))


def _remarks(data: ReportData) -> str:
    warnings = [(s.origin, s.warnings) for s in data.sessions]
    warnings += [(run.name, run.result.warnings) for run in data.runs]
    notes = [("", data.notes), *((run.name, run.result.notes) for run in data.runs)]
    found = ""
    for title, kind, groups in (("Warnings", "warning", warnings), ("Notes", "notice", notes)):
        items = ""
        for name, remarks in groups:
            said = " ".join(dict.fromkeys(remarks))
            if said:
                items += f"<li>{html.escape(f'{name}: {said}' if name else said)}</li>"
        if items:
            found += f"<section class='{kind}'><h2>{title}</h2><ul>{items}</ul></section>"
    return found


def _missing(data: ReportData) -> str:
    found = tables.missing(data)
    if not found.rows:
        return ""
    rows = ""
    for what, names, why, commands in found.rows:
        code = "<br>".join(f"<code>{html.escape(line)}</code>" for line in commands.splitlines())
        rows += (
            f"<tr><th scope='row'>{html.escape(what)}</th><td class='text'>{html.escape(names)}"
            f"</td><td class='text why'>{html.escape(why)}</td><td class='text'>{code}</td></tr>"
        )
    heads = "".join(f"<th class='text' scope='col'>{html.escape(h)}</th>" for h in found.heads)
    return section(
        "Not measured here",
        f"<div class='scroll'><table class='missing'><thead><tr>{heads}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div><p class='note'>A FILE.json that a command writes "
        "comes into the report with --results FILE.json, or by itself if it lies in the bundle."
        "</p>",
    )


def _conditions(data: ReportData) -> str:
    content = "".join(map(_session, data.sessions))
    machine = _facts(data.environment)
    content += f"<h3>The machine that made this report</h3><dl>{machine}</dl>"
    return section("How it was measured", content)


def _session(session: Session) -> str:
    return (
        f"<h3>{html.escape(session.origin)}</h3>"
        f"<p>{html.escape(session.protocol)}; {html.escape(session.started)}.</p>"
        f"<pre><code>{html.escape(session.command)}</code></pre>"
        f"<details><summary>Machine</summary><dl>{_facts(session.environment)}</dl></details>"
    )


def _facts(environment: dict[str, str]) -> str:
    return "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>"
        for name, value in environment.items()
    )
