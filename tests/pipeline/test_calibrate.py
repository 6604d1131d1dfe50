"""``calibrate``, and ``convert`` to INT8 and FP8: what is recorded, written, refused."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto

import dinat_deploy
from dinat_deploy.bundle import Bundle, open_bundle
from dinat_deploy.calibration.tensorrt_cache import read_cache
from dinat_deploy.errors import BundleError, ConfigError, ConversionError, DataError
from dinat_deploy.files import sha256
from dinat_deploy.graph import schema
from dinat_deploy.graph.formats import QUANTIZED_FORMATS
from dinat_deploy.models.seeding import seeded_image
from dinat_deploy.pipeline.calibrating import calibrate
from dinat_deploy.pipeline.quantizing import QuantizeOptions, quantizable_tensors
from dinat_deploy.session.onnxruntime_session import OnnxRuntimeSession

IMAGES = [seeded_image((3, 64, 64), seed) for seed in range(5)]
REST32 = QuantizeOptions(rest="fp32")


@pytest.fixture(autouse=True)
def _no_library_of_this_machine(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DINAT_NATIVE_DIR", str(tmp_path_factory.mktemp("native")))


@pytest.fixture(scope="module")
def calibrated(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated bundle without variants. Do not change it."""
    place = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("calibrated") / "bundle"))
    calibrate(place, IMAGES, precision=None)
    return place


@pytest.fixture
def bundle(calibrated: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(calibrated, tmp_path / "bundle"))


