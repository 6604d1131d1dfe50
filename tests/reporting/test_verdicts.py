"""Verdicts: what is kept and what is lost, in words, marks and figures."""

from __future__ import annotations

from typing import Any

import pytest

from dinat_deploy.reporting.records import ArtefactRecord, Lost, Speed
from dinat_deploy.reporting.verdicts import Judged, judge, summary
from tests.reporting import collected
from tests.reporting.collected import artefact, bundle, data, layers, parity, run, score


def judged(**changes: Any) -> Judged:
    """The verdicts on a variant beside a float32 model of 80 MB."""
    variant = artefact("x int8", file="model.int8.onnx", **changes)
    return judge(data(bundle("x", artefact("x fp32"), variant)))[1]


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({}, "plain", "top-1 81.80 %, the reference"),
        (
            {"reference": "x fp32", "lost": Lost(value=0.002, low=-0.001, high=0.005)},
            "plain",
            "loses 0.20 points (-0.10 to 0.50)",
        ),
        (
            {"reference": "x fp32", "lost": Lost(value=0.02, low=0.01, high=0.03)},
            "worse",
            "loses 2.00 points (1.00 to 3.00)",
        ),
        (
            {"reference": "x fp32", "lost": Lost(value=-0.02, low=-0.03, high=-0.01)},
            "better",
            "gains 2.00 points (1.00 to 3.00)",
        ),
        (
            {
                "reference": "x fp32",
                "lost": Lost(value=0.02, low=0.01, high=0.03),
                "max_drop": 2.5,
                "passed": True,
            },
            "good",
            "2.5 allowed",
        ),
        (
            {
                "reference": "x fp32",
                "lost": Lost(value=0.02, low=0.01, high=0.03),
                "max_drop": 1.0,
                "passed": False,
            },
            "bad",
            "1 allowed",
        ),
        (
            {"reference": "x fp32", "metric": "agreement", "top1": None, "agreement": 0.99},
            "plain",
            "same best class for 99.00 %",
        ),
        ({"reference": "x fp32", "metric": "agreement", "top1": None, "agreement": 0.9,
          "max_drop": 5.0, "passed": False}, "bad", "95 % demanded"),
    ],
)  # fmt: skip
def test_accuracy_says_what_is_lost_and_whether_that_is_certain(
    changes: dict[str, Any], kind: str, text: str
) -> None:
    found = judged(accuracy=[score(**changes)]).accuracy
    assert found.kind == kind
    assert text in found.text


def test_a_failed_comparison_counts_whatever_came_after_it() -> None:
    found = judged(parity=[parity(passed=False, max_abs=0.5, limit=0.1), parity()]).parity
    assert found.kind == "bad"
    assert found.marked == "✗ off by 0.50 (0.10 allowed)"


def test_parity_names_the_first_layer_outside_even_if_the_outputs_agree() -> None:
    found = judged(parity=[parity()], layers=layers(1e-6, 2e-3, 1e-2, 1e-6)).parity
    assert found.kind == "bad"
    assert "levels.0.blocks.0 is outside its limit" in found.text


def test_outputs_that_are_not_finite_fail() -> None:
    found = judged(parity=[parity(passed=False, max_abs=None)]).parity
    assert (found.kind, found.text) == ("bad", "off by not finite")


@pytest.mark.parametrize(
    ("speed", "kind"),
    [
        (Speed(than="x fp32", value=2.0, low=1.9, high=2.1), "better"),
        (Speed(than="x fp32", value=0.5, low=0.4, high=0.6), "worse"),
        (Speed(than="x fp32", value=1.1, low=0.9, high=1.3), "plain"),
        (Speed(than="x fp32", value=1.04, low=None, high=None), "plain"),
        (Speed(than="x fp32", value=1.2, low=None, high=None), "better"),
    ],
)
def test_speed_is_judged_by_its_interval(speed: Speed, kind: str) -> None:
    found = judged(runs=[run("x int8", 15.0, speed=speed)]).speed
    assert found.kind == kind
    assert f"{speed.value:.2f} x" in found.text


def test_pytorch_does_not_stand_for_the_speed_of_the_exported_model() -> None:
    slow = Speed(than="x fp32", value=0.2, low=0.1, high=0.3)
    runs = [run("x fp32", 15.0), run("x fp32 in PyTorch", 75.0, speed=slow)]
    float32 = artefact("x fp32", runs=[runs[0], runs[1].model_copy(update={"usual": False})])
    found = judge(data(bundle("x", float32)))[0].speed
    assert (found.kind, found.text) == ("plain", f"{runs[0].result.latency.median:.1f} ms an image")
    variant = judged(runs=[runs[0], runs[1].model_copy(update={"usual": False})]).speed
    assert (variant.kind, variant.text) == (found.kind, found.text)


@pytest.mark.parametrize(
    ("size", "kind", "text"),
    [
        (20_000_000, "better", "20.0 MB, 4.0 x smaller"),
        (160_000_000, "worse", "160 MB, 2.0 x larger"),
        (79_000_000, "plain", "79.0 MB, as large as fp32"),
        (None, "unknown", "not here"),
    ],
)
def test_size_is_compared_with_float32(size: int | None, kind: str, text: str) -> None:
    found = judged(bytes=size).size
    assert (found.kind, found.text) == (kind, text)


def test_what_is_not_known_is_said_to_be_so() -> None:
    found = judged(bytes=None)
    assert [verdict.kind for verdict in found.all] == ["unknown"] * 4


def test_a_damaged_file_has_neither_parity_nor_a_size_to_be_proud_of() -> None:
    found = judged(bytes=1000, parity=[parity()], damage="model.int8.onnx has another SHA-256.")
    assert found.parity.marked == "✗ damaged: model.int8.onnx has another SHA-256."
    assert (found.size.kind, found.size.text) == ("plain", "0.00100 MB")
    assert found.failed == ["damaged"]


def test_a_reference_without_labels_has_no_score() -> None:
    found = judged(accuracy=[score(metric="agreement", top1=None)]).accuracy
    assert (found.kind, found.text) == ("plain", "the reference of the others")


def test_the_summary_names_what_failed_and_why() -> None:
    found = summary(collected.full())
    assert found == (
        "2 bundles with 3 artefacts. 1 artefact failed: ours int8 (accuracy and parity)."
    )


@pytest.mark.parametrize(
    ("artefacts", "expected"),
    [
        ([artefact("x fp32")], "None was compared with PyTorch."),
        ([artefact("x fp32", parity=[parity()])], "It agrees with PyTorch within the limits"),
        (
            [artefact("x fp32", parity=[parity()]), artefact("y", parity=[parity()])],
            "All agree with PyTorch within the limits",
        ),
        ([artefact("x fp32", parity=[parity()]), artefact("y")], "1 of them agrees with PyTorch"),
    ],
)
def test_the_summary_says_how_many_were_compared(
    artefacts: list[ArtefactRecord], expected: str
) -> None:
    assert expected in summary(data(bundle("x", *artefacts)))
