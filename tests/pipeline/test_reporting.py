"""``report``: collects what is recorded, matches it with artefacts, and measures the rest."""

from __future__ import annotations

import html
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinat_deploy.bundle import open_bundle
from dinat_deploy.engine.manifest import onnx_source
from dinat_deploy.errors import (
    BundleError,
    ConfigError,
    DinatDeployError,
    MissingDependencyError,
    OutputError,
)
from dinat_deploy.evaluation.comparison import Loss
from dinat_deploy.evaluation.records import Scores
from dinat_deploy.measurement import page
from dinat_deploy.measurement.power.source import PowerUnavailableError
from dinat_deploy.measurement.records import BenchReport
from dinat_deploy.measurement.report import to_json
from dinat_deploy.models.complexity import cost
from dinat_deploy.models.decoders import MaskRCNN, UPerNet
from dinat_deploy.models.zoo import get_variant
from dinat_deploy.pipeline import reporting_measuring
from dinat_deploy.pipeline.benching import BenchInterrupted
from dinat_deploy.pipeline.converting import convert
from dinat_deploy.pipeline.evaluation_report import ArtefactReport, EvaluationReport
from dinat_deploy.pipeline.reporting import report
from dinat_deploy.pipeline.reporting_collecting import bundle_record
from dinat_deploy.pipeline.reporting_matching import Owned, match
from dinat_deploy.pipeline.reporting_measuring import MeasureOptions, complete
from dinat_deploy.pipeline.reporting_recorded import Recorder
from dinat_deploy.pipeline.reporting_results import read_result
from dinat_deploy.pipeline.sensitivity_report import Effect, SensitivityReport, UnitReport
from dinat_deploy.progress import Silent
from dinat_deploy.reporting.records import ReportData
from tests.conftest import TINY
from tests.engine.engines import FULL, write_engine
from tests.measurement import reports


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """A bundle with a variant in FP16. Do not change it; copy it first."""
    place = tmp_path_factory.mktemp("report") / "tiny"
    shutil.copytree(tiny_bundle, place)
    convert(place, "fp16")
    return place


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "tiny"))


@pytest.fixture(scope="module")
def measured(made: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ReportData, Path]:
    """A report on it and on an engine that cannot run here."""
    place = tmp_path_factory.mktemp("measured")
    bundle = Path(shutil.copytree(made, place / "tiny"))
    engine_in(bundle)
    output = place / "report.html"
    images = np.random.default_rng(0).standard_normal((4, 3, 64, 64), dtype=np.float32)
    np.savez(place / "data.npz", images=images, labels=np.arange(4))
    found = report([bundle], output=output, duration=0.02, threads=1, data=str(place / "data.npz"))
    return found, output


def engine_in(bundle: Path) -> Path:
    """An engine that says that it was built from the bundle's model, and that cannot run here."""
    model, weights = bundle / "model.onnx", bundle / "model.onnx.data"
    weights.touch()
    write_engine(bundle / "engines" / "trt", model, runtime=FULL, onnx=onnx_source(model, ()))
    weights.unlink()
    return bundle / "engines" / "trt"


def bench_file(path: Path, *names: str, **changes: Any) -> Path:
    """A result of ``bench`` on disk."""
    results = [reports.result(name, 10.0 * (i + 1), runs=60) for i, name in enumerate(names)]
    path.parent.mkdir(parents=True, exist_ok=True)
    changes = {"started": "2099-01-01T00:00:00+00:00"} | changes
    path.write_text(to_json(reports.report(*results, **changes)))
    return path


def evaluation(*names: str) -> EvaluationReport:
    artefacts = [
        ArtefactReport(
            name, "fp32", "ORT", "CPU", False, Scores(images=50, top1=0.9 - i / 10, agreement=1.0)
        )
        for i, name in enumerate(names)
    ]
    loss = Loss("top1", 0.1, 0.02, 0.2, 50)
    artefacts[1:] = [
        replace(a, loss=loss, passed=False, verdict="FAILED: loses") for a in artefacts[1:]
    ]
    return EvaluationReport(
        data="val", task="classification", metric="top1", images=50, skipped=[], batch=8,
        max_drop=1.0, spread="one process", artefacts=artefacts, notes=[], environment={},
        created_by="x",
    )  # fmt: skip


