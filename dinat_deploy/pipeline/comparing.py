"""``compare``: models of several families side by side, measured in the same session."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dinat_deploy.choosing.comparison import (
    SIZES,
    ComparedModel,
    ComparisonReport,
    compared_name,
    comparison_table,
    models_of_size,
    reading,
)
from dinat_deploy.choosing.published import IMAGE_SIZE
from dinat_deploy.errors import ConfigError
from dinat_deploy.files import scratch_directory, write_whole
from dinat_deploy.measurement import environment
from dinat_deploy.measurement.measuring import Measured, MeasuringInterrupted, measure
from dinat_deploy.measurement.page import check_page
from dinat_deploy.measurement.results import results
from dinat_deploy.pipeline.artefact import RUNTIMES, RuntimeName
from dinat_deploy.pipeline.benching import options_of
from dinat_deploy.progress import Progress, Silent
from dinat_deploy.session.base import RunOptions

__all__ = [
    "COMPARED_RUNTIMES",
    "SIZES",
    "ComparisonInterrupted",
    "ComparisonReport",
    "compare",
    "comparison_table",
    "reading",
]

# An engine is built first, on its GPU and from files that this command removes.
COMPARED_RUNTIMES = tuple(name for name in RUNTIMES if name != "tensorrt")
_RIVAL_FAMILIES = ("swin_", "convnext_")


class ComparisonInterrupted(KeyboardInterrupt):
    """An interrupt after some rounds were measured.

    Attributes:
        report: what they gave, of all models.
    """

    def __init__(self, report: ComparisonReport) -> None:
        super().__init__()
        self.report = report


def compare(
    models: Sequence[str] = (),
    *,
    sizes: Sequence[str] = ("tiny",),
    base: str | None = None,
    runtime: RuntimeName = "onnxruntime",
    image_size: tuple[int, int] = IMAGE_SIZE,
    batch: int = 1,
    threads: int = 0,
    measuring: bool = True,
    plot: Path | None = None,
    progress: Progress | None = None,
    **protocol: Any,
) -> ComparisonReport:
    """Put models side by side.

    All get random weights, are exported alike, stay loaded together and are measured in turn, as
    ``bench`` does it; nothing that was exported is kept.

    Args:
        models: names in any spelling; all of ``sizes`` by default.
        base: what times are compared with; by default the first Swin, or else the first model.
        runtime: one of :data:`COMPARED_RUNTIMES`.
        image_size: (height, width) in pixels.
        batch: images of one run.
        threads: of the CPU for one run; 0 leaves the choice to the runtime.
        measuring: False gives only what is published and counted.
        plot: HTML page to write.
        protocol: fields of :class:`dinat_deploy.measurement.records.BenchOptions`.

    Raises:
        UnknownModelError, ConfigError: a model, the base, the runtime or an option is not possible.
        MissingDependencyError: transformers is needed, or the runtime, or plotly for the page.
        DinatDeployError: a model cannot be exported or opened; nothing was measured.
        ComparisonInterrupted: interrupted after at least one round of all models.
    """
    progress = progress or Silent()
    names = _names(models, sizes)
    base = _base(base, names)
    # What is shown is the median and the ratio: no runs for the sake of a 99th percentile.
    options = options_of({"percentiles": [], **protocol})
    if runtime not in COMPARED_RUNTIMES:
        raise ConfigError(
            f"{runtime!r} is no runtime that models are compared in.",
            f"There are {', '.join(COMPARED_RUNTIMES)}. For engines, build them and name them to "
            "`dinat-deploy bench`.",
        )
    if batch < 1 or min(image_size) < 32:
        raise ConfigError(
            f"A batch of {batch} images of {image_size[0]}x{image_size[1]} pixels cannot be "
            "compared.",
            "Take at least one image, of at least 32x32 pixels.",
        )
    check_page(plot)
    if any(name.startswith(_RIVAL_FAMILIES) for name in names):
        from dinat_deploy.choosing.rivals import require_transformers

        require_transformers()
    report = ComparisonReport(
        models=[],
        base=base,
        runtime=runtime,
        batch=batch,
        image_size=image_size,
        options=options,
        machine=environment.describe(),
        started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    if measuring:
        report = _measured(report, names, threads, progress)
    else:
        from dinat_deploy.pipeline.comparing_runs import counted

        found = [counted(name, image_size) for name in progress.track(names, "Counting models:")]
        report = replace(report, models=found)
    report = replace(report, notes=[*_doubts(report), *report.notes])
    if report.interrupted:
        raise ComparisonInterrupted(report)
    if plot is not None:
        from dinat_deploy.choosing.compare_page import to_html

        write_whole(plot, to_html(report))
    return report


def _names(models: Sequence[str], sizes: Sequence[str]) -> list[str]:
    if models:
        return list(dict.fromkeys(map(compared_name, models)))
    names = [name for size in dict.fromkeys(sizes) for name in models_of_size(size)]
    if not names:
        raise ConfigError("No model is named to be compared.", "Name some, or a size.")
    return names


def _base(base: str | None, names: Sequence[str]) -> str:
    if base is None:
        return next((name for name in names if name.startswith("swin_")), names[0])
    chosen = compared_name(base)
    if chosen not in names:
        raise ConfigError(
            f"{chosen} is to be the base, and is not among the models: {', '.join(names)}.",
            "Name one of them.",
        )
    return chosen


def _measured(
    report: ComparisonReport, names: Sequence[str], threads: int, progress: Progress
) -> ComparisonReport:
    from dinat_deploy.pipeline.comparing_runs import Ready, Setting, ready

    warnings = environment.concerns()
    # The first that is measured is what ratios are of.
    order = [report.base, *(name for name in names if name != report.base)]
    with ExitStack() as held:
        setting = Setting(
            runtime=report.runtime,  # type: ignore[arg-type]
            image_size=report.image_size,
            batch=report.batch,
            threads=threads,
            seed=report.options.seed,
            run=RunOptions(spin_wait=report.options.spin_wait),
            folder=held.enter_context(scratch_directory()),
            held=held,
        )
        entries: dict[str, Ready] = {}
        with progress.portion("Preparing models") as told:
            for number, name in enumerate(order):
                told(number / len(order), name)
                entries[name] = ready(name, setting)
        makers = {name: entry.make for name, entry in entries.items()}
        interrupted = False
        measured: list[Measured]
        with progress.portion("Measuring") as told:
            try:
                measured = measure(makers, report.options, told)
            except MeasuringInterrupted as stop:
                measured, interrupted = stop.measured, True
        if any(found.kind == "gpu" for found in measured):
            warnings += environment.slowed()
    if interrupted:
        rounds = len(measured[0].blocks)
        warnings.append(f"Interrupted after {rounds} round{'s' * (rounds != 1)}.")
    subjects = [entry.subject for entry in entries.values()]
    by_name: dict[str, ComparedModel] = {}
    notes: list[str] = []
    for result in results(measured, subjects, report.options):
        by_name[result.name] = replace(entries[result.name].model, result=result)
        warnings += [f"{result.name}: {warning}" for warning in result.warnings]
        notes += [f"{result.name}: {note}" for note in result.notes]
    return replace(
        report,
        models=[by_name[name] for name in names],
        warnings=list(dict.fromkeys(warnings)),
        notes=notes,
        interrupted=interrupted,
    )


def _doubts(report: ComparisonReport) -> list[str]:
    """Where counts are not the published ones, which they can be at one size only."""
    if report.image_size != IMAGE_SIZE:
        return []
    return [doubt for model in report.models for doubt in model.disagreements()]
