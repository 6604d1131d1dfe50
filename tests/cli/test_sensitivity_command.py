"""``dinat-deploy sensitivity``: tables, JSON, files, mistakes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dinat_deploy.models.seeding import seeded_image
from dinat_deploy.pipeline.calibrating import calibrate
from tests.cli.conftest import Command


@pytest.fixture(scope="module")
def place(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a calibrated bundle and images."""
    place = tmp_path_factory.mktemp("sensitivity")
    shutil.copytree(tiny_bundle, place / "bundle")
    images = np.stack([seeded_image((3, 64, 64), seed) for seed in range(3)])
    np.savez(place / "images.npz", images=images)
    calibrate(place / "bundle", place / "images.npz", precision=None)
    return place


def test_tables_and_files(command: Command, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    shown = command(
        "sensitivity", "bundle", "--data", "images.npz", "--by", "kind", "--min-sqnr", 200,
        "--rows", 2, "--output", "found",
    )  # fmt: skip
    assert shown.status == 0, shown.err
    lines = shown.out.splitlines()
    assert lines[0].startswith("int8 alone, the most harmful first")
    heads = ["kind", "MACs", "SQNR alone", "points lost", "own SQNR", "left out"]
    assert [head.strip() for head in lines[2].split("  ") if head.strip()] == heads
    assert lines[4].split()[0] == "conv"
    assert "3 more are less harmful; --rows shows them." in lines
    assert any(line.startswith(" quantize everything ") for line in lines)
    assert "Nothing can be int8 within the budget of 200 dB" in shown.out
    assert lines[-1] == "Written to found."
    exclude = (place / "found" / "exclude.txt").read_text()
    assert "\nlevels.0.blocks.0.attn.qkv/MatMul\n" in exclude
    assert "Measuring 5 units" in shown.err


def test_json_for_a_16_bit_precision(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    shown = command(
        "sensitivity",
        "bundle",
        "-d",
        "images.npz",
        "--precision",
        "fp16",
        "--by",
        "level",
        "--json",
    )
    found = json.loads(shown.out)
    assert found["precision"] == "fp16"
    assert found["search"] is None
    assert {unit["name"] for unit in found["units"]} == {"patch_embed", "levels.0", "levels.1"}


@pytest.mark.parametrize(
    ("options", "cause", "cure"),
    [
        (["--exclude", "@none.txt"], "patterns none.txt cannot be read", "behind the @"),
        (["--exclude", "nothing*"], "named like 'nothing*'", "Names look like"),
        (
            ["--precision", "bf16", "--residual"],
            "residual is about quantized models",
            "int8 or fp8",
        ),
        (["--output", "bundle"], "directory with other content", "another --output"),
    ],
)
def test_mistakes(
    options: list[str], cause: str, cure: str, command: Command, place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(place)
    shown = command("sensitivity", "bundle", "--data", "images.npz", *options)
    assert shown.status == 2
    assert cause in shown.err
    assert cure in shown.err
    assert "Traceback" not in shown.err
