"""``dinat-deploy bench``: its options, what it prints and writes, its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dinat_deploy.cli.console import BarProgress
from dinat_deploy.measurement.measuring import Measured
from dinat_deploy.measurement.records import BenchOptions, BenchReport, Floor, Work
from dinat_deploy.measurement.results import Subject, results
from dinat_deploy.pipeline import benching
from dinat_deploy.session.base import Block, LayerTime, MemoryUse, Timing
from tests.cli.conftest import Command

FAST = ("bench", "--duration", "0.1", "--warm-up", "0", "--iterations", "2", "--threads", "1")


def measured(name: str, milliseconds: float, **more: Any) -> Measured:
    timings = [Timing(milliseconds, milliseconds - 1, 0.75, 0.25, 0.125)] * 40
    blocks = [Block(timings, 0.04 * milliseconds)] * 8
    return Measured(name, "gpu", blocks, MemoryUse(weights=30_000_000), **more)


@pytest.fixture(scope="session")
def report() -> BenchReport:
    """Two engines on a GPU, with everything that a report can hold."""
    work = Work(macs=10**9, attention_macs=10**8, weight_bytes=1, io_bytes=1, counted_from="config")
    floor = Floor(
        compute=0.5, memory=0.1, total=0.5, device="GPU", source="specification",
        peak_tflops=4, bandwidth_gbs=100,
    )  # fmt: skip
    layers = [LayerTime(f"block{n}", "PLUGIN_V3", 1.0 + n, n % 2 == 0) for n in range(12)]
    options = BenchOptions(transfers=True)
    subject = Subject("TensorRT 10.3", "Orin", "float16", {"image": [1, 3, 8, 8]}, work, floor)
    return BenchReport(
        created_by="test",
        started="2026-11-24T12:00:00+00:00",
        command="dinat-deploy bench plugin body",
        environment={"processor": "Some CPU"},
        options=options,
        results=results(
            [measured("plugin", 2.0, layers=layers), measured("body", 3.0, notes=["No graph."])],
            [subject, subject],
            options,
        ),
        warnings=["It was warm."],
    )


@pytest.fixture
def canned(report: BenchReport, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The command measures nothing, and reports this; its arguments are kept."""
    calls: list[dict[str, Any]] = []

    def bench(artefacts: Any, **arguments: Any) -> BenchReport:
        calls.append({"artefacts": artefacts, **arguments})
        return report

    monkeypatch.setattr(benching, "bench", bench)
    return calls


def row(text: str, name: str) -> list[str]:
    """Cells of the first line of a table that begins with a name."""
    line = next(line for line in text.splitlines() if line.strip().startswith(name))
    return line.split()


def test_two_runtimes_are_measured_and_compared(
    command: Command, tiny_bundle: Path, tmp_path: Path
) -> None:
    written = tmp_path / "report.json"
    shown = command(*FAST, tiny_bundle, f"torch:{tiny_bundle}", "--json", written)
    assert shown.status == 0
    assert "Latency, ms" in shown.out
    assert "times the first" in shown.out
    assert "ONNX Runtime" in shown.out
    assert "PyTorch" in shown.out
    assert f"Wrote {written}" in shown.out
    for stage in ("Opening 2 ... ", "Measuring ... "):
        assert stage in shown.err
    assert len(json.loads(written.read_text())["results"]) == 2


def test_the_tables_hold_what_was_measured(command: Command, canned: list[dict[str, Any]]) -> None:
    out = command("bench", "plugin", "body").out
    assert row(out, "plugin") == ["plugin", *["2"] * 7, "0.0%", "1"]
    assert row(out, "body") == ["body", *["3"] * 7, "0.0%", "1.500", "(1.500", "to", "1.500)"]
    after = {title: out[out.index(title) :] for title in (
        "GPU compute, ms", "Enqueue, ms", "Host to device, ms", "Device to host, ms", "runtime"
    )}  # fmt: skip
    assert row(after["GPU compute, ms"], "body")[1] == "2"
    assert row(after["Enqueue, ms"], "body")[1] == "0.1250"
    assert row(after["Host to device, ms"], "plugin")[1] == "0.7500"
    assert row(after["Device to host, ms"], "plugin")[1] == "0.2500"
    figures = ["1", "320", "500", "30", "MB", "0.5000", "4.0"]
    assert row(after["runtime"], "plugin") == [
        "plugin",
        "TensorRT",
        "10.3",
        "Orin",
        *figures,
        "46%",
    ]
    assert row(after["runtime"], "body") == [
        "body", "TensorRT", "10.3", "Orin", "1", "320", "333", "30", "MB", "0.5000", "6.0",
    ]  # fmt: skip
    assert "Layers of plugin, the longest 10 of 12" in out
    assert row(out, "block11")[1:] == ["PLUGIN_V3", "12.0000", "15.4%"]
    assert "Warning: It was warm." in out
    assert "Note: body: No graph." in out


def test_one_artefact_has_no_ratio_and_no_name_before_its_warnings(
    command: Command, canned: list[dict[str, Any]], report: BenchReport, monkeypatch: Any
) -> None:
    alone = report.model_copy(update={"results": report.results[:1]})
    alone.results[0].warnings[:] = ["It varies."]
    monkeypatch.setattr(benching, "bench", lambda *_, **__: alone)
    out = command("bench", "plugin").out
    assert "times the first" not in out
    assert "Warning: It varies." in out


