"""The protocol: warm-up, then blocks of all artefacts in turn until each has its time and runs.

Several artefacts are measured in rounds. In every round each has one block of inferences back to
back, in an order that is drawn anew, so that drift hits all alike and a disturbance that comes
periodically does not always meet the same one. Between blocks two things are left to pass: threads
that still spin in wait for work, as ONNX Runtime's do for some 50 ms, which would take cores from
the next artefact; and the first inferences of a block, which find caches and clocks as another
artefact left them. Neither is measured.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

from dinat_deploy.errors import DinatDeployError
from dinat_deploy.measurement.records import BenchOptions
from dinat_deploy.measurement.statistics import LEAST_ROUNDS
from dinat_deploy.session.base import Block, LayerTime, MemoryUse, PreparedRun, Timing

Maker = Callable[[], PreparedRun]
Report = Callable[[float, str], None]

# Into so many blocks a short duration is divided: blocks that last longer than they should leave
# enough of them for a confidence interval.
_ROUNDS = LEAST_ROUNDS + 2
# Share of a block's time that runs before it, not measured, where another artefact ran before.
_LEAD_IN = 0.2


@dataclass
class Measured:
    """What was measured of one artefact.

    Attributes:
        blocks: those of complete rounds.
        memory: None if it cannot be told.
        layers: their times; empty unless asked for.
        restless: whether its threads kept the processor busy after its runs.
    """

    name: str
    kind: Literal["cpu", "gpu"] = "cpu"
    blocks: list[Block] = field(default_factory=list)
    memory: MemoryUse | None = None
    layers: list[LayerTime] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    restless: bool = False

    @property
    def timings(self) -> list[Timing]:
        return [timing for block in self.blocks for timing in block.timings]

    @property
    def count(self) -> int:
        return sum(len(block.timings) for block in self.blocks)

    @property
    def seconds(self) -> float:
        return sum(block.seconds for block in self.blocks)

    def times(self, streams: int) -> list[float]:
        """Milliseconds of one run, a figure of every block: the median latency, or with several
        streams, whose latencies overlap, wall time over the number of runs."""
        if streams > 1:
            return [1e3 * block.seconds / len(block.timings) for block in self.blocks]
        return [
            statistics.median(timing.latency for timing in block.timings) for block in self.blocks
        ]


class MeasuringInterrupted(KeyboardInterrupt):
    """An interrupt after some complete rounds.

    Attributes:
        measured: what these rounds gave.
    """

    def __init__(self, measured: list[Measured]) -> None:
        super().__init__()
        self.measured = measured


def settle(limit: float = 0.5) -> bool:
    """Wait until no thread of this process computes any more; False if some still do.

    Args:
        limit: seconds to wait at most.
    """
    started = time.perf_counter()
    while True:
        begun, used = time.perf_counter(), time.process_time()
        time.sleep(0.02)
        now = time.perf_counter()
        if time.process_time() - used < 0.1 * (now - begun):
            return True
        if now - started > limit:
            return False


def measure(
    makers: Mapping[str, Maker],
    options: BenchOptions,
    report: Report = lambda share, detail: None,
    *,
    rest: Callable[[], bool] | None = None,
) -> list[Measured]:
    """Measure artefacts in turn.

    Args:
        makers: name -> what loads and prepares the artefact; closing the run frees all of it.
        report: receives the share that is done (0 to 1) and what is being done.
        rest: waits for the process to come to rest, and says whether it did; :func:`settle`
            unless given.

    Raises:
        MeasuringInterrupted: interrupted after at least one complete round.
        KeyboardInterrupt: interrupted before.
    """
    measured = [Measured(name) for name in makers]
    with _few_to_collect(), _Runs(list(makers.values()), one_alive=options.one_alive) as runs:
        try:
            _rounds(runs, measured, options, report, rest or settle)
        except KeyboardInterrupt:
            if any(not entry.blocks for entry in measured):
                raise
            raise MeasuringInterrupted(measured) from None
        if options.layers:
            report(1.0, "profiling layers")
            _profile(runs, measured, options)
    return measured


@contextmanager
def _few_to_collect() -> Iterator[None]:
    """Take what exists out of Python's garbage collection, which would go through all of it."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class _Runs:
    """Prepared runs, either all kept or each made anew every time it is needed."""

    def __init__(self, makers: Sequence[Maker], *, one_alive: bool) -> None:
        self._makers = makers
        self._one_alive = one_alive and len(makers) > 1
        self._kept: dict[int, PreparedRun] = {}

    def __enter__(self) -> _Runs:
        return self

    def __exit__(self, *_: object) -> None:
        for run in self._kept.values():
            run.close()
        self._kept.clear()

    @contextmanager
    def get(self, index: int) -> Iterator[tuple[PreparedRun, bool]]:
        """A prepared run, and whether it was made just now."""
        fresh = index not in self._kept
        run = self._makers[index]() if fresh else self._kept[index]
        if not self._one_alive:
            self._kept[index] = run
            yield run, fresh
            return
        try:
            yield run, fresh
        finally:
            run.close()
            del run
            gc.collect()


