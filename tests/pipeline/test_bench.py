"""bench: artefacts opened, measured and reported; the times are scripted but for one real run."""

from __future__ import annotations

import itertools
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from dinat_deploy.bundle import TensorSpec
from dinat_deploy.cli.bench import bench as command
from dinat_deploy.engine import checks
from dinat_deploy.engine.builder import Gpu
from dinat_deploy.errors import ConfigError, DinatDeployError, EngineError, OutputError
from dinat_deploy.measurement.records import BenchOptions, BenchReport
from dinat_deploy.measurement.statistics import LEAST_ROUNDS
from dinat_deploy.pipeline import benching
from dinat_deploy.pipeline.artefact import Artefact, parse_artefact
from dinat_deploy.pipeline.bench_reports import ReportFiles, load_report
from dinat_deploy.pipeline.benching import BenchInterrupted, bench
from dinat_deploy.session.base import Feeds, LayerTime, PreparedRun, RunOptions
from tests.measurement.scripted import ScriptedRun
from tests.session.simulator import SimulatedMachine, simulated_gpu

__all__ = ["simulated_gpu"]  # a fixture, used by name


@pytest.fixture
def machine(
    simulated_gpu: SimulatedMachine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> SimulatedMachine:
    """The simulated GPU, also seen by the checks before an engine is loaded."""
    gpu = Gpu(name="NVIDIA Simulated 4090", capability="89", driver="13.0")
    monkeypatch.setattr(checks, "current_gpu", lambda: gpu)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("DINAT_NATIVE_DIR", str(tmp_path / "no libraries"))
    return simulated_gpu


class ScriptedSession:
    """Prepares scripted runs, and keeps what it was given."""

    def __init__(self, name: str, latencies: Sequence[float], **script: Any) -> None:
        self.name, self.device = f"runtime of {name}", script.pop("device", "CPU")
        self.notes = [f"session note of {name}"]
        self.feeds: list[Feeds] = []
        self.options: list[RunOptions] = []
        self.runs: list[ScriptedRun] = []
        self.closed = 0
        self._refusal: DinatDeployError | None = script.pop("refusal", None)
        self._latencies, self._script = itertools.cycle(latencies), script

    def prepare(self, feeds: Feeds, options: RunOptions) -> PreparedRun:
        self.feeds.append(feeds)
        self.options.append(options)
        if self._refusal:
            raise self._refusal
        self.runs.append(ScriptedRun(self.name, self._latencies, [], **self._script))
        return self.runs[-1]

    def close(self) -> None:
        self.closed += 1


Sessions = dict[str, ScriptedSession]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Sessions]:
    """Artefacts by name with the session that runs them, and the shape of their input."""

    def install(
        sessions: dict[str, ScriptedSession | DinatDeployError],
        shape: tuple[int | str, ...] = ("batch", 3, 8, 8),
    ) -> Sessions:
        def open_artefact(name: Any, **_: Any) -> Artefact:
            session = sessions[str(name)]
            if isinstance(session, DinatDeployError):
                raise session
            spec = TensorSpec(name="image", dtype="float32", shape=list(shape))
            return Artefact(
                parse_artefact(str(name)),
                session,  # type: ignore[arg-type]
                None,
                None,
                inputs=[spec],
                outputs=[],
                precision="float16",
                model_config=None,
                notes=[f"opened {name}"],
            )

        monkeypatch.setattr(benching, "open_artefact", open_artefact)
        monkeypatch.setattr("dinat_deploy.measurement.measuring.settle", lambda: True)
        return {
            name: session
            for name, session in sessions.items()
            if isinstance(session, ScriptedSession)
        }

    return install


SHAPES = {"image": [2, 3, 8, 8]}


