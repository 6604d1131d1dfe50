"""DiNAT beside Swin and ConvNeXt of the same size, in ONNX Runtime on the CPU.

    python benchmarks/peers.py --output out/peers

``dinat-deploy compare`` puts all families side by side; this script also shows what the operator's
library is worth. All models are exported with the same exporter and opset, those of transformers
with random weights, and measured in turn by ``dinat_deploy.bench``. Ours run twice where the
library is built: with it, and as a file in which the operator is replaced by its body, which is
what an ONNX Runtime runs that does not know us. Writes ``report.json``, ``report.md`` and
``report.html``: read the ratios per multiply-accumulate; milliseconds belong to the machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import inliner
from rich.console import Console

import dinat_deploy
from dinat_deploy.choosing.rivals import RIVALS, build_rival, export_rival
from dinat_deploy.measurement import roofline
from dinat_deploy.measurement.onnx_work import count_onnx
from dinat_deploy.measurement.page import to_html
from dinat_deploy.measurement.records import BenchReport
from dinat_deploy.measurement.report import to_json, to_markdown
from dinat_deploy.native import find_library
from dinat_deploy.pipeline.requests import ModelRequest

OURS = ("dinat_mini", "dinat_tiny")
PEERS = ("swin_tiny", "convnext_tiny")  # by default


def peer(name: str, **changes: Any) -> torch.nn.Module:
    """A model of transformers in its published shape, unless ``changes`` say otherwise."""
    side = changes.pop("image_size", 224)
    return build_rival(name, image_size=(side, side), **changes).module


def export_peer(module: torch.nn.Module, path: Path, side: int, batch: int) -> None:
    """As ours are exported: by the same exporter, with static shapes."""
    export_rival(module, path, (side, side), batch)


def without_operator(bundle: Path, path: Path) -> None:
    """The bundle's model with the operator replaced by its body."""
    onnx.save(inliner.inline_local_functions(onnx.load(bundle / "model.onnx")), path)


def run(
    requests: Sequence[ModelRequest],
    peers: dict[str, torch.nn.Module],
    output: Path,
    *,
    side: int = 224,
    batch: int = 1,
    threads: int = 2,
    duration: float = 5.0,
) -> BenchReport:
    """Export all models and measure them; the first peer is what the others are compared with."""
    console = Console(stderr=True)
    output.mkdir(parents=True, exist_ok=True)
    artefacts: list[str] = []
    for name, module in peers.items():
        with console.status(f"Exporting {name}"):
            path = output / f"{name}.onnx"
            export_peer(module, path, side, batch)
            artefacts.append(str(path))
    for request in requests:
        name = request.model or "dinat"
        with console.status(f"Exporting {name}"):
            bundle = output / name
            dinat_deploy.export(request, bundle, batch=batch, verify=False)
            body = output / f"{name}_body.onnx"
            without_operator(bundle, body)
            artefacts += [str(bundle), str(body)] if find_library("onnxruntime") else [str(body)]
    with console.status(f"Measuring {len(artefacts)} models in turn"):
        report = dinat_deploy.bench(artefacts, threads=threads, duration=duration)
    report = with_work_of_bodies(report, threads)
    (output / "report.json").write_text(to_json(report), encoding="utf-8")
    (output / "report.md").write_text(to_markdown(report), encoding="utf-8")
    (output / "report.html").write_text(to_html(report), encoding="utf-8")
    return report


def with_work_of_bodies(report: BenchReport, threads: int) -> BenchReport:
    """A body computes its tiles as it runs, so its products are counted as the operator's."""
    results = []
    for result in report.results:
        if result.work is None and result.name.endswith("_body.onnx"):
            bundle = Path(result.name.removesuffix("_body.onnx"))
            work = count_onnx(bundle / "model.onnx")
            floor = roofline.floor(work, result.device, result.precision, threads=threads)
            result = result.model_copy(update={"work": work, "floor": floor})
        results.append(result)
    return report.model_copy(update={"results": results})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("out/peers"))
    parser.add_argument("--models", nargs="+", default=list(OURS))
    parser.add_argument("--peers", nargs="+", choices=list(RIVALS), default=list(PEERS))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--duration", type=float, default=5.0, help="seconds of every model")
    options = parser.parse_args()
    report = run(
        [ModelRequest(model=name) for name in options.models],
        {name: peer(name) for name in options.peers},
        options.output,
        batch=options.batch,
        threads=options.threads,
        duration=options.duration,
    )
    print(to_markdown(report))


if __name__ == "__main__":
    main()
