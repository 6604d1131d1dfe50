"""The script that checks engines on a GPU: its commands exist, and its report tells what happened."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest

from dinat_deploy.cli import cli
from tests.gpu import engines
from tests.gpu.engines import Outcome, Step


def commands(*words: str) -> list[Step]:
    return list(engines.steps(engines.arguments(words)))


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_the_command_line_takes_every_command(backend: str) -> None:
    for step in commands("--backend", backend):
        context = click.Context(cli, info_name="dinat-deploy")
        name, command, rest = cli.resolve_command(context, list(step.command))
        assert command is not None
        command.make_context(name, rest, parent=context)


def test_every_model_precision_and_batch_is_compared_and_measured() -> None:
    compared = {
        (s.model, s.precision, s.attention, s.batch) for s in commands() if s.kind == "verify"
    }
    for model in ("dinat_mini", "dinat_tiny", "dinat_large"):
        for precision in ("fp32", "fp16"):
            for attention in ("plugin", "body"):
                assert {(model, precision, attention, b) for b in (1, 8)} <= compared
    assert any("any size" in s.model for s in commands())
    measured = [s for s in commands() if s.kind == "bench"]
    assert all(any(w.startswith("torch-compile:") for w in s.command) for s in measured)


def pretend(failing: str = "") -> Any:
    def run(step: Step, seconds: float) -> Outcome:
        if failing and failing in " ".join(step.command):
            return Outcome(step, "failed", 1.0, {}, "Error: something is wrong")
        findings: dict[str, Any] = {}
        if step.kind == "verify":
            findings = {"cases": [{"outputs": {"logits": {"max_abs": 1e-6, "limit": 1e-4}}}]}
        if step.kind == "bench":
            names = [w for w in step.command if "engines" in w or w.startswith("torch")]
            latencies = [{"name": n, "latency": {"median": 1.0 + i}} for i, n in enumerate(names)]
            findings = {"results": latencies}
        return Outcome(step, "passed", 1.0, findings)

    return run


def test_the_report_holds_errors_and_ratios(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "run", pretend())
    assert engines.main(["--output", str(tmp_path), "--models", "dinat_mini"]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "| dinat_mini | fp16 | body | 8 | 1.00e-06 | 1.00e-04 | passed |" in text
    bundle = tmp_path / "dinat_mini"
    assert f"| dinat_mini | fp32 | 1 | {bundle}/engines/fp32-body | 2.000 | 2.00 |" in text
    outcomes = json.loads((tmp_path / "report.json").read_text())["outcomes"]
    assert {entry["outcome"] for entry in outcomes} == {"passed"}
    assert not list(tmp_path.glob(".*"))


def test_what_needs_a_failed_step_is_not_run_and_the_failure_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "run", pretend("export --model dinat_tiny"))
    words = ["--output", str(tmp_path), "--models", "dinat_tiny", "dinat_large"]
    assert engines.main(words) == 1
    outcomes = json.loads((tmp_path / "report.json").read_text())["outcomes"]
    by_model = {
        model: {e["outcome"] for e in outcomes if e["step"]["model"] == model}
        for model in ("dinat_tiny", "dinat_large")
    }
    assert by_model == {"dinat_tiny": {"failed", "not run"}, "dinat_large": {"passed"}}
    assert "Error: something is wrong" in (tmp_path / "report.md").read_text()


def test_no_step_begins_when_the_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "run", pretend())
    assert engines.main(["--output", str(tmp_path), "--seconds", "1"]) == 0
    outcomes = json.loads((tmp_path / "report.json").read_text())["outcomes"]
    assert {entry["outcome"] for entry in outcomes} == {"not run"}


def test_the_shell_script_starts_it() -> None:
    script = Path(engines.__file__).with_name("engines.sh")
    done = subprocess.run([script, "--help"], capture_output=True, text=True, check=True)
    assert "--backend" in done.stdout