def test_options_are_those_of_trtexec(command: Command, canned: list[dict[str, Any]]) -> None:
    command("bench", "a")
    command(
        "bench", "a", "b", "--warm-up", "10", "--duration", "1.5", "--iterations", "4",
        "--streams", "2", "--no-cuda-graph", "--transfers", "--no-spin-wait", "--idle-time", "3",
        "--percentile", "50,99.9", "--shapes", "image=1x3x8x8,mask=1x8", "--layers",
        "--block-time", "50", "--one-alive", "--threads", "2", "--seed", "5", "--trust",
        "--bundle", "out", "--plugin-library", "p.so", "--batch", "2",
    )  # fmt: skip
    for call in canned:
        del call["progress"]
    default, changed = canned
    assert default == {
        "artefacts": ("a",), "batch": None, "shapes": None, "threads": 0, "trust": False,
        "bundle": None, "plugin_library": None, **BenchOptions().model_dump(),
    }  # fmt: skip
    assert changed == {
        "artefacts": ("a", "b"), "batch": 2, "threads": 2, "trust": True, "bundle": Path("out"),
        "plugin_library": Path("p.so"), "shapes": {"image": [1, 3, 8, 8], "mask": [1, 8]},
        "warm_up": 10, "duration": 1.5, "iterations": 4, "streams": 2, "cuda_graph": False,
        "transfers": True, "spin_wait": False, "percentiles": [50, 99.9], "idle_time": 3,
        "layers": True, "block_ms": 50, "one_alive": True, "seed": 5, "power": "off",
    }  # fmt: skip


def test_json_goes_to_stdout_alone(
    command: Command, canned: list[dict[str, Any]], report: BenchReport, tmp_path: Path
) -> None:
    page = tmp_path / "report.md"
    shown = command("bench", "a", "--json", "--markdown", page)
    assert BenchReport.model_validate_json(shown.out) == report
    assert f"Wrote {page}" in shown.err


def test_an_artefact_after_json_is_not_taken_for_its_file(
    command: Command, canned: list[dict[str, Any]], tmp_path: Path
) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"weights")
    assert command("bench", "--json", model).status == 0
    assert canned[0]["artefacts"] == (str(model),)
    assert model.read_bytes() == b"weights"


def test_a_report_of_another_machine_is_shown_and_rendered(
    command: Command, canned: list[dict[str, Any]], tmp_path: Path
) -> None:
    written = tmp_path / "there.json"
    first = command("bench", "a", "--json", written)
    page, text = tmp_path / "page.html", tmp_path / "text.md"
    again = command("bench", "--from", written, "--html", page, "--markdown", text)
    assert again.status == 0
    assert len(canned) == 1
    tables = first.out.partition("Wrote")[0]
    assert tables
    assert again.out.startswith(tables)
    assert "<html" in page.read_text()[:200]
    assert "plugin" in text.read_text()


def test_ctrl_c_shows_what_was_measured_and_writes_nothing(
    command: Command, report: BenchReport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def bench(*_: Any, **__: Any) -> BenchReport:
        raise benching.BenchInterrupted(report)

    monkeypatch.setattr(benching, "bench", bench)
    written = tmp_path / "report.json"
    stopped = command("bench", "a", "--json", written)
    assert stopped.status == 130
    assert "Latency, ms" in stopped.out
    assert "Interrupted. No file was written." in stopped.err
    assert not written.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Name what to measure"),
        (["a", "--from", "r.json"], "--from shows a report"),
        (
            ["--from", "r.json", "--duration", "5", "--no-transfers"],
            "a report that was measured already; leave away --duration, --transfers.",
        ),
        (["a", "--json=report.txt"], "'report.txt' does not end in .json"),
        (["a", "--percentile", "99,x"], "'99,x' is not a list of numbers"),
        (["a", "--percentile", "101"], "101 is not in 0..100"),
        (["a", "--shapes", "image=1x0x8"], "does not name shapes; write image=1x3x224x224"),
        (["a", "--shapes", "i=1,i=2"], "does not name shapes"),
        (["a", "--duration", "-1"], "-1.0 is not in the range"),
        (["a", "--html", "/no/where.html"], "/no/where.html cannot be written"),
        (["--from", "/no/where.json"], "There is no report /no/where.json"),
        (["cuda:a"], "'cuda' in 'cuda:a' is no runtime."),
        (["a/b", "c/d"], "2 of 2 artefacts cannot be measured."),
    ],
)
def test_mistakes_exit_with_2_and_say_cause_and_cure(
    arguments: list[str], message: str, command: Command
) -> None:
    failed = command("bench", *arguments)
    assert failed.status == 2
    assert message in failed.err
    assert "Traceback" not in failed.err
    assert not failed.out


def test_mistakes_in_json(command: Command) -> None:
    failed = command("bench", "--json", "nothing/here")
    assert failed.status == 2
    assert "nothing/here" in json.loads(failed.out)["error"]["cause"]


def test_the_progress_bar_is_drawn_only_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that draws ten times a second would be measured, too."""
    import threading

    before = threading.active_count()
    bar = BarProgress(2, steady=True)
    bar.start()
    try:
        with bar.portion("Measuring") as report:
            report(0.5, "round 3")
            assert threading.active_count() == before
    finally:
        bar.stop()


def test_help_and_rendering_need_no_heavy_package(tmp_path: Path, report: BenchReport) -> None:
    """A report is rendered where nothing could be measured."""
    source = tmp_path / "report.json"
    source.write_text(report.model_dump_json())
    program = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxruntime', 'tensorrt', 'plotly'):\n"
        "    sys.modules[name] = None\n"
        "from dinat_deploy.cli import main\n"
        f"sys.argv = ['dinat-deploy', 'bench', '--from', {str(source)!r}, "
        f"'--markdown', {str(tmp_path / 'r.md')!r}]\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Latency, ms" in done.stdout
    assert (tmp_path / "r.md").is_file()
