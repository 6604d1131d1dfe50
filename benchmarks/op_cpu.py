"""The operator on the CPU: our kernel, its body, the k*k gather, NATTEN and the machine's limit.

    cmake -B build && cmake --build build
    python benchmarks/op_cpu.py                        tables
    python benchmarks/op_cpu.py --json out/op_cpu.json

float32, batch 1, head dim 32, at DiNAT's stage shapes. Kernel, body and gather run in ONNX Runtime
with its own defaults but for the number of threads; all are checked against each other, then timed
in turn, one session alive at a time. The
limit is the time that the multiplications of the operator alone would take, 4*L*k*k*heads*dim
operations, at the rate of fused multiply-adds that all threads together reach in this program. A
second table compares whole DiNAT-T with and without the operator's library, from one ONNX file.
Read the ratios; milliseconds belong to the machine.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from gather_lowering import gather_model
from lowering import DIM, STAGES, Stage, body_model, geometric_mean
from rich.console import Console
from rich.progress import track
from timing import one_alive

from dinat_deploy.models.seeding import seeded_image
from dinat_deploy.pipeline.exporting import export
from dinat_deploy.pipeline.sources import ModelRequest

# Threads of NATTEN's that wait for work must not take the cores from the next rival.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

SCALAR, AVX2, AVX512, NEON = range(4)


@dataclass(frozen=True)
class Row:
    """Median milliseconds of one stage; ``limit`` computed, ``natten`` if it is installed."""

    stage: Stage
    kernel: float
    body: float
    gather: float
    natten: float | None
    limit: float


@dataclass(frozen=True)
class WholeModel:
    """Median milliseconds of one image through a model."""

    name: str
    with_library: float
    without_library: float


class Machine:
    """What the build's test library says of this machine."""

    def __init__(self, library: Path, threads: int) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.dinat_cpu_peak.restype = ctypes.c_double
        self._library.dinat_cpu_peak.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_double]
        self._threads = threads
        self.isas = [
            isa for isa in (AVX512, AVX2, NEON, SCALAR) if self._library.dinat_cpu_supports(isa)
        ]
        self.peak = 0.0

    def measure(self) -> None:
        """Raise the peak (operations per second) to what is reached now: neighbours come and go."""
        for isa in self.isas:
            self.peak = max(self.peak, self._library.dinat_cpu_peak(isa, self._threads, 0.1))


