"""What ``sensitivity`` found: the record, and its files."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dinat_deploy.calibration.patterns import exactly
from dinat_deploy.calibration.sensitivity import Grouping
from dinat_deploy.errors import MissingDependencyError
from dinat_deploy.files import whole_directory
from dinat_deploy.measurement.tables import counted

REPORT = "sensitivity.json"
MARKDOWN = "sensitivity.md"
PAGE = "sensitivity.html"
EXCLUDE = "exclude.txt"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Effect(_Record):
    """What lower precision does to the outputs, against the float32 model.

    Attributes:
        noise: energy of the change over that of the outputs; None if they are not finite.
        sqnr_db: the same in dB, 300 at most.
        metric: value of the metric (0 to 1); None if there is none.
        drop: points (hundredths) of it that are lost.
    """

    noise: float | None
    sqnr_db: float | None
    metric: float | None = None
    drop: float | None = None


class UnitReport(_Record):
    """A unit of nodes.

    Attributes:
        sites: names of the nodes.
        macs: multiply-accumulates of them for one image; ``share`` of all the model's (0 to 1).
        alone: the effect of lowering the precision of this unit and nothing else.
        without: the effect of lowering that of everything but this unit; None if not measured.
        local_db: SQNR of the nodes' own outputs when their inputs are exact, the worst of them.
    """

    name: str
    sites: list[str]
    macs: int
    share: float
    alone: Effect
    without: Effect | None = None
    local_db: float | None = None


class StepReport(_Record):
    """A step of the search.

    Attributes:
        excluded: units that were not lowered in precision.
        share: of the model's multiply-accumulates that were.
    """

    action: str
    excluded: list[str]
    share: float
    effect: Effect
    within: bool


class SearchReport(_Record):
    """A search for the units to leave out.

    Attributes:
        max_drop, min_sqnr: the budget: points of the metric, dB.
        excluded: units that are left out; ``sites`` are their nodes.
        share: of the model's multiply-accumulates that keep the lower precision.
        effect: of the result; None if nothing is left.
        images: that each step was measured on.
    """

    max_drop: float | None
    min_sqnr: float | None
    excluded: list[str]
    sites: list[str]
    share: float
    effect: Effect | None
    images: int
    steps: list[StepReport]


class SensitivityReport(_Record):
    """Content of ``sensitivity.json``.

    Attributes:
        model: name of the bundle's model, and ``model_sha256`` of its ``model.onnx``.
        estimator: of the ranges; None for the 16-bit precisions.
        asked: the user's patterns of nodes that were left out from the beginning.
        data: as the user named it; ``images`` of it were used for the units.
        metric: ``top1``, ``miou``, ``agreement`` (with the float32 model), or None.
        float32: value of the metric for the float32 model, on these images.
        together: the effect of all units.
        predicted_db: SQNR of all units together if their errors simply add up.
        units: the most harmful first.
        skipped: products that stay in higher precision anyway, by reason.
        runtime: what ran the model.
    """

    format_version: Literal[1] = 1
    model: str
    model_sha256: str
    precision: str
    by: Grouping
    estimator: str | None
    asked: list[str] = Field(default_factory=list)
    data: str
    images: int
    metric: str | None
    float32: float | None
    together: Effect
    predicted_db: float | None
    units: list[UnitReport]
    search: SearchReport | None = None
    skipped: dict[str, list[str]] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    runtime: str
    created_by: str

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    @property
    def verdict(self) -> str:
        """The result of the search in a sentence or two; without a search, of all units."""
        if self.search is None:
            return (
                f"{counted(sum(len(unit.sites) for unit in self.units), 'node')} in "
                f"{self.precision}: "
                f"{described(self.together, self.metric)}."
            )
        found = self.search
        first = found.steps[0].effect if found.steps else self.together
        if not found.excluded:
            return (
                f"Everything can be {self.precision}: {described(first, self.metric)} on "
                f"{found.images} images, within the budget of {self.budget}."
            )
        if found.effect is None:
            return (
                f"Nothing can be {self.precision} within the budget of {self.budget}: "
                f"{described(first, self.metric)} with everything."
            )
        return (
            f"{len(found.excluded)} of {counted(len(self.units), 'unit')} must be left out "
            f"({counted(len(found.sites), 'node')}): {described(first, self.metric)} with "
            f"everything, {described(found.effect, self.metric)} without them, on {found.images} "
            f"images; the budget is {self.budget}. {self.precision} keeps {found.share:.1%} of the "
            "multiply-accumulates."
        )

    @property
    def budget(self) -> str:
        """Of the search, in words."""
        assert self.search is not None
        parts = []
        if self.search.max_drop is not None:
            parts.append(f"{self.search.max_drop:g} points of {self.metric}")
        if self.search.min_sqnr is not None:
            parts.append(f"{self.search.min_sqnr:g} dB")
        return " and ".join(parts)


def decibels(value: float | None) -> str:
    """An SQNR for people."""
    return "not finite" if value is None else f"{round(value, 1) + 0.0:.1f} dB"


def described(effect: Effect, metric: str | None) -> str:
    """An effect in words."""
    if effect.drop is None or effect.metric is None:
        return f"SQNR {decibels(effect.sqnr_db)}"
    change = "lost" if effect.drop >= 0 else "gained"
    return (
        f"{metric} {effect.metric:.2%} ({abs(effect.drop):.2f} points {change}), SQNR "
        f"{decibels(effect.sqnr_db)}"
    )


def exclusions(report: SensitivityReport) -> str:
    """The nodes to leave out as a file of patterns, with what is known of each in comments."""
    lines = [
        f"# Nodes of {report.model} to leave out of {report.precision}, by `dinat-deploy "
        f"sensitivity` on {report.data}.",
        f"# {report.verdict}",
    ]
    option = "--exclude" if report.estimator else "--keep-float32"
    lines.append(
        f"# dinat-deploy convert BUNDLE --precision {report.precision} {option} @{EXCLUDE}"
    )
    if report.asked:
        lines += ["", "# asked for", *report.asked]
    chosen = report.search.excluded if report.search is not None else []
    for unit in report.units:
        if unit.name in chosen:
            lines += [
                "",
                f"# {unit.name}: {described(unit.alone, report.metric)} when it alone is "
                f"{report.precision}; {unit.share:.2%} of the multiply-accumulates",
                *map(exactly, unit.sites),
            ]
    return "\n".join(lines) + "\n"


def write_report(report: SensitivityReport, directory: Path) -> list[Path]:
    """Write all files into a directory that appears whole; one that an earlier report stands in
    is replaced. Without plotly there is no page.

    Returns:
        The files.

    Raises:
        OutputError: the place cannot be written to, or holds something else.
    """
    from dinat_deploy.pipeline.sensitivity_page import to_html, to_markdown

    texts = {
        REPORT: json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n",
        MARKDOWN: to_markdown(report),
    }
    if report.search is not None:
        texts[EXCLUDE] = exclusions(report)
    with suppress(MissingDependencyError):
        texts[PAGE] = to_html(report)
    with whole_directory(directory, replaceable) as partial:
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8")
    return [directory / name for name in texts]


def replaceable(directory: Path) -> bool:
    """Whether nothing but an earlier report stands in a directory."""
    known = {REPORT, MARKDOWN, PAGE, EXCLUDE}
    names = {entry.name for entry in directory.iterdir()}
    return REPORT in names and names <= known
