"""A measurement as JSON (all of it) and as Markdown (a table to paste, and what belongs to it)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from dinat_deploy.measurement.records import ArtefactResult, BenchReport
from dinat_deploy.measurement.tables import (
    Table,
    conditions,
    described,
    details,
    explanations,
    kinds,
    power,
    power_described,
    remarks_of,
    significant,
    summary,
)

_TOP_LAYERS = 10


def to_json(report: BenchReport) -> str:
    """Everything, with every list of numbers on one line."""
    text = json.dumps(report.model_dump(mode="json"), indent=2, ensure_ascii=False)
    # A string of JSON holds no line break, so this matches lists only.
    numbers = re.compile(r"\[\n\s+(-?\d[\d.eE+-]*(?:,\n\s+-?\d[\d.eE+-]*)*)\n\s+\]")
    return numbers.sub(lambda m: f"[{' '.join(m[1].split())}]", text) + "\n"


def to_markdown(report: BenchReport) -> str:
    """A summary table, what was measured where and how, doubts, and the longest layers."""
    parts = [markdown_table(summary(report), code_columns=1)]
    parts.append(" ".join(map(plain, explanations(report))))
    parts.append("\n".join(f"- {plain(k)}: {plain(v)}" for k, v in report.environment.items()))
    parts.append(f"{plain(described(report.options))}. Measured {plain(report.started)}:")
    parts.append(_fenced(report.command))
    remarks = remarks_of(report)
    if remarks:
        parts.append("\n".join(f"- {plain(remark)}" for remark in remarks))
    parts.append(" ".join(map(plain, power_described(report))))
    for found in (power(report), conditions(report)):
        if found is not None:
            parts.append(markdown_table(found, code_columns=0))
    parts.append(_folded("All figures", markdown_table(details(report), code_columns=0)))
    profiled = [result for result in report.results if result.layers]
    if profiled:
        parts.append(markdown_table(kinds(profiled), code_columns=0))
    parts += [_layers(result) for result in profiled]
    return "\n\n".join(part for part in parts if part) + "\n"


def _layers(result: ArtefactResult) -> str:
    shown = result.layers[:_TOP_LAYERS]
    rows = [
        [layer.name, layer.kind, significant(layer.milliseconds), f"{layer.share:.1%}"]
        for layer in shown
    ]
    rest = result.layers[_TOP_LAYERS:]
    table = markdown_table(
        Table(["layer", "type", "ms", "share"], [False, False, True, True], rows), code_columns=1
    )
    title = f"Layers of {plain(result.name)}, the longest {len(shown)} of {len(result.layers)}"
    if rest:
        title += f"; the others {sum(layer.share for layer in rest):.1%}"
    return _folded(title, table)


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{content}\n\n</details>"


def markdown_table(table: Table, *, code_columns: int) -> str:
    """A table; the first columns are set as code."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    rows = [[_cell(c, code=i < code_columns) for i, c in enumerate(row)] for row in table.rows]
    rules = ["---:" if numeric else "---" for numeric in table.numeric]
    return "\n".join([line([_cell(h) for h in table.heads]), line(rules), *map(line, rows)])


def _cell(text: str, *, code: bool = False) -> str:
    """Table cells end at a bar, even inside code."""
    return (_code(text) if code else plain(text)).replace("|", "\\|")


def plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", text)


def _code(text: str) -> str:
    text = " ".join(text.split()) or " "
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if "`" in (text[0], text[-1]) else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _fenced(text: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}bash\n{text}\n{fence}"
