"""The JSON file and the Markdown tables of a run; written whole after every section."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpu.floors import COPY
from gpu.measure import Result
from gpu.verdicts import (
    HEURISTIC,
    TACTIC_PREFIX,
    all_verdicts,
    best_rival,
    best_tactic,
    floor_share,
    geometric_mean,
    merged,
    microseconds,
)

RIVALS = (
    "grouped SDPA",
    "grouped SDPA, no permute",
    "dense SDPA",
    "unfold",
    "flex",
    "flex, tiles",
    "torch tiles",
)


@dataclass
class Run:
    """All that a run found so far.

    Attributes:
        dry: whether stand-ins on the CPU took the place of the kernels and the GPU.
        planned: rows meant to be measured; ``planned_goals`` of them carry the copy floor goal.
        sections: what became of each section: done, or why not.
    """

    environment: dict[str, Any]
    dry: bool = False
    planned: int = 0
    planned_goals: int = 0
    floors: dict[str, float] = field(default_factory=dict)
    rows: list[Result] = field(default_factory=list)
    flex: list[Result] = field(default_factory=list)
    sections: dict[str, str] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        verdicts = [] if self.dry else self.verdicts()
        return {
            "environment": self.environment,
            "dry_run": self.dry,
            "planned_rows": self.planned,
            "sections": self.sections,
            "floors": self.floors,
            "verdicts": [asdict(verdict) for verdict in verdicts],
            "rows": [result.json() for result in self.rows],
            "flex": [result.json() for result in self.flex],
        }

    def joined(self) -> list[Result]:
        return merged(self.rows, self.flex)

    def verdicts(self) -> list[Any]:
        return all_verdicts(self.joined(), self.planned, self.planned_goals)

    def markdown(self) -> str:
        lines = []
        if self.dry:
            lines += [
                "**Dry run on a CPU. The PyTorch operator stands in for the kernels: these numbers "
                "say nothing about a GPU and decide no goal.**",
                "",
            ]
        lines += [f"- {name}: {value}" for name, value in self.environment.items()]
        lines += [f"- section {name}: {state}" for name, state in self.sections.items()]
        lines += [f"- {name}: {value:.2f}" for name, value in self.floors.items()]
        if not self.dry:
            lines += ["", *(f"- {verdict.line}" for verdict in self.verdicts())]
        joined = self.joined()
        lines += ["", *means(joined), "", *table(joined)]
        return "\n".join(lines) + "\n"


def _time(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _ratio(value: float | None, base: float | None) -> str:
    return "-" if value is None or not base else f"{value / base:.2f}"


def means(results: Sequence[Result]) -> list[str]:
    """Geometric means over the rows where both were measured."""
    lines = [
        "| against our choice | rows | geometric mean of its time / ours | least | most |",
        "|---|---|---|---|---|",
    ]
    names = dict.fromkeys(name for result in results for name in result.timings)
    for name in names:
        if name == HEURISTIC:
            continue
        ratios = [
            other / ours
            for result in results
            if (other := microseconds(result, name)) is not None
            and (ours := microseconds(result, HEURISTIC)) is not None
        ]
        if ratios:
            lines.append(
                f"| {name} | {len(ratios)} | {geometric_mean(ratios):.2f} | {min(ratios):.2f} | "
                f"{max(ratios):.2f} |"
            )
    return lines


def table(results: Sequence[Result]) -> list[str]:
    """One line per row: microseconds, share of the copy floor, rivals as ratios to our choice."""
    lines = [
        "| row | copy floor us | ours us | % of floor | fastest tactic us | best rival / ours | "
        + " | ".join(f"{name} / ours" for name in RIVALS)
        + " |",
        "|---" * (6 + len(RIVALS)) + "|",
    ]
    for result in results:
        ours, share = microseconds(result, HEURISTIC), floor_share(result)
        tactic, rival = best_tactic(result), best_rival(result)
        cells = [
            result.row.name + (" (goal)" if result.row.is_goal else ""),
            _time(microseconds(result, COPY)),
            _time(ours),
            "-" if share is None else f"{share:.0%}",
            "-" if tactic is None else f"{tactic[0]} {tactic[1]:.2f}",
            "-" if rival is None else f"{_ratio(rival[1], ours)} ({rival[0]})",
            *(_ratio(microseconds(result, name), ours) for name in RIVALS),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def summary(run: Run) -> str:
    """The few lines that a terminal shows last."""
    lines = [f"{name}: {state}" for name, state in run.sections.items()]
    tactics = sorted(
        {
            name.removeprefix(TACTIC_PREFIX)
            for result in run.rows
            for name in result.timings
            if name.startswith(TACTIC_PREFIX)
        }
    )
    lines.append(f"{len(run.rows)} of {run.planned} rows; tactics: {', '.join(tactics) or 'none'}")
    if run.dry:
        lines.append("Dry run: no goal is judged.")
    else:
        lines += [verdict.line for verdict in run.verdicts()]
    return "\n".join(lines)


def save(run: Run, json_path: Path | None, markdown_path: Path | None) -> None:
    """Write both files; each appears whole, replacing that of the section before."""
    if json_path is not None:
        write_whole(json_path, json.dumps(run.json(), indent=1, allow_nan=False) + "\n")
    if markdown_path is not None:
        write_whole(markdown_path, run.markdown())


def write_whole(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)
