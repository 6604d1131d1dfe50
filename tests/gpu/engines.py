"""Engines on a GPU: correctness and speed of plugin and body, by the commands that users run.

    python -m tests.gpu.engines --output out/gpu-engines

For DiNAT-mini, -tiny and -large, in float32 and float16, with the plugin and with the operator's
body: the engine is built, compared with PyTorch at batch 1 and 8, and measured beside PyTorch
(eager and compiled). One model has dynamic sizes. Every step is a ``dinat-deploy`` command in a
process of its own; one that runs out of time is stopped, and those that do not fit into the whole
time are left out and reported so. ``report.json`` and ``report.md`` are whole after every step.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MODELS = ("dinat_mini", "dinat_tiny", "dinat_large")
PRECISIONS = ("fp32", "fp16")
ATTENTION = ("plugin", "body")
BATCHES = (1, 8)
SIZES = (224, 320, 384)
# Seconds that a command may take: engines of large models without the plugin take longest.
MOST = {"export": 120, "convert": 90, "build": 240, "verify": 90, "bench": 90}


@dataclass(frozen=True)
class Step:
    """A command, and what it is about."""

    kind: str
    model: str
    precision: str
    attention: str
    command: list[str]
    batch: int | None = None


@dataclass
class Outcome:
    """What became of a step: ``passed``, ``failed``, ``out of time`` or ``not run``."""

    step: Step
    outcome: str
    seconds: float = 0.0
    findings: dict[str, Any] = field(default_factory=dict)
    words: str = ""


def image(batch: int, side: int = 224) -> str:
    return f"{batch}x3x{side}x{side}"


def steps(options: argparse.Namespace) -> Iterator[Step]:
    """All commands, the most telling first."""
    for model in options.models:
        bundle = options.output / model
        yield Step("export", model, "fp32", "", _export(model, bundle, "batch"))
        for precision in options.precisions:
            source = bundle
            if precision != "fp32":
                source = bundle / f"model.{precision}.onnx"
                words = ["convert", str(bundle), "--precision", precision]
                yield Step("convert", model, precision, "", words)
            profile = f"image={image(1)}:{image(8)}:{image(8)}"
            engines = {kind: bundle / "engines" / f"{precision}-{kind}" for kind in ATTENTION}
            for kind, engine in engines.items():
                words = _build(options.backend, source, engine, kind, profile)
                yield Step("build", model, precision, kind, words)
                for batch in BATCHES:
                    words = ["verify", str(engine), "--shapes", f"image={image(batch)}", "--json"]
                    yield Step("verify", model, precision, kind, words, batch)
            rivals = [f"torch-cuda:{source}", f"torch-compile:{source}"]
            for batch in BATCHES:
                words = ["bench", *map(str, engines.values()), *rivals, "--batch", str(batch)]
                words += ["--duration", "1", "--json"]
                yield Step("bench", model, precision, "", words, batch)
    yield from _dynamic_sizes(options)


def _dynamic_sizes(options: argparse.Namespace) -> Iterator[Step]:
    model, bundle = "dinat_mini", options.output / "dinat_mini_any_size"
    words = _export(model, bundle, "batch,size")
    yield Step("export", f"{model}, any size", "fp32", "", words)
    low, best, high = SIZES
    profile = f"image={image(1, low)}:{image(1, best)}:{image(4, high)}"
    for kind in ATTENTION:
        engine = bundle / "engines" / kind
        words = _build(options.backend, bundle, engine, kind, profile)
        yield Step("build", f"{model}, any size", "fp32", kind, words)
        for side in SIZES:
            words = ["verify", str(engine), "--shapes", f"image={image(1, side)}", "--json"]
            yield Step("verify", f"{model}, {side} pixels", "fp32", kind, words, 1)


def _export(model: str, bundle: Path, dynamic: str) -> list[str]:
    words = ["export", "--model", model, "--dynamic", dynamic, "--output", str(bundle)]
    return [*words, "--size-range", f"{SIZES[0]}:{SIZES[-1]}"] if "size" in dynamic else words


def _build(backend: str, source: Path, engine: Path, kind: str, profile: str) -> list[str]:
    words = ["build", str(source), "--backend", backend, "--profile", profile]
    words += ["--plugin" if kind == "plugin" else "--no-plugin", "--output", str(engine), "--json"]
    # Ahead of time, TensorRT-RTX builds for the GPUs that are named.
    return [*words, "--arch", "current"] if backend == "tensorrt-rtx" else words


def run(step: Step, seconds: float) -> Outcome:
    """Run a command; its JSON is kept in the findings."""
    started = time.monotonic()
    command = [sys.executable, "-m", "dinat_deploy", *step.command]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return Outcome(step, "out of time", round(time.monotonic() - started, 1))
    outcome = "passed" if done.returncode == 0 else "failed"
    words = "" if outcome == "passed" else (done.stderr or done.stdout).strip()[-2000:]
    try:
        findings = json.loads(done.stdout)
    except ValueError:
        findings = {}
    return Outcome(step, outcome, round(time.monotonic() - started, 1), findings, words)


def markdown(outcomes: Sequence[Outcome]) -> str:
    """Tables of correctness and of speed, and what did not pass."""
    lines = ["# Engines", "", "## Against PyTorch", ""]
    lines += ["| model | precision | attention | batch | largest error | allowed | outcome |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for found in (entry for entry in outcomes if entry.step.kind == "verify"):
        step = found.step
        error, allowed = _worst(found.findings)
        lines.append(
            f"| {step.model} | {step.precision} | {step.attention} | {step.batch} | {error} | "
            f"{allowed} | {found.outcome} |"
        )
    lines += [
        "",
        "## Latency",
        "",
        "Median of one run in ms, and as a multiple of the plugin's.",
        "",
    ]
    lines += ["| model | precision | batch | runs | ms | x |", "|---|---|---|---|---|---|"]
    for found in (entry for entry in outcomes if entry.step.kind == "bench"):
        results = found.findings.get("results", [])
        for result in results:
            median = result["latency"]["median"]
            ratio = median / results[0]["latency"]["median"]
            lines.append(
                f"| {found.step.model} | {found.step.precision} | {found.step.batch} | "
                f"{result['name']} | {median:.3f} | {ratio:.2f} |"
            )
    return "\n".join([*lines, *list_steps(outcomes)]) + "\n"


def list_steps(outcomes: Sequence[Outcome]) -> list[str]:
    """What was run, as a table, and the words of what failed."""
    lines = ["", "## Steps", "", "| step | outcome | seconds |", "|---|---|---|"]
    for found in outcomes:
        text = shlex.join(["dinat-deploy", *found.step.command])
        lines.append(f"| `{text}` | {found.outcome} | {found.seconds:.0f} |")
    for found in (entry for entry in outcomes if entry.words):
        lines += ["", f"### {shlex.join(found.step.command)}", "", "```", found.words, "```"]
    return lines


def _worst(findings: dict[str, Any]) -> tuple[str, str]:
    errors = [e for case in findings.get("cases", []) for e in case["outputs"].values()]
    if not errors:
        return "-", "-"
    worst = max(errors, key=lambda entry: entry["max_abs"] / entry["limit"])
    return f"{worst['max_abs']:.2e}", f"{worst['limit']:.2e}"


def write(output: Path, outcomes: Sequence[Outcome], text: str) -> None:
    """``report.json`` and ``report.md``, each whole.

    Args:
        text: of the latter.
    """
    report = {"outcomes": [asdict(entry) for entry in outcomes]}
    files = {"report.json": json.dumps(report, indent=1) + "\n", "report.md": text}
    for name, content in files.items():
        partial = output / f".{name}.partial"
        partial.write_text(content, encoding="utf-8")
        partial.replace(output / name)


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("out/gpu-engines"))
    parser.add_argument("--backend", choices=["tensorrt", "tensorrt-rtx"], default="tensorrt")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--seconds", type=float, default=525, help="time limit of everything")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    options = arguments(words)
    if options.dry_run:
        for step in steps(options):
            print(shlex.join(["dinat-deploy", *step.command]))
        return 0
    options.output.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + options.seconds
    outcomes: list[Outcome] = []
    missing: set[tuple[str, str]] = set()  # what the steps after a failed one cannot use
    for step in steps(options):
        left = until - time.monotonic()
        needs = {(step.model.split(",")[0], precision) for precision in ("fp32", step.precision)}
        if left < 10 or (step.kind != "export" and needs & missing):
            found = Outcome(step, "not run")
        else:
            found = run(step, min(left, MOST[step.kind]))
        if found.outcome != "passed" and step.kind in ("export", "convert"):
            missing.add((step.model.split(",")[0], step.precision))
        outcomes.append(found)
        write(options.output, outcomes, markdown(outcomes))
        print(f"{found.outcome:>11} {found.seconds:5.0f} s  {shlex.join(step.command)}", flush=True)
    print(options.output / "report.md")
    return 1 if any(entry.outcome in ("failed", "out of time") for entry in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
