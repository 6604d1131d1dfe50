"""Reports as a measurement makes them, from figures that are drawn."""

from __future__ import annotations

from typing import Any

import numpy as np

from dinat_deploy.measurement.records import (
    ArtefactResult,
    BenchOptions,
    BenchReport,
    Floor,
    LayerRecord,
    Ratio,
    Work,
)
from dinat_deploy.measurement.statistics import summarize

PERCENTILES = [90.0, 95.0, 99.0]


def work(gmacs: float) -> Work:
    macs = round(gmacs * 1e9)
    return Work(
        macs=macs,
        attention_macs=macs // 20,
        weight_bytes=80_000_000,
        io_bytes=600_000,
        counted_from="onnx",
    )


def floor(milliseconds: float) -> Floor:
    return Floor(
        compute=milliseconds,
        memory=milliseconds / 4,
        total=milliseconds,
        device="CPU",
        source="measured",
        peak_tflops=0.2,
        bandwidth_gbs=30,
    )


def layers(count: int) -> list[LayerRecord]:
    times = [count - index for index in range(count)]
    return [
        LayerRecord(
            name=f"levels.{index}.attn",
            kind="Gemm" if index % 2 else "NeighborhoodAttention2D",
            milliseconds=float(time),
            share=time / sum(times),
            attention=index % 2 == 0,
        )
        for index, time in enumerate(times)
    ]


def result(name: str, center: float, *, runs: int = 40, **changes: Any) -> ArtefactResult:
    """An artefact whose latencies lie around ``center`` milliseconds, in blocks of ten runs."""
    samples = np.random.default_rng(runs).normal(center, center / 50, runs).clip(min=0).tolist()
    found = summarize(samples, PERCENTILES)
    fields: dict[str, Any] = {
        "name": name,
        "runtime": "ONNX Runtime 1.32.0",
        "device": "CPU",
        "kind": "cpu",
        "precision": "float32",
        "batch": 1,
        "shapes": {"image": [1, 3, 224, 224]},
        "latency": found,
        "compute": found,
        "host_to_device": None,
        "device_to_host": None,
        "enqueue": None,
        "samples": samples,
        "blocks": [10] * (runs // 10),
        "throughput": 1e3 / center,
        "seconds": sum(samples) / 1e3,
        "memory": {"weights": 80 << 20, "activations": None},
    }
    return ArtefactResult(**(fields | changes))


def ratio(value: float) -> Ratio:
    return Ratio(value=value, low=value - 0.05, high=value + 0.05, confidence=0.95, rounds=8)


def report(*results: ArtefactResult, **changes: Any) -> BenchReport:
    fields: dict[str, Any] = {
        "created_by": "dinat-deploy 0.1.0",
        "started": "2026-11-24T10:00:00+00:00",
        "command": "dinat-deploy bench a b",
        "environment": {"processor": "A processor", "cores": "2"},
        "options": BenchOptions(),
        "results": list(results),
    }
    return BenchReport(**(fields | changes))


def full(names: tuple[str, str] = ("ours", "theirs")) -> BenchReport:
    """Two artefacts with everything that a report can show."""
    first = result(
        names[0],
        30.0,
        work=work(2.7),
        floor=floor(20.0),
        layers=layers(30),
        attention_share=0.5,
        notes=["did without something"],
    )
    second = result(
        names[1],
        60.0,
        runs=2000,
        blocks=[50] * 40,
        ratio=ratio(2.0),
        work=work(4.5),
        floor=floor(33.0),
        layers=layers(4),
        attention_share=0.5,
        warnings=["latencies are unsteady"],
    )
    return report(first, second, warnings=["the machine was busy"])
