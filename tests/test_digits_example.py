"""The digits example: a DiNAT trained on real scans, exported, with the same predictions."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dinat_deploy.cli import cli

EXAMPLE = Path(__file__).parents[1] / "examples" / "digits"


def dinat_deploy(*arguments: object) -> str:
    """What our command prints, in this process, which spares importing PyTorch each time."""
    done = CliRunner().invoke(cli, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return done.output


def run(*arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=EXAMPLE.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def as_json(*arguments: object, status: int = 0) -> Any:
    """What our command prints with --json."""
    done = CliRunner().invoke(cli, [*map(str, arguments), "--json"], standalone_mode=False)
    assert done.exception is None, done.output
    assert (done.return_value or 0) == status, done.output
    return json.loads(done.stdout)


def lost(bundle: Path, precision: str, *options: object, status: int = 0) -> float:
    """Points of top-1 that a variant loses on the held-out digits."""
    variant = bundle / f"model.{precision}.onnx"
    words = ("evaluate", bundle, variant, "--data", "digits", "--no-latency", *options)
    found = as_json(*words, status=status)
    assert found["images"] == 360
    exact, other = (entry["scores"]["top1"] for entry in found["artefacts"])
    return float(100 * (exact - other))


@pytest.mark.slow
def test_training_export_and_predictions(tmp_path: Path) -> None:
    model, bundle = tmp_path / "model", tmp_path / "bundle"
    trained = run(EXAMPLE / "train.py", "--output", model)
    accuracy = re.search(r"held-out accuracy: ([\d.]+)% of 360 images", trained)
    assert accuracy is not None
    assert float(accuracy[1]) >= 97

    dinat_deploy("export", "--checkpoint", model, "--output", bundle, "--dynamic", "batch")
    compared = run(EXAMPLE / "evaluate.py", model, bundle)
    assert "predictions that differ: 0 of 360" in compared

    samples = sorted((model / "samples").glob("*.png"))
    guessed = dinat_deploy("infer", "--bundle", bundle, *samples, "--top", 1)
    named = re.findall(r"(\d)-(\w+)\.png.*\n +[\d.]+%  (\w+)", guessed)
    assert len(named) == 10
    assert sum(truth == guess for _, truth, guess in named) >= 9
    dinat_deploy("verify", bundle, "--images", samples[0], "--layers")
    precisions(bundle)
    outlier(model, tmp_path)


def precisions(bundle: Path) -> None:
    """16 bits cost nothing, and INT8 does most of the work for at most half a point."""
    for precision in ("fp16", "bf16"):
        as_json("convert", bundle, "--precision", precision)
        assert lost(bundle, precision, "--simulate", "--max-drop", 0.2) <= 0.2
    as_json("calibrate", bundle, "--data", "digits:train", "--limit", 200)
    assert lost(bundle, "int8", "--max-drop", 0.5) <= 0.5
    for estimator in ("entropy", "percentile"):
        words = ("--precision", "int8", "--estimator", estimator, "--rest", "fp32")
        made = as_json("convert", bundle, *words)
        assert made["variant"]["quantization"]["macs"] >= 0.9
        assert lost(bundle, "int8", "--max-drop", 0.5) <= 0.5


def outlier(model: Path, place: Path) -> None:
    """One channel of a norm is 512 times as large, and the function the same: INT8 breaks there,
    and there alone."""
    hard, bundle, found = place / "hard", place / "hard-bundle", place / "sensitivity"
    run(EXAMPLE / "outlier.py", model, hard, "--factor", 512)
    dinat_deploy("export", "--checkpoint", hard, "--output", bundle, "--dynamic", "batch")
    data = ("--data", "digits:train", "--limit", 200)
    as_json("calibrate", bundle, *data, "--rest", "fp32", "--no-verify")
    assert lost(bundle, "int8", "--max-drop", 0.5, status=1) > 1
    report = as_json(
        "sensitivity", bundle, *data, "--by", "site", "--max-drop", 0.5, "--output", found
    )
    assert report["units"][0]["name"] == "levels.1.blocks.0.attn.qkv/MatMul"
    words = ("--precision", "int8", "--rest", "fp32", "--exclude", f"@{found / 'exclude.txt'}")
    made = as_json("convert", bundle, *words)["variant"]["quantization"]
    assert "levels.1.blocks.0.attn.qkv/MatMul" not in made["nodes"]
    assert made["macs"] > 0.85
    assert lost(bundle, "int8", "--max-drop", 0.5) <= 0.5
