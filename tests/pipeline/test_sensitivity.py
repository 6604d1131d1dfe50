"""``sensitivity``: what harms is ranked first, and the search for a budget leaves out just that."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import dinat_deploy
from dinat_deploy.bundle import TensorSpec, open_bundle
from dinat_deploy.calibration.patterns import read_patterns
from dinat_deploy.data.dataset import Sample
from dinat_deploy.data.opening import open_dataset
from dinat_deploy.errors import (
    BundleError,
    ConfigError,
    DataError,
    MissingDependencyError,
    OutputError,
)
from dinat_deploy.models.model import DinatModel
from dinat_deploy.models.seeding import seeded_image
from dinat_deploy.pipeline import sensitivity_page
from dinat_deploy.pipeline.calibrating import calibrate
from dinat_deploy.pipeline.converting import convert
from dinat_deploy.pipeline.quantizing import QuantizeOptions
from dinat_deploy.pipeline.sensitivity import Budget, sensitivity
from dinat_deploy.pipeline.sensitivity_report import Effect, SensitivityReport
from dinat_deploy.pipeline.switched_model import Batches, Measurer, SwitchedModel
from dinat_deploy.session.onnxruntime_session import OnnxRuntimeSession
from tests.pipeline import ridge_digits

SITE = "levels.1.blocks.0.mlp.fc1/MatMul"
LIMIT = 96


@pytest.fixture(autouse=True, scope="module")
def _no_library_of_this_machine(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DINAT_NATIVE_DIR", str(tmp_path_factory.mktemp("native")))
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sensitivity")


@pytest.fixture(scope="module")
def hard(place: Path) -> Path:
    """A bundle with an outlier channel, calibrated. Do not change it."""
    model = ridge_digits.save(place / "model")
    changed = ridge_digits.with_outlier(model, place / "outlier", "--part", "mlp", "--factor", 1024)
    request = dinat_deploy.ModelRequest(checkpoint=changed)
    dinat_deploy.export(request, place / "bundle", dynamic=["batch"], verify=False)
    calibrate(place / "bundle", "digits:train", limit=64, precision=None)
    return place / "bundle"


@pytest.fixture(scope="module")
def found(hard: Path, place: Path) -> SensitivityReport:
    """A search, whose files are in ``place / "found"``."""
    return sensitivity(
        hard,
        "digits:test",
        limit=LIMIT,
        unit_images=LIMIT,
        max_drop=0.5,
        without=True,
        output=place / "found",
    )


@pytest.fixture
def calibrated(hard: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(hard, tmp_path / "bundle"))


def test_the_outlier_leaves_the_function_as_it_was(place: Path, hard: Path) -> None:
    image = torch.from_numpy(seeded_image((4, 1, 32, 32), 0))
    outputs = []
    for name in ("model", "outlier"):
        model = DinatModel(ridge_digits.CONFIG).eval()
        model.load_state_dict(load_file(place / name / "model.safetensors"))
        with torch.inference_mode():
            outputs.append(model(image))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-5)


def test_the_outlier_is_the_most_harmful_and_nothing_else_need_be_left_out(
    found: SensitivityReport,
) -> None:
    assert found.metric == "top1"
    assert found.float32 is not None
    assert found.float32 > 0.6
    worst, second = found.units[:2]
    assert worst.name == SITE
    assert worst.alone.drop > 5
    assert worst.alone.sqnr_db < second.alone.sqnr_db - 20
    assert worst.local_db < 5 < 30 < second.local_db
    # Without it the rest is fine; without any other nothing is gained.
    assert worst.without.drop <= 0.5
    assert all(unit.without.drop > 5 for unit in found.units[1:])

    assert found.search.excluded == [SITE]
    assert found.search.sites == [SITE]
    assert found.search.effect.drop <= 0.5
    assert [step.within for step in found.search.steps] == [False, True]
    assert found.search.share == pytest.approx(0.867, abs=0.01)
    assert "1 of 11 units must be left out (1 node): top1 " in found.verdict


def test_noise_adds_up(found: SensitivityReport) -> None:
    """All but the outlier together have the sum of the noise that each has alone."""
    parts = sum(unit.alone.noise for unit in found.units if unit.name != SITE)
    assert 10 * math.log10(parts / found.units[0].without.noise) == pytest.approx(0, abs=1.5)


def test_the_file_of_exclusions_makes_the_model_that_was_measured(
    found: SensitivityReport, place: Path, calibrated: Path
) -> None:
    patterns = read_patterns(place / "found" / "exclude.txt")
    assert patterns == [SITE]
    options = QuantizeOptions(rest="fp32", exclude=patterns)
    convert(calibrated, "int8", quantize=options, verify=False)
    session = OnnxRuntimeSession(calibrated / "model.int8.onnx")
    data = open_dataset("digits:test", ridge_digits.PREPROCESSING, limit=LIMIT)
    samples = [data.load(index) for index in range(len(data))]
    logits = session.run({"image": np.stack([sample.image for sample in samples])})["logits"]
    right = np.mean(logits.argmax(1) == [sample.label for sample in samples])
    assert right == pytest.approx(found.search.effect.metric, abs=1.01 / LIMIT)


def test_the_files_tell_the_same(found: SensitivityReport, place: Path) -> None:
    folder = place / "found"
    names = ["exclude.txt", "sensitivity.html", "sensitivity.json", "sensitivity.md"]
    assert sorted(path.name for path in folder.iterdir()) == names
    text = (folder / "sensitivity.json").read_text()
    assert SensitivityReport.model_validate_json(text) == found
    exclude = (folder / "exclude.txt").read_text()
    assert "--precision int8 --exclude @exclude.txt" in exclude
    assert f"# {SITE}: top1 " in exclude
    markdown = (folder / "sensitivity.md").read_text()
    assert f"| `{SITE}` | 7.19% |" in markdown
    assert "| leave out the most harmful | 1 | 86.7% |" in markdown
    page = (folder / "sensitivity.html").read_text()
    figures = json.loads(page.split('id="figures">')[1].split("</script>")[0])
    assert set(figures) == {"plot-noise", "plot-worth", "plot-search"}
    assert figures["plot-noise"]["layout"]["yaxis"]["ticktext"][0] == SITE


def test_levels_in_decibels_on_unlabelled_images_are_the_same_each_time(
    hard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine images are a full batch and one more; there is no plotly."""

    def missing(report: SensitivityReport) -> str:
        raise MissingDependencyError("no plotly")

    monkeypatch.setattr(sensitivity_page, "to_html", missing)
    images = [seeded_image((1, 32, 32), seed) for seed in range(9)]
    texts = []
    for _ in range(2):
        report = sensitivity(hard, images, by="level", min_sqnr=15, output=tmp_path / "out")
        texts.append((tmp_path / "out" / "sensitivity.json").read_bytes())
    assert texts[0] == texts[1]
    assert not (tmp_path / "out" / "sensitivity.html").exists()
    assert report.units[0].name == "levels.1"
    assert {unit.name for unit in report.units} == {"patch_embed", "levels.0", "levels.1"}
    assert report.metric == "agreement"
    assert report.float32 == 1
    assert report.images == report.search.images == 9
    assert report.search.excluded == ["levels.1"]
    assert report.search.effect.sqnr_db >= 15
    assert "the budget is 15 dB" in report.verdict


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp8"])
def test_other_precisions(precision: str, hard: Path) -> None:
    report = sensitivity(hard, "digits:test", precision=precision, by="kind", limit=8)
    kinds = {unit.name for unit in report.units}
    if precision == "fp8":  # floats mind no outlier
        assert report.estimator == "max"
        assert kinds == {"conv", "qkv", "proj", "fc1", "fc2"}
        assert 10 < report.together.sqnr_db < 35
    else:
        assert report.estimator is None
        convolutions = {"conv"} if precision == "fp16" else set()  # ONNX has no bfloat16 Conv
        assert kinds == {"qkv", "proj", "fc1", "fc2", "attn", "mlp", "add"} | convolutions
        low, high = {"fp16": (50, 80), "bf16": (30, 60)}[precision]
        assert low < report.together.sqnr_db < high
    assert report.search is None
    assert report.verdict.endswith("dB.")


