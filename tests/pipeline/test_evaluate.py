"""Artefacts side by side on the same images: scores, references, verdicts, processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dinat_deploy
from dinat_deploy.bundle import open_bundle
from dinat_deploy.data.opening import open_dataset
from dinat_deploy.errors import BundleError, ConfigError, DataError, DinatDeployError
from dinat_deploy.pipeline.converting import convert
from dinat_deploy.pipeline.evaluating import evaluate
from dinat_deploy.pipeline.evaluation_batches import Candidate, Evaluator, Plan
from dinat_deploy.pipeline.evaluation_report import EvaluationReport
from dinat_deploy.pipeline.evaluation_workers import count_in_processes
from dinat_deploy.session.onnxruntime_session import OnnxRuntimeSession
from tests.pipeline import evaluated_models as models


@pytest.fixture(autouse=True)
def _no_library_of_this_machine(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DINAT_NATIVE_DIR", str(tmp_path_factory.mktemp("native")))


@pytest.fixture(scope="module")
def variants(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with its model in fp16 and bf16."""
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("out") / "variants"))
    for precision in ("fp16", "bf16"):
        convert(bundle, precision, verify=False)
    return bundle


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Linear models, exact and with noise, and data for them."""
    place = tmp_path_factory.mktemp("linear")
    models.classifier(place / "exact.onnx")
    models.classifier(place / "four.onnx", batch=4)
    models.classifier(place / "noisy.onnx", noise=0.2)
    models.labelled(place / "data.npz", 45, wrong=3)
    return place


@pytest.fixture
def linear(place: Path, tiny_bundle: Path) -> Callable[..., EvaluationReport]:
    """Evaluate linear models by their names."""

    def call(*names: str, data: object = place / "data.npz", **options: object) -> EvaluationReport:
        options = {"latency": False, "bundle": tiny_bundle, **options}
        return evaluate([place / f"{name}.onnx" for name in names], data, **options)

    return call


def figures(report: EvaluationReport) -> list[object]:
    return [(a.scores, a.loss) for a in report.artefacts]


# ---------------------------------------------------------------- scores


def test_scores_are_those_of_the_outputs(variants: Path, tmp_path: Path) -> None:
    images = models.images(11)
    labels = np.random.default_rng(0).integers(0, 10, 11)
    np.savez(tmp_path / "d.npz", images=images, labels=labels)
    half = variants / "model.fp16.onnx"
    report = evaluate([variants, half], tmp_path / "d.npz", batch=4, latency=False)

    outputs = [
        np.concatenate([session.run({"image": image[None]})["logits"] for image in images])
        for session in (OnnxRuntimeSession(variants / "model.onnx"), OnnxRuntimeSession(half))
    ]
    first, second = report.artefacts
    assert (first.precision, second.precision) == ("fp32", "fp16")
    for artefact, logits in zip(report.artefacts, outputs, strict=True):
        assert artefact.scores.top1 == np.mean(logits.argmax(1) == labels)
        best = np.argsort(-logits, axis=1)[:, :5]
        assert artefact.scores.top5 == np.mean((best == labels[:, None]).any(1))
    assert second.scores.agreement == np.mean(outputs[0].argmax(1) == outputs[1].argmax(1))
    noise = np.square(outputs[1] - outputs[0].astype(np.float64)).sum()
    expected = 10 * np.log10(np.square(outputs[0].astype(np.float64)).sum() / noise)
    assert second.scores.sqnr_db == pytest.approx(expected, rel=1e-9)
    assert second.loss is not None
    assert second.loss.value == pytest.approx(first.scores.top1 - second.scores.top1)
    assert (report.images, report.metric, report.task) == (11, "top1", "classification")
    assert second.bytes == half.stat().st_size
    assert any("random" in note for note in report.notes)


def test_known_accuracy_is_found(linear: Callable[..., EvaluationReport]) -> None:
    report = linear("exact", "noisy")
    exact, noisy = report.artefacts
    assert exact.scores.top1 == 42 / 45
    assert 0.5 < noisy.scores.agreement < 1
    assert noisy.loss.lost - noisy.loss.gained == round(45 * (42 / 45 - noisy.scores.top1))


@pytest.mark.parametrize("batch", [1, 3, 4, 64])
def test_a_model_of_a_fixed_batch_counts_every_image_once(
    batch: int, linear: Callable[..., EvaluationReport]
) -> None:
    report = linear("exact", "four", batch=batch)
    assert [a.scores.top1 for a in report.artefacts] == [42 / 45, 42 / 45]
    assert report.artefacts[1].scores.agreement == 1
    assert report.images == 45


def test_a_limit_takes_a_balanced_part(
    linear: Callable[..., EvaluationReport], place: Path
) -> None:
    assert linear("exact", limit=14, data=str(place / "data.npz")).images == 14


def test_without_labels_models_are_judged_by_agreement(
    linear: Callable[..., EvaluationReport],
) -> None:
    report = linear("exact", "noisy", data=list(models.images(20)), max_drop=0.0)
    noisy = report.artefacts[1]
    assert (report.task, report.metric, noisy.loss) == (None, "agreement", None)
    assert noisy.verdict.startswith("FAILED: same best class for ")
    assert noisy.passed is False
    assert report.passed is False


def test_segmentation_is_scored_by_pixels(tiny_bundle: Path, tmp_path: Path) -> None:
    exact = models.segmenter(tmp_path / "exact.onnx")
    noisy = models.segmenter(tmp_path / "noisy.onnx", noise=0.2)
    images = models.images(6)
    logits = np.einsum("bchw,ck->bkhw", images, models.weights(0.0))
    masks = logits.argmax(1)
    masks[:, :2] = 255
    np.savez(tmp_path / "d.npz", images=images, labels=masks)
    options = {"latency": False, "bundle": tiny_bundle, "batch": 4}
    report = evaluate([exact, noisy], tmp_path / "d.npz", **options)
    first, second = report.artefacts
    assert first.scores.miou > 0.999  # sums in another order may turn a pixel
    assert 0.2 < second.scores.miou < 0.9
    assert (report.metric, second.loss.metric) == ("miou", "miou")
    assert second.loss.low < second.loss.value < second.loss.high
    assert second.loss.value == pytest.approx(first.scores.miou - second.scores.miou)
    coarse = models.segmenter(tmp_path / "coarse.onnx", stride=4)
    assert evaluate(coarse, tmp_path / "d.npz", **options).images == 6
    spread = evaluate([exact, noisy], tmp_path / "d.npz", **options, workers=2)
    assert figures(spread) == figures(report)


def test_pixels_are_fed_to_a_model_that_takes_them(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "pixels"))
    convert(bundle, "fp16", io="uint8", verify=False)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 256, (70, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    report = evaluate([bundle, bundle / "model.fp16.onnx"], folder, latency=False)
    assert report.artefacts[1].scores.sqnr_db > 40


# ---------------------------------------------------------------- references and simulation


def test_a_variant_alone_is_compared_with_its_float32_model(variants: Path) -> None:
    data = list(models.images(3))
    report = evaluate(variants / "model.fp16.onnx", data, latency=False)
    assert [a.name for a in report.artefacts] == [str(variants), f"{variants}/model.fp16.onnx"]
    named = [variants / "model.fp16.onnx", variants / "model.onnx"]
    report = evaluate(named, data, latency=False)
    assert [Path(a.name).name for a in report.artefacts] == ["model.onnx", "model.fp16.onnx"]
    report = evaluate(variants, data, reference=variants / "model.fp16.onnx", latency=False)
    assert [Path(a.name).name for a in report.artefacts] == ["model.fp16.onnx", "variants"]


def test_bfloat16_is_simulated_and_not_timed(variants: Path) -> None:
    data = list(models.images(4))
    names = [variants, variants / "model.fp16.onnx", variants / "model.bf16.onnx"]
    plain = evaluate(names, data, duration=0.05)
    simulated = evaluate(names, data, simulate=True, latency=False)
    exact, half, brain = plain.artefacts
    assert [a.simulated for a in plain.artefacts] == [False, False, True]
    assert [a.simulated for a in simulated.artefacts] == [False, True, True]
    assert brain.scores == simulated.artefacts[2].scores
    # Rounding more often costs more.
    assert half.scores.sqnr_db > simulated.artefacts[1].scores.sqnr_db > brain.scores.sqnr_db > 20
    assert exact.latency_ms > 0
    assert half.speed.than == str(variants)
    assert half.over_finer is None  # the only finer one is the reference
    assert (brain.latency_ms, brain.speed) == (None, None)
    assert "speed not measured" in brain.verdict
    assert any("bfloat16" in note for note in brain.notes)


# ---------------------------------------------------------------- allowed losses, reports


def test_a_loss_beyond_what_is_allowed_fails(linear: Callable[..., EvaluationReport]) -> None:
    report = linear("exact", "noisy", max_drop=1)
    lost = 100 * report.artefacts[1].loss.value
    assert lost > 1
    assert not report.passed
    assert report.artefacts[1].verdict.startswith(
        f"FAILED: loses {lost:.2f} points of top-1 (1 all"
    )
    kept = linear("exact", "noisy", max_drop=lost)
    assert kept.passed
    assert f"45 images are too few to tell whether it loses more than {lost:g}" in (
        kept.artefacts[1].verdict
    )


def test_a_report_is_json_and_markdown(linear: Callable[..., EvaluationReport]) -> None:
    report = linear("exact", "four", max_drop=0)
    data = json.loads(report.to_json())
    assert data["passed"] is True
    assert data["artefacts"][1]["scores"]["sqnr_db"] is None  # equal: infinite
    assert data["artefacts"][1]["loss"]["lost"] == 0
    text = report.to_markdown()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert "93.33 %" in rows[2]
    assert "loses nothing of top-1 (0 allowed)" in text


# ---------------------------------------------------------------- mistakes


def test_bad_images_are_refused_or_skipped(
    linear: Callable[..., EvaluationReport], tmp_path: Path
) -> None:
    inputs = models.images(9)
    inputs[4, 0, 0, 0] = np.nan
    np.savez(tmp_path / "bad.npz", images=inputs)
    with pytest.raises(DataError, match=r"bad\.npz\[4\] has 1 values"):
        linear("exact", data=tmp_path / "bad.npz")
    report = linear("exact", data=tmp_path / "bad.npz", on_bad="skip", batch=2)
    assert (report.images, report.skipped) == (8, ["bad.npz[4]"])
    assert any("bad.npz[4]" in note for note in report.notes)
    np.savez(tmp_path / "bad.npz", images=np.full_like(inputs, np.inf))
    with pytest.raises(DataError, match="None of the 9 images"):
        linear("exact", data=tmp_path / "bad.npz", on_bad="skip", batch=2)


def test_what_does_not_fit_is_refused_with_both_sides(
    linear: Callable[..., EvaluationReport], place: Path, variants: Path, tmp_path: Path
) -> None:
    inputs = models.images(2)
    np.savez(tmp_path / "d.npz", images=inputs, labels=np.array([0, 7]))
    with pytest.raises(DataError, match=r"d\.npz\[1\] has the class 7, and .*exact\.onnx has 7"):
        linear("exact", data=tmp_path / "d.npz")
    np.savez(tmp_path / "d.npz", images=inputs, labels=np.zeros((2, 64, 64), int))
    with pytest.raises(ConfigError, match="classes of pixels, and .* tells classes of images"):
        linear("exact", data=tmp_path / "d.npz")
    np.savez(tmp_path / "d.npz", images=inputs)
    with pytest.raises(ConfigError, match=r"gives \[10\] numbers .*exact\.onnx \[7\]"):
        evaluate(
            [place / "exact.onnx", variants],
            tmp_path / "d.npz",
            bundle=variants,
            reference=place / "exact.onnx",
        )
    with pytest.raises(BundleError, match="No bundle was found"):
        evaluate(place / "exact.onnx", tmp_path / "d.npz")
    other = Path(shutil.copytree(variants, tmp_path / "other"))
    manifest = json.loads((other / "model.json").read_text())
    manifest["preprocessing"]["mean"] = [0, 0, 0]
    (other / "model.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match="different preprocessing"):
        evaluate([variants, other], tmp_path / "d.npz")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch": 0}, "batch of 0"),
        ({"workers": 0}, "0 workers"),
        ({"max_drop": 101}, "101 points"),
        ({"duration": 0}, "0 seconds"),
    ],
)
def test_impossible_options_are_refused(
    options: dict[str, object], words: str, linear: Callable[..., EvaluationReport]
) -> None:
    with pytest.raises(ConfigError, match=words):
        linear("exact", **options)


def test_a_backbone_has_nothing_to_count(tmp_path: Path, tiny_bundle: Path) -> None:
    import onnx

    model = onnx.load(models.classifier(tmp_path / "m.onnx"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("flat", 1, ["batch", 3]))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ConfigError, match="its outputs are logits, flat"):
        evaluate(tmp_path / "m.onnx", list(models.images(2)), bundle=tiny_bundle, latency=False)


def test_nothing_is_named() -> None:
    with pytest.raises(ConfigError, match="Nothing is named"):
        dinat_deploy.evaluate([], "digits")


# ---------------------------------------------------------------- several processes


@pytest.fixture
def plan(place: Path, tiny_bundle: Path) -> Plan:
    preprocessing = open_bundle(tiny_bundle).manifest.preprocessing
    return Plan(
        (Candidate(str(place / "exact.onnx")), Candidate(str(place / "noisy.onnx"))),
        open_dataset(place / "data.npz", preprocessing),
        batch=2,
        threads=1,
        bundle=tiny_bundle,
    )


def scores_of(results: list[object]) -> list[object]:
    ordered = sorted(results, key=lambda result: result.index)
    assert [result.index for result in ordered] == list(range(len(ordered)))
    merged = ordered[0].counters
    for result in ordered[1:]:
        for whole, part in zip(merged, result.counters, strict=True):
            whole.merge(part)
    return [counter.scores() for counter in merged]


def alone(plan: Plan) -> list[object]:
    with Evaluator(plan) as evaluator:
        return scores_of([evaluator.count(index) for index in range(plan.batches)])


def test_workers_find_the_same_numbers_and_one_that_is_killed_loses_nothing(
    plan: Plan, tmp_path: Path
) -> None:
    notes: list[str] = []
    opened: list[object] = []
    killing = replace(plan, dataset=models.deadly(plan.dataset, 21, tmp_path / "lives", 1))
    results = list(count_in_processes(killing, 2, opened.append, notes.append))
    assert scores_of(results) == alone(plan)
    assert notes == ["A worker was killed (SIGKILL); batch 10 is done again by another."]
    assert len(opened) == 1


def test_if_all_workers_die_that_is_an_error(plan: Plan, tmp_path: Path) -> None:
    killing = replace(plan, dataset=models.deadly(plan.dataset, 3, tmp_path / "lives", 2))
    before = set(multiprocessing.active_children())
    with pytest.raises(DinatDeployError, match=r"2 workers died over batch 1; .*SIGKILL") as dead:
        list(count_in_processes(killing, 2, lambda opened: None, lambda note: None))
    assert "--workers" in dead.value.cure
    assert not set(multiprocessing.active_children()) - before


def test_what_a_worker_cannot_do_is_said_here(plan: Plan, tmp_path: Path) -> None:
    inputs = models.images(4)
    inputs[3, 0, 0, 0] = np.nan
    np.savez(tmp_path / "bad.npz", images=inputs)
    bad = replace(plan, dataset=open_dataset(tmp_path / "bad.npz", plan.dataset._preprocessing))
    before = set(multiprocessing.active_children())
    with pytest.raises(DataError, match=r"bad\.npz\[3\] has 1 values"):
        list(count_in_processes(bad, 1, lambda opened: None, lambda note: None))
    assert not set(multiprocessing.active_children()) - before


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes in /proc")
def test_an_interrupt_ends_all_processes(place: Path, tiny_bundle: Path) -> None:
    """Like Ctrl-C in a terminal, which signals every process of the group."""
    arguments = [
        "evaluate",
        place / "exact.onnx",
        "--bundle",
        tiny_bundle,
        "--data",
        place / "data.npz",
    ]
    command = [sys.executable, "-m", "dinat_deploy", *map(str, arguments), "--workers", "2"]
    process = subprocess.Popen(
        [*command, "--batch", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Shells let what they start in the background ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(started := children.read_text().split()) < 3:  # multiprocessing's own is the third
        assert process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("Interrupted.")
    deadline = time.monotonic() + 30
    while living := [number for number in started if runs(number)]:
        assert time.monotonic() < deadline, living
        time.sleep(0.01)


def runs(number: str) -> bool:
    """Whether a process is there and not one that merely was not waited for."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