def sensitivity(digest: str) -> SensitivityReport:
    effect = Effect(noise=0.1, sqnr_db=10.0)
    unit = UnitReport(name="head", sites=["head"], macs=5, share=0.1, alone=effect)
    return SensitivityReport(
        model="tiny", model_sha256=digest, precision="int8", by="block", estimator="max",
        data="images", images=8, metric=None, float32=None, together=effect, predicted_db=9.0,
        units=[unit], runtime="ORT", created_by="x",
    )  # fmt: skip


def recorded(bundle: Path, *results: Path) -> ReportData:
    return report([bundle], results=results, enabled=False)


def test_what_runs_here_is_measured_and_what_does_not_says_why_and_how(
    measured: tuple[ReportData, Path],
) -> None:
    found, output = measured
    float32, half, engine = found.artefacts
    assert [a.name for a in found.artefacts] == ["tiny fp32", "tiny fp16", "tiny trt"]
    assert half.runs[0].speed is not None and half.runs[0].speed.than == "tiny fp32"
    for artefact in (float32, half):
        (run,) = artefact.runs
        assert run.result.latency.count >= 10 and run.result.layers
        assert artefact.layers is not None and artefact.layers.first_difference is None
        assert artefact.layers.layers[0].name == "patch_embed"
    assert (engine.runs, engine.layers, engine.accuracy) == ([], None, [])
    assert {each.what for each in engine.missing} == {"latency", "layers", "accuracy"}
    (latency,) = [each for each in engine.missing if each.what == "latency"]
    assert engine.path in latency.why  # cannot be loaded here, whatever is missing
    assert latency.command == f"dinat-deploy bench {engine.path} --layers --json FILE.json"
    assert html.escape(latency.why) in output.read_text()


def test_scores_are_taken_of_all_that_can_run(measured: tuple[ReportData, Path]) -> None:
    float32, half, _ = measured[0].artefacts
    (first,), (second,) = float32.accuracy, half.accuracy
    assert (first.images, first.reference) == (4, None)
    assert second.reference == "tiny fp32" and second.lost is not None


def test_the_work_of_the_blocks_adds_up_to_that_of_the_model(made: Path) -> None:
    record = bundle_record(open_bundle(made), "tiny")
    counted = cost(TINY)
    assert (record.parameters, record.macs) == (counted.parameters, counted.macs)
    assert sum(block.macs for block in record.blocks) == counted.macs
    assert sum(block.attention_macs for block in record.blocks) == counted.attention_macs
    assert [block.name for block in record.blocks] == [
        "patch_embed", "levels.0.blocks.0", "levels.0.blocks.1", "levels.0.downsample",
        "levels.1.blocks.0", "head",
    ]  # fmt: skip


def test_published_accuracy_belongs_to_the_architecture(made: Path) -> None:
    bundle = open_bundle(made)
    assert bundle_record(bundle, "x").published is None
    config = get_variant("dinat_tiny").config.replace(image_size=(96, 96))
    other = replace(bundle, manifest=bundle.manifest.model_copy(update={"config": config}))
    published = bundle_record(other, "x").published
    assert published is not None
    assert (published.model, published.percent, published.image_size) == (
        "dinat_tiny", 82.7, (224, 224),
    )  # fmt: skip


