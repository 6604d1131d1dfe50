"""Puts what result files hold where it belongs: runs, scores and errors of artefacts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dinat_deploy.errors import ConfigError
from dinat_deploy.measurement.records import ArtefactResult, BenchReport
from dinat_deploy.pipeline.evaluation_report import ArtefactReport, EvaluationReport
from dinat_deploy.pipeline.reporting_collecting import add_runs, measured_before, session_of
from dinat_deploy.pipeline.reporting_matching import Match, Owned, match
from dinat_deploy.pipeline.reporting_results import Content, ResultFile, Verified
from dinat_deploy.pipeline.sensitivity_report import SensitivityReport
from dinat_deploy.reporting.records import (
    Accuracy,
    ArtefactRecord,
    LayerComparison,
    LayerParity,
    Lost,
    Parity,
    Sensitivity,
    Session,
    UnitNoise,
)


@dataclass
class Recorder:
    """Adds results to the records of bundles.

    Attributes:
        owners: the bundles.
        sessions: measurements that runs came from.
        notes: what was left out, and what casts doubt on what was not.
    """

    owners: Sequence[Owned]
    sessions: list[Session] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _taken: set[str] = field(default_factory=set)

    def add(self, file: ResultFile, engine: Path | None = None, *, named: bool) -> None:
        """Add what a file holds.

        Args:
            engine: the engine's directory that it lies in, to which a single result belongs.
            named: the user named it: then something in it must belong to a bundle.

        Raises:
            ConfigError: nothing in it does; or it may belong to several bundles.
        """
        content, path = file.content, file.path
        if isinstance(content, SensitivityReport):
            self._add_sensitivity(content, path, named=named)
            return
        names = _names(content)
        beside = self._beside(engine) if engine is not None and len(names) == 1 else None
        found = [beside or match(name, path, self.owners) for name in names]
        if not any(found):
            self._nothing(path, names, named=named)
            return
        strange = [name for name, each in zip(names, found, strict=True) if each is None]
        if strange:
            self.notes.append(
                f"{path}: {', '.join(strange)} {'belongs' if len(strange) == 1 else 'belong'} to "
                f"none of the bundles ({self._listed()}) and {'is' if len(strange) == 1 else 'are'}"
                " left out."
            )
        self.add_content(content, found, str(path))

    def add_content(self, content: Content, found: Sequence[Match | None], origin: str) -> None:
        """Add results whose artefacts are known.

        Args:
            found: what each of them is of, in their order; None is left out.
        """
        if isinstance(content, BenchReport):
            self._add_bench(content, found, origin)
        elif isinstance(content, EvaluationReport):
            self._add_evaluation(content, found, origin)
        elif isinstance(content, Verified) and found[0] is not None:
            add_verified(content, found[0].artefact, origin)

    def _beside(self, engine: Path) -> Match | None:
        """The engine in a directory."""
        place = engine.resolve()
        for owner in self.owners:
            for artefact in owner.artefacts.values():
                if (owner.bundle.path / artefact.file).resolve() == place:
                    return Match(owner, artefact, "")
        return None

    def _nothing(self, path: Path, names: Sequence[str], *, named: bool) -> None:
        text = f"{path} is of {', '.join(names)}, and the report is about {self._listed()}"
        if named:
            raise ConfigError(
                f"{text}: nothing in it belongs to a bundle that was named.",
                "Name that bundle as well, or leave the file out.",
            )
        self.notes.append(f"{text}: it is left out.")

    def _listed(self) -> str:
        return ", ".join(str(owner.bundle.path) for owner in self.owners)

    def _add_bench(self, report: BenchReport, found: Sequence[Match | None], origin: str) -> None:
        placed: dict[str, list[tuple[ArtefactRecord, str, ArtefactResult]]] = {}
        for each, result in zip(found, report.results, strict=True):
            if each is None:
                continue
            entry = (each.artefact, each.runtime, result)
            placed.setdefault(each.owner.record.name, []).append(entry)
            file = each.owner.bundle.path / each.artefact.file
            model = file / "model.plan" if each.artefact.kind == "engine" else file
            if measured_before(report, model):
                self.notes.append(
                    f"{origin} was measured before {model} was written: if that was no copy, "
                    "measure again."
                )
        number = len(self.sessions)
        self.sessions.append(session_of(report, origin))
        for entries in placed.values():
            add_runs(entries, number, report.options.streams, self._taken)

    def _add_evaluation(
        self, report: EvaluationReport, found: Sequence[Match | None], origin: str
    ) -> None:
        first = found[0].artefact.name if found[0] is not None else report.reference.name
        for position, (each, scored) in enumerate(zip(found, report.artefacts, strict=True)):
            if each is not None:
                each.artefact.accuracy.append(
                    _accuracy(report, scored, origin, None if position == 0 else first)
                )

    def _add_sensitivity(self, report: SensitivityReport, path: Path, *, named: bool) -> None:
        for owner in self.owners:
            if owner.bundle.manifest.graph.sha256 != report.model_sha256:
                continue
            excluded = set(report.search.excluded) if report.search else set()
            owner.record.sensitivity.append(
                Sensitivity(
                    origin=str(path),
                    precision=report.precision,
                    by=report.by,
                    data=f"{report.data}, {report.images} images",
                    verdict=report.verdict,
                    units=[
                        UnitNoise(
                            name=unit.name,
                            share=unit.share,
                            sqnr_db=unit.alone.sqnr_db,
                            drop=unit.alone.drop,
                            excluded=unit.name in excluded,
                        )
                        for unit in report.units
                    ],
                )
            )
            return
        text = f"{report.model} with SHA-256 {report.model_sha256[:12]}..."
        self._nothing(path, [text], named=named)


def add_verified(found: Verified, artefact: ArtefactRecord, origin: str) -> None:
    """Add a comparison with PyTorch to an artefact."""
    tensors = [tensor for case in found.cases for tensor in case.outputs.values()]
    if tensors:
        # The one that comes closest to its limit, or exceeds it most.
        worst = max(tensors, key=lambda each: _relative_to_limit(each.max_abs, each.limit))
        agreements = [t.argmax_agreement for t in tensors if t.argmax_agreement is not None]
        cosines = [t.cosine for t in tensors if t.cosine is not None]
        artefact.parity.append(
            Parity(
                origin=origin,
                passed=all(tensor.passed for tensor in tensors),
                max_abs=worst.max_abs,
                limit=worst.limit,
                cosine=min(cosines) if len(cosines) == len(tensors) else None,
                argmax_agreement=min(agreements, default=None),
                cases=len(found.cases),
                runtime=f"{found.candidate} against {found.reference}",
            )
        )
    if found.layers:
        artefact.layers = LayerComparison(
            origin=origin,
            runtime=found.candidate,
            case=found.cases[0].name if found.cases else "",
            layers=[
                LayerParity(**layer.model_dump(exclude={"argmax_agreement"}))
                for layer in found.layers
            ],
        )


def _relative_to_limit(max_abs: float | None, limit: float | None) -> float:
    if max_abs is None or limit is None:
        return math.inf
    return max_abs / limit if limit else (math.inf if max_abs else 0.0)


def _names(content: Content) -> list[str]:
    if isinstance(content, BenchReport):
        return [result.name for result in content.results]
    if isinstance(content, EvaluationReport):
        return [artefact.name for artefact in content.artefacts]
    return [content.artefact] if isinstance(content, Verified) else []


def _accuracy(
    report: EvaluationReport, scored: ArtefactReport, origin: str, reference: str | None
) -> Accuracy:
    scores, lost = scored.scores, scored.loss
    return Accuracy(
        origin=origin,
        data=report.data,
        images=scores.images,
        metric=report.metric,
        top1=scores.top1,
        top5=scores.top5,
        miou=scores.miou,
        pixel_accuracy=scores.pixel_accuracy,
        agreement=scores.agreement,
        sqnr_db=_finite(scores.sqnr_db),
        lost=Lost(value=lost.value, low=lost.low, high=lost.high) if lost else None,
        reference=reference,
        max_drop=report.max_drop,
        passed=scored.passed,
        simulated=scored.simulated,
        runtime=scored.runtime,
        device=scored.device,
        verdict=scored.verdict,
    )


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
