"""What each precision costs and gains: agreement, file, latency on the CPU, engine.

    python benchmarks/precisions.py --model dinat_mini --output out/precisions
    python benchmarks/precisions.py --model dinat_large_384 --output out/large

Weights are made up, and so are the images: what it says of accuracy is how much noise a precision
adds to the outputs. `dinat-deploy evaluate` on data says what that does to a task. Calibration
runs in a process of its own, whose time and largest memory are reported. Engines are
TensorRT-RTX's, built without a GPU. docs/quantization.md has the results.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

import dinat_deploy
from dinat_deploy.bundle import open_bundle
from dinat_deploy.errors import DinatDeployError
from dinat_deploy.pipeline.quantizing import QuantizeOptions

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8, rest fp32", "fp8")
# GPUs that TensorRT-RTX has kernels of the type for.
ARCHITECTURE = "89"
HELD_OUT = 4


def make_images(folder: Path, count: int, side: int) -> Path:
    """Coloured noise with blurred shapes in it, so that values are spread as in pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        smooth = coarse.resize((side, side), Image.Resampling.BICUBIC)
        fine = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        picture = Image.blend(smooth, fine.filter(ImageFilter.GaussianBlur(1)), 0.3)
        picture.save(folder / f"{number:04}.png")
    return folder


def calibrate(bundle: Path, data: Path, images: int) -> dict[str, float]:
    """Run the command; its seconds, and its largest resident memory in GB."""
    command = [sys.executable, "-m", "dinat_deploy", "calibrate", str(bundle)]
    command += ["--data", str(data), "--limit", str(images), "--precision", "none"]
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} failed")
    return {"seconds": time.monotonic() - started, "gigabytes": usage.ru_maxrss / 1e6}


def variant(bundle: Path, precision: str) -> Path:
    """Make the model in a precision; its file."""
    if precision == "fp32":
        return bundle / "model.onnx"
    name, _, rest = precision.partition(", rest ")
    options = QuantizeOptions(rest=rest) if rest else None  # type: ignore[arg-type]
    return dinat_deploy.convert(bundle, name, quantize=options, random_cases=0).path


def engine_megabytes(file: Path, plugin: Path | None) -> float | str:
    """Of the plan, with the plugin inside where there is one."""
    try:
        report = dinat_deploy.build(
            file,
            backend="tensorrt-rtx",
            architectures=[ARCHITECTURE],
            plugin=plugin is not None,
            plugin_library=plugin,
        )
    except DinatDeployError as error:
        return error.cause
    return report.manifest.plan.bytes / 1e6


def measure(bundle: Path, held_out: Path, precision: str, plugin: Path | None) -> dict[str, object]:
    """A row of the table."""
    file = variant(bundle, precision)
    report = dinat_deploy.evaluate([str(bundle), str(file)], held_out, duration=5)
    entry = report.artefacts[-1]
    engine = engine_megabytes(file, plugin)
    found = open_bundle(bundle).variants.get(file.name)
    quantized = found.quantization if found else None
    return {
        "precision": precision,
        "sqnr_db": entry.scores.sqnr_db if precision != "fp32" else None,
        "megabytes": file.stat().st_size / 1e6,
        "milliseconds": entry.latency_ms,
        "ratio": entry.speed.value if entry.speed else None,
        "engine": engine,
        "macs": quantized.macs if quantized else None,
    }


def table(rows: list[dict[str, object]]) -> str:
    lines = ["| precision | MACs | SQNR, dB | MB | ms | speed | engine, MB |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|")
    shapes = {"macs": ".1%", "sqnr_db": ".1f", "megabytes": ".1f", "milliseconds": ".1f"}
    shapes |= {"ratio": ".2f", "engine": ".1f"}
    for row in rows:
        cells = [str(row["precision"])]
        for name, shape in shapes.items():
            value = row[name]
            cells.append(format(value, shape) if isinstance(value, float) else str(value or "-"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="dinat_mini")
    parser.add_argument("--images", type=int, default=64, help="to calibrate on")
    parser.add_argument("--plugin-library", type=Path, help="of TensorRT, for engines with it")
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--output", type=Path, default=Path("out/precisions"))
    options = parser.parse_args()

    bundle = options.output / options.model
    if not bundle.exists():
        dinat_deploy.export(options.model, bundle)
    side = open_bundle(bundle).manifest.config.image_size[0]
    data = make_images(options.output / "images", options.images, side)
    held_out = make_images(options.output / "held-out", options.images + HELD_OUT, side)
    for path in sorted(held_out.iterdir())[: options.images]:
        path.unlink()
    cost = calibrate(bundle, data, options.images)
    print(
        f"{options.images} images: {cost['seconds']:.0f} s, {cost['gigabytes']:.2f} GB", flush=True
    )
    rows = []
    for precision in options.precisions:
        rows.append(measure(bundle, held_out, precision, options.plugin_library))
        print(json.dumps(rows[-1]), flush=True)
    found = {"model": options.model, "calibration": cost, "rows": rows}
    (options.output / "precisions.json").write_text(json.dumps(found, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