def test_onnx_runtime_and_pytorch_are_measured_in_turn(tiny_bundle: Path) -> None:
    names = [str(tiny_bundle), f"torch:{tiny_bundle}"]
    report = bench(names, duration=0.2, warm_up=20, iterations=6, layers=True, threads=1)
    onnx, torch = report.results
    assert [onnx.name, torch.name] == names
    assert onnx.runtime.startswith("ONNX Runtime ")
    assert torch.runtime.startswith("PyTorch ")
    for result in report.results:
        assert (result.kind, result.device, result.batch) == ("cpu", "CPU", 1)
        assert result.shapes == {"image": [1, 3, 64, 64]}
        assert result.enqueue is result.host_to_device is result.device_to_host is None
        assert result.latency == result.compute
        assert result.latency.count == len(result.samples) == sum(result.blocks)
        assert len(result.blocks) >= LEAST_ROUNDS
        assert result.seconds >= 0.2
        assert result.throughput == pytest.approx(result.latency.count / result.seconds)
        assert result.work is not None
        assert result.work.counted_from == "config"
        assert result.layers
        assert sum(layer.share for layer in result.layers) == pytest.approx(1)
        assert 0 < (result.attention_share or 0) < 1
        times = [layer.milliseconds for layer in result.layers]
        assert times == sorted(times, reverse=True)
    assert onnx.floor is not None
    assert onnx.floor.source == "measured"
    assert onnx.ratio is None
    assert torch.ratio is not None
    assert torch.ratio.rounds == len(torch.blocks)
    assert torch.ratio.low is not None
    assert report.environment["onnxruntime"]
    assert report.options.duration == 0.2
    # All of it survives being written and read.
    assert BenchReport.model_validate_json(report.model_dump_json()) == report


def test_a_model_on_a_gpu_has_enqueue_and_copies(scripted: Callable[..., Sessions]) -> None:
    layers = [LayerTime("conv", "CONV", 1.0, False), LayerTime("na", "PLUGIN_V3", 3.0, True)]
    script = {"kind": "gpu", "device": "Some GPU", "enqueue": 0.1, "copies": 0.25}
    scripted({"e": ScriptedSession("e", [4.0], layers=layers, **script)})
    report = bench(["e"], shapes=SHAPES, transfers=True, layers=True)
    (result,) = report.results
    assert (result.kind, result.device, result.precision) == ("gpu", "Some GPU", "float16")
    assert result.latency.median == 4.0
    assert result.compute.median == 3.5
    assert result.enqueue is not None
    assert result.host_to_device is not None
    assert result.device_to_host is not None
    assert result.enqueue.median == 0.1
    assert result.host_to_device.median == result.device_to_host.median == 0.25
    assert result.throughput == pytest.approx(2 / 0.004)
    assert [layer.name for layer in result.layers] == ["na", "conv"]
    assert result.attention_share == 0.75
    assert result.memory == {
        "weights": 1000, "activations": 200, "inputs_outputs": 30, "process": None
    }  # fmt: skip
    assert result.notes == ["opened e", "session note of e", "note of runtime of e"]
    assert result.warnings == []


def test_copies_that_are_not_made_are_not_reported(scripted: Callable[..., Sessions]) -> None:
    scripted({"e": ScriptedSession("e", [4.0], kind="gpu", enqueue=0.1)})
    (result,) = bench(["e"], shapes=SHAPES).results
    assert result.host_to_device is result.device_to_host is None


def test_options_reach_the_session_and_inputs_are_equal(scripted: Callable[..., Sessions]) -> None:
    sessions = scripted({name: ScriptedSession(name, [1.0]) for name in "ab"})
    bench(
        ["a", "b"], shapes=SHAPES, streams=3, cuda_graph=False, transfers=True, spin_wait=False,
        duration=0.1,
    )  # fmt: skip
    for session in sessions.values():
        assert session.options == [
            RunOptions(streams=3, cuda_graph=False, transfers=True, spin_wait=False)
        ]
    first, second = (session.feeds[0]["image"] for session in sessions.values())
    assert first.shape == (2, 3, 8, 8)
    assert np.array_equal(first, second)


def test_the_ratio_is_that_of_the_times(scripted: Callable[..., Sessions]) -> None:
    scripted(
        {
            "a": ScriptedSession("a", [2.0, 2.1, 1.9]),
            "b": ScriptedSession("b", [3.0, 3.15, 2.85]),
        }
    )
    _, second = bench(["a", "b"], shapes=SHAPES).results
    assert second.ratio is not None
    assert second.ratio.value == pytest.approx(1.5, rel=0.01)
    assert second.ratio.rounds == 12
    assert second.ratio.low is not None
    assert second.ratio.high is not None
    assert second.ratio.low <= 1.5 <= second.ratio.high


