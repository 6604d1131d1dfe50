"""verify: agreement is confirmed, and every kind of disagreement is found and named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from dinat_deploy.bundle import Case, open_bundle, write_cases
from dinat_deploy.errors import BundleError, MissingDependencyError
from dinat_deploy.files import sha256
from dinat_deploy.parity import Tolerance
from dinat_deploy.pipeline import verifying
from dinat_deploy.pipeline.verifying import verify
from dinat_deploy.session import onnxruntime_session


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture
def photo(tmp_path: Path, rng: np.random.Generator) -> Path:
    pixels = rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def change_model(bundle: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    """Edit the ONNX file and make the manifest believe that it was exported so."""
    path = bundle / "model.onnx"
    before = sha256(path)
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    manifest = bundle / "model.json"
    manifest.write_text(manifest.read_text().replace(before, sha256(path)))


def test_recorded_random_and_picture_inputs_agree(tiny_bundle: Path, photo: Path) -> None:
    report = verify(tiny_bundle, images=[photo], random_cases=2)
    assert report.passed
    assert [case.origin for case in report.cases] == ["recorded"] * 2 + ["random"] * 2 + ["image"]
    assert report.reference.startswith("PyTorch")
    assert report.candidate.startswith("ONNX Runtime")
    assert report.layers == []
    assert all(case.outputs["logits"].argmax_agreement == 1.0 for case in report.cases)


def test_layers_come_in_the_order_they_run(tiny_bundle: Path) -> None:
    report = verify(tiny_bundle, layers=True)
    assert [layer.name for layer in report.layers] == [
        "patch_embed", "levels.0.blocks.0", "levels.0.blocks.1", "levels.1.blocks.0",
    ]  # fmt: skip
    assert report.first_difference is None


def break_dilation(model: onnx.ModelProto) -> None:
    """What a tool that dropped or misread an attribute would do: no weight is touched."""
    nodes = [node for node in model.graph.node if node.domain == "dinat"]
    for attribute in nodes[1].attribute:
        if attribute.name == "dilation":
            attribute.ints[:] = [1, 1]


def test_the_first_layer_that_differs_is_named(bundle: Path) -> None:
    change_model(bundle, break_dilation)
    report = verify(bundle, layers=True)
    assert not report.passed
    assert report.first_difference == "levels.0.blocks.1"
    assert report.to_dict()["first_difference"] == "levels.0.blocks.1"
    assert [layer.errors.passed for layer in report.layers] == [True, True, False, False]


def test_a_wrong_result_fails_without_layers_too(bundle: Path) -> None:
    change_model(bundle, break_dilation)
    assert not verify(bundle).passed


def test_altered_weights_are_noticed_by_their_digest(bundle: Path) -> None:
    def scale_head(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name == "head.weight":
                array = numpy_helper.to_array(tensor) * np.float32(1.001)
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    change_model(bundle, scale_head)
    with pytest.raises(BundleError, match=r"The weights in .*model\.onnx have SHA-256"):
        verify(bundle)


def test_altered_references_are_noticed(bundle: Path) -> None:
    cases = open_bundle(bundle).reference()
    wrong = {name: array + 0.1 for name, array in cases[1].outputs.items()}
    write_cases(bundle / "reference.npz", [cases[0], Case(cases[1].name, cases[1].inputs, wrong)])
    with pytest.raises(BundleError, match="recorded output logits of case 1-1x3x64x64 is off by"):
        verify(bundle)


def test_tighter_tolerances_fail(tiny_bundle: Path) -> None:
    assert not verify(tiny_bundle, tolerance=Tolerance(0.0, 0.0)).passed


class TestWithoutTorch:
    @pytest.fixture(autouse=True)
    def no_torch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(verifying, "_has_torch", lambda: False)

    def test_recorded_outputs_take_its_place(self, tiny_bundle: Path) -> None:
        report = verify(tiny_bundle)
        assert report.passed
        assert report.reference.startswith("recorded outputs of PyTorch 2")
        assert [case.origin for case in report.cases] == ["recorded", "recorded"]
        assert report.notes == ["PyTorch is not installed: compared with recorded outputs only."]

    def test_differences_are_still_found(self, bundle: Path) -> None:
        change_model(bundle, break_dilation)
        assert not verify(bundle).passed

    @pytest.mark.parametrize("options", [{"layers": True}, {"images": ["x.png"]}])
    def test_pictures_and_layers_need_it(
        self, options: dict[str, object], tiny_bundle: Path
    ) -> None:
        with pytest.raises(MissingDependencyError, match="needs PyTorch, which is not installed"):
            verify(tiny_bundle, **options)


def test_files_without_a_body_need_the_operators_library(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime_session, "find_library", lambda name: None)
    manifest = bundle / "model.json"
    manifest.write_text(manifest.read_text().replace('"body": true', '"body": false'))
    with pytest.raises(BundleError, match="has no body for the operator"):
        verify(bundle)
