"""Models side by side: counted, measured in turn, put on a page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dinat_deploy.choosing import rivals
from dinat_deploy.choosing.comparison import ComparisonReport
from dinat_deploy.choosing.published import published_results
from dinat_deploy.errors import ConfigError, OutputError
from dinat_deploy.measurement.measuring import MeasuringInterrupted
from dinat_deploy.models import zoo
from dinat_deploy.models.complexity import cost
from dinat_deploy.pipeline import comparing
from dinat_deploy.pipeline.comparing import (
    ComparisonInterrupted,
    compare,
    comparison_table,
    reading,
)
from dinat_deploy.pipeline.comparing_runs import counted
from tests.choosing.test_rivals import SMALL
from tests.conftest import TINY
from tests.measurement.browser import Outline, open_page

NAMES = ["dinat_tiny", "convnext_tiny"]
QUICK = {"duration": 0.05, "warm_up": 1.0, "iterations": 6, "threads": 1, "image_size": (64, 64)}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models under the names of published ones."""
    for name, settings in SMALL.items():
        monkeypatch.setitem(rivals.RIVALS, name, settings)
    monkeypatch.setitem(
        zoo.VARIANTS, "dinat_tiny", replace(zoo.VARIANTS["dinat_tiny"], config=TINY)
    )


def test_models_are_counted_as_published_without_weights() -> None:
    found = [
        counted(name, (224, 224))
        for name in ("dinat_s_tiny", "nat_large".replace("nat", "dinat"), "convnext_tiny")
    ]
    assert [model.disagreements() for model in found] == [[], [], []]
    assert [model.counted_from for model in found] == ["config", "config", "operations"]
    wrong = replace(found[2], macs=round(4.6e9), parameters=31_000_000)
    assert wrong.disagreements() == [
        "convnext_tiny: 31 M parameters counted, 29 published.",
        "convnext_tiny: 4.6 GMAC counted, 4.5 published.",
    ]


@pytest.mark.usefixtures("small")
def test_exported_models_are_measured_in_turn_and_drawn(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    report = compare(NAMES, base="ConvNeXt-T", plot=page, batch=2, **QUICK)
    assert [model.name for model in report.models] == NAMES
    assert [model.counted_from for model in report.models] == ["onnx"] * 2
    assert report.models[0].macs == cost(TINY).macs
    results = [model.result for model in report.models]
    rounds = {len(result.blocks) for result in results if result is not None}
    assert len(rounds) == 1 and rounds.pop() >= 6
    ratios = {model.name: model.result.ratio for model in report.models if model.result}
    assert ratios["convnext_tiny"] is None
    ratio = ratios["dinat_tiny"]
    assert ratio is not None and ratio.low is not None and ratio.high is not None
    assert ratio.low <= ratio.value <= ratio.high
    for model in report.models:
        assert model.result is not None and model.ms_per_gmac is not None
        assert model.result.shapes == {"image": [2, 3, 64, 64]}
        assert model.ms_per_gmac * model.macs / 1e9 * 2 == pytest.approx(
            model.result.latency.median
        )
    assert any("top-1 is not that of this size" in sentence for sentence in reading(report))
    assert not any("published." in note for note in report.notes)  # counts of another size
    drawn(page, tmp_path)


def drawn(page: Path, scratch: Path) -> None:
    rendered = open_page(page, scratch)
    outline = Outline(rendered.dom)
    assert rendered.console == []
    assert outline.traces == {"plot-latency": 2, "plot-work": 2, "plot-ratios": 1}
    assert "arXiv 2209.15001" in outline.text
    assert "random weights" in outline.text


@pytest.mark.usefixtures("small")
def test_pytorch_runs_them_too() -> None:
    report = compare(["dinat_tiny", "convnext_tiny"], runtime="torch", **QUICK)
    assert report.base == "dinat_tiny"  # no Swin is there
    for model in report.models:
        assert model.result is not None and model.result.runtime.startswith("PyTorch")
    assert [model.counted_from for model in report.models] == ["config", "operations"]
    table = comparison_table(report)
    assert table.heads[6:10] == ["median ms", "images/s", "times dinat_tiny", "ms/GMAC"]
    assert table.rows[0][8] == "1"


@pytest.mark.usefixtures("small")
def test_an_interrupt_gives_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = comparing.measure

    def stopped(*arguments: object) -> None:
        raise MeasuringInterrupted(whole(*arguments))  # type: ignore[arg-type]

    monkeypatch.setattr(comparing, "measure", stopped)
    page = tmp_path / "page.html"
    with pytest.raises(ComparisonInterrupted) as caught:
        compare(["convnext_tiny"], runtime="torch", plot=page, **QUICK)
    report: ComparisonReport = caught.value.report
    assert report.interrupted and report.measured
    assert any(warning.startswith("Interrupted after") for warning in report.warnings)
    assert not page.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": "swin_base"}, "swin_base is to be the base, and is not among the models"),
        ({"runtime": "tensorrt"}, "no runtime that models are compared in"),
        ({"batch": 0}, "batch of 0 images"),
        ({"image_size": (16, 224)}, "at least 32x32 pixels"),
        ({"iterations": 0}, "The options of the measurement are not valid: iterations"),
    ],
)
def test_what_cannot_be_compared_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compare(["dinat_tiny"], **options)  # type: ignore[arg-type]


def test_the_page_is_checked_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        compare(plot=tmp_path / "missing" / "page.html")


def test_every_model_that_can_be_compared_has_published_results() -> None:
    known = published_results()
    assert {name for name in known if name.startswith(("swin", "convnext"))} == set(rivals.RIVALS)
    for name in set(known) - set(rivals.RIVALS):
        assert known[name].top1 == zoo.VARIANTS[name].published.top1
        assert known[name].images_per_second > 100