def test_what_deploy_leaves_in_an_engine_belongs_to_it(bundle: Path) -> None:
    engine = engine_in(bundle)
    # As another machine called it.
    bench_file(engine / "bench.json", "/elsewhere/engine")
    errors = {
        "max_abs": None, "relative": None, "cosine": None, "sqnr_db": None,
        "argmax_agreement": 0.5, "limit": 0.1, "passed": False,
    }  # fmt: skip
    verified = {
        "artefact": "/elsewhere/engine", "passed": False, "reference": "PyTorch",
        "candidate": "TensorRT", "cases": [{"name": "a", "outputs": {"logits": errors}}],
        "layers": [],
    }  # fmt: skip
    (engine / "verification.json").write_text(json.dumps(verified))
    artefact = recorded(bundle).artefacts[-1]
    assert [run.name for run in artefact.runs] == ["tiny trt"]
    (parity,) = artefact.parity
    assert (parity.passed, parity.max_abs, parity.limit) == (False, None, 0.1)


def test_results_in_a_bundle_are_found_and_other_files_passed_over(bundle: Path) -> None:
    bench_file(bundle / "runs" / "a.json", str(bundle), str(bundle / "model.fp16.onnx"))
    digest = open_bundle(bundle).manifest.graph.sha256
    (bundle / "s.json").write_text(sensitivity(digest).model_dump_json())
    (bundle / "mine.json").write_text('{"x": 1}')
    (bundle / "broken.json").write_text("{")
    found = recorded(bundle)
    assert [run.name for run in found.runs] == ["tiny fp32", "tiny fp16"]
    assert [each.units[0].name for each in found.bundles[0].sensitivity] == ["head"]
    assert found.notes == []


def test_speed_is_that_of_the_same_session_against_float32(bundle: Path) -> None:
    path = bench_file(
        bundle.parent / "r.json", f"torch:{bundle}", str(bundle), str(bundle / "model.fp16.onnx")
    )
    runs = recorded(bundle, path).runs
    assert [run.name for run in runs] == [
        "tiny fp32", "tiny fp32 in ONNX Runtime 1.32.0", "tiny fp16",
    ]  # fmt: skip
    speeds = [run.speed.value if run.speed else None for run in runs]
    # Drawn around 20 ms (the baseline), 10 ms and 30 ms.
    assert speeds == [None, pytest.approx(2, rel=0.05), pytest.approx(2 / 3, rel=0.05)]
    assert runs[0].session == runs[2].session == 0
    assert [run.usual for run in runs] == [True, False, True]


def test_scores_name_their_reference_and_keep_the_verdict(bundle: Path) -> None:
    path = bundle.parent / "e.json"
    path.write_text(evaluation(str(bundle), str(bundle / "model.fp16.onnx")).to_json())
    float32, half = recorded(bundle, path).artefacts
    assert float32.accuracy[0].reference is None and float32.accuracy[0].top1 == 0.9
    (score,) = half.accuracy
    assert score.reference == "tiny fp32" and score.passed is False
    assert score.lost is not None and score.lost.high == 0.2
    assert score.verdict == "FAILED: loses"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("{bundle}", "model.onnx"),
        ("{bundle}/", "model.onnx"),
        ("{bundle} (2)", "model.onnx"),
        ("{bundle}/model.fp16.onnx", "model.fp16.onnx"),
        ("onnxruntime-cuda:{bundle}/model.fp16.onnx", "model.fp16.onnx"),
        ("{bundle}/engines/trt/model.plan", "engines/trt"),
        ("tensorrt:/on/the/jetson/out/tiny/engines/trt", "engines/trt"),
        ("/on/the/jetson/tiny/model.fp16.onnx", "model.fp16.onnx"),
        ("C:\\models\\tiny\\model.fp16.onnx", "model.fp16.onnx"),
        ("/on/the/jetson/other/model.fp16.onnx", None),
        ("{bundle}/model.int8.onnx", None),
        ("torch:dinat_mini", None),
        ("nowhere:tiny", None),
    ],
)
def test_names_lead_to_artefacts(bundle: Path, name: str, file: str | None) -> None:
    engine_in(bundle)
    opened = open_bundle(bundle)
    owner = Owned.of(opened, bundle_record(opened, "tiny"))
    found = match(name.format(bundle=bundle), bundle.parent / "r.json", [owner])
    assert (found.artefact.file if found else None) == file