def test_with_several_streams_wall_times_are_compared(scripted: Callable[..., Sessions]) -> None:
    """The first overlaps its runs fully; the second has equal latencies, and overlaps nothing."""
    scripted({"a": ScriptedSession("a", [2.0], overlap=2), "b": ScriptedSession("b", [2.0])})
    first, second = bench(["a", "b"], shapes=SHAPES, streams=2).results
    assert second.ratio is not None
    assert second.ratio.value == pytest.approx(2.0)
    assert first.throughput == pytest.approx(2 * second.throughput)


def test_other_batches_are_compared_by_the_time_of_an_image(
    scripted: Callable[..., Sessions], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted({"one": ScriptedSession("one", [2.0]), "four": ScriptedSession("four", [4.0])})
    shapes = {"one": {"image": [1, 3, 8, 8]}, "four": {"image": [4, 3, 8, 8]}}
    monkeypatch.setattr(Artefact, "default_shapes", lambda self, batch=None: shapes[str(self.name)])
    _, four = bench(["one", "four"]).results
    assert four.ratio is not None
    assert four.ratio.value == pytest.approx(0.5)
    assert "It runs 4 images at a time and one 1; the ratio is of the time of one image." in (
        four.warnings
    )


def test_the_same_artefact_twice_shows_how_far_equal_ones_differ(
    scripted: Callable[..., Sessions],
) -> None:
    scripted({"a": ScriptedSession("a", [2.0])})
    first, second = bench(["a", "a"], shapes=SHAPES).results
    assert (first.name, second.name) == ("a", "a (2)")
    assert second.ratio is not None
    assert second.ratio.value == 1.0


def test_everything_is_closed_once(scripted: Callable[..., Sessions]) -> None:
    sessions = scripted({name: ScriptedSession(name, [1.0]) for name in "ab"})
    bench(["a", "b"], shapes=SHAPES, duration=0.1)
    for session in sessions.values():
        assert session.closed == 1
        assert [run.closed for run in session.runs] == [True]


def test_one_alive_opens_every_artefact_for_each_of_its_blocks(
    scripted: Callable[..., Sessions],
) -> None:
    sessions = scripted({name: ScriptedSession(name, [1.0]) for name in "ab"})
    report = bench(["a", "b"], shapes=SHAPES, one_alive=True, layers=True)
    for session, result in zip(sessions.values(), report.results, strict=True):
        # To see whether it opens, for every block, and for the layers.
        assert len(session.runs) == session.closed == 1 + len(result.blocks) + 1
        assert all(run.closed for run in session.runs)


def test_nothing_is_measured_if_one_does_not_open_and_all_problems_are_told(
    scripted: Callable[..., Sessions],
) -> None:
    refusal = EngineError("It takes one stream.", "Drop --streams.")
    sessions = scripted(
        {
            "good": ScriptedSession("good", [1.0]),
            "missing": ConfigError("There is no missing.", "Make one."),
            "refusing": ScriptedSession("refusing", [1.0], refusal=refusal),
        }
    )
    with pytest.raises(DinatDeployError) as failed:
        bench(["good", "missing", "refusing"], shapes=SHAPES)
    assert failed.value.cause.splitlines() == [
        "2 of 3 artefacts cannot be measured.",
        "- There is no missing. Make one.",
        "- refusing: It takes one stream. Drop --streams.",
    ]
    assert [session.closed for session in sessions.values()] == [1, 1]


def test_a_single_problem_keeps_its_kind_and_names_the_artefact(
    scripted: Callable[..., Sessions],
) -> None:
    scripted(
        {"a": ScriptedSession("a", [1.0]), "engine": EngineError("There is no GPU.", "Use one.")}
    )
    with pytest.raises(EngineError) as failed:
        bench(["a", "engine"], shapes=SHAPES)
    assert (failed.value.cause, failed.value.cure) == ("engine: There is no GPU.", "Use one.")
    with pytest.raises(EngineError, match=r"^There is no GPU\."):
        bench(["engine"], shapes=SHAPES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"artefacts": []}, "Nothing is named"),
        ({"batch": 2, "shapes": SHAPES}, "exclude each other"),
        ({"shapes": {"other": [1]}}, "No artefact has an input 'other'; their inputs are image."),
        ({"shapes": SHAPES | {"other": [1]}}, "No artefact has an input 'other'; their inputs"),
        ({"shapes": SHAPES, "duration": -1}, "duration: Input should be greater than or equal"),
        ({"shapes": SHAPES, "percentiles": [101]}, "percentiles.0: Input should be less"),
        ({"shapes": SHAPES, "warmup": 1}, "warmup: Extra inputs"),
        ({"shapes": {"image": [2, 3, 8]}}, "The shape image=2x3x8 does not fit"),
    ],
)
def test_what_is_asked_wrongly_is_refused(
    arguments: dict[str, Any], message: str, scripted: Callable[..., Sessions]
) -> None:
    scripted({"a": ScriptedSession("a", [1.0])})
    with pytest.raises(ConfigError) as failed:
        bench(**{"artefacts": ["a"]} | arguments)
    assert message in failed.value.cause


