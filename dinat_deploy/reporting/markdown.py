"""A report as Markdown: the tables to paste, without plots."""

from __future__ import annotations

from dinat_deploy.measurement.report import markdown_table, plain
from dinat_deploy.measurement.tables import Table
from dinat_deploy.reporting import tables
from dinat_deploy.reporting.records import ReportData
from dinat_deploy.reporting.verdicts import summary


def to_markdown(data: ReportData) -> str:
    """Verdicts, bundles, accuracy, latency, power, sizes, and what is missing."""
    parts = [f"# Report: {plain(', '.join(b.name for b in data.bundles))}", plain(summary(data))]
    sections: list[tuple[str, Table | None]] = [
        ("Verdicts", tables.verdicts(data)),
        ("Bundles side by side", tables.bundles(data)),
        ("Accuracy", tables.accuracy(data)),
        ("Latency", tables.latency(data)),
        ("Power", tables.power(data)),
        ("Size and memory", tables.sizes(data)),
    ]
    for bundle in data.bundles:
        sections.append((f"Sensitivity of {bundle.name}", tables.units(bundle)))
    sections.append(("Not measured here", tables.missing(data)))
    for title, found in sections:
        if found is not None and found.rows:
            lines = [[cell.replace("\n", "; ") for cell in row] for row in found.rows]
            shown = Table(found.heads, found.numeric, lines)
            parts += [f"## {plain(title)}", markdown_table(shown, code_columns=0)]
    remarks = [*data.notes, *(w for session in data.sessions for w in session.warnings)]
    for run in data.runs:
        remarks += [f"{run.name}: {said}" for said in (*run.result.warnings, *run.result.notes)]
    if remarks:
        parts += ["## Notes", "\n".join(f"- {plain(each)}" for each in dict.fromkeys(remarks))]
    parts.append("\n".join(f"- {plain(k)}: {plain(v)}" for k, v in data.environment.items()))
    parts.append(f"Made by {data.created_by}, {data.started}.")
    return "\n\n".join(parts) + "\n"