def test_what_is_asked_for_stays_out_and_comes_into_the_file(hard: Path, tmp_path: Path) -> None:
    """And a budget below what one image is worth is pointed out."""
    options = QuantizeOptions(exclude=["levels.1.*"], attention=True)
    report = sensitivity(
        hard, "digits:test", options=options, limit=8, max_drop=12, output=tmp_path / "out"
    )
    names = {unit.name for unit in report.units}
    assert "levels.0.blocks.0.attn.qkv/Add:0" in names  # what the operator reads
    assert not any(
        name.startswith("levels.1.") for name in names - {"levels.1.blocks.0.attn.qkv/Add:0"}
    )
    assert report.search.excluded == []
    assert "Everything can be int8" in report.verdict
    assert read_patterns(tmp_path / "out" / "exclude.txt") == ["levels.1.*"]
    assert "asked for (levels.1.*)" in report.skipped
    assert report.notes[-1].startswith("One of 8 images is worth 12.50 points, more than the")


def test_bad_images_are_refused_or_skipped(hard: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("L", (8, 8), 100).save(folder / name)
    (folder / "broken.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(DataError, match=r"broken\.png"):
        sensitivity(hard, folder, by="level")
    report = sensitivity(hard, folder, by="level", on_bad="skip")
    assert report.images == 2
    assert report.notes[-1] == "1 image was skipped."


def test_mistakes_are_named(hard: Path, calibrated: Path, tmp_path: Path) -> None:
    data = "digits:test"
    for options, message in (
        ({"precision": "int4"}, "Unknown precision 'int4'"),
        ({"by": "layer"}, "no parts by 'layer'"),
        ({"max_drop": -1.0}, "a loss of -1.0 points"),
        ({"limit": 0}, "limit is 0"),
        ({"options": QuantizeOptions(exclude=["nothing*"])}, "named like 'nothing*'"),
        ({"precision": "fp16", "options": QuantizeOptions(exclude=["nothing*"])}, "'nothing*'"),
        ({"precision": "fp16", "options": QuantizeOptions(head=True)}, "head is about quantized"),
        (
            {"precision": "fp8", "options": QuantizeOptions(estimator="entropy")},
            "estimator entropy",
        ),
    ):
        with pytest.raises(ConfigError) as raised:
            sensitivity(hard, data, **options)
        assert message in raised.value.cause
    with pytest.raises(DataError, match="for segmentation, and the model gives logits"):
        masks = [np.zeros((32, 32), np.int64)]
        images = np.zeros((1, 1, 32, 32), np.float32)
        np.savez(tmp_path / "masks.npz", images=images, labels=np.stack(masks))
        sensitivity(hard, tmp_path / "masks.npz")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(OutputError, match="directory with other content"):
        sensitivity(hard, data, output=tmp_path / "taken")
    (calibrated / "calibration.json").unlink()
    with pytest.raises(BundleError, match=r"no calibration\.json") as missing:
        sensitivity(calibrated, data)
    assert "dinat-deploy calibrate" in missing.value.cure


def test_a_batch_that_the_model_fixes_is_filled_up(hard: Path, tmp_path: Path) -> None:
    model = SwitchedModel(open_bundle(hard), "int8", QuantizeOptions(), tmp_path)
    images = seeded_image((3, 1, 32, 32), 1)
    free = model.run(images, ())["logits"]
    taken = []
    run = model._session.run
    model._session.run = lambda feeds: taken.append(feeds["image"].shape) or run(feeds)
    model._input = model._input.model_copy(update={"shape": [4, 1, 32, 32]})
    np.testing.assert_allclose(model.run(images, ())["logits"], free, atol=1e-6)
    assert model.batch == 4
    assert taken == [(4, 1, 32, 32)]
    assert model.macs(images) == {
        name: count for name, count in model.macs(images).items() if count
    }


class _TwoOutputs:
    """A model whose sites add numbers to its outputs."""

    batch = 4
    outputs = (
        TensorSpec(name="stage1", dtype="float32", shape=["batch", 3, 2, 2]),
        TensorSpec(name="stage2", dtype="float32", shape=["batch", 5]),
    )

    def __init__(self) -> None:
        self.runs = 0

    def run(self, images: np.ndarray, lowered: Collection[str]) -> dict[str, np.ndarray]:
        self.runs += 1
        first, second = np.ones((len(images), 12)), np.full((len(images), 5), 10.0)
        if "first" in lowered:
            first = first + 0.1
        if "broken" in lowered:
            second = second * np.inf
        return {"stage1": first.astype(np.float32), "stage2": second.astype(np.float32)}


def test_a_backbone_is_measured_by_the_mean_over_its_outputs() -> None:
    class Data:
        name, task, classes, notes = "data", None, None, ()

        def __len__(self) -> int:
            return 6

        def load(self, index: int) -> Sample:
            return Sample(str(index), np.zeros((1, 2, 2), np.float32))

    model, heard = _TwoOutputs(), []
    measurer = Measurer(model, Batches(Data(), 4, "refuse", heard.append))
    exact, first, broken = measurer.measure([(), {"first"}, {"first", "broken"}], heard.append)
    assert exact.noise == 0
    assert first.noise == pytest.approx(0.01 / 2)
    assert broken.noise is None
    assert first.scores is None
    assert heard == pytest.approx([share / 6 for share in range(1, 7)])
    assert model.runs == 2 * 3
    measurer.measure([{"first"}])
    assert model.runs == 2 * 4, "the float32 outputs are kept"


def test_budgets() -> None:
    good, bad = (
        Effect(noise=1e-3, sqnr_db=30, metric=0.9, drop=0.3),
        Effect(noise=None, sqnr_db=None),
    )
    assert Budget(max_drop=0.3).holds(good)
    assert not Budget(max_drop=0.29).holds(good)
    assert Budget(min_sqnr=30).holds(good)
    assert not Budget(max_drop=0.3, min_sqnr=31).holds(good)
    assert not Budget(min_sqnr=-100).holds(bad)
    assert not Budget(max_drop=100).holds(bad)
    assert not Budget()
    assert Budget(max_drop=0.0)