def _rounds(
    runs: _Runs,
    measured: list[Measured],
    options: BenchOptions,
    report: Report,
    rest: Callable[[], bool],
) -> None:
    company = len(measured) > 1
    seconds = options.block_ms / 1e3
    if company:
        seconds = min(seconds, options.duration / _ROUNDS)
    usual = [0.0] * len(measured)
    order = random.Random(options.seed)
    if not options.one_alive:
        for index, entry in enumerate(measured):
            report(0.0, f"warming up {entry.name}")
            with runs.get(index) as (run, _):
                usual[index] = _warm_up(run, entry, options)
    number, at_rest = 0, not company or rest()
    while (share := min(_share(entry, options, company) for entry in measured)) < 1 - 1e-9:
        number += 1
        turns = list(range(len(measured)))
        order.shuffle(turns)
        blocks: dict[int, Block] = {}
        for index in turns:
            entry = measured[index]
            report(share, f"round {number}, {entry.name}" if company else f"block {number}")
            with runs.get(index) as (run, fresh):
                if fresh:
                    usual[index] = _warm_up(run, entry, options)
                elif company and usual[index] < seconds:
                    run.block(_LEAD_IN * seconds, 1)
                blocks[index] = _undisturbed(run, seconds)
            if options.idle_time:
                time.sleep(options.idle_time / 1e3)
            if company:
                # Blame the one that began it, not those that ran later.
                entry.restless |= at_rest and not rest()
                at_rest = at_rest and not entry.restless
        for index, block in blocks.items():
            measured[index].blocks.append(block)
    report(1.0, "measured")


def _warm_up(run: PreparedRun, entry: Measured, options: BenchOptions) -> float:
    """Warm up a run that was just made; returns the seconds of one inference."""
    entry.kind = run.kind
    block = run.block(options.warm_up / 1e3, 1)
    if entry.memory is None:
        with suppress(DinatDeployError):
            entry.memory = run.memory()
    _keep_notes(run, entry)
    return block.seconds / len(block.timings)


def _keep_notes(run: PreparedRun, entry: Measured) -> None:
    entry.notes += [note for note in run.notes if note not in entry.notes]


def _undisturbed(run: PreparedRun, seconds: float) -> Block:
    """A block without Python's garbage collector in between."""
    gc.disable()
    try:
        return run.block(seconds, 1)
    finally:
        gc.enable()


def _share(entry: Measured, options: BenchOptions, company: bool) -> float:
    """How far an artefact is with what it must have: runs, time, rounds for a comparison."""
    shares = [entry.count / options.iterations]
    if options.duration:
        shares.append(entry.seconds / options.duration)
    if company:
        shares.append(len(entry.blocks) / min(LEAST_ROUNDS, options.iterations))
    return min(*shares, 1.0)


def _profile(runs: _Runs, measured: list[Measured], options: BenchOptions) -> None:
    for index, entry in enumerate(measured):
        with runs.get(index) as (run, _):
            try:
                entry.layers = run.profile(options.iterations)
            except DinatDeployError as error:
                entry.notes.append(str(error))
            _keep_notes(run, entry)
