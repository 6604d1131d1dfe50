"""``bench --power``: from the option to every kind of report."""

from __future__ import annotations

import itertools
import json
import shlex
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from dinat_deploy.bundle import TensorSpec
from dinat_deploy.cli import cli
from dinat_deploy.cli.bench import bench as command
from dinat_deploy.cli.console import EXIT_INTERRUPTED
from dinat_deploy.errors import ConfigError
from dinat_deploy.measurement import page, tables
from dinat_deploy.measurement.power import meter as metering
from dinat_deploy.measurement.power.monitors import open_hwmon
from dinat_deploy.measurement.power.source import PowerUnavailableError
from dinat_deploy.measurement.records import BenchOptions, BenchReport
from dinat_deploy.measurement.report import to_json, to_markdown
from dinat_deploy.pipeline import bench_power, benching
from dinat_deploy.pipeline.artefact import Artefact, parse_artefact
from dinat_deploy.pipeline.bench_reports import load_report
from dinat_deploy.pipeline.benching import BenchInterrupted, bench
from dinat_deploy.session.base import Block
from tests.measurement.power.trees import ORIN_NANO_JP6, plant
from tests.measurement.scripted import ScriptedRun

SHAPES = {"image": [2, 3, 8, 8]}


class Runs:
    """Opens scripted artefacts that take 5 ms of real time for a block, and counts them."""

    def __init__(self) -> None:
        self.opened, self.closed, self.sampled = 0, 0, set[str]()
        self.interrupt_in_power = False

    def open(self, name: Any, **_: Any) -> Artefact:
        owner = self
        owner.opened += 1

        class Run(ScriptedRun):
            def block(self, seconds: float, least: int) -> Block:
                sampling = any(t.name == "power samples" for t in threading.enumerate())
                if sampling:
                    owner.sampled.add(str(name))
                    if owner.interrupt_in_power:
                        raise KeyboardInterrupt
                    threading.Event().wait(seconds)
                return super().block(seconds, least)

        class Session:
            name, device, notes = "runtime", "device", list[str]()

            def prepare(self, feeds: Any, options: Any) -> Run:
                return Run("run", itertools.repeat(10.0), [])

            def close(self) -> None:
                owner.closed += 1

        spec = TensorSpec(name="image", dtype="float32", shape=["batch", 3, 8, 8])
        return Artefact(
            parse_artefact(str(name)), Session(), None, None, inputs=[spec], outputs=[],
            precision=None, model_config=None, notes=[],
        )  # type: ignore[arg-type]  # fmt: skip


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    runs = Runs()
    monkeypatch.setattr(benching, "open_artefact", runs.open)
    monkeypatch.setattr("dinat_deploy.measurement.measuring.settle", lambda: True)
    monkeypatch.setattr(metering, "IDLE_SECONDS", 0.2)
    monkeypatch.setattr(metering, "LEAST_SECONDS", 0.2)
    return runs


@pytest.fixture
def jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = plant(tmp_path / "jetson", ORIN_NANO_JP6)
    monkeypatch.setattr(bench_power, "find_source", lambda: open_hwmon(root))
    real = metering.Meter.__init__
    monkeypatch.setattr(metering.Meter, "__init__", lambda self, source: real(self, source, root))
    return root


@pytest.fixture
def nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def find() -> None:
        raise PowerUnavailableError("Nothing here tells the power: NVML: none.", "Leave it out.")

    monkeypatch.setattr(bench_power, "find_source", find)


@pytest.fixture
def measured(runs: Runs, jetson: Path) -> BenchReport:
    return bench(["a", "b"], shapes=SHAPES, duration=0.1, power=True)


def test_power_is_measured_in_runs_of_its_own(runs: Runs, measured: BenchReport) -> None:
    assert runs.sampled == {"a", "b"}
    # Neither loaded anew for it, nor left open.
    assert (runs.opened, runs.closed) == (2, 2)
    for result in measured.results:
        assert result.power is not None
        assert result.power.watts == pytest.approx(4.968)
        # A block of 0.2 s is 20 inferences of 10 ms, of two images each.
        assert result.power.runs == 20
        assert result.power.joules == pytest.approx(4.968 * result.power.seconds / 20)
        assert result.power.joules_above_idle == pytest.approx(0.0, abs=1e-9)
        # Those of the latencies: no run with power is among them.
        assert sum(result.blocks) == result.latency.count
    assert measured.power is not None
    assert measured.power.source == "INA3221 and INA238 (hwmon)"
    assert measured.options.power == "on"
    assert " --power" in measured.command
    assert measured.power.sampling_share <= 0.25  # at most 2 %, but for a machine under load


def test_no_sample_is_taken_while_latencies_are(runs: Runs, jetson: Path) -> None:
    bench(["a"], shapes=SHAPES, duration=0.1)
    assert runs.sampled == set()


def test_one_alive_opens_each_for_its_power_too(runs: Runs, jetson: Path) -> None:
    report = bench(["a", "b"], shapes=SHAPES, duration=0.1, one_alive=True, power="on")
    rounds = len(report.results[0].blocks)
    assert runs.opened == runs.closed == 2 * (1 + rounds + 1)
    assert all(result.power for result in report.results)


@pytest.mark.usefixtures("nothing")
def test_power_that_is_asked_for_and_not_there_is_an_error_before_anything_runs(runs: Runs) -> None:
    with pytest.raises(PowerUnavailableError):
        bench(["a"], shapes=SHAPES, power=True)
    assert runs.opened == 0
    shown = CliRunner().invoke(cli, ["bench", "a", "--power"], standalone_mode=False)
    assert isinstance(shown.exception, PowerUnavailableError)


