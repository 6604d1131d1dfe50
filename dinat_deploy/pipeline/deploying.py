"""``deploy``: a model to a verified and measured engine, in steps that are not done twice."""

from __future__ import annotations

import difflib
import inspect
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from dinat_deploy.bundle import is_bundle, open_bundle
from dinat_deploy.engine.devices import current_capability
from dinat_deploy.errors import BundleError, ConfigError, EngineError
from dinat_deploy.files import refuse_to_replace
from dinat_deploy.measurement.records import BenchOptions
from dinat_deploy.pipeline.build_plan import check_builder
from dinat_deploy.pipeline.deploy_record import (
    DeployRecord,
    StepName,
    StepRecord,
    digests,
    read_record,
    write_record,
)
from dinat_deploy.pipeline.deploy_steps import (
    Bench,
    Build,
    DeployOptions,
    Export,
    FailedStepError,
    Precision,
    Step,
    Verify,
)
from dinat_deploy.pipeline.requests import ModelRequest, default_output
from dinat_deploy.progress import Progress, Silent

State = Literal["done now", "done before", "to do", "skipped", "failed"]


@dataclass(frozen=True)
class StepReport:
    """One step of a deployment.

    Attributes:
        text: what came out, what would be done, or why it is skipped.
        seconds: how long it took, now or before; None if it did not run.
    """

    name: StepName
    state: State
    text: str
    seconds: float | None = None


@dataclass
class DeployReport:
    """What a deployment did, or would do.

    Attributes:
        bundle: its directory.
        engine: that of the engine; None as long as the bundle that it is built from is missing.
        passed: False if a step's answer was no: the engine differs from PyTorch.
    """

    bundle: Path
    engine: Path | None = None
    steps: list[StepReport] = field(default_factory=list)
    passed: bool = True
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return {
            "bundle": str(self.bundle),
            "engine": str(self.engine) if self.engine else None,
            "passed": self.passed,
            "seconds": self.seconds,
            "steps": [asdict(step) for step in self.steps],
        }


