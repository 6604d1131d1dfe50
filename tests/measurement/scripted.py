"""A prepared run whose time is a script: nothing is computed and no time passes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from dinat_deploy.errors import DinatDeployError
from dinat_deploy.session.base import Block, LayerTime, MemoryUse, PreparedRun, Timing


class ScriptedRun:
    """Takes the next latency of its script for every inference.

    Args:
        latencies: milliseconds, endlessly.
        log: receives what happens: ``("block", name, seconds, count)``, ``("close", name)``.
        interrupt_at: number of blocks after which Ctrl-C comes.
        overlap: how many inferences run at once.
    """

    def __init__(
        self,
        name: str,
        latencies: Iterator[float],
        log: list[tuple[object, ...]],
        *,
        kind: Literal["cpu", "gpu"] = "cpu",
        enqueue: float | None = None,
        copies: float = 0.0,
        layers: list[LayerTime] | None = None,
        interrupt_at: int | None = None,
        overlap: int = 1,
    ) -> None:
        self.kind = kind
        self.notes = [f"note of {name}"]
        self._name, self._latencies, self._log = name, latencies, log
        self._enqueue, self._copies, self._layers = enqueue, copies, layers
        self._interrupt_at, self._overlap = interrupt_at, overlap
        self._blocks = 0
        self.closed = False

    def block(self, seconds: float, least: int) -> Block:
        assert not self.closed
        if self._blocks == self._interrupt_at:
            raise KeyboardInterrupt
        self._blocks += 1
        timings: list[Timing] = []
        spent = 0.0
        while spent < seconds or len(timings) < least:
            latency = next(self._latencies)
            compute = latency - 2 * self._copies
            timings.append(Timing(latency, compute, self._copies, self._copies, self._enqueue))
            spent += latency / 1e3 / self._overlap
        self._log.append(("block", self._name, seconds, len(timings)))
        return Block(timings, spent)

    def profile(self, iterations: int) -> list[LayerTime]:
        assert not self.closed
        self._log.append(("profile", self._name, iterations))
        if self._layers is None:
            raise DinatDeployError(f"{self._name} tells no times of layers.")
        return self._layers

    def memory(self) -> MemoryUse:
        return MemoryUse(weights=1000, activations=200, inputs_outputs=30)

    def close(self) -> None:
        assert not self.closed
        self.closed = True
        self._log.append(("close", self._name))


class Scripts:
    """Makes scripted runs by name, and keeps the log of all of them."""

    def __init__(self) -> None:
        self.log: list[tuple[object, ...]] = []
        self.runs: list[ScriptedRun] = []

    def maker(
        self, name: str, latencies: Iterable[float], **options: object
    ) -> Callable[[], PreparedRun]:
        """A maker of runs that go on with one common script, which is repeated endlessly."""
        script = itertools.cycle(latencies)

        def make() -> PreparedRun:
            self.log.append(("make", name))
            run = ScriptedRun(name, script, self.log, **options)  # type: ignore[arg-type]
            self.runs.append(run)
            return run

        return make

    def of(self, *kinds: str) -> list[tuple[object, ...]]:
        return [entry for entry in self.log if entry[0] in kinds]