def test_an_interrupt_reports_the_rounds_until_then(scripted: Callable[..., Sessions]) -> None:
    sessions = scripted(
        {
            "a": ScriptedSession("a", [1.0]),
            "b": ScriptedSession("b", [2.0], interrupt_at=1 + 2 * 7),
        }
    )
    with pytest.raises(BenchInterrupted) as stopped:
        bench(["a", "b"], shapes=SHAPES)
    report = stopped.value.report
    assert [len(result.blocks) for result in report.results] == [7, 7]
    assert report.warnings[-1] == "Interrupted after 7 rounds."
    assert [session.closed for session in sessions.values()] == [1, 1]


def test_the_gpu_s_clocks_are_asked_for_after_it_has_worked(
    scripted: Callable[..., Sessions], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benching.environment, "slowed", lambda: ["Heat held it back."])
    scripted({"e": ScriptedSession("e", [1.0], kind="gpu"), "c": ScriptedSession("c", [1.0])})
    assert "Heat held it back." in bench(["e"], shapes=SHAPES, duration=0.1).warnings
    assert "Heat held it back." not in bench(["c"], shapes=SHAPES, duration=0.1).warnings


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"batch": 8, "duration": 0.5, "iterations": 3, "warm_up": 12.5},
        {"shapes": {"image": [1, 3, 8, 8], "mask": [1, 8]}, "percentiles": [50.0, 99.9]},
        {"streams": 2, "cuda_graph": False, "transfers": True, "spin_wait": False},
        {"idle_time": 5.0, "block_ms": 100.0, "layers": True, "one_alive": True},
        {"threads": 2, "seed": 9, "trust": True, "bundle": Path("out/a b")},
        {"plugin_library": Path("x.so"), "duration": 1234567.25},
    ],
)
def test_the_recorded_command_repeats_the_measurement(arguments: dict[str, Any]) -> None:
    """Parsed as the command line is, it gives the same arguments again."""
    fields = set(BenchOptions.model_fields)
    options = BenchOptions(**{key: value for key, value in arguments.items() if key in fields})
    given = {key: arguments.get(key) for key in ("batch", "bundle", "plugin_library")}
    rest = benching.Arguments(
        shapes=arguments.get("shapes", {}),
        threads=arguments.get("threads", 0),
        trust=arguments.get("trust", False),
        **given,
    )
    line = benching.command_line(["out/my model", "torch:b"], rest, options)
    program, name, *words = shlex.split(line)
    assert (program, name) == ("dinat-deploy", "bench")
    with click.Context(command) as context:
        command.parse_args(context, words)
        parsed = dict(context.params)
    assert parsed["artefacts"] == ("out/my model", "torch:b")
    assert BenchOptions(**{key: parsed[key] for key in fields}) == options
    for key, value in given.items():
        assert parsed[key] == value
    assert (parsed["shapes"] or {}) == rest.shapes
    assert (parsed["threads"], parsed["trust"]) == (rest.threads, rest.trust)
    if not arguments:
        assert line == "dinat-deploy bench 'out/my model' torch:b"


