"""``evaluate``: accuracy, size and speed of artefacts side by side, and a verdict on each."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinat_deploy import __version__
from dinat_deploy.bundle import Bundle, external_data_name
from dinat_deploy.data.dataset import Dataset, OnBad
from dinat_deploy.data.opening import open_dataset
from dinat_deploy.data.streaming import none_usable
from dinat_deploy.errors import BundleError, ConfigError, DataError
from dinat_deploy.evaluation.comparison import loss_of
from dinat_deploy.evaluation.metrics import Counter
from dinat_deploy.measurement import environment
from dinat_deploy.measurement.cpu_limits import available_cores
from dinat_deploy.pipeline.artefacts import parse_artefact
from dinat_deploy.pipeline.evaluation_batches import (
    BatchResult,
    Candidate,
    Evaluator,
    Opened,
    Plan,
)
from dinat_deploy.pipeline.evaluation_latency import Latency, measure_latency
from dinat_deploy.pipeline.evaluation_report import (
    ArtefactReport,
    EvaluationReport,
    short_precision,
)
from dinat_deploy.pipeline.evaluation_simulation import simulated_type, variant_of
from dinat_deploy.pipeline.evaluation_verdicts import judged
from dinat_deploy.pipeline.locating import Located, locate
from dinat_deploy.progress import Progress, Silent

DEFAULT_BATCH = 8
_NOTES_SHOWN = 5


def evaluate(
    artefacts: str | Path | Sequence[str | Path],
    data: str | Path | Dataset | Iterable[Any],
    *,
    batch: int = DEFAULT_BATCH,
    limit: int | None = None,
    seed: int = 0,
    on_bad: OnBad = "refuse",
    workers: int | None = None,
    ray: str | None = None,
    reference: str | Path | None = None,
    simulate: bool = False,
    latency: bool = True,
    duration: float = 2.0,
    max_drop: float | None = None,
    threads: int = 0,
    bundle: str | Path | None = None,
    plugin_library: str | Path | None = None,
    trust: bool = False,
    progress: Progress | None = None,
) -> EvaluationReport:
    """Evaluate artefacts on the same images and compare them with a reference.

    The scores depend on the artefacts, the data, ``limit``, ``seed`` and ``batch`` alone: not on
    the number of processes, and not on whether one of them died on the way.

    Args:
        artefacts: names such as ``out/dinat_mini`` or ``torch:out/dinat_mini``.
        data: as :func:`dinat_deploy.data.opening.open_dataset` takes it.
        batch: images of a batch.
        limit: take no more images than this, balanced over the classes; ``seed`` decides which.
        on_bad: refuse images that cannot be used, or skip them.
        workers: processes on this machine, one by default; with ``ray`` the number of actors, one
            for each CPU of the cluster by default.
        ray: address of a Ray cluster, or ``local`` to start one here.
        reference: what the others are compared with. By default the first artefact if it is in
            float32, else the float32 model of its bundle.
        simulate: compute 16-bit ONNX files as a GPU does, every tensor rounded, and not as ONNX
            Runtime does on the CPU. bfloat16 is always simulated there.
        latency: measure the time of an image as ``bench`` does, for ``duration`` seconds each.
        max_drop: points of top-1 or mIoU that an artefact may lose; without labels, of the
            agreement with the reference.
        threads: of the CPU for one run; 0 leaves the choice to the runtime, and with several
            workers shares the cores among them.
        bundle: that the artefacts belong to, where it is not found by itself.
        plugin_library: of TensorRT, instead of the one that is found.
        trust: load plans that run code of their own or have no manifest.

    Raises:
        ConfigError: an option is not possible, or artefacts, or an artefact and the data, do not
            fit each other.
        DataError: the data or an image cannot be used.
        DinatDeployError: an artefact cannot be opened or run, or all workers died.
        MissingDependencyError: a package that an artefact, the data or ``ray`` needs is missing.
    """
    progress = progress or Silent()
    _check_options(batch, workers, duration, max_drop)
    named = [artefacts] if isinstance(artefacts, str | Path) else artefacts
    place = Path(bundle) if bundle is not None else None
    entries = [_Entry.of(str(artefact), place, simulate) for artefact in dict.fromkeys(named)]
    if not entries:
        raise ConfigError("Nothing is named to be evaluated.", "Name a bundle or an engine.")
    entries = _with_reference(entries, reference, place, simulate)
    owner = _bundle_of(entries)
    notes: list[str] = []
    with progress.stage("Opening the data"):
        manifest = owner.manifest
        dataset = open_dataset(
            data, manifest.preprocessing, labels=manifest.labels, limit=limit, seed=seed
        )
        notes += dataset.notes
    if manifest.weights.source == "seeded":
        notes.append("The weights are random: accuracy means nothing, agreement and speed do.")
    plan = Plan(
        tuple(entry.candidate for entry in entries),
        dataset,
        batch,
        on_bad,
        threads or _shared_threads(workers, ray),
        bundle,
        plugin_library,
        trust,
    )
    on_gpu = any(entry.on_gpu for entry in entries)
    run = _Run(plan, notes)
    with progress.portion("Evaluating") as report, closing(run.results(workers, ray, on_gpu)) as it:
        for done, _ in enumerate(it, 1):
            report(done / plan.batches, f"batch {done} of {plan.batches}")
    merged = run.merged()
    times: dict[str, Latency] = {}
    if latency:
        runnable = [entry.name for entry in entries if entry.runnable]
        times = measure_latency(
            runnable,
            {entry.name: short_precision(entry.precision) for entry in entries},
            duration,
            notes,
            threads=threads,
            trust=trust,
            bundle=bundle,
            plugin_library=plugin_library,
            progress=progress,
        )
    return _report(entries, run, merged, times, max_drop, _spread(workers, ray))


@dataclass(frozen=True)
class _Entry:
    """An artefact and what its files say of it."""

    name: str
    found: Located
    candidate: Candidate
    on_gpu: bool

    @classmethod
    def of(cls, name: str, bundle: Path | None, simulate: bool) -> _Entry:
        parsed = parse_artefact(name)
        found = locate(parsed.target, bundle)
        simulated = simulated_type(name, found, all_types=simulate)
        runtime = parsed.runtime or ""
        on_gpu = found.kind in ("engine", "plan") or runtime.endswith(("cuda", "tensorrt", "rtx"))
        return cls(name, found, Candidate(name, simulated), on_gpu)

    @property
    def is_float32(self) -> bool:
        if self.found.engine is not None:
            return self.found.engine.manifest.precision in ("float32", "tf32")
        # Of an ONNX file without a bundle nothing is known, and nothing else could take its place.
        return variant_of(self.found) is None

    @property
    def precision(self) -> str:
        """``fp32`` and so on; empty where only the loaded model tells."""
        variant = variant_of(self.found)
        if variant is not None:
            return variant.precision
        if self.found.engine is not None:
            return short_precision(self.found.engine.manifest.precision)
        return "fp32" if self.found.kind in ("bundle", "zoo") else ""

    @property
    def runnable(self) -> bool:
        """Whether it runs as it is, so that its speed can be measured."""
        return self.candidate.simulated != "bf16"

    @property
    def bytes(self) -> int | None:
        """Size of its files; None for PyTorch, which runs what the ONNX file holds."""
        if (parse_artefact(self.name).runtime or "").startswith("torch"):
            return None
        if self.found.engine is not None:
            return self.found.engine.plan_path.stat().st_size
        path = self.found.path
        files = [path, path.with_name(external_data_name(path.name))]
        return sum(file.stat().st_size for file in files if file.is_file()) or None


def _check_options(
    batch: int, workers: int | None, duration: float, max_drop: float | None
) -> None:
    if batch < 1:
        raise ConfigError(f"A batch of {batch} images is not possible.", "Take at least one.")
    if workers is not None and workers < 1:
        raise ConfigError(f"{workers} workers cannot do anything.", "Take at least one.")
    if duration <= 0:
        raise ConfigError(f"Nothing can be measured in {duration:g} seconds.", "Take more.")
    if max_drop is not None and not 0 <= max_drop <= 100:
        raise ConfigError(f"{max_drop:g} points cannot be lost.", "Write 0 to 100, such as 0.5.")


def _with_reference(
    entries: list[_Entry], reference: str | Path | None, bundle: Path | None, simulate: bool
) -> list[_Entry]:
    """The entries with the reference first, which may be added."""
    if reference is not None:
        chosen = _Entry.of(str(reference), bundle, simulate)
    elif entries[0].is_float32:
        chosen = entries[0]
    else:
        owner = entries[0].found.bundle
        if owner is None:
            return entries
        own = [
            entry for entry in entries if entry.is_float32 and entry.found.path == owner.model_path
        ]
        chosen = own[0] if own else _Entry.of(str(owner.path), None, simulate)
    return [chosen, *(entry for entry in entries if entry.name != chosen.name)]


def _bundle_of(entries: Sequence[_Entry]) -> Bundle:
    """The bundle that says how pictures become inputs, which must be the same for all."""
    owned = [(entry.name, entry.found.bundle) for entry in entries if entry.found.bundle]
    if not owned:
        raise BundleError(
            f"No bundle was found that {entries[0].name} belongs to, so that nothing says how to "
            "preprocess pictures.",
            "Name the bundle that it was made from with --bundle.",
        )
    first_name, first = owned[0]
    for name, other in owned[1:]:
        for what in ("preprocessing", "labels"):
            if getattr(first.manifest, what) != getattr(other.manifest, what):
                raise ConfigError(
                    f"{first_name} and {name} have different {what}, so that they cannot be "
                    "evaluated on the same inputs.",
                    "Evaluate them one after the other.",
                )
    return first


def _shared_threads(workers: int | None, ray: str | None) -> int:
    if ray is not None:
        return 1  # what an actor is given
    return max(1, available_cores() // workers) if workers and workers > 1 else 0


def _spread(workers: int | None, ray: str | None) -> str:
    if ray is not None:
        return f"Ray ({ray})"
    return f"{workers} processes" if workers and workers > 1 else "one process"


class _Run:
    """Collects what is found in the batches.

    Attributes:
        opened: what was loaded, of each candidate.
        skipped: names of images that could not be used, in the order of the data.
    """

    def __init__(self, plan: Plan, notes: list[str]) -> None:
        self.plan = plan
        self.notes = notes
        self.opened: list[Opened] = []
        self.skipped: list[str] = []
        self._found: dict[int, BatchResult] = {}

    def results(self, workers: int | None, ray: str | None, on_gpu: bool) -> Generator[BatchResult]:
        """Every batch once, as it is done."""
        plan = self.plan
        if ray is not None:
            from dinat_deploy.pipeline.evaluation_ray import count_on_ray

            source = count_on_ray(
                plan, ray, workers or 0, self._take, self.notes.append, on_gpu=on_gpu
            )
        elif workers and workers > 1:
            from dinat_deploy.pipeline.evaluation_workers import count_in_processes

            source = count_in_processes(plan, workers, self._take, self.notes.append)
        else:
            source = self._alone()
        with closing(source) as results:
            for result in results:
                self._found[result.index] = result
                yield result

    def _alone(self) -> Generator[BatchResult]:
        with Evaluator(self.plan) as evaluator:
            self._take(evaluator.opened)
            for index in range(self.plan.batches):
                yield evaluator.count(index)

    def _take(self, opened: list[Opened]) -> None:
        self.opened = opened

    def merged(self) -> list[Counter]:
        """The counts of each candidate over all batches.

        Raises:
            DataError: no image could be used.
        """
        ordered = [self._found[index] for index in sorted(self._found)]
        self.skipped = [name for result in ordered for name in result.skipped]
        reasons = [reason for result in ordered for reason in result.reasons]
        merged: list[Counter] = []
        for result in ordered:
            if not merged:
                merged = result.counters
            else:
                for whole, part in zip(merged, result.counters, strict=False):
                    whole.merge(part)
        if not merged:
            first = DataError(reasons[0]) if reasons else None
            raise none_usable(self.plan.dataset, len(self.plan.dataset), first)
        self.notes += reasons[:_NOTES_SHOWN]
        if len(reasons) > _NOTES_SHOWN:
            self.notes.append(f"{len(reasons) - _NOTES_SHOWN} more images were skipped.")
        return merged


def _report(
    entries: Sequence[_Entry],
    run: _Run,
    counters: Sequence[Counter],
    times: dict[str, Latency],
    max_drop: float | None,
    spread: str,
) -> EvaluationReport:
    reports: list[ArtefactReport] = []
    for entry, opened, counter in zip(entries, run.opened, counters, strict=True):
        time = times.get(entry.name)
        known = entry.precision or short_precision(opened.precision)
        notes = list(opened.notes)
        if not entry.runnable:
            notes.append("ONNX Runtime cannot run bfloat16 on the CPU: simulated, and not timed.")
        reports.append(
            ArtefactReport(
                name=entry.name,
                precision=known,
                runtime=opened.runtime,
                device=opened.device,
                simulated=entry.candidate.simulated is not None,
                scores=counter.scores(),
                loss=loss_of(counter, counters[0]) if reports else None,
                bytes=entry.bytes,
                latency_ms=time.milliseconds if time else None,
                speed=time.speed if time else None,
                over_finer=time.over_finer if time else None,
                notes=list(dict.fromkeys(notes)),
            )
        )
    judgements = [judged(report, reports[0], max_drop) for report in reports]
    scores = reports[0].scores
    return EvaluationReport(
        data=run.plan.dataset.name,
        task=run.plan.dataset.task,
        metric=scores.primary[0],
        images=scores.images,
        skipped=run.skipped,
        batch=run.plan.batch,
        max_drop=max_drop,
        spread=spread,
        artefacts=judgements,
        notes=list(dict.fromkeys(run.notes)),
        environment=environment.describe(),
        created_by=f"dinat-deploy {__version__}",
    )
