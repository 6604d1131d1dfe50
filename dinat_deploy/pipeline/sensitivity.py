"""``sensitivity``: what lower precision costs, unit by unit, and which units to leave out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinat_deploy import __version__
from dinat_deploy.bundle import Bundle, open_bundle
from dinat_deploy.calibration.search import Found, Step, search
from dinat_deploy.calibration.sensitivity import (
    GROUPINGS,
    Grouping,
    Unit,
    by_harm,
    group,
    sqnr_db,
    total,
)
from dinat_deploy.data.dataset import Dataset, OnBad
from dinat_deploy.data.opening import open_dataset
from dinat_deploy.errors import ConfigError
from dinat_deploy.files import refuse_to_replace, scratch_directory
from dinat_deploy.graph.formats import QUANTIZED_FORMATS
from dinat_deploy.pipeline.quantizing import QuantizeOptions
from dinat_deploy.pipeline.scored_models import check_scored
from dinat_deploy.pipeline.sensitivity_report import (
    Effect,
    SearchReport,
    SensitivityReport,
    StepReport,
    UnitReport,
    replaceable,
    write_report,
)
from dinat_deploy.pipeline.switched_model import (
    PRECISIONS,
    Batches,
    Measured,
    Measurer,
    SwitchedModel,
)
from dinat_deploy.progress import Progress, Silent

DEFAULT_LIMIT = 512
DEFAULT_UNIT_IMAGES = 64
# Fields of QuantizeOptions that mean nothing for 16-bit precisions.
_QUANTIZED_ONLY = ("estimator", "include", "head", "residual", "attention")


@dataclass(frozen=True)
class Budget:
    """What may be lost.

    Attributes:
        max_drop: points (hundredths) of the metric; None if that does not matter.
        min_sqnr: dB at the outputs; None if that does not matter.
    """

    max_drop: float | None = None
    min_sqnr: float | None = None

    def __bool__(self) -> bool:
        return self.max_drop is not None or self.min_sqnr is not None

    def holds(self, effect: Effect) -> bool:
        """Whether an effect is within it."""
        if self.max_drop is not None and (effect.drop is None or effect.drop > self.max_drop):
            return False
        reached = effect.sqnr_db
        return self.min_sqnr is None or (reached is not None and reached >= self.min_sqnr)


def sensitivity(
    bundle: str | Path,
    data: str | Path | Dataset | Iterable[Any],
    *,
    precision: str = "int8",
    by: Grouping = "site",
    options: QuantizeOptions | None = None,
    max_drop: float | None = None,
    min_sqnr: float | None = None,
    without: bool = False,
    limit: int = DEFAULT_LIMIT,
    unit_images: int = DEFAULT_UNIT_IMAGES,
    seed: int = 0,
    on_bad: OnBad = "refuse",
    output: str | Path | None = None,
    progress: Progress | None = None,
) -> SensitivityReport:
    """Measure what lower precision costs, for each part of a model alone, and all together.

    With a budget, also find parts that must keep the higher precision for it to hold, by a greedy
    search; see :func:`dinat_deploy.calibration.search.search`. The rest of the model is float32
    throughout.

    Args:
        bundle: of the model; for int8 and fp8 with the ranges that ``calibrate`` records.
        data: what :func:`~dinat_deploy.data.opening.open_dataset` takes. Judge the result on other
            images.
        precision: ``int8``, ``fp8``, ``fp16`` or ``bf16``.
        by: the parts: ``site`` (each node), ``block``, ``level`` or ``kind`` (qkv, proj, ...).
        options: how the model would be quantized. ``rest`` does not count; for the 16-bit
            precisions only ``exclude`` does.
        max_drop: budget: points of top-1, mIoU, or, without labels, agreement with float32.
        min_sqnr: budget: dB at the outputs.
        without: also measure all parts but one, for each.
        limit: images for the steps of the search.
        unit_images: so many of them for measuring each part.
        seed: of the choice of images.
        on_bad: ``refuse`` an image that cannot be used, or ``skip`` it.
        output: a directory for the report as JSON, Markdown and (with plotly) HTML, and, with a
            budget, ``exclude.txt``. An earlier one is replaced.

    Raises:
        ConfigError: an option has an impossible value, or no node is left to choose from.
        BundleError: the bundle was changed after export, or has no ranges.
        ConversionError: the model is not float32.
        DataError: there are no images, one cannot be used, or they do not fit the model.
        OutputError: the output cannot be written.
    """
    progress = progress or Silent()
    budget = Budget(max_drop, min_sqnr)
    _check(precision, by, limit, unit_images, budget)
    place = Path(output) if output is not None else None
    if place is not None:
        refuse_to_replace(place, replaceable)
    opened = open_bundle(bundle)
    check_scored(opened.manifest.config, bundle, "sensitivity")
    options = options or QuantizeOptions()
    _check_options(options, precision)
    with progress.stage("Checking the bundle"):
        opened.check_model()
    manifest = opened.manifest
    everything = open_dataset(
        data, manifest.preprocessing, labels=manifest.labels, limit=limit, seed=seed
    )
    few = everything
    if len(everything) > unit_images:
        few = open_dataset(everything, manifest.preprocessing, limit=unit_images, seed=seed)
    with scratch_directory() as scratch:
        with progress.stage("Writing the graph with switches"):
            model = SwitchedModel(opened, precision, options, scratch)
        run = _Run(opened, model, precision, by, few, on_bad, progress)
        measured = run.units(without)
        report = run.report(measured, options)
        if budget:
            _check_budget(budget, report)
            report = run.searched(report, measured, everything, budget)
        model.close()
    for note in report.notes:
        progress.note(note)
    if place is not None:
        with progress.stage("Writing the report"):
            write_report(report, place)
    return report


def _check(precision: str, by: str, limit: int, unit_images: int, budget: Budget) -> None:
    if precision not in PRECISIONS:
        raise ConfigError(f"Unknown precision {precision!r}.", f"Use {', '.join(PRECISIONS)}.")
    if by not in GROUPINGS:
        raise ConfigError(
            f"A model has no parts by {by!r}.", f"Measure it by {', '.join(GROUPINGS)}."
        )
    for name, value in (("limit", limit), ("unit_images", unit_images)):
        if value < 1:
            raise ConfigError(f"{name} is {value}; expected 1 or more.", "Change it.")
    if budget.max_drop is not None and not budget.max_drop >= 0:
        raise ConfigError(
            f"The budget is a loss of {budget.max_drop} points; expected 0 or more.", "Change it."
        )


def _check_options(options: QuantizeOptions, precision: str) -> None:
    if precision in QUANTIZED_FORMATS:
        return
    given = {name: getattr(options, name) for name in _QUANTIZED_ONLY}
    for name, value in given.items():
        if value:
            raise ConfigError(
                f"{name} is about quantized models, and the precision is {precision}.",
                "Leave it out, or use int8 or fp8.",
            )


def _check_budget(budget: Budget, report: SensitivityReport) -> None:
    if budget.max_drop is not None and report.metric is None:
        raise ConfigError(
            "The model's outputs are no classes, so that there are no points to lose.",
            "Give the budget in dB (--min-sqnr).",
        )


@dataclass(frozen=True)
class _Units:
    """Units, and what was measured of them."""

    units: list[Unit]
    macs: int
    exact: Measured
    together: Measured
    alone: dict[str, Measured]
    without: dict[str, Measured]
    local: dict[str, float | None]
    images: int
    skipped: list[str]


class _Run:
    """Measures one model."""

    def __init__(
        self,
        bundle: Bundle,
        model: SwitchedModel,
        precision: str,
        by: Grouping,
        few: Dataset,
        on_bad: OnBad,
        progress: Progress,
    ) -> None:
        self._bundle, self._model, self._precision, self._by = bundle, model, precision, by
        self._on_bad, self._progress = on_bad, progress
        self._few = self._batches(few)

    def _batches(self, dataset: Dataset) -> Batches:
        return Batches(dataset, self._model.batch, self._on_bad, self._progress.note)

    def units(self, without: bool) -> _Units:
        """Measure every unit alone, all together, and what each node changes in itself."""
        model = self._model
        with self._progress.stage("Comparing the nodes' own outputs"):
            local = model.local_noise(self._few)
        macs = model.macs(next(iter(self._few)).images)
        units = group(model.sites, macs, self._by)
        everything = frozenset(model.sites)
        alone = [frozenset(unit.sites) for unit in units]
        rest = [everything - sites for sites in alone] if without else []
        measurer = Measurer(model, self._few)
        with self._progress.portion(f"Measuring {len(units)} units") as done:
            found = measurer.measure(
                [frozenset[str](), everything, *alone, *rest],
                lambda share: done(share, f"Measuring {len(units)} units"),
            )
        exact, together, *each = found
        names = [unit.name for unit in units]
        return _Units(
            units=units,
            macs=max(sum(macs.values()), 1),
            exact=exact,
            together=together,
            alone=dict(zip(names, each, strict=False)),
            without=dict(zip(names, each[len(units) :], strict=False)),
            local=local,
            images=sum(len(batch.images) for batch in self._few),
            skipped=self._few.skipped,
        )

    def report(self, found: _Units, options: QuantizeOptions) -> SensitivityReport:
        """The report without a search."""
        ordered = sorted(found.units, key=lambda unit: _badness(found.alone[unit.name]))
        metric = _metric(found.exact)
        skipped: dict[str, list[str]] = {}
        for node, reason in self._model.skipped.items():
            skipped.setdefault(reason, []).append(node)
        quantized = self._precision in QUANTIZED_FORMATS
        manifest = self._bundle.manifest
        notes = list(self._few.dataset.notes)
        if found.skipped:
            count = len(found.skipped)
            notes.append(f"{count} image{'s were' if count > 1 else ' was'} skipped.")
        return SensitivityReport(
            model=manifest.name,
            model_sha256=self._bundle.digest(),
            precision=self._precision,
            by=self._by,
            estimator=options.estimator_for(self._precision) if quantized else None,  # type: ignore[arg-type]
            asked=list(options.exclude),
            data=self._few.dataset.name,
            images=found.images,
            metric=metric[0] if metric else None,
            float32=metric[1] if metric else None,
            together=_effect(found.together, found.exact),
            predicted_db=sqnr_db(total(one.noise for one in found.alone.values())),
            units=[self._unit(unit, found) for unit in ordered],
            skipped=skipped,
            notes=notes,
            runtime=self._model.runtime,
            created_by=f"dinat-deploy {__version__}",
        )

    def _unit(self, unit: Unit, found: _Units) -> UnitReport:
        rest = found.without.get(unit.name)
        own = [sqnr_db(found.local[site]) for site in unit.sites]
        return UnitReport(
            name=unit.name,
            sites=list(unit.sites),
            macs=unit.macs,
            share=unit.macs / found.macs,
            alone=_effect(found.alone[unit.name], found.exact),
            without=_effect(rest, found.exact) if rest is not None else None,
            local_db=None if None in own else min(one for one in own if one is not None),
        )

    def searched(
        self, report: SensitivityReport, found: _Units, data: Dataset, budget: Budget
    ) -> SensitivityReport:
        """The report with a search on more images."""
        measurer = Measurer(self._model, self._batches(data))
        stage = "Searching"
        with self._progress.stage(f"Running the float32 model on {len(data)} images"):
            (exact,) = measurer.measure([frozenset()])
        images = exact.scores.images if exact.scores is not None else len(data)
        with self._progress.portion(stage) as done:

            def measure(units: Sequence[Unit]) -> Effect:
                sites = frozenset(site for unit in units for site in unit.sites)
                return _effect(measurer.measure([sites])[0], exact)

            steps = 0

            def heard(step: Step[Effect]) -> None:
                nonlocal steps
                steps += 1
                # How many there will be is not known; twice the logarithm is a fair guess.
                done(min(steps / (2 * len(found.units).bit_length()), 0.95), step.action)

            noise = {name: one.noise for name, one in found.alone.items()}
            result = search(by_harm(found.units, noise), measure, budget.holds, heard=heard)
        notes = [*report.notes, *_worth_of_an_image(budget, report.metric, images)]
        return report.model_copy(
            update={"search": _search_report(result, budget, found, images), "notes": notes}
        )


def _search_report(
    result: Found[Effect], budget: Budget, found: _Units, images: int
) -> SearchReport:
    macs = {unit.name: unit.macs for unit in found.units}

    def share(excluded: Iterable[str]) -> float:
        return (sum(macs.values()) - sum(macs[name] for name in excluded)) / found.macs

    names = [unit.name for unit in result.excluded]
    return SearchReport(
        max_drop=budget.max_drop,
        min_sqnr=budget.min_sqnr,
        excluded=names,
        sites=[site for unit in result.excluded for site in unit.sites],
        share=share(names),
        effect=result.measured,
        images=images,
        steps=[
            StepReport(
                action=step.action,
                excluded=list(step.excluded),
                share=share(step.excluded),
                effect=step.measured,
                within=step.within,
            )
            for step in result.steps
        ],
    )


def _worth_of_an_image(budget: Budget, metric: str | None, images: int) -> list[str]:
    if budget.max_drop is None or metric == "miou":
        return []
    points = 100 / images
    if points <= budget.max_drop:
        return []
    return [
        f"One of {images} images is worth {points:.2f} points, more than the budget of "
        f"{budget.max_drop:g}: not one may be lost. Use more images."
    ]


def _badness(measured: Measured) -> tuple[bool, float]:
    """The worst first."""
    return measured.noise is not None, -(measured.noise or 0.0)


def _metric(measured: Measured) -> tuple[str, float] | None:
    return measured.scores.primary if measured.scores is not None else None


def _effect(measured: Measured, exact: Measured) -> Effect:
    effect = Effect(noise=measured.noise, sqnr_db=sqnr_db(measured.noise))
    before, after = _metric(exact), _metric(measured)
    if before is None or after is None:
        return effect
    # Rounded, so that a budget of one image's worth is not missed by the last bit.
    drop = round(100 * (before[1] - after[1]), 9)
    return effect.model_copy(update={"metric": after[1], "drop": drop})
