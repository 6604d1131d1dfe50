"""The protocol: the device at rest first, then each artefact in runs of its own.

Power is not sampled while latencies are taken, and latencies are not taken while power is sampled:
the samples disturb no latency, and blocks of several artefacts in turn, which latencies need, would
blur what each of them draws.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dinat_deploy.errors import DinatDeployError
from dinat_deploy.measurement.environment import power_mode
from dinat_deploy.measurement.power import conditions
from dinat_deploy.measurement.power.energy import Energy, energy
from dinat_deploy.measurement.power.sampling import Sampler
from dinat_deploy.measurement.power.source import Observation, PowerSource
from dinat_deploy.measurement.records import Conditions, IdlePower, PowerReport, PowerUse
from dinat_deploy.session.base import PreparedRun

IDLE_SECONDS = 2.0
# Shorter runs have too few samples, and monitors average over some of them.
LEAST_SECONDS = 2.0
# Share of the runs that comes before, unmeasured: the power settles.
_LEAD_IN = 0.2


class Meter:
    """Measures with one source.

    Args:
        source: what tells the power; closed with the meter.
        root: where the file system begins.
        clock: gives seconds.
        sleep: waits for seconds.
        sampler: what reads the source meanwhile.
    """

    def __init__(
        self,
        source: PowerSource,
        root: Path = Path("/"),
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
        sampler: type[Sampler] = Sampler,
    ) -> None:
        self._source, self._root = source, root
        self._clock, self._sleep, self._sampler = clock, sleep, sampler
        self._idle: Energy | None = None
        self._spent = self._sampled = 0.0
        self._counted = False
        self.notes = list(source.notes)
        self._before = self._observe()

    def idle(self, seconds: float = IDLE_SECONDS) -> None:
        """The power while nothing runs."""
        found = self._window(lambda: self._sleep(seconds), "at rest")
        self._idle = found

    def use(self, name: str, run: PreparedRun, seconds: float) -> PowerUse | None:
        """The power while an artefact runs.

        Args:
            name: of the artefact, for notes.
            seconds: of the runs, at least.

        Returns:
            None if the source does not see it, as the driver of a GPU does not see the processor,
            or gave too few readings; a note says so.
        """
        if run.kind == "cpu" and self._source.scope == "gpu":
            self._note(
                f"{self._source.name} tells the power of the GPU alone, and {name} runs on the "
                "processor: its power is not measured."
            )
            return None
        run.block(_LEAD_IN * seconds, 1)
        runs = 0

        def go() -> None:
            nonlocal runs
            runs = len(run.block(seconds, 1).timings)

        found = self._window(go, f"while {name} ran")
        if found is None:
            return None
        idle = self._idle.watts if self._idle else None
        whole = found.joules
        return PowerUse(
            seconds=found.seconds,
            runs=runs,
            samples=found.samples,
            watts=found.watts,
            rails=found.rails,
            joules=None if whole is None else whole / runs,
            joules_above_idle=(
                None if whole is None or idle is None else (whole - idle * found.seconds) / runs
            ),
        )

    def report(self) -> PowerReport:
        """What belongs to the figures of all artefacts; to be asked right after the last run."""
        after = self._observe()
        idle = self._idle
        return PowerReport(
            source=self._source.name,
            method="counter" if self._counted else "samples",
            total=self._source.total.words,
            has_total=self._source.total.known,
            interval_ms=1e3 * self._source.interval,
            sampling_share=self._spent / self._sampled if self._sampled else 0.0,
            idle=(
                None
                if idle is None
                else IdlePower(
                    seconds=idle.seconds, samples=idle.samples, watts=idle.watts, rails=idle.rails
                )
            ),
            mode=power_mode(self._root) or None,
            before=_conditions(self._before),
            after=_conditions(after),
            throttled=conditions.throttled(self._before, after),
            notes=self.notes,
        )

    def close(self) -> None:
        with suppress(DinatDeployError, OSError):
            self._source.close()

    def _window(self, go: Callable[[], None], when: str) -> Energy | None:
        """Sample while something goes on; None, with a note, if there were too few samples."""
        opened = self._clock()
        with self._sampler(self._source, self._clock) as sampler:
            begin = self._clock()
            go()
            end = self._clock()
        self._spent += sampler.spent
        self._sampled += self._clock() - opened
        found = energy(sampler.samples, begin, end, self._source.total)
        if found is None:
            reason = f" ({sampler.last_failure})" if sampler.failures else ""
            self._note(
                f"{self._source.name} gave only {len(sampler.samples)} readings {when}{reason}, "
                "too few to tell the power."
            )
        elif sampler.failures:
            self._note(
                f"{sampler.failures} readings of {self._source.name} {when} failed "
                f"({sampler.last_failure})."
            )
        if found is not None:
            self._counted = found.counted
        return found

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _observe(self) -> Observation:
        return conditions.observe(self._root) | self._source.observe()


def _conditions(observed: Observation) -> Conditions:
    return Conditions(temperatures=dict(observed.temperatures), clocks=dict(observed.clocks))
