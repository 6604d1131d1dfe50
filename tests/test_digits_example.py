"""The digits example: a DiNAT trained on real scans, exported, with the same predictions."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "digits"


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


@pytest.mark.slow
def test_training_export_and_predictions(tmp_path: Path) -> None:
    model, bundle = tmp_path / "model", tmp_path / "bundle"
    trained = run(EXAMPLE / "train.py", "--output", model)
    accuracy = re.search(r"held-out accuracy: ([\d.]+)% of 360 images", trained)
    assert accuracy is not None
    assert float(accuracy[1]) >= 97

    command = ["-m", "dinat_deploy"]
    run(*command, "export", "--checkpoint", model, "--output", bundle, "--dynamic", "batch")
    compared = run(EXAMPLE / "evaluate.py", model, bundle)
    assert "predictions that differ: 0 of 360" in compared

    samples = sorted((model / "samples").glob("*.png"))
    guessed = run(*command, "infer", "--bundle", bundle, *samples, "--top", 1)
    named = re.findall(r"(\d)-(\w+)\.png.*\n +[\d.]+%  (\w+)", guessed)
    assert len(named) == 10
    assert sum(truth == guess for _, truth, guess in named) >= 9
    run(*command, "verify", bundle, "--images", samples[0], "--layers")
