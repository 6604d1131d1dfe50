"""Measures for a report what no file says and what can run here."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dinat_deploy.errors import BundleError, ConfigError, DinatDeployError
from dinat_deploy.measurement.power.source import PowerUnavailableError
from dinat_deploy.pipeline.artefacts import open_artefact
from dinat_deploy.pipeline.benching import bench
from dinat_deploy.pipeline.evaluating import evaluate
from dinat_deploy.pipeline.reporting_matching import Match, Owned
from dinat_deploy.pipeline.reporting_recorded import Recorder, add_verified
from dinat_deploy.pipeline.reporting_results import Verified
from dinat_deploy.pipeline.verifying import verify
from dinat_deploy.progress import Progress
from dinat_deploy.reporting.records import ArtefactRecord, Missing

HERE = "measured for this report"
# Bytes of models that are held in memory together; beyond, one at a time.
_MOST_ALIVE = 3 << 30
_LONGEST_SECONDS = 86_400


@dataclass(frozen=True)
class MeasureOptions:
    """What is measured, and how.

    Attributes:
        enabled: measure anything at all; scores are taken wherever ``data`` is given.
        duration: least seconds of runs of every artefact.
        power: as of :class:`dinat_deploy.measurement.records.BenchOptions`.
        threads: of the CPU for one run; 0 leaves the choice to the runtime.
        trust, plugin_library: as of :func:`dinat_deploy.bench`.
        data: that artefacts are scored on; None scores none.
        evaluate: further arguments of :func:`dinat_deploy.evaluate`.
    """

    enabled: bool = True
    duration: float = 1.0
    power: Literal["off", "auto", "on"] = "off"
    threads: int = 0
    trust: bool = False
    plugin_library: str | Path | None = None
    data: str | None = None
    evaluate: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Raise ConfigError for what cannot be measured."""
        if not 0 <= self.duration <= _LONGEST_SECONDS:
            raise ConfigError(
                f"Nothing can be measured for {self.duration:g} seconds.",
                f"Write 0 to {_LONGEST_SECONDS}.",
            )
        if self.power == "on" and not self.enabled:
            raise ConfigError(
                "Power is asked for, and nothing is to be measured.",
                "Leave one of --power and --no-measure out.",
            )

    @property
    def loading(self) -> dict[str, Any]:
        return {"trust": self.trust, "plugin_library": self.plugin_library}


Entry = tuple[Owned, ArtefactRecord]


def complete(
    owners: Sequence[Owned], recorder: Recorder, options: MeasureOptions, progress: Progress
) -> None:
    """Measure what is missing, and say of the rest what makes it.

    Raises:
        PowerUnavailableError: power was asked for, and nothing tells it.
        DinatDeployError: data were given that no bundle can be evaluated on.
        BenchInterrupted: interrupted while times were measured.
    """
    entries = [(owner, each) for owner in owners for each in owner.artefacts.values()]
    refused: dict[str, DinatDeployError] = {}
    if options.enabled or options.data is not None:
        for _, artefact in progress.track(entries, "Finding out what runs here"):
            error = _refusal(artefact, options)
            if error is not None:
                refused[artefact.name] = error
    if options.enabled:
        _compare_layers(entries, refused, options, progress)
    if options.data is not None:
        _score(owners, refused, options, progress)
    if options.enabled:
        _time(entries, refused, recorder, options, progress)
    for owner, artefact in entries:
        _say_what_is_missing(owner, artefact, refused.get(artefact.name), options)


def _refusal(artefact: ArtefactRecord, options: MeasureOptions) -> DinatDeployError | None:
    """Why an artefact cannot be loaded here."""
    try:
        with open_artefact(artefact.path, threads=options.threads, **options.loading):
            return None
    except DinatDeployError as error:
        return error


def _compare_layers(
    entries: Sequence[Entry],
    refused: Mapping[str, DinatDeployError],
    options: MeasureOptions,
    progress: Progress,
) -> None:
    wanted = [a for _, a in entries if a.layers is None and a.name not in refused]
    with progress.portion("Comparing layers with PyTorch") as told:
        for number, artefact in enumerate(wanted):
            told(number / len(wanted), artefact.name)
            try:
                _add_layers(artefact, options)
            except DinatDeployError as error:
                artefact.missing.append(
                    _missing("layers", error, _verify_command(_quoted(artefact.path)))
                )


def _add_layers(artefact: ArtefactRecord, options: MeasureOptions) -> None:
    try:
        report = verify(artefact.path, layers=True, random_cases=0, **options.loading)
    except BundleError:  # such as: no recorded input has a size that it takes
        report = verify(artefact.path, layers=True, random_cases=1, **options.loading)
    add_verified(Verified.model_validate(report.to_dict()), artefact, HERE)


