"""dinat-deploy deploy, as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Command

pytestmark = pytest.mark.rtx


@pytest.fixture(autouse=True)
def _no_plugin_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DINAT_NATIVE_DIR", str(tmp_path / "native"))


def arguments(config: Path, output: Path) -> list[object]:
    words = ["--depths", "1,1", "--dilations", "1/2", "--backend", "tensorrt-rtx", "--arch", "86"]
    return ["deploy", "--config", config, "--output", output, *words, "--no-run"]


def test_a_deployment_is_shown_step_by_step_and_resumed(
    command: Command, tiny_config_file: Path, tmp_path: Path
) -> None:
    words = arguments(tiny_config_file, tmp_path / "b")
    first = command(*words)
    assert first.status == 0, first.err
    assert f"Engine: {tmp_path / 'b' / 'engines' / 'tensorrt-rtx-body'}" in first.out
    assert first.out.count("done now") == 2
    assert first.out.count("skipped") == 2
    assert "weights are random" in first.err
    again = json.loads(command(*words, "--json").out)
    assert [s["state"] for s in again["steps"]] == ["done before"] * 2 + ["skipped"] * 2


def test_a_dry_run_prints_the_steps(
    command: Command, tiny_config_file: Path, tmp_path: Path
) -> None:
    shown = command(
        *arguments(tiny_config_file, tmp_path / "b"), "--precision", "bf16", "--dry-run"
    )
    assert shown.status == 0, shown.err
    for text in ("export", "convert the model to bf16", "build the engine with tensorrt-rtx"):
        assert text in shown.out
    assert not (tmp_path / "b").exists()


def test_a_bundle_and_a_model_are_not_both_taken(command: Command, tiny_bundle: Path) -> None:
    refused = command("deploy", tiny_bundle, "--model", "dinat_mini")
    assert refused.status == 2
    assert "--model is about exporting a model" in refused.err


@pytest.mark.parametrize("words", [["--batch", "2"], ["--image-size", "128"], ["--seed", "1"]])
def test_export_options_are_not_ignored_when_a_bundle_is_named(
    words: list[str], command: Command, tiny_bundle: Path
) -> None:
    refused = command("deploy", tiny_bundle, *words, "--no-run", "--dry-run")
    assert refused.status == 2
    assert f"{words[0]} is about exporting a model" in refused.err


def test_without_a_gpu_the_cure_is_named(
    command: Command, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dinat_deploy.pipeline import deploying

    monkeypatch.setattr(deploying, "current_capability", lambda: None)
    refused = command("deploy", tiny_bundle)
    assert refused.status == 2
    assert "this machine has none" in refused.err
    assert "--no-run" in refused.err


def test_a_bundle_that_is_none_is_named(command: Command, tmp_path: Path) -> None:
    refused = command("deploy", tmp_path, "--no-run")
    assert refused.status == 2
    assert "is not a bundle" in refused.err
