"""The protocol with a clock of its own: exact watts and joules, and a thread that takes its share."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dinat_deploy.measurement.power.meter import Meter
from dinat_deploy.measurement.power.monitors import open_hwmon
from dinat_deploy.measurement.power.rails import Total
from dinat_deploy.measurement.power.sampling import MOST_SHARE, Sampler
from dinat_deploy.measurement.power.source import (
    Observation,
    Reading,
    ReadingFailed,
    Scope,
)
from dinat_deploy.session.base import Block
from tests.measurement.power import trees
from tests.measurement.power.test_monitors import CHIP
from tests.measurement.power.trees import AGX_ORIN_JP5, ORIN_NANO_JP6, plant
from tests.measurement.scripted import ScriptedRun


class Clock:
    """Time that only passes when it is told to, in steps at which a sampler reads."""

    def __init__(self, step: float = 0.05) -> None:
        self.now, self.step = 100.0, step
        self.readers: list[Callable[[], object]] = []

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        for _ in range(round(seconds / self.step)):
            self.now += self.step
            for read in self.readers:
                read()


def stepped(clock: Clock) -> type[Sampler]:
    """A sampler that reads when the clock steps, instead of in a thread."""

    class Stepped(Sampler):
        def __enter__(self) -> Sampler:
            self.sample()
            clock.now += 0.001
            clock.readers.append(self.sample)
            return self

        def __exit__(self, *_: object) -> None:
            clock.readers.remove(self.sample)
            clock.now += 0.001
            self.sample()

    return Stepped


class LoadedRun(ScriptedRun):
    """Draws a current while it runs, and takes time on the test's clock."""

    def __init__(self, clock: Clock, file: Path, milliamperes: tuple[int, int], **script: object):
        super().__init__("run", itertools.repeat(20.0), [], **script)  # type: ignore[arg-type]
        self._clock, self._file = clock, file
        self._busy, self._idle = milliamperes

    def block(self, seconds: float, least: int) -> Block:
        self._file.write_text(f"{self._busy}\n")
        block = super().block(seconds, least)
        self._clock.advance(block.seconds)
        self._file.write_text(f"{self._idle}\n")
        return block


def test_watts_and_joules_of_a_run_are_exact(tmp_path: Path) -> None:
    """An Orin Nano that takes 1 A at 4.968 V at rest, and 2.5 A while it runs 20 ms inferences."""
    root, clock = plant(tmp_path, ORIN_NANO_JP6), Clock()
    meter = Meter(open_hwmon(root), root, clock=clock, sleep=clock.advance, sampler=stepped(clock))
    meter.idle(2.0)
    run = LoadedRun(clock, root / CHIP / "curr1_input", (2500, 1000))
    use = meter.use("model", run, 3.0)
    assert use is not None
    assert (use.runs, use.samples) == (150, 60)
    assert use.seconds == pytest.approx(3.0)
    assert use.watts == pytest.approx(12.42)
    assert use.rails == pytest.approx({"VDD_IN": 12.42, "VDD_CPU_GPU_CV": 1.24, "VDD_SOC": 1.488})
    assert use.joules == pytest.approx(12.42 * 3 / 150)
    assert use.joules_above_idle == pytest.approx((12.42 - 4.968) * 3 / 150)
    report = meter.report()
    assert report.idle is not None
    assert report.idle.watts == pytest.approx(4.968)
    assert report.idle.seconds == pytest.approx(2.0)
    assert (report.method, report.interval_ms, report.has_total) == ("samples", 50.0, True)
    assert report.mode == "2 (MAXN_SUPER)"
    assert report.before == report.after
    assert report.before.temperatures == {"cpu": 51.25, "gpu": 49.5}
    assert (report.throttled, report.notes) == ([], [])
    meter.close()


def test_events_during_the_runs_are_reported(tmp_path: Path) -> None:
    root, clock = plant(tmp_path, ORIN_NANO_JP6), Clock()
    meter = Meter(open_hwmon(root), root, clock=clock, sleep=clock.advance, sampler=stepped(clock))
    plant(root, trees.events(0, 16, 37) | {"sys/class/thermal/thermal_zone0/temp": "88000"})
    report = meter.report()
    assert "held the clocks down 1 time during" in report.throttled[0]
    assert report.before.temperatures["cpu"] == 51.25
    assert report.after.temperatures["cpu"] == 88.0
    assert report.idle is None
    meter.close()


