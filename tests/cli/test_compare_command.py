"""``compare`` and ``ablate`` on the command line: tables, JSON, mistakes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Command

OURS = "nat_tiny,dinat_tiny,dinat_s_tiny"


def test_compare_without_measuring_prints_what_is_published_and_counted(command: Command) -> None:
    shown = command("compare", "--models", OURS, "--no-measure")
    assert shown.status == 0
    assert "dinat_s_tiny 81.8 28.3 28 4.49 4.5 1954" in " ".join(shown.out.split())
    assert "median" not in shown.out
    assert "as published: arXiv 2209.15001. The other figures were counted." in shown.out


def test_compare_as_json_and_with_a_page(command: Command, tmp_path: Path) -> None:
    page = tmp_path / "tiny.html"
    answer = command("compare", "--size", "mini", "--no-measure", "--json", "--plot", page)
    found = json.loads(answer.out)
    assert [model["name"] for model in found["models"]] == ["nat_mini", "dinat_mini"]
    assert found["base"] == "nat_mini"
    assert found["models"][0]["published"]["images_per_second_a100"] == 2132
    assert found["models"][0]["measured"] is None
    assert "Accuracy against work" in page.read_text()


def test_compare_without_transformers_names_the_package(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    answer = command("compare", "--no-measure")
    assert answer.status == 2
    assert "transformers, which is not installed" in answer.err
    assert "pip install 'dinat-deploy[hf]'" in answer.err
    assert command("compare", "--models", OURS, "--no-measure").status == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "--models", "resnet50"], "'resnet50' is not among the models"),
        (["compare", "--models", ""], "no model is named"),
        (["compare", "--models", " , "], "no model is named"),
        (["ablate", "--limit", "10"], "10 is not in the range x>=64"),
        (["ablate", "--seeds", "21"], "21 is not in the range 1<=x<=20"),
        (["compare", "--size", "huge"], "'huge' is none of mini, tiny, small"),
        (
            ["compare", "--models", "dinat_tiny", "--base", "swin_tiny"],
            "swin_tiny is to be the base",
        ),
        (
            ["compare", "--image-size", "64", "--no-measure"],
            "swin_tiny needs images of at least 224",
        ),
        (["ablate", "--kernel-sizes", "9"], "Kernel size 9 is not possible"),
        (["ablate", "--orders", "NA"], "'NA' is none of NA-NA"),
        (["ablate", "--plot", "none/x.html"], "cannot be written"),
    ],
)
def test_mistakes_are_explained(
    command: Command, arguments: list[str], message: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    answer = command(*arguments)
    assert answer.status == 2
    assert message in answer.err
    assert not list(tmp_path.iterdir())


def test_ablate_prints_its_own_figures_apart_from_published_ones(
    command: Command, tmp_path: Path
) -> None:
    options = ["--orders", "DiNA-DiNA", "--kernel-sizes", "7", "--epochs", 1, "--limit", 64]
    output = tmp_path / "ablation.json"
    shown = command("ablate", *options, "--seeds", 1, "--output", output)
    assert shown.status == 0
    assert "Measured on digits: accuracy in %" in shown.out
    assert "DiNA-DiNA 7 2,2/1,1" in " ".join(shown.out.split())
    assert "Published, not measured here" in shown.out
    assert "A toy: scans of 8x8 pixels" in shown.out
    assert "One seed: how much of a difference is chance cannot be told." in shown.out
    again = command("ablate", *options, "--seeds", 1, "--output", output, "--json")
    assert json.loads(again.out)["trained"] == 0
