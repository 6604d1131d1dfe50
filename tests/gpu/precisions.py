"""Precisions on a GPU: accuracy and latency of engines in fp32, fp16, bf16, int8 and fp8.

    python -m tests.gpu.precisions --output out/gpu-precisions

A DiNAT is trained on handwritten digits; its engines are evaluated on the held-out ones. DiNAT-mini
and -large with made-up weights, calibrated on made-up images, are measured: batch 1 and 8. Every
step is a ``dinat-deploy`` command in a process of its own, as in tests/gpu/engines.py.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tests.gpu.engines import MOST, Outcome, Step, image, list_steps, run, write

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
MODELS = ("dinat_mini", "dinat_large")
BATCHES = (1, 8)
DIGITS = "digits"
CALIBRATION_IMAGES = 32
_MOST = {**MOST, "calibrate": 150, "evaluate": 90}
_EXAMPLE = Path(__file__).parents[2] / "examples" / "digits" / "train.py"


def steps(options: argparse.Namespace) -> Iterator[Step]:
    """All commands, the most telling first."""
    digits = options.output / DIGITS
    words = ["export", "--checkpoint", str(options.output / "digits-model"), "--dynamic", "batch"]
    yield Step("export", DIGITS, "fp32", "", [*words, "--output", str(digits)])
    engines = yield from _engines(options, DIGITS, digits, "digits:train", "1x1x32x32:8x1x32x32")
    words = ["evaluate", *engines, "--data", "digits", "--batch", "8", "--duration", "1", "--json"]
    yield Step("evaluate", DIGITS, "fp32", "plugin", words)
    for model in options.models:
        bundle = options.output / model
        words = ["export", "--model", model, "--dynamic", "batch", "--output", str(bundle)]
        yield Step("export", model, "fp32", "", words)
        data = str(options.output / "images.npz")
        engines = yield from _engines(options, model, bundle, data, f"{image(1)}:{image(8)}")
        for batch in BATCHES:
            words = ["bench", *engines, "--batch", str(batch), "--duration", "1", "--json"]
            yield Step("bench", model, "fp32", "plugin", words, batch)


def _engines(
    options: argparse.Namespace, model: str, bundle: Path, data: str, shapes: str
) -> Iterator[Step]:
    """Steps that make an engine of each precision.

    Returns:
        The engines.
    """
    low, high = shapes.split(":")
    calibrated = False
    for precision in options.precisions:
        source = bundle if precision == "fp32" else bundle / f"model.{precision}.onnx"
        if precision in ("int8", "fp8"):
            words = ["calibrate", str(bundle), "--precision", precision]
            if not calibrated:  # the second one takes the ranges of the first
                words += ["--data", data, "--limit", "200"]
            calibrated = True
            yield Step("calibrate", model, precision, "", words)
        elif precision != "fp32":
            words = ["convert", str(bundle), "--precision", precision]
            yield Step("convert", model, precision, "", words)
        engine = bundle / "engines" / precision
        words = ["build", str(source), "--backend", options.backend, "--plugin", "--json"]
        words += ["--profile", f"image={low}:{high}:{high}", "--output", str(engine)]
        if options.backend == "tensorrt-rtx":
            words += ["--arch", "current"]
        yield Step("build", model, precision, "plugin", words)
    return [str(bundle / "engines" / precision) for precision in options.precisions]


def markdown(outcomes: Sequence[Outcome]) -> str:
    """Tables of accuracy and latency, and what did not pass."""
    lines = ["# Precisions", ""]
    for found in (entry for entry in outcomes if entry.step.kind == "evaluate"):
        lines += ["## Accuracy on the held-out digits", ""]
        lines += ["| engine | top-1 | agreement | ms | verdict |", "|---|---|---|---|---|"]
        for entry in found.findings.get("artefacts", []):
            scores, name = entry["scores"], Path(entry["name"]).name
            numbers = [_percent(scores["top1"]), _percent(scores["agreement"])]
            latency = "-" if entry["latency_ms"] is None else f"{entry['latency_ms']:.3f}"
            lines.append(f"| {name} | {' | '.join(numbers)} | {latency} | {entry['verdict']} |")
        lines.append("")
    lines += ["## Latency", "", "Median of one run in ms, and fp32's as a multiple of it.", ""]
    lines += ["| model | batch | engine | ms | x |", "|---|---|---|---|---|"]
    for found in (entry for entry in outcomes if entry.step.kind == "bench"):
        results = found.findings.get("results", [])
        for result in results:
            median = result["latency"]["median"]
            gain = results[0]["latency"]["median"] / median
            name = Path(result["name"]).name
            lines.append(
                f"| {found.step.model} | {found.step.batch} | {name} | {median:.3f} | {gain:.2f} |"
            )
    return "\n".join([*lines, *list_steps(outcomes)]) + "\n"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("out/gpu-precisions"))
    parser.add_argument("--backend", choices=["tensorrt", "tensorrt-rtx"], default="tensorrt")
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--seconds", type=float, default=525, help="time limit of everything")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    return parser.parse_args(words)


def prepare(output: Path) -> None:
    """Train the digits model and make the images up that the others are calibrated on."""
    output.mkdir(parents=True, exist_ok=True)
    if not (output / "digits-model").exists():
        command = [sys.executable, str(_EXAMPLE), "--output", str(output / "digits-model")]
        subprocess.run(command, check=True)
    drawn = np.random.default_rng(0).standard_normal((CALIBRATION_IMAGES, 3, 224, 224))
    np.savez(output / "images.npz", images=drawn.astype(np.float32))


def main(words: Sequence[str] | None = None) -> int:
    options = arguments(words)
    if options.dry_run:
        for step in steps(options):
            print(shlex.join(["dinat-deploy", *step.command]))
        return 0
    until = time.monotonic() + options.seconds
    prepare(options.output)
    outcomes: list[Outcome] = []
    failed: set[str] = set()  # models of which an engine is missing
    for step in steps(options):
        left = until - time.monotonic()
        if left < 10 or step.model in failed:
            found = Outcome(step, "not run")
        else:
            found = run(step, min(left, _MOST[step.kind]))
        if found.outcome != "passed":
            failed.add(step.model)
        outcomes.append(found)
        write(options.output, outcomes, markdown(outcomes))
        print(f"{found.outcome:>11} {found.seconds:5.0f} s  {shlex.join(step.command)}", flush=True)
    print(options.output / "report.md")
    return 1 if any(entry.outcome in ("failed", "out of time") for entry in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