def test_rails_without_a_total_have_watts_and_no_joules(tmp_path: Path) -> None:
    files = {n: t for n, t in AGX_ORIN_JP5.items() if "1-0040/hwmon/hwmon3/curr3" not in n}
    root, clock = plant(tmp_path, files), Clock()
    meter = Meter(open_hwmon(root), root, clock=clock, sleep=clock.advance, sampler=stepped(clock))
    meter.idle()
    use = meter.use("model", LoadedRun(clock, root / CHIP / "curr1_input", (900, 800)), 2.0)
    assert use is not None
    assert (use.watts, use.joules, use.joules_above_idle) == (None, None, None)
    assert use.rails["VDD_CPU_CV"] == pytest.approx(1.5)
    report = meter.report()
    assert not report.has_total
    assert "VIN_SYS_5V0 cannot be read" in report.total
    meter.close()


class Scripted:
    """A source that answers as it is told."""

    name, interval, rails, notes = "script", 0.001, ("GPU",), ["A note."]
    total = Total(("GPU",), "the card")

    def __init__(self, readings: list[Reading | None], scope: Scope = "gpu") -> None:
        self.scope: Scope = scope
        self.closed = False
        self._readings = itertools.cycle(readings)

    def read(self) -> Reading:
        reading = next(self._readings)
        if reading is None:
            raise ReadingFailed("busy")
        return reading

    def observe(self) -> Observation:
        return Observation({"GPU": 60.0}, {"GPU": 1000.0}, held=("It was hot.",))

    def close(self) -> None:
        self.closed = True


def test_the_processor_is_not_charged_with_the_power_of_the_gpu(tmp_path: Path) -> None:
    meter = Meter(Scripted([Reading({"GPU": 50.0})]), tmp_path)
    run = ScriptedRun("cpu", itertools.repeat(1.0), [])
    assert meter.use("model", run, 1.0) is None
    assert meter.use("model", run, 1.0) is None
    assert meter.notes == [
        "A note.",
        "script tells the power of the GPU alone, and model runs on the processor: its power is "
        "not measured.",
    ]


def test_a_source_that_fails_now_and_then_is_noted_and_one_that_always_does_gives_nothing(
    tmp_path: Path,
) -> None:
    clock = Clock()
    for readings, words in (
        ([Reading({"GPU": 8.0}), None], "readings of script at rest failed (busy)."),
        ([None], "script gave only 0 readings at rest (busy), too few to tell the power."),
    ):
        meter = Meter(
            Scripted(readings), tmp_path, clock=clock, sleep=clock.advance, sampler=stepped(clock)
        )
        meter.idle(1.0)
        assert meter.notes[-1].endswith(words)
        idle = meter.report().idle
        assert (idle.watts if idle else None) == (8.0 if len(readings) > 1 else None)


def test_what_the_source_knows_of_the_device_is_reported(tmp_path: Path) -> None:
    source = Scripted([Reading({}, 5.0)])
    meter = Meter(source, tmp_path)
    report = meter.report()
    assert report.throttled == ["It was hot."]
    assert report.before.temperatures == {"GPU": 60.0}
    meter.close()
    assert source.closed


@pytest.mark.parametrize(("taken", "pause"), [(0.0, 0.05), (0.0005, 0.0495), (0.01, 0.49)])
def test_a_source_that_takes_long_is_read_less_often(taken: float, pause: float) -> None:
    """At most two percent of the time are spent on reading."""
    clock = Clock()

    class Slow(Scripted):
        interval = 0.05

        def read(self) -> Reading:
            clock.now += taken
            return super().read()

    sampler = Sampler(Slow([Reading({"GPU": 1.0})]), clock)
    assert sampler.sample() == pytest.approx(pause)
    assert taken <= (taken + pause) * MOST_SHARE * 1.001
    assert sampler.samples[0].time == pytest.approx(100.0 + taken / 2)


def test_the_thread_reads_at_its_rate_and_ends(tmp_path: Path) -> None:
    source = Scripted([Reading({"GPU": 7.0})])
    source.interval = 0.005
    with Sampler(source) as sampler:
        time.sleep(0.3)
        assert any(thread.name == "power samples" for thread in threading.enumerate())
    assert not any(thread.name == "power samples" for thread in threading.enumerate())
    # Never faster than its rate; on a busy machine it may be slower.
    assert 5 <= len(sampler.samples) <= 2 + 0.3 / 0.005 + 40
    assert [s.time for s in sampler.samples] == sorted(s.time for s in sampler.samples)