def deploy(
    model: ModelRequest | str | Path,
    output: str | Path | None = None,
    *,
    options: DeployOptions | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> DeployReport:
    """Export a model, convert it, build its engine, compare that with PyTorch and measure it.

    Every finished step is recorded in the bundle. Called again, the function does only what is
    missing or whose inputs changed: weights, options, TensorRT, plugin, GPU.

    Args:
        model: what to export, the name of a published model, or the path of an existing bundle,
            whose engine alone is made.
        output: directory of the bundle, ``out/NAME`` by default.
        options: of all steps.
        dry_run: only find out what would be done.

    Returns:
        The report. An engine that differs from PyTorch is not measured.

    Raises:
        DinatDeployError: any of its subclasses. Steps that were finished stay so.
        EngineError: the engine is to be run, and this machine has no GPU.
    """
    progress = progress or Silent()
    options = options or DeployOptions()
    started = time.monotonic()
    bundle, steps = _steps(model, output, options)
    # What can be known now is not found out after minutes of exporting.
    for step in steps:
        if isinstance(step, Build | Verify | Bench):
            _check_names(step, options)
    check_builder(**options.build)
    if isinstance(steps[0], Export):
        refuse_to_replace(bundle, is_bundle)
    if options.run and not dry_run and current_capability() is None:
        raise EngineError(
            "deploy compares and measures the engine on its GPU, and this machine has none.",
            "Add --no-run to export and build only. On the machine with the GPU, "
            f"`dinat-deploy deploy {bundle}` with the same options does the rest.",
        )
    report = DeployReport(bundle)
    record = read_record(bundle)
    open_end = False  # a step that is to do leaves the keys of the later ones open
    for step in steps:
        before = None if open_end else _before(step, bundle, record, force=options.force)
        if before is not None:
            entry = StepReport(step.name, "done before", before.result, before.seconds)
        elif dry_run:
            entry, open_end = StepReport(step.name, "to do", step.purpose), True
        else:
            if isinstance(step, Export):  # not before: its function needs PyTorch
                _check_names(step, options)
            entry, record = _execute(step, bundle, record, progress)
        if isinstance(step, Build) and not open_end:
            report.engine = step.engine
        report.steps.append(entry)
        if entry.state == "failed":
            report.passed = False
            break
    if not options.run:
        where = "--no-run: compare it where its GPU is, with `dinat-deploy verify`"
        report.steps.append(StepReport("verify", "skipped", where))
        report.steps.append(
            StepReport("bench", "skipped", "--no-run: measure it there with `bench`")
        )
    report.seconds = round(time.monotonic() - started, 3)
    return report


def _steps(
    model: ModelRequest | str | Path, output: str | Path | None, options: DeployOptions
) -> tuple[Path, list[Step]]:
    """The bundle's directory and the steps to be done."""
    steps: list[Step] = []
    if isinstance(model, ModelRequest):
        bundle = Path(output) if output else default_output(model)
        steps.append(Export(bundle, model, options.export))
    elif Path(model).is_dir():
        if output is not None:
            raise ConfigError(
                f"{model} is a bundle already, and {output} is named for another.",
                "Leave --output out, or name the model to export.",
            )
        bundle = Path(model)
        open_bundle(bundle).check_model()
    else:
        return _steps(_named(str(model)), output, options)
    if options.precision != "fp32":
        if options.precision in ("int8", "fp8") and "data" not in options.calibrate:
            raise ConfigError(
                f"{options.precision} needs images to calibrate on, and none are named.",
                "Name them with --data.",
            )
        steps.append(Precision(bundle, options.precision, options.calibrate))
    build = Build(bundle, options.precision, options.build)
    steps.append(build)
    if options.run:
        steps += [Verify(build, options.verify), Bench(build, options.bench)]
    return bundle, steps


def _check_names(step: Export | Build | Verify | Bench, options: DeployOptions) -> None:
    """Raise ConfigError for an option that the step does not have."""
    for name in getattr(options, step.name):
        known = _known_names(step)
        if name not in known:
            close = difflib.get_close_matches(name, known, 1, cutoff=0.7)
            raise ConfigError(
                f"{name!r} in DeployOptions({step.name}=...) is no option of {step.name}.",
                f"Write {close[0]!r}." if close else f"There are {', '.join(known)}.",
            )


def _known_names(step: Export | Build | Verify | Bench) -> list[str]:
    """Names of the options of a step, which are arguments of its function."""
    function: Callable[..., Any]
    if isinstance(step, Export):
        from dinat_deploy.pipeline.exporting import export as function
    elif isinstance(step, Build):
        from dinat_deploy.pipeline.building import build as function
    elif isinstance(step, Verify):
        from dinat_deploy.pipeline.verifying import verify as function
    else:
        from dinat_deploy.pipeline.benching import bench as function
    names = []
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        if parameter.kind is parameter.VAR_KEYWORD:
            names += list(BenchOptions.model_fields)
        elif parameter.name not in ("output", "progress"):
            names.append(parameter.name)
    return names


def _named(text: str) -> ModelRequest:
    """A published model's name; raises BundleError for a path."""
    path = Path(text)
    if path.suffix == ".onnx" and is_bundle(path.parent):
        variant = path.stem.partition(".")[2]
        how = f" --precision {variant}" if variant else ""
        raise BundleError(
            f"{text} is a file in a bundle.", f"Name the bundle: `deploy {path.parent}{how}`."
        )
    if path.exists() or path.suffix or len(path.parts) > 1:
        raise BundleError(
            f"{text} is neither a bundle nor the name of a published model.",
            "Bundles are directories written by export; a configuration goes behind --config, "
            "weights behind --checkpoint, and `dinat-deploy models` lists the names.",
        )
    return ModelRequest(model=text)


def _before(step: Step, bundle: Path, record: DeployRecord, *, force: bool) -> StepRecord | None:
    """The record of a step that was done for the same inputs, and whose files are still there."""
    key = step.key()  # which also finds out whether what it depends on is there
    found = record.steps.get(step.slot)
    if force or found is None or found.key != key:
        return None
    return found if found.intact(bundle) else None


def _execute(
    step: Step, bundle: Path, record: DeployRecord, progress: Progress
) -> tuple[StepReport, DeployRecord]:
    started = time.monotonic()
    if step.slot in record.steps:
        # It may be stopped when it has replaced its files and not yet said so.
        record = record.without(step.slot)
        write_record(bundle, record)
    try:
        result = step.run(progress)
    except FailedStepError as failure:
        seconds = round(time.monotonic() - started, 3)
        return StepReport(step.name, "failed", str(failure), seconds), record
    seconds = round(time.monotonic() - started, 3)
    if isinstance(step, Export):
        record = DeployRecord()  # whatever was made of the old bundle went with it
    made = digests(bundle, step.files())
    record = record.with_step(
        step.slot, StepRecord(key=step.key(), seconds=seconds, result=result, files=made)
    )
    write_record(bundle, record)
    return StepReport(step.name, "done now", result, seconds), record
