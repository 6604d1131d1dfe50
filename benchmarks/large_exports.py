"""Export and build the large segmenters: time, peak memory, error and what runs on the plugin.

python benchmarks/large_exports.py
python benchmarks/large_exports.py --cases small --arch 86

The export compares ONNX Runtime with PyTorch; the build is TensorRT-RTX's, which needs no GPU.
Each step runs in a process of its own. ``small`` has every kind of head once, with few layers and a
dynamic batch. Exits with 1 if a step fails, an error is larger than 1e-3 of the largest logit, or
an attention layer is not on the plugin.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.decoders import Mask2Former, OneFormer

LARGEST_ERROR = 1e-3
_FEW = {"num_queries": 12, "hidden_dim": 32, "mask_dim": 32, "num_heads": 2, "encoder_layers": 1}
_SENTENCE = (49406, 518, 10549, 533, 42, 49407, 0, 0)


@dataclass(frozen=True)
class Case:
    """A model and the arguments that ``export`` gets for it."""

    name: str
    arguments: list[str]


@dataclass(frozen=True)
class Step:
    """What a command took and said."""

    seconds: float
    peak_gb: float
    report: dict[str, Any] | None


def large(size: int | None) -> list[Case]:
    """The published Mask2Former (COCO panoptic) and UPerNet (ADE20K) on DiNAT-L."""
    given = [] if size is None else ["--image-size", f"{size}x{size}"]
    return [
        Case(f"{title} dinat_large", ["--model", "dinat_large", "--task", task, *given])
        for title, task in (("Mask2Former", "panoptic"), ("UPerNet", "semantic"))
    ]


def small(folder: Path) -> list[Case]:
    """Models of four layers with the heads that have queries."""
    backbone = ModelConfig(
        embed_dim=16,
        depths=(1, 1, 1, 1),
        num_heads=(1, 1, 2, 4),
        kernel_size=3,
        mlp_ratio=2.0,
        num_classes=5,
        image_size=(96, 128),
    )
    decoders = {
        "Mask2Former": Mask2Former(**_FEW, decoder_layers=4),
        "OneFormer": OneFormer(**_FEW, decoder_layers=4, task_tokens={"panoptic": _SENTENCE}),
    }
    cases = []
    for name, decoder in decoders.items():
        path = folder / f"{name}.json"
        path.write_text(backbone.replace(decoder=decoder).model_dump_json())
        cases.append(Case(f"{name} small", ["--config", str(path), "--dynamic", "batch"]))
    return cases


def run(*arguments: str) -> Step:
    """One command of dinat-deploy, and its peak memory with that of its own processes."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "dinat_deploy", *arguments, "--json"], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    written = process.stdout.read()
    # subprocess itself does not tell the peak memory of just this child.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    report = json.loads(written) if process.returncode == 0 else None
    return Step(time.perf_counter() - started, usage.ru_maxrss / 1e6, report)


def measure(case: Case, folder: Path, build: list[str]) -> tuple[list[list[str]], bool]:
    """Rows of the table, and whether all is well."""
    bundle = str(folder / case.name.replace(" ", "_"))
    exported = run("export", *case.arguments, "--output", bundle)
    if exported.report is None:
        return [_row(case, "export", exported, "failed")], False
    checked = exported.report["manifest"]["verification"]
    error = checked["max_abs_error"] / checked["max_reference"]
    megabytes = exported.report["file_size"] / 1e6
    said = f"{megabytes:.0f} MB, error {checked['max_abs_error']:.1e} ({error:.1e} of the largest)"
    rows = [_row(case, "export", exported, said)]
    built = run("build", bundle, "--backend", "tensorrt-rtx", *build)
    if built.report is None:
        return [*rows, _row(case, "build", built, "failed")], False
    layers, plan = built.report["manifest"]["layers"], built.report["manifest"]["plan"]
    nodes = exported.report["manifest"]["graph"]["op_nodes"]
    said = f"{plan['bytes'] / 1e6:.0f} MB, {len(layers['plugin'])} of {nodes} on the plugin"
    rows.append(_row(case, "build", built, said))
    return rows, error <= LARGEST_ERROR and len(layers["plugin"]) == nodes


def _row(case: Case, what: str, step: Step, said: str) -> list[str]:
    return [case.name, what, f"{step.seconds:.0f}", f"{step.peak_gb:.1f}", said]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", choices=["large", "small"], default="large")
    parser.add_argument("--size", type=int, help="side of the images in pixels, instead of theirs")
    parser.add_argument("--arch", default="86", help="compute capabilities to build for")
    parser.add_argument("--output", type=Path, help="keep the bundles and engines there")
    options = parser.parse_args()
    rows: list[list[str]] = []
    well = True
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.output or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        cases = large(options.size) if options.cases == "large" else small(folder)
        for case in track(cases, "Exporting and building", console=Console(stderr=True)):
            found, passed = measure(case, folder, ["--arch", options.arch])
            rows += found
            well = well and passed
    print("| model | step | seconds | peak GB | result |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    sys.exit(not well)


if __name__ == "__main__":
    main()
