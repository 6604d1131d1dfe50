"""``dinat-deploy package``, as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from dinat_deploy.cli import cli


@pytest.fixture
def packaged(tiny_bundle: Path, tmp_path: Path) -> Path:
    place = tmp_path / "serve"
    done = CliRunner().invoke(
        cli, ["package", str(tiny_bundle), "--no-operators", "-o", str(place)]
    )
    assert done.exit_code == 0, done.output
    assert "model repository for Triton" in done.output
    assert "1x3x64x64" in done.output
    return place


def test_a_package_is_written_and_checked(packaged: Path) -> None:
    done = CliRunner().invoke(cli, ["package", "--check", str(packaged)], standalone_mode=False)
    assert done.return_value is None
    assert "nothing wrong with tiny, tiny_pipeline" in done.output


def test_what_is_wrong_is_listed_and_the_status_says_no(packaged: Path) -> None:
    file = packaged / "models" / "tiny" / "config.pbtxt"
    file.write_text(file.read_text().replace("dims: [1, 10]", "dims: [1, 11]"))
    done = CliRunner().invoke(cli, ["package", "--check", str(packaged)], standalone_mode=False)
    assert done.return_value == 1
    assert "[1, 11], and in" in done.output
    done = CliRunner().invoke(
        cli, ["package", "--check", str(packaged), "--json"], standalone_mode=False
    )
    found = json.loads(done.stdout)
    assert found["passed"] is False
    assert {problem["where"] for problem in found["problems"]} == {"tiny", "tiny_pipeline"} | {
        "tiny_postprocess"
    } & {problem["where"] for problem in found["problems"]}


def test_json_says_what_was_written(tiny_bundle: Path, tmp_path: Path) -> None:
    words = ["package", str(tiny_bundle), "-o", str(tmp_path / "out"), "--no-pipeline", "--json"]
    done = CliRunner().invoke(cli, [*words, "--no-operators"])
    written = json.loads(done.stdout)
    assert written["configs"] == ["tiny"]
    assert written["format"] == "triton"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["x"], "Missing option '--output'"),
        (["x", "-o", "y", "--check"], "--check takes one directory and writes none"),
        (["x", "-o", "y", "--format", "cpp", "--queue-delay", "5"], "--queue-delay is about"),
        (["x", "-o", "y", "--format", "cpp", "--no-operators"], "--operators is about"),
        (["x", "-o", "y", "--compile"], "--compile is about --format cpp"),
        (["x", "--check", "--name", "z"], "--name goes with writing a package"),
        (["x", "-o", "y", "--instances", "99999999999"], "is not in the range"),
        ([], "Missing argument 'SOURCE...'"),
    ],
)
def test_words_that_do_not_go_together_are_refused(words: list[str], said: str) -> None:
    done = CliRunner().invoke(cli, ["package", *words])
    assert done.exit_code == 2
    assert said in done.output