def test_a_zoo_name_is_no_bundle_of_the_same_name(bundle: Path) -> None:
    place = bundle.rename(bundle.with_name("dinat_mini"))
    opened = open_bundle(place)
    owner = Owned.of(opened, bundle_record(opened, "dinat_mini"))
    source = place.parent / "r.json"
    assert match("torch:dinat_mini", Path("/r.json"), [owner]) is None
    assert match("/elsewhere/dinat_mini", source, [owner]) is not None


def test_bundles_of_the_same_name_are_told_apart(bundle: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(bundle, tmp_path / "second" / "tiny"))
    path = bench_file(tmp_path / "r.json", str(other))
    found = report([bundle, other, bundle], results=[path], enabled=False)
    assert [b.name for b in found.bundles] == [f"{tmp_path.name}/tiny", "second/tiny"]
    assert [run.name for run in found.runs] == ["second/tiny fp32"]
    strange = bench_file(tmp_path / "s.json", "/elsewhere/tiny")
    with pytest.raises(ConfigError, match="may belong to .*tiny or to .*second/tiny"):
        report([bundle, other], results=[strange], enabled=False)


def test_results_of_something_else_are_refused_and_both_are_named(bundle: Path) -> None:
    path = bench_file(bundle.parent / "r.json", "/elsewhere/other")
    with pytest.raises(ConfigError) as caught:
        recorded(bundle, path)
    assert "/elsewhere/other" in caught.value.cause and str(bundle) in caught.value.cause
    path.write_text(sensitivity("0" * 64).model_dump_json())
    with pytest.raises(ConfigError, match="SHA-256 000000000000.* nothing in it belongs"):
        recorded(bundle, path)


def test_what_belongs_to_no_bundle_is_left_out_with_a_note(bundle: Path) -> None:
    path = bench_file(bundle.parent / "r.json", str(bundle), "torch:dinat_mini")
    found = recorded(bundle, path)
    assert [run.name for run in found.runs] == ["tiny fp32"]
    assert found.notes == [
        f"{path}: torch:dinat_mini belongs to none of the bundles ({bundle}) and is left out."
    ]


def test_a_result_older_than_its_file_is_doubted(bundle: Path) -> None:
    path = bench_file(bundle / "r.json", str(bundle), started="2020-01-01T00:00:00+00:00")
    (note,) = recorded(bundle).notes
    assert note.startswith(f"{path} was measured before {bundle / 'model.onnx'} was written")