def all_tensors(opened: Bundle, images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Every tensor that could be quantized, for all images together."""
    schema.register()
    names = quantizable_tensors(ir.load(opened.model_path), QUANTIZED_FORMATS["int8"])
    inside = [name for name in names if name != "image"]
    session = OnnxRuntimeSession(opened.model_path, taps=inside)
    runs = [{"image": image[None], **session.run({"image": image[None]})} for image in images]
    return {name: np.concatenate([run[name] for run in runs]) for name in names}


def types(path: Path) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in onnx.load(path).graph.initializer}


def test_the_ranges_are_those_of_the_tensors_on_the_images(calibrated: Path) -> None:
    report = calibrate(calibrated, precision=None)
    found = report.calibration
    expected = all_tensors(open_bundle(calibrated), IMAGES)
    assert list(found.ranges) == list(expected)
    assert "levels.0.blocks.0.attn.qkv/Add:0" in found.ranges  # for attention=True
    for name, values in expected.items():
        largest = np.abs(values).max()
        assert found.ranges[name].max == largest, name
        assert found.ranges[name].values == values.size
        for estimator in ("entropy", "percentile", "mse"):
            assert 0.3 * largest < getattr(found.ranges[name], estimator) <= largest, name
    assert found.model_sha256 == sha256(calibrated / "model.onnx")
    assert found.data.images == 5


def test_the_same_images_give_the_same_bytes(bundle: Path) -> None:
    names = ("calibration.json", "calibration.npz", "model.int8.onnx")
    calibrate(bundle, IMAGES, quantize=REST32)
    first = [sha256(bundle / name) for name in names]
    for name in names:
        (bundle / name).unlink()
    calibrate(bundle, iter(IMAGES), quantize=REST32)
    assert [sha256(bundle / name) for name in names] == first
    assert not [path for path in bundle.iterdir() if path.name.startswith(".")]


def test_the_quantized_model_is_recorded_and_close(bundle: Path) -> None:
    report = calibrate(bundle, quantize=REST32, verify=False)
    assert report.conversion is not None
    variant = open_bundle(bundle).variants["model.int8.onnx"]
    assert variant == report.conversion.variant
    quantization = variant.quantization
    assert quantization is not None
    assert quantization.macs > 0.75
    assert len(quantization.nodes) == 2 + 3 * 4 + 1
    assert {reason.split(":")[0] for reason in (group.reason for group in quantization.excluded)} == {
        "neighborhood attention", "the head of the output logits",
    }  # fmt: skip
    assert quantization.calibration_sha256 == sha256(bundle / "calibration.json")
    stored = types(bundle / "model.int8.onnx")
    assert stored["levels.0.blocks.0.attn.qkv.weight.T/int8"] == TensorProto.INT8
    assert stored["head.weight"] == TensorProto.FLOAT

    float32 = OnnxRuntimeSession(bundle / "model.onnx")
    int8 = OnnxRuntimeSession(bundle / "model.int8.onnx")
    for image in IMAGES:
        expected = float32.run({"image": image[None]})["logits"]
        difference = np.abs(int8.run({"image": image[None]})["logits"] - expected).max()
        assert 0 < difference < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("precision", "options"),
    [
        ("int8", {}),
        ("int8", {"rest": "bf16", "residual": True, "attention": True}),
        ("fp8", {"rest": "fp32", "include": ["head/*"]}),
    ],
)
def test_the_rest_may_be_of_another_type(
    bundle: Path, precision: Any, options: dict[str, Any]
) -> None:
    report = dinat_deploy.convert(
        bundle, precision, quantize=QuantizeOptions(**options), random_cases=0
    )
    rest = options.get("rest", "fp16")
    expected = {
        "fp32": TensorProto.FLOAT,
        "fp16": TensorProto.FLOAT16,
        "bf16": TensorProto.BFLOAT16,
    }
    stored = types(report.path)
    assert stored["levels.0.blocks.0.attn.rpb"] == expected[rest]
    # Sums of quantized products are scaled in float32.
    assert stored["levels.0.blocks.0.attn.qkv.bias"] == TensorProto.FLOAT
    assert stored["levels.0.blocks.0.attn.qkv.weight.T/scale"] == TensorProto.FLOAT
    assert stored["levels.0.blocks.0.norm1.weight"] == TensorProto.FLOAT
    quantization = report.variant.quantization
    assert quantization is not None
    assert ("head/Gemm" in quantization.nodes) == ("include" in options)
    assert len(quantization.pairs) == (3 + 6 if options.get("residual") else 0)
    assert [run.simulated for run in report.runs] == {
        "fp32": [False], "fp16": [False, True], "bf16": [True],
    }[rest]  # fmt: skip
    onnx.checker.check_model(str(report.path), full_check=True)


def test_pixels_come_before_the_first_quantized_convolution(bundle: Path) -> None:
    report = dinat_deploy.convert(bundle, "int8", quantize=REST32, io="uint8", random_cases=0)
    graph = onnx.load(report.path).graph
    assert graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    readers = [node for node in graph.node if "image/normalized" in node.input]
    assert [node.op_type for node in readers] == ["QuantizeLinear"]
    assert report.variant.takes_pixels


def test_excluded_nodes_stay_as_they_are(bundle: Path, tmp_path: Path) -> None:
    from dinat_deploy.pipeline.quantizing import options_from

    listed = tmp_path / "exclude.txt"
    listed.write_text("# found by sensitivity\nlevels.0.*  # 12.3 dB\n\n")
    options = options_from({"rest": "fp32", "exclude": [f"@{listed}", "patch_embed*"]})
    report = dinat_deploy.convert(bundle, "int8", quantize=options, verify=False)
    quantization = report.variant.quantization
    assert quantization is not None
    assert all(node.startswith("levels.1.") for node in quantization.nodes)
    stored = types(report.path)
    assert "levels.0.blocks.0.mlp.fc1.weight.T" in stored
    assert "levels.1.blocks.0.mlp.fc1.weight.T/int8" in stored


def test_other_ranges_need_no_images(bundle: Path) -> None:
    before = open_bundle(bundle).path / "calibration.json"
    narrow = calibrate(bundle, precision=None, percentile=90).calibration
    assert narrow.settings.percentile == 90
    wide = calibrate(bundle, precision=None).calibration
    assert before.read_text() == wide.model_dump_json(indent=2) + "\n"
    for name in wide.ranges:
        assert narrow.ranges[name].percentile < wide.ranges[name].percentile
        assert narrow.ranges[name].mse == wide.ranges[name].mse


def test_pictures_are_never_clipped(bundle: Path) -> None:
    """Entropy keeps the background, which is most of a picture, at the expense of the rest."""
    background = [np.where(np.abs(image) > 2.5, image, np.float32(-0.5)) for image in IMAGES]
    found = calibrate(
        bundle, background, quantize=QuantizeOptions("fp32", "entropy"), verify=False
    ).calibration.ranges["image"]
    assert found.entropy < 0.9 * found.max
    graph = onnx.load(bundle / "model.int8.onnx").graph
    scale = next(t for t in graph.initializer if t.name == "image/scale")
    assert onnx.numpy_helper.to_array(scale) == np.float32(found.max / 127)


def test_a_cache_for_older_versions_of_tensorrt(bundle: Path) -> None:
    report = calibrate(bundle, precision=None, tensorrt_cache="10.3.0")
    assert report.cache == bundle / "calibration.cache"
    cache = read_cache(report.cache)
    assert cache.version == 100300
    for name, found in report.calibration.ranges.items():
        expected = found.max if name == "image" else found.percentile
        assert cache.ranges[name] == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ConversionError, match="11.0 reads no calibration cache"):
        calibrate(bundle, precision=None, tensorrt_cache="11.0")


def test_what_cannot_be_quantized_is_refused_before_anything_runs(
    bundle: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    fresh = Path(shutil.copytree(tiny_bundle, tmp_path / "fresh"))
    with pytest.raises(BundleError, match=r"no calibration.json") as caught:
        dinat_deploy.convert(fresh, "int8")
    assert "dinat-deploy calibrate" in caught.value.cure
    with pytest.raises(BundleError, match=r"nothing was recorded before"):
        calibrate(fresh)
    with pytest.raises(BundleError, match="is not the model of its bundle"):
        calibrate(bundle / "reference.npz")
    with pytest.raises(ConfigError, match="mse assumes levels of equal distance"):
        calibrate(bundle, IMAGES, precision="fp8", quantize=QuantizeOptions(estimator="mse"))
    with pytest.raises(ConfigError, match="fp16 quantizes nothing"):
        dinat_deploy.convert(bundle, "fp16", quantize=REST32)
    with pytest.raises(ConfigError, match=r"No node that could be quantized is named like 'lev'"):
        dinat_deploy.convert(bundle, "int8", quantize=QuantizeOptions(exclude=["lev"]))
    with pytest.raises(ConfigError, match="No node is left to compute in int8"):
        dinat_deploy.convert(bundle, "int8", quantize=QuantizeOptions(exclude=["*"]))
    with pytest.raises(ConfigError, match="inputs and outputs fp16"):
        dinat_deploy.convert(bundle, "int8", quantize=REST32, io="fp16")
    with pytest.raises(ConfigError, match="float32 already"):
        dinat_deploy.convert(bundle, "int8", quantize=REST32, keep_float32=["levels.0.*"])


def test_ranges_of_another_model_are_refused(bundle: Path) -> None:
    path = bundle / "calibration.json"
    text = path.read_text()
    digest = open_bundle(bundle).digest()
    path.write_text(text.replace(digest, "0" * 64))
    with pytest.raises(BundleError, match="was recorded with a model of SHA-256 000000000000"):
        dinat_deploy.convert(bundle, "int8")
    path.write_text(text[: len(text) // 2])
    with pytest.raises(BundleError, match=r"calibration.json"):
        dinat_deploy.convert(bundle, "int8")


def test_bad_images_are_named_and_may_be_skipped(bundle: Path) -> None:
    broken = [*IMAGES[:2], np.full((3, 64, 64), np.nan, np.float32), IMAGES[2]]
    with pytest.raises(DataError, match="2"):
        calibrate(bundle, broken, precision=None)
    data = calibrate(bundle, broken, precision=None, on_bad="skip").calibration.data
    assert data.images == 3
    assert len(data.skipped) == 1
    with pytest.raises(DataError):
        calibrate(bundle, [], precision=None)


def test_an_interrupted_recording_goes_on_where_it_was(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = calibrate(bundle, IMAGES, precision=None).calibration
    run, calls = OnnxRuntimeSession.run, []

    def stops(self: OnnxRuntimeSession, feeds: Any) -> Any:
        calls.append(feeds)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return run(self, feeds)

    monkeypatch.setattr(OnnxRuntimeSession, "run", stops)
    with pytest.raises(KeyboardInterrupt):
        calibrate(bundle, IMAGES, precision=None)
    assert calibrate(bundle, IMAGES, precision=None).calibration == expected
    assert len(calls) == 4 + 5 - 3  # three were counted already