def session(model: bytes, threads: int, library: Path | None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if library:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def natten_call(
    stage: Stage, qkv: np.ndarray, rpb: np.ndarray, threads: int
) -> Callable[[], np.ndarray] | None:
    """NATTEN 0.17's kernels straight, without its autograd; None if it is not installed."""
    try:
        import torch

        # 0.17.5 asks for these while it is imported, and a CPU build of torch 2.13 lacks them.
        torch.cuda._device_t = getattr(torch.cuda, "_device_t", torch.types.Device)
        capability = torch.cuda.get_device_capability
        torch.cuda.get_device_capability = lambda *_: (0, 0)
        try:
            from natten.functional import na2d_av, na2d_qk
        finally:
            torch.cuda.get_device_capability = capability
    except ImportError:
        return None
    torch.set_num_threads(threads)
    parts = torch.from_numpy(qkv).view(1, stage.size, stage.size, 3, stage.heads, DIM)
    query, key, value = (part.contiguous() for part in parts.permute(3, 0, 4, 1, 2, 5))
    table = torch.from_numpy(rpb)

    def run() -> np.ndarray:
        with torch.inference_mode():
            scores = na2d_qk(query * DIM**-0.5, key, stage.kernel, stage.dilation, rpb=table)
            out = na2d_av(scores.softmax(-1), value, stage.kernel, stage.dilation)
            return out.permute(0, 2, 3, 1, 4).flatten(-2).numpy()

    return run


def measure(stage: Stage, machine: Machine, library: Path, threads: int, rounds: int) -> Row:
    rng = np.random.default_rng(0)
    shape = (1, stage.size, stage.size, 3 * stage.heads * DIM)
    qkv = rng.standard_normal(shape).astype(np.float32)
    edge = 2 * stage.kernel - 1
    rpb = rng.standard_normal((stage.heads, edge, edge)).astype(np.float32)
    with_body = body_model(stage, rpb).SerializeToString()
    gather = gather_model(stage.size, stage.heads, DIM, stage.kernel, stage.dilation, rpb)
    models = {"kernel": (with_body, library), "body": (with_body, None)}
    models["gather"] = (gather.SerializeToString(), None)

    def maker(model: bytes, operator: Path | None) -> Callable[[], Callable[[], np.ndarray]]:
        def make() -> Callable[[], np.ndarray]:
            loaded = session(model, threads, operator)
            return lambda: loaded.run(None, {"qkv": qkv})[0]

        return make

    makers = {name: maker(*parts) for name, parts in models.items()}
    natten = natten_call(stage, qkv, rpb, threads)
    if natten:
        makers["natten"] = lambda: natten
    results = [make()() for make in makers.values()]
    assert max(np.abs(result - results[0]).max() for result in results) < 1e-4
    times = one_alive(makers, rounds)
    machine.measure()
    operations = 4 * stage.size**2 * stage.kernel**2 * stage.heads * DIM
    return Row(
        stage,
        times["kernel"],
        times["body"],
        times["gather"],
        times.get("natten"),
        1e3 * operations / machine.peak,
    )


def measure_model(name: str, library: Path, threads: int, rounds: int) -> WholeModel:
    with tempfile.TemporaryDirectory() as folder:
        bundle = export(ModelRequest(model=name), Path(folder) / name)
        model = (bundle.path / "model.onnx").read_bytes()
    image = {"image": seeded_image((1, 3, 224, 224), 0)}

    def maker(operator: Path | None) -> Callable[[], Callable[[], np.ndarray]]:
        def make() -> Callable[[], np.ndarray]:
            loaded = session(model, threads, operator)
            return lambda: loaded.run(None, image)[0]

        return make

    makers = {"with": maker(library), "without": maker(None)}
    difference = np.abs(makers["with"]()() - makers["without"]()()).max()
    assert difference < 1e-3, difference
    times = one_alive(makers, rounds, least_ms=300.0)
    return WholeModel(name, times["with"], times["without"])


def table(rows: list[Row]) -> str:
    natten = all(row.natten is not None for row in rows)
    heads = ["stage", "map, heads, k, d", "kernel ms", "body ms", "gather ms", "limit ms"]
    heads += ["body / kernel", "gather / kernel", "kernel / limit"]
    if natten:
        heads += ["NATTEN ms", "NATTEN / kernel"]
    lines = [heads, ["---"] * len(heads)]
    ratios: list[list[float]] = []
    for row in rows:
        stage = row.stage
        ratios.append([row.body / row.kernel, row.gather / row.kernel, row.kernel / row.limit])
        cells = [
            stage.model,
            f"{stage.size}x{stage.size}, {stage.heads}, {stage.kernel}, {stage.dilation}",
            f"{row.kernel:.3f}",
            *(f"{value:.2f}" for value in (row.body, row.gather)),
            f"{row.limit:.3f}",
            *(f"{ratio:.2f}" for ratio in ratios[-1]),
        ]
        if row.natten is not None and natten:
            ratios[-1].append(row.natten / row.kernel)
            cells += [f"{row.natten:.2f}", f"{ratios[-1][-1]:.1f}"]
        lines.append(cells)
    means = [f"**{geometric_mean(list(column)):.2f}**" for column in zip(*ratios, strict=True)]
    lines.append(["geometric mean", *[""] * 5, *means[:3], *(["", means[3]] if natten else [])])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, default=Path("build"), help="CMake's build folder")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--stages", type=int, default=len(STAGES), help="only the first N")
    parser.add_argument("--models", nargs="*", default=["dinat_tiny"], help="whole models")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    library = options.build / "lib" / "libdinat_onnxruntime.so"
    machine = Machine(options.build / "lib" / "libdinat_cpu.so", options.threads)
    console = Console(stderr=True)
    for _ in range(5):
        machine.measure()
    rows = [
        measure(stage, machine, library, options.threads, options.rounds)
        for stage in track(STAGES[: options.stages], "Measuring", console=console)
    ]
    models = [
        measure_model(name, library, options.threads, options.rounds) for name in options.models
    ]
    print(
        f"ONNX Runtime {onnxruntime.__version__}, {options.threads} threads, "
        f"{machine.peak / 1e9:.0f} GFLOP/s of fused multiply-adds\n"
    )
    print(table(rows))
    for model in models:
        ratio = model.without_library / model.with_library
        print(
            f"\n{model.name}: {model.with_library:.1f} ms with the library, "
            f"{model.without_library:.1f} ms without, ratio {ratio:.2f}"
        )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "peak": machine.peak,
            "stages": [asdict(row) for row in rows],
            "models": [asdict(model) for model in models],
        }
        options.json.write_text(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
