"""What ``evaluate`` found: the figures of every artefact, and the report as JSON and Markdown."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from dinat_deploy.errors import OutputError
from dinat_deploy.evaluation.comparison import Loss
from dinat_deploy.evaluation.records import Scores
from dinat_deploy.files import write_whole
from dinat_deploy.measurement.tables import Table

FORMAT_VERSION = 1
Level = Literal[0, 1, 2]


@dataclass(frozen=True)
class Speed:
    """How many times as fast an artefact is as another; above 1 is faster.

    Attributes:
        than: name of the other one.
        low, high: the 95 % interval; None if there were too few rounds for one.
    """

    than: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ArtefactReport:
    """What was found of one artefact.

    Attributes:
        precision: ``fp32``, ``fp16``, ``bf16``, ``int8`` or ``fp8``: the coarsest type in it.
        runtime, device: what ran it, and where.
        simulated: whether its arithmetic was simulated in float32.
        loss: of accuracy against the reference; None without labels, and of the reference.
        bytes: of its files; None if it has none of its own.
        latency_ms: median time of one image; None if it was not measured.
        speed: against the reference; ``over_finer`` against the fastest artefact of a finer
            precision in the same runtime, if that is not the reference.
        verdict: sentences on accuracy, size and speed.
        passed: whether it loses no more than allowed; None if nothing was said of that.
    """

    name: str
    precision: str
    runtime: str
    device: str
    simulated: bool
    scores: Scores
    loss: Loss | None = None
    bytes: int | None = None
    latency_ms: float | None = None
    speed: Speed | None = None
    over_finer: Speed | None = None
    verdict: str = ""
    passed: bool | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def level(self) -> Level:
        """How coarse it is: 0 for float32, 1 for 16 bits, 2 for 8."""
        return level_of(self.precision)


@dataclass(frozen=True)
class EvaluationReport:
    """Outcome of an evaluation. The first artefact is the reference.

    Attributes:
        data: as the user named it.
        task: what the labels are for; None without labels.
        images: how many were used.
        skipped: names of those that could not be.
        classes: how many the model tells apart.
        max_drop: what may be lost of the metric, in points; None if nothing was said.
        batch: images of a batch.
        spread: over what the images were spread, such as ``4 processes``.
        notes: what the user should know of all of this.
    """

    data: str
    task: str | None
    metric: str
    images: int
    skipped: list[str]
    batch: int
    max_drop: float | None
    spread: str
    artefacts: list[ArtefactReport]
    notes: list[str]
    environment: dict[str, str]
    created_by: str
    format_version: int = FORMAT_VERSION

    @property
    def reference(self) -> ArtefactReport:
        return self.artefacts[0]

    @property
    def passed(self) -> bool:
        """Whether no artefact loses more than allowed."""
        return all(artefact.passed is not False for artefact in self.artefacts)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, which has no infinities: they become None."""
        data = asdict(self)
        for entry, artefact in zip(data["artefacts"], self.artefacts, strict=True):
            entry["scores"]["primary"] = artefact.scores.primary[0]
        finite: dict[str, Any] = _finite({**data, "passed": self.passed})
        return finite

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def to_markdown(self) -> str:
        """The table, the verdicts and what belongs to them."""
        table = table_of(self)
        lines = [
            f"# Evaluation on {_plain(self.data)}",
            "",
            self.summary,
            "",
            _row(table.heads),
            _row("---:" if numeric else "---" for numeric in table.numeric),
            *(_row(row) for row in table.rows),
            "",
            *(f"- {_plain(a.name)}: {_plain(a.verdict)}" for a in self.artefacts if a.verdict),
        ]
        remarks = [*self.notes, *(f"{a.name}: {note}" for a in self.artefacts for note in a.notes)]
        if remarks:
            lines += ["", "Notes:", "", *(f"- {_plain(remark)}" for remark in remarks)]
        lines += ["", *(f"- {_plain(k)}: {_plain(v)}" for k, v in self.environment.items())]
        lines += ["", f"Made by {self.created_by}."]
        return "\n".join(lines) + "\n"

    @property
    def summary(self) -> str:
        """What was evaluated, in a sentence."""
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        kind = {"classification": "labelled", "segmentation": "segmented"}.get(
            self.task or "", "unlabelled"
        )
        return (
            f"{self.images} {kind} images{skipped}, in batches of {self.batch} by {self.spread}; "
            f"{self.reference.name} is the reference."
        )