def _changed(change: Callable[[dict[str, Any]], object]) -> Callable[[str], str]:
    def apply(text: str) -> str:
        data = json.loads(text)
        change(data)
        return json.dumps(data)

    return apply


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda text: text[:100], "is not readable JSON"),
        (lambda text: "[1, 2]", "is no result of bench, evaluate, sensitivity or verify"),
        (lambda text: "{}", "is no result of bench"),
        (
            lambda text: '{"error": {"cause": "No GPU.", "cure": ""}}',
            "holds no result, but the error of a command: No GPU.",
        ),
        (_changed(lambda data: data.update(format_version=9)), "has format 9"),
        (
            _changed(lambda data: data["results"][0].pop("latency")),
            "is no result of bench: results.0.latency",
        ),
        (_changed(lambda data: data.update(results=3)), "is no result of bench: results"),
        (_changed(lambda data: data.update(results=[])), "holds no results"),
        (_changed(lambda data: data["results"][0].update(batch=0)), "that is not positive"),
        (lambda text: text.replace('"batch": 1', '"batch": NaN'), "NaN is no number"),
        (lambda text: text.replace("A processor", "\\ud800"), "is not readable JSON"),
        (
            _changed(lambda data: data["results"][0]["latency"].update(max=1e300)),
            "has a time of",
        ),
        (lambda text: text.replace('"batch": 1', '"batch": 1e999'), "1e999 is no number"),
    ],
)
def test_a_broken_result_file_is_one_sentence(
    bundle: Path, spoil: Callable[[str], str], complaint: str
) -> None:
    path = bench_file(bundle.parent / "r.json", str(bundle))
    path.write_text(spoil(path.read_text()))
    with pytest.raises(ConfigError) as caught:
        recorded(bundle, path)
    assert str(path) in caught.value.cause and complaint in caught.value.cause
    assert caught.value.cause.count("\n") == 0 and caught.value.cure


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"artefacts": []}, "holds no artefacts"),
        ({"metric": "f1"}, "has the metric f1, which is none of top1, miou, agreement"),
    ],
)
def test_an_evaluation_that_no_command_writes_is_refused(
    tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    path = tmp_path / "e.json"
    path.write_text(json.dumps(evaluation("a").to_dict() | change))
    with pytest.raises(ConfigError, match=complaint):
        read_result(path)


def test_damaged_results_in_a_bundle_are_not_passed_over(bundle: Path) -> None:
    path = bench_file(bundle / "r.json", str(bundle))
    path.write_text(path.read_text().replace('"median"', '"mode"'))
    with pytest.raises(ConfigError, match="r.json is no result of bench"):
        recorded(bundle)


def test_damaged_calibrations_and_bundles_are_named(bundle: Path, tmp_path: Path) -> None:
    (bundle / "calibration.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"calibration.json is no record of a calibration"):
        recorded(bundle)
    with pytest.raises(BundleError, match="There is no bundle"):
        report(tmp_path / "none", enabled=False)
    with pytest.raises(ConfigError, match="No bundle is named"):
        report([], enabled=False)


def test_files_that_were_changed_are_damaged_and_missing_ones_are_not(bundle: Path) -> None:
    plan = engine_in(bundle) / "model.plan"
    plan.write_bytes(plan.read_bytes()[:-1])
    half = bundle / "model.fp16.onnx"
    half.write_bytes(half.read_bytes()[:1000])
    (bundle / "model.onnx").unlink()
    gone, cut, engine = recorded(bundle).artefacts
    assert (gone.bytes, gone.damage) == (None, None)
    assert cut.damage is not None and str(half) in cut.damage and "SHA-256" in cut.damage
    assert engine.damage is not None and "is cut off" in engine.damage


def test_a_plan_whose_manifest_cannot_be_read_is_left_out_with_a_note(bundle: Path) -> None:
    engine = engine_in(bundle)
    (engine / "engine.json").write_text("{")
    found = recorded(bundle)
    assert len(found.artefacts) == 2
    assert found.notes == [
        f"{engine} is left out: it has a plan, and no engine.json that can be read."
    ]


@pytest.mark.parametrize(
    ("changes", "scored"),
    [
        ({}, True),
        ({"decoder": UPerNet(channels=8)}, True),
        ({"decoder": MaskRCNN(channels=8)}, False),
        ({"out_levels": (0, 1), "num_classes": 0}, False),
    ],
)
def test_no_command_is_named_that_would_only_refuse(
    made: Path, changes: dict[str, Any], scored: bool
) -> None:
    opened = open_bundle(made)
    config = opened.manifest.config.model_copy(update=changes)
    other = replace(opened, manifest=opened.manifest.model_copy(update={"config": config}))
    owner = Owned.of(other, bundle_record(other, "x"))
    complete([owner], Recorder([owner]), MeasureOptions(enabled=False), Silent())
    (missing,) = [each for each in owner.record.float32.missing if each.what == "accuracy"]
    assert (missing.command is not None) == scored
    assert ("No command scores" in missing.why) != scored


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"duration": float("nan")}, "Nothing can be measured for nan seconds"),
        ({"duration": float("inf")}, "Nothing can be measured for inf seconds"),
        ({"power": "on", "enabled": False}, "Power is asked for, and nothing is to be measured"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(
    bundle: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        report(bundle, **options)


def test_a_name_that_is_no_text_is_refused(bundle: Path, tmp_path: Path) -> None:
    strange = bundle.rename(tmp_path / os.fsdecode(b"ti\xffny"))
    with pytest.raises(ConfigError, match="is no text in UTF-8"):
        report(strange, output=tmp_path / "r.html", enabled=False)


def test_nothing_is_measured_again_that_a_file_says(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench_file(bundle / "r.json", str(bundle), str(bundle / "model.fp16.onnx"))

    def refuse(*_: object, **__: object) -> BenchReport:
        raise AssertionError("measured")

    monkeypatch.setattr(reporting_measuring, "bench", refuse)
    monkeypatch.setattr(reporting_measuring, "_add_layers", lambda *_: None)
    assert len(report(bundle).runs) == 2


def test_a_variant_that_no_file_knows_is_measured_beside_float32(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench_file(bundle / "r.json", str(bundle))
    asked: list[str] = []

    def bench(names: list[str], **_: object) -> BenchReport:
        asked.extend(names)
        return reports.report(*(reports.result(name, 5.0, runs=60) for name in names))

    monkeypatch.setattr(reporting_measuring, "bench", bench)
    monkeypatch.setattr(reporting_measuring, "_add_layers", lambda *_: None)
    found = report(bundle)
    assert asked == [str(bundle), str(bundle / "model.fp16.onnx")]
    assert [run.name for run in found.runs] == ["tiny fp32", "tiny fp32 (2)", "tiny fp16"]
    assert found.runs[2].speed is not None and found.runs[2].speed.than == "tiny fp32 (2)"


def test_failures_while_measuring_are_reasons_and_power_that_was_asked_for_an_error(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[BaseException] = []

    def bench(*_: object, **__: object) -> BenchReport:
        raise errors[-1]

    def compare(*_: object) -> None:
        raise MissingDependencyError("PyTorch is missing.", "Install it.")

    monkeypatch.setattr(reporting_measuring, "bench", bench)
    monkeypatch.setattr(reporting_measuring, "_add_layers", compare)
    errors.append(DinatDeployError("The memory is full.", "Close other programs."))
    missing = {each.what: each.why for each in report(bundle).artefacts[0].missing}
    assert missing["latency"] == "The memory is full. Close other programs."
    assert missing["layers"] == "PyTorch is missing. Install it."
    errors.append(PowerUnavailableError("Nothing tells the power.", "Use --power=auto."))
    with pytest.raises(PowerUnavailableError) as caught:
        report(bundle, power="on")
    assert caught.value.cure == "Leave --power out."  # here it is a switch


def test_an_interrupt_leaves_no_file(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bench(*_: object, **__: object) -> BenchReport:
        raise BenchInterrupted(reports.report(reports.result("a", 1.0)))

    monkeypatch.setattr(reporting_measuring, "bench", bench)
    monkeypatch.setattr(reporting_measuring, "_add_layers", lambda *_: None)
    before = sorted(bundle.parent.iterdir())
    with pytest.raises(KeyboardInterrupt):
        report(bundle, output=bundle.parent / "r.html")
    assert sorted(bundle.parent.iterdir()) == before


def test_data_that_fit_no_bundle_are_an_error(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(DinatDeployError, match="none"):
        report(bundle, enabled=False, data=str(tmp_path / "none"))


def test_places_are_checked_before_anything_is_done(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OutputError, match="is no directory"):
        report(bundle, output=tmp_path / "none" / "r.html")
    with pytest.raises(OutputError, match="it is a directory"):
        report(bundle, output=tmp_path)
    with pytest.raises(OutputError, match="same file"):
        report(bundle, output=tmp_path / "r", markdown=bundle / ".." / "r")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="it is no file"):  # nor would a device be replaced
        report(bundle, output=tmp_path / "pipe")

    def missing() -> str:
        raise MissingDependencyError("The HTML page needs plotly.", "pip install plotly")

    monkeypatch.setattr(page, "plotly_library", missing)
    with pytest.raises(MissingDependencyError, match="--markdown or --json"):
        report(bundle, output=tmp_path / "r.html")
    report(bundle, enabled=False, markdown=tmp_path / "r.md")
    assert (tmp_path / "r.md").read_text().startswith("# Report: tiny")