def test_a_report_is_written_and_read_back(
    scripted: Callable[..., Sessions], tmp_path: Path
) -> None:
    scripted({"a": ScriptedSession("a", [2.0]), "b": ScriptedSession("b", [3.0])})
    report = bench(["a", "b"], shapes=SHAPES, duration=0.2)
    files = ReportFiles(*(tmp_path / f"r.{ending}" for ending in ("json", "md", "html")))
    files.check()
    assert files.write(report) == [files.json, files.markdown, files.html]
    assert files.json is not None
    assert load_report(files.json) == report
    assert {path.name for path in tmp_path.iterdir()} == {"r.json", "r.md", "r.html"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "There is no report"),
        ("{", "is not readable JSON"),
        ("[1]", "is no report of bench"),
        ('{"format_version": 2}', "has format 2; this dinat-deploy reads up to 1"),
        ('{"results": []}', "is no report of bench"),
    ],
)
def test_what_is_no_report_is_said(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_report(path)


def test_places_that_cannot_be_written_to_are_found_before_measuring(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a directory"):
        ReportFiles(markdown=tmp_path).check()
    with pytest.raises(OutputError, match="no directory that can be written to"):
        ReportFiles(html=tmp_path / "missing" / "page.html").check()


def test_a_page_needs_plotly_and_says_so_before_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("plotly", "plotly.offline"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it fails
    with pytest.raises(DinatDeployError, match="needs plotly"):
        ReportFiles(html=tmp_path / "page.html").check()
    ReportFiles(json=tmp_path / "report.json", markdown=tmp_path / "report.md").check()


def test_two_reports_do_not_go_to_one_file(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="Two reports are to be written to the same file"):
        ReportFiles(html=tmp_path / "same", markdown=tmp_path / "same").check()


def test_one_artefact_may_be_named_without_a_list(tiny_bundle: Path) -> None:
    report = bench(tiny_bundle, duration=0.01, warm_up=0, iterations=2, threads=1)
    assert [result.name for result in report.results] == [str(tiny_bundle)]


def test_times_are_finite(tiny_bundle: Path) -> None:
    with pytest.raises(ConfigError, match="duration"):
        bench(tiny_bundle, duration=float("inf"))


def test_an_engine_is_measured_on_a_gpu_beside_onnx_runtime(
    machine: SimulatedMachine, tiny_bundle: Path, tmp_path: Path
) -> None:
    """Through the real session, on a simulated TensorRT: graphs, copies, layers, nothing leaked."""
    engine = str(machine.engine(tiny_bundle, tmp_path / "engine"))
    report = bench(
        [str(tiny_bundle), engine], duration=0.1, warm_up=0, iterations=6, threads=1,
        transfers=True, layers=True,
    )  # fmt: skip
    onnx, plan = report.results
    assert (onnx.kind, plan.kind) == ("cpu", "gpu")
    assert plan.runtime.startswith("TensorRT 10.13")
    assert plan.shapes == {"image": [1, 3, 64, 64]}
    assert plan.precision == "float32"
    for quantity in (plan.enqueue, plan.host_to_device, plan.device_to_host):
        assert quantity is not None
        assert quantity.count == plan.latency.count >= 6
    assert onnx.enqueue is onnx.host_to_device is None
    assert plan.ratio is not None
    assert plan.layers
    assert plan.memory["activations"] is not None


@pytest.mark.parametrize("one_alive", [False, True])
def test_engines_are_freed_after_each_measurement(
    one_alive: bool, machine: SimulatedMachine, tiny_bundle: Path, tmp_path: Path
) -> None:
    """The fixture fails if anything stays allocated."""
    engines = [str(machine.engine(tiny_bundle, tmp_path / name)) for name in "ab"]
    report = bench(engines, duration=0, iterations=2, warm_up=0, one_alive=one_alive, streams=2)
    assert [result.kind for result in report.results] == ["gpu", "gpu"]


def test_an_engine_without_a_gpu_is_one_sentence(
    machine: SimulatedMachine, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "current_gpu", lambda: None)
    engine = machine.engine(tiny_bundle, tmp_path / "engine")
    with pytest.raises(DinatDeployError) as failed:
        bench([str(engine)])
    assert "this machine has none" in failed.value.cause
    assert failed.value.cause.count(". ") == 0
    assert failed.value.cure