def table_of(report: EvaluationReport) -> Table:
    """One row for each artefact; columns for which none has a figure are left out."""
    artefacts = report.artefacts
    columns: list[tuple[str, bool, list[str]]] = [
        ("artefact", False, [a.name for a in artefacts]),
        ("precision", False, [a.precision for a in artefacts]),
    ]

    def add(head: str, cells: Iterable[str], *, numeric: bool = True) -> None:
        column = list(cells)
        if any(column):
            columns.append((head, numeric, column))

    runtimes = [f"{a.runtime}" + ("" if a.device == "CPU" else f", {a.device}") for a in artefacts]
    if len(set(runtimes)) > 1:
        add("run by", runtimes, numeric=False)
    add("top-1", (percent(a.scores.top1) for a in artefacts))
    add("top-5", (percent(a.scores.top5) for a in artefacts))
    add("mIoU", (percent(a.scores.miou) for a in artefacts))
    add("pixels", (percent(a.scores.pixel_accuracy) for a in artefacts))
    add("loss, points", (_loss(a) for a in artefacts))
    others = [None, *artefacts[1:]]
    add("agreement", (percent(a.scores.agreement) if a else "" for a in others))
    add("SQNR dB", (_decibels(a.scores.sqnr_db) if a else "" for a in others))
    add("MB", ("" if a.bytes is None else f"{a.bytes / 1e6:.2f}" for a in artefacts))
    add("ms/image", ("" if a.latency_ms is None else f"{a.latency_ms:.3g}" for a in artefacts))
    add("speed-up", (_times(a.speed) for a in artefacts))
    add("over finer", (_times(a.over_finer) for a in artefacts))
    return Table(
        [head for head, _, _ in columns],
        [numeric for _, numeric, _ in columns],
        [list(row) for row in zip(*(column for _, _, column in columns), strict=True)],
    )


def level_of(precision: str) -> Level:
    if precision in ("int8", "fp8"):
        return 2
    return 1 if precision in ("fp16", "bf16") else 0


def short_precision(types: str) -> str:
    """``fp16`` of ``float16+float32``: the coarsest of several element types, as it is called on
    the command line; unknown ones stay as they are."""
    names = {"int8": "int8", "float8e4m3fn": "fp8", "float16": "fp16", "bfloat16": "bf16"}
    parts = types.split("+")
    for known, short in names.items():
        if known in parts or (known == "float8e4m3fn" and any("float8" in p for p in parts)):
            return short
    return "fp32" if parts[0] in ("float32", "tf32") else types


def points(share: float) -> str:
    """A difference of shares in points, without a sign for zero."""
    text = f"{100 * share:.2f}"
    return "0.00" if float(text) == 0 else text


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f} %"


@dataclass(frozen=True)
class ReportFiles:
    """Where a report goes."""

    json: Path
    markdown: Path

    @classmethod
    def at(cls, output: Path) -> ReportFiles:
        """Files beside each other, found out before a long evaluation whether they can be written.

        Args:
            output: their common name; a suffix of one of them is left out.

        Raises:
            OutputError: they cannot be written.
        """
        name = output.stem if output.suffix in (".json", ".md") else output.name
        files = cls(output.parent / f"{name}.json", output.parent / f"{name}.md")
        folder = output.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise OutputError(
                f"{files.json} cannot be written: {folder} is no directory that can be written to.",
                "Choose another --output.",
            )
        for file in (files.json, files.markdown):
            if file.is_dir():
                raise OutputError(
                    f"{file} cannot be written: it is a directory.", "Choose another --output."
                )
        return files

    def write(self, report: EvaluationReport) -> None:
        """Write both; each appears whole or not at all.

        Raises:
            OutputError: they cannot be written.
        """
        write_whole(self.json, report.to_json())
        write_whole(self.markdown, report.to_markdown())


def _loss(artefact: ArtefactReport) -> str:
    loss = artefact.loss
    if loss is None:
        return ""
    return f"{points(loss.value)} ({points(loss.low)} to {points(loss.high)})"


def _decibels(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if math.isfinite(value) else ("equal" if value > 0 else "broken")


def _times(speed: Speed | None) -> str:
    return "" if speed is None else f"{speed.value:.2f}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(_plain(cell).replace("|", "\\|") for cell in cells) + " |"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    escaped = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("*", "\\*")
    return escaped.replace("`", "\\`").replace("[", "\\[")
