"""Verdicts say what is lost, what is gained, and what cannot be told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dinat_deploy.evaluation.comparison import Loss, accuracy_loss
from dinat_deploy.evaluation.records import Scores
from dinat_deploy.measurement.measuring import Measured
from dinat_deploy.measurement.records import BenchOptions
from dinat_deploy.measurement.results import Subject, results
from dinat_deploy.pipeline import evaluation_latency
from dinat_deploy.pipeline.evaluation_latency import measure_latency
from dinat_deploy.pipeline.evaluation_report import ArtefactReport, Speed, short_precision
from dinat_deploy.pipeline.evaluation_verdicts import judged
from dinat_deploy.session.base import Block, Timing

REFERENCE = ArtefactReport(
    "model.onnx", "fp32", "R", "CPU", False, Scores(1000, top1=0.9), bytes=1_000_000
)


def artefact(
    lost: int = 0, gained: int = 0, images: int = 1000, **changes: object
) -> ArtefactReport:
    loss = accuracy_loss(lost, gained, images)
    plain = replace(
        REFERENCE,
        name="model.int8.onnx",
        precision="int8",
        bytes=500_000,
        scores=Scores(images, top1=0.9 - loss.value, agreement=0.9),
        loss=loss,
        speed=Speed("model.onnx", 1.31, 1.25, 1.4),
    )
    return replace(plain, **changes)


def verdict(found: ArtefactReport, max_drop: float | None = 0.5) -> str:
    return judged(found, REFERENCE, max_drop).verdict


def test_loss_size_and_speed_are_in_a_sentence() -> None:
    found = judged(artefact(3, 1, 100_000), REFERENCE, 0.5)
    assert found.verdict == (
        "loses 0.00 points of top-1 (0.5 allowed), 2.0 x smaller, 1.31 x faster. The loss is with "
        "95 % confidence between 0.00 and 0.01 points."
    )
    assert found.passed is True


@pytest.mark.parametrize(
    ("lost", "gained", "words"),
    [
        (3, 0, "loses 0.30 points of top-1 (0.5 allowed)"),
        (9, 1, "FAILED: loses 0.80 points of top-1 (0.5 allowed)"),
        (1, 3, "gains 0.20 points of top-1"),
        (2, 2, "loses nothing of top-1 (0.5 allowed)"),
    ],
)
def test_what_is_lost_is_compared_with_what_is_allowed(lost: int, gained: int, words: str) -> None:
    found = judged(artefact(lost, gained), REFERENCE, 0.5)
    assert found.verdict.startswith(words)
    assert found.passed is not words.startswith("FAILED")


def test_the_allowed_loss_itself_is_allowed() -> None:
    for lost in range(1, 30):
        assert judged(artefact(lost), REFERENCE, lost / 10).passed
        assert not judged(artefact(lost), REFERENCE, lost / 10 - 0.01).passed


def test_few_images_cannot_tell() -> None:
    few, many = artefact(1, 0, 360), artefact(100, 0, 36_000)
    assert "360 images are too few to tell whether it loses more than 0.5: " in verdict(few)
    assert "too few" not in verdict(many)
    assert "The loss is with 95 % confidence between 0.23 and 0.34 points." in verdict(many)
    assert "360 images are too few to tell this from no loss" in verdict(few, None)
    sure = artefact(60, 0, 360)
    assert "too few" not in verdict(sure)


def test_a_coarser_precision_that_is_slower_does_not_pay() -> None:
    slow = artefact(speed=Speed("model.onnx", 0.71, 0.7, 0.72))
    assert "INT8 does not pay here: 0.71 x the speed of model.onnx on this machine." in verdict(
        slow
    )
    assert verdict(slow).count("0.71") == 1
    beaten = artefact(over_finer=Speed("model.fp16.onnx", 0.8, 0.78, 0.82))
    text = verdict(beaten)
    assert ", 1.31 x faster. " in text
    assert "INT8 does not pay here: 0.80 x the speed of model.fp16.onnx on this machine." in text
    faster = artefact(over_finer=Speed("model.fp16.onnx", 1.2, 1.1, 1.3))
    assert "1.20 x faster than model.fp16.onnx." in verdict(faster)
    assert "does not pay" not in verdict(artefact())


def test_what_cannot_be_measured_does_not_pay_either() -> None:
    for speed in (Speed("model.onnx", 1.02, 0.97, 1.06), Speed("model.onnx", 1.005, None, None)):
        assert "INT8 does not pay here: it is not measurably faster than model.onnx." in verdict(
            artefact(speed=speed)
        )
    same = artefact(precision="fp32", speed=Speed("model.onnx", 0.5, 0.4, 0.6))
    assert "0.50 x the speed" in verdict(same)
    assert "pay" not in verdict(same)  # nothing was given up for it


def test_segmentation_is_judged_by_iou() -> None:
    scores = Scores(40, miou=0.6, pixel_accuracy=0.9, agreement=0.95)
    loss = Loss("miou", 0.012, 0.004, 0.02, 40)
    found = judged(artefact(scores=scores, loss=loss), REFERENCE, 1.0)
    assert found.verdict.startswith("FAILED: loses 1.20 points of mIoU (1 allowed)")
    assert "40 images are too few" in found.verdict


def test_without_labels_agreement_counts() -> None:
    scores = Scores(40, agreement=0.975)
    found = judged(artefact(scores=scores, loss=None), REFERENCE, 1.0)
    assert found.verdict.startswith(
        "FAILED: same best class for 97.50 % of the images (99 % demanded), 2.0 x smaller"
    )
    assert judged(artefact(scores=scores, loss=None), REFERENCE, 2.5).passed


def test_the_reference_is_not_judged() -> None:
    assert judged(REFERENCE, REFERENCE, 0.0) is REFERENCE


@pytest.mark.parametrize(
    ("types", "short"),
    [
        ("float32", "fp32"),
        ("float16+float32", "fp16"),
        ("float32+bfloat16", "bf16"),
        ("int8+float16", "int8"),
        ("float8e4m3fn+float32", "fp8"),
        ("unknown", "unknown"),
    ],
)
def test_the_coarsest_type_names_the_precision(types: str, short: str) -> None:
    assert short_precision(types) == short


def test_speeds_come_from_pairs_of_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine gets slower from round to round, which must not show."""
    times = {"a": 4.0, "half": 2.0, "int": 3.0}

    class Report:
        warnings = ("The machine is busy.",)
        results = ()

    def measured(name: str) -> Measured:
        blocks = [
            Block([Timing(times[name] * slow, times[name] * slow)] * 3, 1.0)
            for slow in (1, 2, 3, 4, 5, 6, 7)
        ]
        return Measured(name, blocks=blocks)

    def bench(names: list[str], **_: object) -> Report:
        subjects = [Subject("R", "CPU", None, {"image": [2, 3, 8, 8]}) for _ in names]
        report = Report()
        report.results = results([measured(name) for name in names], subjects, BenchOptions())
        return report

    monkeypatch.setattr(evaluation_latency, "bench", bench)
    notes: list[str] = []
    precisions = {"a": "fp32", "half": "fp16", "int": "int8"}
    found = measure_latency(list(times), precisions, 1.0, notes)
    assert "The machine is busy." in notes
    assert found["half"].milliseconds == 2.0 * 4 / 2
    assert found["a"].speed is None
    assert found["half"].speed.value == pytest.approx(2)
    assert found["half"].over_finer is None
    assert found["int"].speed.value == pytest.approx(4 / 3)
    over = found["int"].over_finer
    assert (over.than, over.value) == ("half", pytest.approx(2 / 3))
    assert over.low == pytest.approx(over.high)
    assert measure_latency([], {}, 1.0, notes) == {}
