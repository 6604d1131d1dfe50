"""Variants that take pixels, ``convert --io uint8``: converted, verified, classified with, measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from PIL import Image

from dinat_deploy.bundle import open_bundle, read_cases
from dinat_deploy.engine import checks
from dinat_deploy.engine.builder import Gpu
from dinat_deploy.errors import BundleError, ConversionError, MissingDependencyError
from dinat_deploy.files import sha256
from dinat_deploy.models.preprocessing import load_pixels
from dinat_deploy.pipeline import conversion_writing, running, verifying
from dinat_deploy.pipeline.benching import bench
from dinat_deploy.pipeline.conversion_report import ConvertReport
from dinat_deploy.pipeline.converting import convert
from dinat_deploy.pipeline.inferring import infer
from dinat_deploy.pipeline.verifying import VerifyReport, verify
from dinat_deploy.session.onnxruntime_session import OnnxRuntimeSession
from tests.session.simulator.machine import SimulatedMachine, simulated_gpu

__all__ = ["simulated_gpu"]  # a fixture, used by name

FILE = "model.fp16.onnx"


@pytest.fixture(autouse=True)
def _no_library_of_this_machine(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DINAT_NATIVE_DIR", str(tmp_path_factory.mktemp("native")))


@pytest.fixture(scope="module")
def reports(
    tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ConvertReport, ConvertReport]:
    """A variant that takes pixels and one that does not. Do not change their bundles."""
    folder = tmp_path_factory.mktemp("pixels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DINAT_NATIVE_DIR", str(folder / "no libraries"))
        return (
            convert(shutil.copytree(tiny_bundle, folder / "tiny"), "fp16", io="uint8"),
            convert(shutil.copytree(tiny_bundle, folder / "plain"), "fp16"),
        )


@pytest.fixture(scope="module")
def made(reports: tuple[ConvertReport, ConvertReport]) -> Path:
    """The tiny bundle with a variant that takes pixels. Do not change it."""
    return reports[0].path.parent


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(made, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(11)
    paths = [folder / f"{number}.png" for number in range(3)]
    for path in paths:
        coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        coarse.resize((120, 90), Image.Resampling.BICUBIC).save(path)
    return paths


class TestConvert:
    def test_the_variant_says_that_it_takes_pixels(
        self, made: Path, reports: tuple[ConvertReport, ConvertReport]
    ) -> None:
        report, plain = reports
        variant = open_bundle(made).variants[FILE]
        assert variant == report.variant
        assert variant.takes_pixels
        assert [(t.name, t.dtype, t.shape) for t in variant.inputs] == [
            ("image", "uint8", [1, 3, 64, 64])
        ]
        assert [(t.name, t.dtype) for t in variant.outputs] == [("logits", "float")]
        assert json.loads((made / "model.json").read_text())["format_version"] == 3
        onnx.checker.check_model(str(report.path), full_check=True)
        types = {t.data_type for t in onnx.load(report.path).graph.initializer}
        assert TensorProto.FLOAT16 in types
        assert report.size_after < plain.size_after + 2000

    def test_it_is_as_close_to_the_float32_model_as_with_a_float32_input(
        self, reports: tuple[ConvertReport, ConvertReport]
    ) -> None:
        report, plain = reports
        assert [run.simulated for run in report.runs] == [False, True]
        assert [run.inputs for run in report.runs] == [4, 4]
        for one, other in zip(report.runs, plain.runs, strict=True):
            assert 0 < one.max_abs < 2 * other.max_abs

    def test_ranges_are_those_of_pixels(
        self, made: Path, reports: tuple[ConvertReport, ConvertReport]
    ) -> None:
        """Made-up inputs reach further than any picture does; what is given cannot."""
        how = open_bundle(made).manifest.preprocessing
        most = max((1 - m) / s for m, s in zip(how.mean, how.std, strict=True))
        cases = read_cases(made / "reference.npz")
        assert max(np.abs(case.inputs["image"]).max() for case in cases) > most
        by_pixels, by_numbers = reports
        assert by_pixels.ranges != by_numbers.ranges

    def test_a_wrong_normalisation_is_not_written(
        self, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        right = conversion_writing.take_pixels
        monkeypatch.setattr(
            conversion_writing,
            "take_pixels",
            lambda model, mean, std: right(model, mean, [1.1 * x for x in std]),
        )
        bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "b"))
        with pytest.raises(ConversionError, match="float16 model loses accuracy"):
            convert(bundle, "fp16", io="uint8")
        assert open_bundle(bundle).variants == {}

    def test_bfloat16_takes_pixels_too_and_the_same_bytes_come_again(
        self, tiny_bundle: Path, tmp_path: Path
    ) -> None:
        bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
        report = convert(bundle, "bf16", io="uint8")
        checked = report.variant.verification
        assert checked is not None and checked.passed and checked.simulated
        again = convert(bundle, "bf16", io="uint8", verify=False)
        assert again.variant.sha256 == report.variant.sha256


def edit_shift(bundle: Path, by: float) -> None:
    """Change the normalisation as if it had been converted so."""
    path = bundle / FILE
    before = sha256(path)
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if t.name == "image/pixel_shift")
    shifted = numpy_helper.to_array(tensor) + np.float32(by)
    tensor.CopyFrom(numpy_helper.from_array(shifted, tensor.name))
    onnx.save(model, path)
    manifest = bundle / "model.json"
    manifest.write_text(manifest.read_text().replace(before, sha256(path)))


class TestVerify:
    def test_both_sides_see_the_same_pixels(self, made: Path, photos: list[Path]) -> None:
        report = verify(made / FILE, images=photos[:1])
        assert report.passed
        assert report.reference.startswith("PyTorch ")
        assert report.reference.endswith(", float32, on the same pixels")
        assert [case.origin for case in report.cases] == ["recorded"] * 2 + ["random", "image"]
        worst = max(case.outputs["logits"].relative for case in report.cases)
        assert 0 < worst < 2e-3
        assert any("both sides were given those nearest" in note for note in report.notes)

    def test_a_wrong_normalisation_is_found(self, bundle: Path) -> None:
        edit_shift(bundle, 2.0)
        assert not verify(bundle / FILE).passed

    def test_layers_are_compared(self, made: Path) -> None:
        report = verify(made / FILE, layers=True, random_cases=0)
        assert report.passed
        assert [layer.name for layer in report.layers][:2] == ["patch_embed", "levels.0.blocks.0"]

    def test_without_torch_the_float32_model_runs_in_onnx_runtime(
        self, made: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(verifying, "_has_torch", lambda: False)
        report = verify(made / FILE)
        assert report.passed
        assert report.reference.startswith("ONNX Runtime ")
        assert report.reference.endswith(", float32, on the same pixels")
        assert [case.origin for case in report.cases] == ["recorded", "recorded", "random"]

    def test_pytorch_itself_goes_on_to_take_normalised_images(self, made: Path) -> None:
        report = verify(f"torch:{made / FILE}")
        assert report.passed
        assert not report.reference.endswith("pixels")


def test_pictures_are_classified_as_by_the_float32_model(made: Path, photos: list[Path]) -> None:
    by_pixels = infer(made / FILE, photos, top=10)
    by_float32 = infer(made, photos, top=10)
    for one, other in zip(by_pixels, by_float32, strict=True):
        for guess, expected in zip(one.predictions, other.predictions, strict=True):
            assert guess.index == expected.index
            assert guess.probability == pytest.approx(expected.probability, abs=2e-3)


def test_what_pillow_resized_can_be_fed_as_it_is(made: Path, photos: list[Path]) -> None:
    """The layout is that of model.onnx; only the numbers are others."""
    how = open_bundle(made).manifest.preprocessing
    session = OnnxRuntimeSession(made / FILE, custom_op=False)
    plain = OnnxRuntimeSession(made / "model.onnx", custom_op=False)
    pixels = load_pixels(photos[:1], how)
    expected = plain.run({"image": how.normalize(pixels)})["logits"]
    assert np.abs(session.run({"image": pixels})["logits"] - expected).max() < 5e-3


def test_the_variant_is_measured_beside_the_float32_model(made: Path) -> None:
    report = bench([made / FILE, made], warm_up=0, duration=0, iterations=2, idle_time=0)
    assert [result.shapes for result in report.results] == [{"image": [1, 3, 64, 64]}] * 2


class TestEngines:
    @pytest.fixture
    def machine(
        self, simulated_gpu: SimulatedMachine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> SimulatedMachine:
        """The simulated GPU, also seen by the checks before an engine is loaded."""
        gpu = Gpu(name="NVIDIA Simulated 4090", capability="89", driver="13.0")
        monkeypatch.setattr(checks, "current_gpu", lambda: gpu)
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
        return simulated_gpu

    @pytest.fixture
    def engine(self, machine: SimulatedMachine, bundle: Path) -> Path:
        return machine.engine(bundle / FILE, bundle / "engines" / "pixels")

    def test_it_is_verified_on_pixels(self, engine: Path, photos: list[Path]) -> None:
        report = verify(engine, images=photos[:1], rtol=2e-3)
        assert report.passed
        assert report.reference.endswith("on the same pixels")

    def test_pictures_are_classified(self, engine: Path, photos: list[Path]) -> None:
        best = [guess.predictions[0].index for guess in infer(engine, photos)]
        assert best == [guess.predictions[0].index for guess in infer(engine.parents[1], photos)]

    def test_it_is_measured(self, engine: Path) -> None:
        report = bench(str(engine), warm_up=0, duration=0, iterations=2, idle_time=0)
        assert report.results[0].shapes == {"image": [1, 3, 64, 64]}

    def test_a_plan_without_manifest_or_bundle_is_measured(
        self, engine: Path, tmp_path: Path
    ) -> None:
        plan = shutil.copy(engine / "model.plan", tmp_path / "bare.plan")
        report = bench(str(plan), trust=True, warm_up=0, duration=0, iterations=2, idle_time=0)
        assert report.results[0].shapes == {"image": [1, 3, 64, 64]}

    def test_dynamic_shapes_are_pixels_too(
        self, machine: SimulatedMachine, dynamic_bundle: Path, tmp_path: Path, photos: list[Path]
    ) -> None:
        bundle = Path(shutil.copytree(dynamic_bundle, tmp_path / "dynamic"))
        convert(bundle, "fp16", io="uint8", verify=False)
        profile = {"image": ([1, 3, 48, 48], [2, 3, 64, 64], [3, 3, 64, 96])}
        engine = machine.engine(bundle / FILE, bundle / "engines" / "e", profiles=[profile])
        report: VerifyReport = verify(engine, rtol=1e-2)
        assert report.passed
        made_up = [case.shapes["image"] for case in report.cases if case.origin == "random"]
        assert made_up == [list(shape) for shape in profile["image"]]
        assert len(infer(engine, photos)) == 3

    def test_an_engine_of_a_variant_needs_no_onnx_file_beside_it(
        self, bundle: Path, engine: Path, photos: list[Path], tmp_path: Path
    ) -> None:
        """A device has the engine and the manifests, and of the bundle's models none."""
        without = shutil.ignore_patterns("*.onnx")
        device = shutil.copytree(bundle, tmp_path / "device", ignore=without) / "engines" / "pixels"
        assert infer(device, photos)[0].predictions == infer(engine, photos)[0].predictions
        with pytest.raises(BundleError, match="takes pixels, .*model.onnx, which could compute"):
            verify(device)

    def test_where_nothing_runs_the_float32_model_both_ways_to_do_so_are_named(
        self, engine: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def missing() -> None:
            raise MissingDependencyError("no onnxruntime", "install it")

        monkeypatch.setattr(verifying, "_has_torch", lambda: False)
        monkeypatch.setattr(running, "import_onnxruntime", missing)
        with pytest.raises(MissingDependencyError, match="neither PyTorch nor ONNX Runtime"):
            verify(engine)
