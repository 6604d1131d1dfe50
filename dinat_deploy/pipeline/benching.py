"""``bench``: measure anything that runs, one artefact or several in turn."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dinat_deploy import __version__
from dinat_deploy.errors import ConfigError, DinatDeployError
from dinat_deploy.measurement import environment, roofline
from dinat_deploy.measurement.measuring import Maker, MeasuringInterrupted, measure
from dinat_deploy.measurement.records import BenchOptions, BenchReport, PowerUse, Work
from dinat_deploy.measurement.results import Subject, results
from dinat_deploy.models.config import ModelConfig, describe
from dinat_deploy.pipeline.artefacts import Artefact, open_artefact, parse_artefact
from dinat_deploy.pipeline.bench_power import measure_power, open_meter, settle_and_rest
from dinat_deploy.pipeline.pixels import made_up_feeds
from dinat_deploy.progress import Progress, Silent
from dinat_deploy.session.base import Block, LayerTime, MemoryUse, PreparedRun, RunOptions


class BenchInterrupted(KeyboardInterrupt):
    """An interrupt after some rounds were measured.

    Attributes:
        report: what they gave, of all artefacts.
    """

    def __init__(self, report: BenchReport) -> None:
        super().__init__()
        self.report = report


def bench(
    artefacts: str | Path | Sequence[str | Path],
    *,
    batch: int | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    threads: int = 0,
    trust: bool = False,
    bundle: str | Path | None = None,
    plugin_library: str | Path | None = None,
    progress: Progress | None = None,
    **protocol: Any,
) -> BenchReport:
    """Measure artefacts, several of them interleaved; the first is what others are compared with.

    Args:
        artefacts: names such as ``out/dinat_mini`` or ``torch:out/dinat_mini``.
        batch: images of one run.
        shapes: input name -> shape, instead of the model's own; an artefact takes those that name
            one of its inputs.
        threads: of the CPU for one run; 0 leaves the choice to the runtime.
        trust: load plans that run code of their own or have no manifest.
        bundle: that the artefacts belong to, where it is not found by itself.
        plugin_library: of TensorRT, instead of the one that is found.
        protocol: fields of :class:`dinat_deploy.measurement.records.BenchOptions`.

    Raises:
        ConfigError: an option or a shape is not possible.
        DinatDeployError: an artefact cannot be opened or prepared; nothing was measured. Problems
            of all artefacts are in the message.
        PowerUnavailableError: ``power="on"``, and nothing here tells it; nothing was measured.
        BenchInterrupted: interrupted after at least one round of all artefacts.
    """
    progress = progress or Silent()
    options = options_of(protocol)
    # A string is a sequence of strings too, and its letters are not what was meant.
    named = [artefacts] if isinstance(artefacts, str | Path) else artefacts
    names = [str(artefact) for artefact in named]
    if not names:
        raise ConfigError("Nothing is named to be measured.", "Name a bundle or an engine.")
    if batch is not None and shapes:
        raise ConfigError("A batch and shapes exclude each other.", "Give the batch in the shapes.")
    arguments = Arguments(batch, dict(shapes or {}), threads, trust, bundle, plugin_library)
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    machine, warnings = environment.describe(), environment.concerns()
    entries = {
        name: _Entry(text, arguments, options)
        for name, text in zip(_distinct(names), names, strict=True)
    }
    with ExitStack() as held:
        meter = open_meter(options.power, warnings)
        if meter is not None:
            held.callback(meter.close)
        for entry in entries.values():
            held.callback(entry.close)
            # What is kept for comparing is kept until its power was measured, too.
            entry.keep = meter is not None and not options.one_alive
        _open_all(list(entries.values()), shapes or {}, progress)
        if meter is not None:
            settle_and_rest(meter, progress)
        makers: dict[str, Maker] = {name: entry.make for name, entry in entries.items()}
        interrupted = ""
        with progress.portion("Measuring") as report:
            try:
                measured = measure(makers, options, report)
            except MeasuringInterrupted as stop:
                measured = stop.measured
                rounds = len(measured[0].blocks)
                interrupted = f"Interrupted after {rounds} round{'s' * (rounds != 1)}."
        uses: dict[str, PowerUse] = {}
        power = None
        if meter is not None:
            if not interrupted and not measure_power(meter, makers, uses, options, progress):
                interrupted = "Interrupted while the power was measured."
            power = meter.report()
            warnings += power.throttled
    if any(found.kind == "gpu" for found in measured):
        warnings += environment.slowed()
    if interrupted:
        warnings.append(interrupted)
    records = results(measured, [entry.subject() for entry in entries.values()], options)
    result = BenchReport(
        created_by=f"dinat-deploy {__version__}",
        started=started,
        command=command_line(names, arguments, options),
        environment=machine,
        options=options,
        results=[r.model_copy(update={"power": uses.get(r.name)}) for r in records],
        warnings=list(dict.fromkeys(warnings)),
        power=power,
    )
    if interrupted:
        raise BenchInterrupted(result)
    return result


@dataclass(frozen=True)
class Arguments:
    """How artefacts are opened and fed."""

    batch: int | None
    shapes: dict[str, Sequence[int]]
    threads: int
    trust: bool
    bundle: str | Path | None
    plugin_library: str | Path | None


@dataclass
class _Entry:
    """An artefact to measure, and what is to be said of it when it is closed again."""

    text: str
    arguments: Arguments
    options: BenchOptions
    runtime: str = ""
    device: str = ""
    precision: str | None = None
    shapes: dict[str, list[int]] = field(default_factory=dict)
    config: ModelConfig | None = None
    model_path: Path | None = None
    work: Work | None = None
    notes: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    keep: bool = False
    _open: PreparedRun | None = None

    def make(self) -> PreparedRun:
        """The prepared run that is kept, or else a new one."""
        kept, self._open = self._open, None
        run = kept or self._prepare()
        return _Handle(run, partial(self._take_back, run)) if self.keep else run

    def _take_back(self, run: PreparedRun) -> None:
        """Keep a run that somebody is done with, for the next who asks for one."""
        self._open = run

    def open(self) -> None:
        """Load and prepare it; raises what stands against that."""
        self._open = self._prepare()
        self.work = roofline.count_work(
            self.shapes, config=self.config, model=self.model_path, precision=self.precision
        )

    def close(self) -> None:
        kept, self._open = self._open, None
        if kept is not None:
            kept.close()

    def subject(self) -> Subject:
        """What is known of it once it was opened."""
        floor = None
        if self.work is not None:
            # Measures the processor, and so comes after what is measured on it.
            floor = roofline.floor(
                self.work, self.device, self.precision, threads=self.arguments.threads
            )
        return Subject(
            self.runtime, self.device, self.precision, self.shapes, self.work, floor, self.notes
        )

    def _prepare(self) -> PreparedRun:
        arguments = self.arguments
        artefact = open_artefact(
            parse_artefact(self.text),
            trust=arguments.trust,
            threads=arguments.threads,
            bundle=arguments.bundle,
            plugin_library=arguments.plugin_library,
        )
        try:
            self._remember(artefact)
            feeds = made_up_feeds(artefact.inputs, self.shapes, self.options.seed)
            run = artefact.session.prepare(feeds, _run_options(self.options))
        except BaseException:
            artefact.close()
            raise

        def close() -> None:
            try:
                run.close()
            finally:
                artefact.close()

        return _Handle(run, close)

    def _remember(self, artefact: Artefact) -> None:
        session = artefact.session
        self.inputs = [spec.name for spec in artefact.inputs]
        self.shapes = _shapes(artefact, self.arguments)
        self.runtime, self.device = session.name, session.device
        self.precision, self.config = artefact.precision, artefact.model_config
        target = Path(artefact.name.target)
        if target.suffix == ".onnx":
            self.model_path = target
        elif artefact.bundle is not None:
            self.model_path = artefact.bundle.model_path
        self.notes = list(dict.fromkeys([*artefact.notes, *session.notes]))


class _Handle:
    """A prepared run for which closing means something else."""

    def __init__(self, run: PreparedRun, close: Callable[[], None]) -> None:
        self._run, self._close = run, close
        self.kind, self.notes = run.kind, run.notes

    def block(self, seconds: float, least: int) -> Block:
        return self._run.block(seconds, least)

    def profile(self, iterations: int) -> list[LayerTime]:
        return self._run.profile(iterations)

    def memory(self) -> MemoryUse:
        return self._run.memory()

    def close(self) -> None:
        self._close()


def options_of(protocol: Mapping[str, Any]) -> BenchOptions:
    """The options of a measurement; raises ConfigError if they are not valid."""
    try:
        return BenchOptions.model_validate(dict(protocol))
    except ValidationError as error:
        raise ConfigError(describe(error, "The options of the measurement are not valid")) from None


def _run_options(options: BenchOptions) -> RunOptions:
    return RunOptions(
        streams=options.streams,
        cuda_graph=options.cuda_graph,
        transfers=options.transfers,
        spin_wait=options.spin_wait,
        # Others run between its blocks, after its threads have come to rest, but never within one.
        exclusive=True,
    )


def _distinct(names: Sequence[str]) -> list[str]:
    """The same artefact twice shows how far two equal ones appear to differ."""
    seen: dict[str, int] = {}
    distinct = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        distinct.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return distinct


def _open_all(
    entries: Sequence[_Entry], shapes: Mapping[str, Sequence[int]], progress: Progress
) -> None:
    """Open every artefact, or say of all of them at once what stands against it."""
    problems: list[tuple[str, DinatDeployError]] = []
    for entry in progress.track(entries, "Opening"):
        try:
            entry.open()
            if entry.options.one_alive:
                entry.close()
        except DinatDeployError as error:
            problems.append((entry.text, error))
    if len(problems) == 1:
        name, only = problems[0]
        raise type(only)(_about(name, only) if len(entries) > 1 else only.cause, only.cure)
    if problems:
        lines = [f"- {_about(name, problem)} {problem.cure}" for name, problem in problems]
        raise DinatDeployError(
            f"{len(problems)} of {len(entries)} artefacts cannot be measured.\n"
            + "\n".join(line.rstrip() for line in lines)
        )
    known = {name for entry in entries for name in entry.inputs}
    unknown = [name for name in shapes if name not in known]
    if unknown:
        raise ConfigError(
            f"No artefact has an input {unknown[0]!r}; their inputs are {', '.join(sorted(known))}."
        )


def _about(name: str, error: DinatDeployError) -> str:
    return error.cause if name in error.cause else f"{name}: {error.cause}"


def _shapes(artefact: Artefact, arguments: Arguments) -> dict[str, list[int]]:
    own = {spec.name for spec in artefact.inputs}
    given = {name: list(shape) for name, shape in arguments.shapes.items() if name in own}
    shapes = given if own <= set(given) else artefact.default_shapes(arguments.batch) | given
    artefact.check_shapes(shapes)
    return shapes


def command_line(artefacts: Sequence[str], arguments: Arguments, options: BenchOptions) -> str:
    """The command that repeats a measurement; what has its default is left out."""
    words = ["dinat-deploy", "bench", *artefacts]
    default = BenchOptions()

    def add(option: str, value: object, usual: object) -> None:
        if value != usual and value is not None:
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            words.extend([option, str(value)])

    def flag(option: str, off: str, value: bool, usual: bool) -> None:
        if value != usual:
            words.append(option if value else off)

    add("--batch", arguments.batch, None)
    if arguments.shapes:
        each = (f"{name}={'x'.join(map(str, shape))}" for name, shape in arguments.shapes.items())
        add("--shapes", ",".join(each), None)
    add("--warm-up", options.warm_up, default.warm_up)
    add("--duration", options.duration, default.duration)
    add("--iterations", options.iterations, default.iterations)
    add("--streams", options.streams, default.streams)
    flag("--cuda-graph", "--no-cuda-graph", options.cuda_graph, default.cuda_graph)
    flag("--transfers", "--no-transfers", options.transfers, default.transfers)
    flag("--spin-wait", "--no-spin-wait", options.spin_wait, default.spin_wait)
    if options.percentiles != default.percentiles:
        add("--percentile", ",".join(f"{p:g}" for p in options.percentiles), None)
    add("--idle-time", options.idle_time, default.idle_time)
    add("--block-time", options.block_ms, default.block_ms)
    flag("--layers", "", options.layers, default.layers)
    flag("--one-alive", "", options.one_alive, default.one_alive)
    if options.power != default.power:
        words.append("--power" if options.power == "on" else f"--power={options.power}")
    add("--threads", arguments.threads, 0)
    add("--seed", options.seed, default.seed)
    flag("--trust", "", arguments.trust, False)
    add("--bundle", arguments.bundle, None)
    add("--plugin-library", arguments.plugin_library, None)
    return shlex.join(words)