@pytest.mark.usefixtures("nothing")
def test_auto_goes_on_without_power_and_says_why(runs: Runs) -> None:
    report = bench(["a"], shapes=SHAPES, duration=0.1, power="auto")
    assert report.power is None
    assert report.results[0].power is None
    said = "The power was not measured. Nothing here tells the power: NVML: none."
    assert said in report.warnings


def test_an_interrupt_while_power_is_sampled_keeps_the_latencies(runs: Runs, jetson: Path) -> None:
    runs.interrupt_in_power = True
    with pytest.raises(BenchInterrupted) as stopped:
        bench(["a"], shapes=SHAPES, duration=0.1, power=True)
    report = stopped.value.report
    assert report.warnings[-1] == "Interrupted while the power was measured."
    assert report.results[0].latency.count >= 10
    assert report.results[0].power is None
    assert runs.opened == runs.closed
    assert EXIT_INTERRUPTED == 130


def test_other_words_are_refused(runs: Runs) -> None:
    with pytest.raises(ConfigError, match="power: Input should be 'off', 'auto' or 'on'"):
        bench(["a"], shapes=SHAPES, power="perhaps")


@pytest.mark.parametrize(
    ("words", "power", "artefacts"),
    [
        ([], "off", ["a"]),
        (["--power"], "on", ["a"]),
        (["--power=auto"], "auto", ["a"]),
        (["--power", "b"], "on", ["a", "b"]),
        (["--power", "auto"], "on", ["a", "auto"]),
    ],
)
def test_what_follows_the_option_is_an_artefact(
    words: list[str], power: str, artefacts: list[str]
) -> None:
    with click.Context(command) as context:
        command.parse_args(context, ["a", *words])
        assert context.params["power"] == power
        assert list(context.params["artefacts"]) == artefacts


@pytest.mark.parametrize("power", ["off", "auto", "on"])
def test_the_recorded_command_repeats_it(power: Any) -> None:
    arguments = benching.Arguments(None, {}, 0, False, None, None)
    line = benching.command_line(["a"], arguments, BenchOptions(power=power))
    with click.Context(command) as context:
        command.parse_args(context, shlex.split(line)[2:])
        assert context.params["power"] == power


def test_every_report_carries_it(measured: BenchReport, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(to_json(measured))
    assert load_report(path) == measured
    table = tables.summary(measured)
    row = dict(zip(table.heads, table.rows[0], strict=True))
    use = measured.results[0].power
    assert use is not None and use.joules is not None
    assert row["W"] == "4.97"
    # Of an image: the run has two.
    assert row["mJ/image"] == tables.significant(1e3 * use.joules / 2)
    rails = tables.power(measured)
    assert rails is not None
    assert rails.heads == ["W", "at rest", "a", "b"]
    assert rails.rows[-1] == ["the whole", "4.97", "4.97", "4.97"]
    assert ["VDD_SOC", "1.49", "1.49", "1.49"] in rails.rows
    text = to_markdown(measured)
    assert "The whole is VDD_IN, the input of the module." in text
    assert "nvpmodel's mode was 2 (MAXN_SUPER)." in text
    assert "| cpu | 51.2 | 51.2 | C |" in text
    made = page.to_html(measured)
    assert "<h2>Power</h2>" in made and "VDD_CPU_GPU_CV" in made
    assert "4.97 W, " in made


def test_the_terminal_shows_rails_energy_mode_and_temperatures(
    measured: BenchReport, tmp_path: Path
) -> None:
    source = tmp_path / "report.json"
    source.write_text(to_json(measured))
    shown = CliRunner().invoke(cli, ["bench", "--from", str(source)])
    assert shown.exit_code == 0, shown.output
    lines = [line for line in shown.output.splitlines() if line.strip()]
    (rest,) = [line.split() for line in lines if line.strip().startswith("at rest")]
    assert rest == ["at", "rest", "4.97", "1.24", "1.49", "4.97"]
    assert "Power from INA3221 and INA238 (hwmon): VDD_IN, the input of the module." in lines
    assert "nvpmodel: 2 (MAXN_SUPER)." in lines
    assert "Temperatures: cpu 51 to 51 C, gpu 50 to 50 C." in lines
    assert "Clocks: CPU (fastest) 1510 to 1510 MHz, GPU 612 to 612 MHz." in lines


def test_throttling_is_a_warning_of_the_report(
    runs: Runs, jetson: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cooling = {"sys/class/thermal/cooling_device2/cur_state": "4"}
    monkeypatch.setattr(bench_power, "measure_power", lambda *_: bool(plant(jetson, cooling)))
    monkeypatch.setattr(benching, "measure_power", bench_power.measure_power)
    report = bench(["a"], shapes=SHAPES, duration=0.1, power=True)
    sentence = "Heat held the clocks down: the cooling device devfreq-17000000.gpu was at step 4."
    assert sentence in report.warnings
    assert report.power is not None and report.power.throttled == [sentence]
    assert f"- {sentence}" in to_markdown(report)


def test_reports_without_power_are_read_and_have_no_columns_for_it(
    measured: BenchReport, tmp_path: Path
) -> None:
    """As files of earlier versions are: the fields are not there at all."""
    data = json.loads(to_json(measured))
    del data["power"], data["options"]["power"]
    for result in data["results"]:
        del result["power"]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(data))
    old = load_report(path)
    assert (old.power, old.options.power) == (None, "off")
    assert not {"W", "mJ/image"} & set(tables.summary(old).heads)
    assert tables.power(old) is tables.conditions(old) is None
    assert "Power" not in to_markdown(old)
    assert "<h2>Power</h2>" not in page.to_html(old)


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(benching.environment, "slowed", list)
    yield
