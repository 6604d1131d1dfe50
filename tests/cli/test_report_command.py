"""``report``: what it writes, prints and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Command


def test_report_writes_a_page_where_it_is_told_to(
    command: Command, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = command("report", tiny_bundle, "--no-measure", "--output", "named.html")
    assert named.status == 0
    assert "within" in named.out and "Wrote named.html" in named.out
    assert "Not measured here: accuracy, latency, layers; the report says why." in named.out
    assert command("report", tiny_bundle, "--no-measure").status == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["named.html", "report.html"]
    text = (tmp_path / "named.html").read_text()
    assert text.startswith("<!DOCTYPE html>") and "Nothing was to be measured" in text


def test_report_as_json_and_markdown_needs_no_page(
    command: Command, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = command("report", tiny_bundle, "--no-measure", "--json", "--markdown", "r.md")
    found = json.loads(shown.out)
    assert found["bundles"][0]["artefacts"][0]["parity"][0]["passed"] is True
    assert [path.name for path in tmp_path.iterdir()] == ["r.md"]
    assert "## Verdicts" in (tmp_path / "r.md").read_text()


def test_mistakes_are_sentences(command: Command, tiny_bundle: Path, tmp_path: Path) -> None:
    missing = command("report", tiny_bundle, "--results", tmp_path / "x.json", "--json")
    assert missing.status == 2
    assert json.loads(missing.out)["error"]["cause"] == (
        f"There is no result file {tmp_path / 'x.json'}."
    )
    assert command("report", tmp_path).status == 2
    assert command("report").status == 2


def test_help_needs_neither_torch_nor_onnx() -> None:
    code = (
        "import sys\nfor name in ('torch', 'onnx', 'plotly'): sys.modules[name] = None\n"
        "sys.argv = ['dinat-deploy', 'report', '--help']\n"
        "from dinat_deploy.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--results FILE.json" in done.stdout
