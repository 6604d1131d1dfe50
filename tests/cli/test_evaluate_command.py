"""``dinat-deploy evaluate`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.pipeline import evaluated_models as models


@pytest.fixture(autouse=True)
def _no_library_of_this_machine(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DINAT_NATIVE_DIR", str(tmp_path_factory.mktemp("native")))


@pytest.fixture
def arguments(tmp_path: Path, tiny_bundle: Path) -> list[object]:
    """Two models, the second of which loses accuracy."""
    exact = models.classifier(tmp_path / "exact.onnx")
    noisy = models.classifier(tmp_path / "noisy.onnx", noise=0.2)
    data = models.labelled(tmp_path / "data.npz", 30, wrong=3)
    return ["evaluate", exact, noisy, "--bundle", tiny_bundle, "--data", data, "--no-latency"]


def test_a_table_and_verdicts_are_printed(
    command: Command, arguments: list[object], tmp_path: Path
) -> None:
    done = command(*arguments, "--output", tmp_path / "report.json")
    assert done.status == 0
    lines = done.out.splitlines()
    assert lines[0].startswith(f"{tmp_path}/data.npz: 30 labelled images, in batches of 8 by one ")
    assert "90.00 %" in done.out
    assert f"{tmp_path}/noisy.onnx: loses " in done.out
    assert "Evaluating" in done.err
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["artefacts"][0]["scores"]["top1"] == 0.9
    assert "90.00 %" in (tmp_path / "report.md").read_text()
    assert lines[-1] == f"Wrote {tmp_path}/report.json and {tmp_path}/report.md"


def test_exit_status_1_if_more_is_lost_than_allowed(
    command: Command, arguments: list[object]
) -> None:
    failed = command(*arguments, "--max-drop", 0.1, "--json")
    assert failed.status == 1
    assert json.loads(failed.out)["artefacts"][1]["verdict"].startswith("FAILED: loses ")
    assert command(*arguments, "--max-drop", 100).status == 0


def test_mistakes_are_sentences(command: Command, arguments: list[object], tmp_path: Path) -> None:
    nowhere = command(*arguments, "--output", tmp_path / "nowhere" / "report")
    assert nowhere.status == 2
    assert "report.json cannot be written" in nowhere.err
    assert "Evaluating" not in nowhere.err
    no_data = command(*arguments[:-3], "--data", tmp_path / "none", "--json")
    assert no_data.status == 2
    assert "There are no data" in json.loads(no_data.out)["error"]["cause"]
    assert command("evaluate", tmp_path / "exact.onnx").status == 2
    assert command("evaluate", "--data", "digits").status == 2


def test_ray_is_asked_for_only_where_it_is_needed(
    command: Command, arguments: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    missing = command(*arguments, "--ray", "local")
    assert missing.status == 2
    assert "pip install 'dinat-deploy[ray]'" in missing.err
