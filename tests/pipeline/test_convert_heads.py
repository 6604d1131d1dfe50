"""``convert`` of models with heads: a detector, and queries with masked attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dinat_deploy.bundle import open_bundle
from dinat_deploy.errors import ConversionError
from dinat_deploy.graph import schema
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.decoders import Mask2Former, MaskRCNN
from dinat_deploy.pipeline import conversion_checks
from dinat_deploy.pipeline.converting import convert
from dinat_deploy.pipeline.exporting import export
from dinat_deploy.pipeline.requests import ModelRequest

BACKBONE = ModelConfig(
    embed_dim=8,
    depths=(1, 1, 1, 1),
    num_heads=(1, 2, 4, 8),
    kernel_size=3,
    mlp_ratio=2.0,
    num_classes=5,
    image_size=(64, 96),
)
DETECTOR = BACKBONE.replace(
    decoder=MaskRCNN(
        channels=16,
        box_dim=16,
        mask_convs=1,
        proposals_per_level=60,
        proposals=40,
        detections=20,
    )
)
QUERIES = BACKBONE.replace(
    decoder=Mask2Former(
        num_queries=6,
        hidden_dim=32,
        mask_dim=16,
        num_heads=2,
        encoder_layers=1,
        encoder_ffn=16,
        decoder_layers=2,
        decoder_ffn=16,
    )
)


@pytest.fixture(autouse=True)
def _no_library_of_this_machine(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DINAT_NATIVE_DIR", str(tmp_path_factory.mktemp("native")))


def exported(config: ModelConfig, place: Path) -> Path:
    (place / "config.json").write_text(config.model_dump_json())
    export(ModelRequest(config=place / "config.json"), place / "out", verify=False)
    return place / "out"


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(DETECTOR, tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(QUERIES, tmp_path_factory.mktemp("queries"))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_detector_is_compared_while_it_follows_the_float32_choices(
    precision: str, detector: Path
) -> None:
    report = convert(detector, precision, random_cases=1)  # type: ignore[arg-type]
    first, *others = report.runs
    assert all(run.passed for run in report.runs)
    assert first.same_detections is not None
    assert 0 <= first.same_detections <= 1
    assert all(run.same_detections is None for run in others)
    assert first.argmax_agreement is None  # rows of boxes are not classes
    assert any("followed the float32 model's choices" in note for note in report.notes)
    # The file itself makes its own choices.
    opened = open_bundle(detector)
    assert [spec.name for spec in report.variant.inputs] == ["image"]
    model = ir.load(opened.variant_path(precision))
    assert [value.name for value in model.graph.inputs] == ["image"]
    types = {str(value.name): value.dtype for value in model.graph.outputs}
    assert types["boxes"] == types["scores"] == ir.DataType.FLOAT
    assert types["labels"] == ir.DataType.INT64


def test_boxes_that_are_off_are_found(detector: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def off(model: ir.Model, path: Path, *, external: bool = False) -> None:
        if path.name == "model.fp16.onnx":
            value = model.graph.initializers["roi_head.bbox_head.fc_reg.bias"]
            assert value.const_value is not None
            value.const_value = ir.tensor(value.const_value.numpy() + 3, dtype=value.dtype)
        ir.save(model, path)

    monkeypatch.setattr(conversion_checks, "save", off)
    with pytest.raises(ConversionError, match="boxes is off by"):
        convert(detector, "fp16", random_cases=0)


def test_masked_attention_is_converted(queries: Path) -> None:
    schema.register()
    model = ir.load(queries / "model.onnx")
    holes = [
        value
        for value in model.graph.initializers.values()
        if value.const_value is not None and np.isneginf(value.const_value.numpy()).any()
    ]
    assert holes
    report = convert(queries, "fp16", random_cases=0)
    assert all(run.passed for run in report.runs)
    assert all(np.isfinite(value) for value in report.ranges.values())
    reasons = {island.reason for island in report.variant.float32}
    assert "the places that GridSample reads at" in reasons