def _score(
    owners: Sequence[Owned],
    refused: Mapping[str, DinatDeployError],
    options: MeasureOptions,
    progress: Progress,
) -> None:
    assert options.data is not None
    failed: list[DinatDeployError] = []
    for owner in owners:
        # bfloat16 is simulated where ONNX Runtime does not run it.
        able = [
            each
            for each in owner.artefacts.values()
            if each.name not in refused or (each.kind == "onnx" and each.precision == "bf16")
        ]
        if not able:
            continue
        try:
            report = evaluate(
                [each.path for each in able],
                options.data,
                latency=False,
                threads=options.threads,
                progress=progress,
                **options.loading,
                **options.evaluate,
            )
        except DinatDeployError as error:
            failed.append(error)
            command = (
                f"dinat-deploy evaluate {_quoted(owner.record.path)} --data DATA --output FILE"
                if owner.record.scored
                else None
            )
            for each in able:
                each.missing.append(_missing("accuracy", error, command))
            continue
        names = {each.path: each for each in owner.artefacts.values()}
        matches = [Match(owner, names[scored.name], "") for scored in report.artefacts]
        Recorder([owner]).add_content(report, matches, HERE)
    if failed and not any(a.accuracy for owner in owners for a in owner.artefacts.values()):
        raise failed[0]


def _time(
    entries: Sequence[Entry],
    refused: dict[str, DinatDeployError],
    recorder: Recorder,
    options: MeasureOptions,
    progress: Progress,
) -> None:
    able = [(owner, each) for owner, each in entries if each.name not in refused]
    wanted = {each.name for _, each in able if not each.runs}
    # Speeds compare with the float32 model, which takes its turns beside the others.
    lacking = {owner.record.name for owner, each in able if each.name in wanted}
    chosen = [
        (owner, each)
        for owner, each in able
        if each.name in wanted or (owner.record.name in lacking and each is owner.record.float32)
    ]
    if not chosen:
        return
    total = sum(each.bytes or 0 for _, each in chosen)
    try:
        report = bench(
            [each.path for _, each in chosen],
            duration=options.duration,
            layers=True,
            power=options.power,
            one_alive=total > _MOST_ALIVE,
            threads=options.threads,
            progress=progress,
            **options.loading,
        )
    except PowerUnavailableError as error:
        raise PowerUnavailableError(error.cause, "Leave --power out.") from None
    except DinatDeployError as error:
        refused |= dict.fromkeys(wanted, error)
        return
    matches = [Match(owner, each, "") for owner, each in chosen]
    recorder.add_content(report, matches, HERE)


def _say_what_is_missing(
    owner: Owned,
    artefact: ArtefactRecord,
    refusal: DinatDeployError | None,
    options: MeasureOptions,
) -> None:
    """What the report does not have of an artefact, why, and what makes it."""
    told = {each.what for each in artefact.missing}
    off = "Nothing was to be measured (--no-measure)."
    here = _quoted(artefact.path)
    if artefact.kind == "onnx" and artefact.precision == "bf16":
        here = _quoted(f"torch:{artefact.path}")  # what runs bfloat16 on a CPU

    def add(what: str, why: str, command: str | None) -> None:
        if what not in told:
            artefact.missing.append(Missing(what=what, why=why, command=command))

    why = _reason(refusal) if refusal is not None else off
    if not artefact.runs:
        add("latency", why, f"dinat-deploy bench {here} --layers --json FILE.json")
    elif not any(run.result.power for run in artefact.runs) and options.power == "off":
        add("power", "It is measured only if asked for.", f"dinat-deploy bench {here} --power")
    if artefact.layers is None:
        add("layers", why, _verify_command(here))
    if not artefact.accuracy and not owner.record.scored:
        add("accuracy", f"No command scores {owner.record.task}.", None)
    elif not artefact.accuracy:
        add(
            "accuracy",
            "No data were given." if options.data is None else why,
            f"dinat-deploy evaluate {_quoted(owner.record.path)} --data DATA --output FILE"
            if artefact is owner.record.float32
            else f"dinat-deploy evaluate {here} --data DATA --output FILE",
        )


def _missing(what: str, error: DinatDeployError, command: str | None) -> Missing:
    return Missing(what=what, why=_reason(error), command=command)


def _reason(error: DinatDeployError) -> str:
    return f"{error.cause} {error.cure}".strip()


def _verify_command(named: str) -> str:
    return f"dinat-deploy verify {named} --layers --json > FILE.json"


def _quoted(path: str) -> str:
    return shlex.quote(path)
