"""Data as ``report`` collects them, from figures that are drawn."""

from __future__ import annotations

from typing import Any

from dinat_deploy.measurement.records import Conditions, IdlePower, PowerReport, PowerUse
from dinat_deploy.reporting.records import (
    Accuracy,
    ArtefactRecord,
    BlockWork,
    BundleRecord,
    LayerComparison,
    LayerParity,
    Lost,
    Missing,
    Parity,
    PublishedScore,
    ReportData,
    Run,
    Sensitivity,
    Session,
    Speed,
    UnitNoise,
)
from tests.measurement import reports

BLOCKS = ("patch_embed", "levels.0.blocks.0", "levels.0.blocks.1", "head")


def artefact(name: str, **changes: Any) -> ArtefactRecord:
    fields: dict[str, Any] = {
        "name": name,
        "file": "model.onnx",
        "path": "out/x",
        "kind": "onnx",
        "precision": "fp32",
        "bytes": 80_000_000,
    }
    return ArtefactRecord(**(fields | changes))


def bundle(name: str, *artefacts: ArtefactRecord, **changes: Any) -> BundleRecord:
    fields: dict[str, Any] = {
        "name": name,
        "path": f"out/{name}",
        "model": "dinat_mini",
        "task": "classification, 1000 classes",
        "weights": "seed 0",
        "seeded": False,
        "image_size": (224, 224),
        "kernel_size": 7,
        "parameters": 19_983_784,
        "macs": 2_700_000_000,
        "artefacts": list(artefacts),
    }
    return BundleRecord(**(fields | changes))


def data(*bundles: BundleRecord, **changes: Any) -> ReportData:
    fields: dict[str, Any] = {
        "created_by": "dinat-deploy 0.1.0",
        "started": "2026-11-24T10:00:00+00:00",
        "environment": {"processor": "A processor"},
        "bundles": list(bundles),
    }
    return ReportData(**(fields | changes))


def parity(**changes: Any) -> Parity:
    fields: dict[str, Any] = {
        "origin": "model.json",
        "passed": True,
        "max_abs": 3.4e-5,
        "limit": 5.2e-4,
        "cases": 2,
        "runtime": "ONNX Runtime 1.32.0",
    }
    return Parity(**(fields | changes))


def score(**changes: Any) -> Accuracy:
    fields: dict[str, Any] = {
        "origin": "evaluation.json",
        "data": "imagenet/val",
        "images": 1000,
        "metric": "top1",
        "top1": 0.818,
        "agreement": 1.0,
        "reference": None,
        "runtime": "ONNX Runtime 1.32.0",
        "device": "CPU",
    }
    return Accuracy(**(fields | changes))


def layers(*max_abs: float | None, limit: float = 1e-3) -> LayerComparison:
    found = [
        LayerParity(
            name=name,
            max_abs=error,
            relative=None if error is None else error / 4,
            cosine=None if error is None else 1 - error**2,
            sqnr_db=None,
            limit=limit,
            passed=error is not None and error <= limit,
        )
        for name, error in zip(BLOCKS, max_abs, strict=False)
    ]
    return LayerComparison(origin="verify.json", runtime="ORT", case="random 1000", layers=found)


def run(name: str, center: float, **changes: Any) -> Run:
    speed = changes.pop("speed", None)
    result = reports.result(name, center, **changes)
    return Run(name=name, session=0, streams=1, result=result, speed=speed)


def use(joules: float) -> PowerUse:
    return PowerUse(
        seconds=3, runs=100, samples=30, watts=20.0, rails={"GPU": 20.0},
        joules=joules, joules_above_idle=joules / 2,
    )  # fmt: skip


def session(**changes: Any) -> Session:
    clocks = Conditions(temperatures={}, clocks={})
    fields: dict[str, Any] = {
        "origin": "bench.json",
        "started": "2026-11-24T10:00:00+00:00",
        "command": "dinat-deploy bench out/x",
        "protocol": "At least 3 s",
        "environment": {"processor": "Another processor"},
        "warnings": ["the machine was busy"],
        "power": PowerReport(
            source="NVML", method="counter", total="the board", has_total=True, interval_ms=100,
            sampling_share=0.01, idle=IdlePower(seconds=1, samples=10, watts=8.0, rails={}),
            mode=None, before=clocks, after=clocks,
        ),
    }  # fmt: skip
    return Session(**(fields | changes))


def full(names: tuple[str, str] = ("ours", "theirs")) -> ReportData:
    """Two bundles with everything that a report can show; one artefact failed."""
    first, second = names
    timed = reports.layers(30)
    float32 = artefact(
        f"{first} fp32",
        parity=[parity()],
        layers=layers(1e-6, 2e-6, 3e-5, 1e-5),
        accuracy=[score()],
        runs=[
            run(
                f"{first} fp32", 30.0, work=reports.work(2.7), floor=reports.floor(20.0),
                layers=timed, attention_share=0.5, power=use(0.4), notes=["did without something"],
            )
        ],
    )  # fmt: skip
    int8 = artefact(
        f"{first} int8",
        file="model.int8.onnx",
        path="out/x/model.int8.onnx",
        precision="int8",
        bytes=21_000_000,
        facts=["96.1% of the multiply-accumulates in int8"],
        parity=[parity(max_abs=0.5, limit=0.4, passed=False)],
        layers=layers(1e-4, 1e-2, None, 5e-3),
        accuracy=[
            score(
                top1=0.795, agreement=0.9, reference=f"{first} fp32", max_drop=0.5, passed=False,
                lost=Lost(value=0.023, low=0.01, high=0.036),
            )
        ],
        runs=[
            run(
                f"{first} int8", 15.0, layers=timed[:9], warnings=["latencies are unsteady"],
                speed=Speed(than=f"{first} fp32", value=2.0, low=1.9, high=2.1),
            )
        ],
    )  # fmt: skip
    other = artefact(
        f"{second} fp32",
        missing=[
            Missing(what="latency", why="There is no GPU.", command="dinat-deploy bench out/y"),
            Missing(what="layers", why="There is no GPU.", command="dinat-deploy verify out/y"),
        ],
    )
    blocks = [
        BlockWork(name=name, macs=1000 * (i + 1), attention_macs=100 * (i % 2))
        for i, name in enumerate(BLOCKS)
    ]
    units = [
        UnitNoise(name="levels.0.blocks.1", share=0.1, sqnr_db=12.0, drop=1.0, excluded=True),
        UnitNoise(name="head", share=0.1, sqnr_db=None, drop=None, excluded=False),
    ]
    found = Sensitivity(
        origin="sensitivity.json", precision="int8", by="block", data="digits", units=units,
        verdict="1 of 2 units must be left out.",
    )  # fmt: skip
    published = PublishedScore(
        model="dinat_mini", measure="top-1 on ImageNet-1k", percent=81.8, image_size=(224, 224)
    )
    return data(
        bundle(first, float32, int8, blocks=blocks, sensitivity=[found], published=published),
        bundle(second, other, seeded=True, parameters=None, macs=None),
        sessions=[session()],
        notes=["bench.json: torch:y belongs to none of the bundles and is left out."],
    )
