"""Recording ranges against the calibrators of onnxruntime.quantization: time and peak memory.

    python benchmarks/calibration.py out/dinat_mini --images 16

Each rival runs in a process of its own, on the same made-up pictures and tensors (what the products
with constant weights read). All run the operator by its body, as theirs cannot load the operator's
library; one row shows ours with it. Ours takes all four estimators from one run. "Chunked" hands
theirs the images one by one, which their examples do not, so that they keep the tensors of one
image and not of all. Prints a table, or JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from rich.console import Console
from rich.progress import track

from dinat_deploy.bundle import open_bundle
from dinat_deploy.models.seeding import seeded_image

Images = Iterator[np.ndarray]
_PRODUCTS = ("Conv", "MatMul", "Gemm")


def tensors_of(model_path: Path) -> list[str]:
    """What products with constant weights read."""
    model = ir.load(model_path)
    constant = set(model.graph.initializers)
    read = [
        str(node.inputs[0].name)
        for node in model.graph
        if node.op_type in _PRODUCTS and node.inputs[1].name in constant
    ]
    return list(dict.fromkeys(read))


def ours(model: Path, name: str, images: Images, scratch: Path, library: bool) -> int:
    from dinat_deploy.calibration.estimators import LEVELS
    from dinat_deploy.calibration.histogram import BINS
    from dinat_deploy.calibration.record import Settings
    from dinat_deploy.calibration.recording import Batch
    from dinat_deploy.calibration.run import calibrate

    tensors = tensors_of(model)
    gc.collect()  # a graph refers to itself, and holds all weights
    recorded = calibrate(
        model,
        tensors,
        lambda skipped: (Batch(("",), {name: image}) for image in images),
        images=0,
        model_sha256="",
        source="seeded",
        bins=BINS,
        state_dir=scratch,
        custom_op=library,
    )
    calibration = recorded.calibration(Settings(bins=BINS, levels=LEVELS))
    return len(calibration.ranges)


def theirs(
    model: Path, name: str, images: Images, scratch: Path, kind: str, chunked: bool, **options: Any
) -> int:
    from onnxruntime.quantization import calibrate

    tensors = tensors_of(model)
    gc.collect()

    class Reader(calibrate.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, images: Images) -> None:
            self._images = images

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self._images, None)
            return None if image is None else {name: image}

    class SameTensors(getattr(calibrate, kind)):  # type: ignore[misc]
        def select_tensors_to_calibrate(self, model: Any) -> tuple[set[str], dict[str, Any]]:
            known = [*model.graph.value_info, *model.graph.output, *model.graph.input]
            return set(tensors), {value.name: value for value in known}

    calibrator = SameTensors(model, None, str(scratch / "augmented.onnx"), **options)
    calibrator.augment_graph()
    calibrator.create_inference_session()
    with contextlib.redirect_stdout(io.StringIO()):  # they print
        for chunk in ([image] for image in images) if chunked else [images]:
            calibrator.collect_data(Reader(iter(chunk)))
        found = calibrator.compute_data()
    return len(list(found.keys()))


def run_only(model: Path, name: str, images: Images, scratch: Path) -> int:
    from dinat_deploy.session.onnxruntime_session import OnnxRuntimeSession

    session = OnnxRuntimeSession(model, custom_op=False)
    for image in images:
        session.run({name: image})
    return 0


def _theirs(kind: str, chunked: bool, **options: Any) -> Callable[[Path, str, Images, Path], int]:
    return lambda *arguments: theirs(*arguments, kind, chunked, **options)


OURS = "dinat-deploy"
RIVALS: dict[str, Callable[[Path, str, Images, Path], int]] = {
    "the model alone": run_only,
    OURS: lambda *arguments: ours(*arguments, library=False),
    "dinat-deploy, operator's library": lambda *arguments: ours(*arguments, library=True),
    "onnxruntime MinMax": _theirs("MinMaxCalibrater", False, symmetric=True),
    "onnxruntime Percentile": _theirs("PercentileCalibrater", False, symmetric=True),
    "onnxruntime Percentile, chunked": _theirs("PercentileCalibrater", True, symmetric=True),
    "onnxruntime Entropy, 128 bins": _theirs("EntropyCalibrater", False, symmetric=True),
    "onnxruntime Entropy, 2048 bins, chunked": _theirs(
        "EntropyCalibrater", True, symmetric=True, num_bins=2048
    ),
}


def run(bundle: Path, rival: str, images: int, seed: int) -> None:
    """In the process of a rival: print how long it took."""
    opened = open_bundle(bundle)
    spec = opened.manifest.graph.inputs[0]
    shape = [size if isinstance(size, int) else 1 for size in spec.shape]
    if spec.shape[2:] != shape[2:]:
        shape[2:] = opened.manifest.config.image_size
    made = (seeded_image(shape, number) for number in range(seed, seed + images))
    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        tensors = RIVALS[rival](opened.model_path, spec.name, made, Path(scratch))
        print(json.dumps({"seconds": time.perf_counter() - started, "tensors": tensors}))


def measure(bundle: Path, rival: str, images: int, seed: int) -> dict[str, Any]:
    """Run a rival in a process of its own."""
    command = [sys.executable, __file__, str(bundle), "--images", str(images), "--seed", str(seed)]
    process = subprocess.Popen([*command, "--rival", rival], stdout=subprocess.PIPE)
    assert process.stdout is not None
    output = process.stdout.read()
    # Peak memory of just this child, which subprocess itself does not tell.
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"{rival} failed")
    found = json.loads(output)
    return {"rival": rival, "images": images, "peak_mb": usage.ru_maxrss / 1e3, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rivals", nargs="+", choices=RIVALS, default=list(RIVALS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rival", choices=RIVALS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rival:
        run(options.bundle, options.rival, options.images[0], options.seed)
        return
    todo = [(rival, images) for rival in options.rivals for images in options.images]
    rows = [
        measure(options.bundle, rival, images, options.seed)
        for rival, images in track(todo, "Calibrating", console=Console(stderr=True))
    ]
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    own = {row["images"]: row["seconds"] for row in rows if row["rival"] == OURS}
    print("| calibrator | images | tensors | seconds | of ours | peak MB |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        ratio = row["seconds"] / own[row["images"]] if own else float("nan")
        print(
            f"| {row['rival']} | {row['images']} | {row['tensors'] or ''} | {row['seconds']:.1f} | "
            f"{ratio:.2f} | {row['peak_mb']:.0f} |"
        )


if __name__ == "__main__":
    main()
