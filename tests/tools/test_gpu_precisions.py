"""The script that compares precisions on a GPU: its commands exist, its report tells what happened."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest

from dinat_deploy.cli import cli
from tests.gpu import precisions
from tests.gpu.engines import Outcome, Step


def commands(*words: str) -> list[Step]:
    return list(precisions.steps(precisions.arguments(words)))


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_the_command_line_takes_every_command(backend: str) -> None:
    for step in commands("--backend", backend):
        context = click.Context(cli, info_name="dinat-deploy")
        name, command, rest = cli.resolve_command(context, list(step.command))
        assert command is not None
        command.make_context(name, rest, parent=context)


def test_every_precision_is_built_and_evaluated_beside_the_others() -> None:
    built = {(step.model, step.precision) for step in commands() if step.kind == "build"}
    models = ("digits", "dinat_mini", "dinat_large")
    assert built == {(model, p) for model in models for p in precisions.PRECISIONS}
    (evaluated,) = [step for step in commands() if step.kind == "evaluate"]
    engines = [word for word in evaluated.command if "engines" in word]
    assert [Path(engine).name for engine in engines] == list(precisions.PRECISIONS)
    for step in (step for step in commands() if step.kind == "bench"):
        assert len([word for word in step.command if "engines" in word]) == 5


def pretend(step: Step, seconds: float) -> Outcome:
    if "dinat_large" in step.model and step.kind == "build":
        return Outcome(step, "failed", 1.0, {}, "Error: something is wrong")
    findings: dict[str, Any] = {}
    names = [word for word in step.command if "engines" in word]
    if step.kind == "evaluate":
        scores = {"top1": 0.975, "agreement": None}
        findings["artefacts"] = [
            {"name": n, "scores": scores, "latency_ms": 0.5, "verdict": "as good"} for n in names
        ]
    if step.kind == "bench":
        findings["results"] = [
            {"name": n, "latency": {"median": 4.0 / (1 + i)}} for i, n in enumerate(names)
        ]
    return Outcome(step, "passed", 1.0, findings)


def test_the_report_holds_accuracies_and_ratios_and_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precisions, "run", pretend)
    monkeypatch.setattr(precisions, "prepare", lambda output: None)
    assert precisions.main(["--output", str(tmp_path)]) == 1
    text = (tmp_path / "report.md").read_text()
    assert "| int8 | 97.50% | - | 0.500 | as good |" in text
    assert "| dinat_mini | 8 | fp16 | 2.000 | 2.00 |" in text
    assert "Error: something is wrong" in text
    outcomes = json.loads((tmp_path / "report.json").read_text())["outcomes"]
    assert [e["outcome"] for e in outcomes if e["step"]["model"] == "dinat_large"][:3] == [
        "passed", "failed", "not run",
    ]  # fmt: skip


def test_the_shell_script_starts_it() -> None:
    script = Path(precisions.__file__).with_name("precisions.sh")
    done = subprocess.run([script, "--help"], capture_output=True, text=True, check=True)
    assert "--precisions" in done.stdout
