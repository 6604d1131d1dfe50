"""Export end to end: what lands in the bundle, and what must not land anywhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from dinat_deploy.bundle import open_bundle
from dinat_deploy.errors import CheckpointError, ConfigError, ExportError, OutputError
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.model_card import save_model
from dinat_deploy.models.preprocessing import Preprocessing
from dinat_deploy.models.weights import seeded_model
from dinat_deploy.models.zoo import VARIANTS, get_variant
from dinat_deploy.parity import Tolerance
from dinat_deploy.pipeline import exporting
from dinat_deploy.pipeline.exporting import ExportReport, export, smallest_unpadded_size
from dinat_deploy.pipeline.sources import ModelRequest, resolve
from dinat_deploy.pipeline.verifying import verify
from tests.conftest import TINY


def test_a_bundle_holds_model_manifest_and_reference(tiny_export: ExportReport) -> None:
    names = sorted(entry.name for entry in tiny_export.path.iterdir())
    assert names == ["model.json", "model.onnx", "reference.npz"]
    onnx.checker.check_model(str(tiny_export.path / "model.onnx"), full_check=True)
    assert tiny_export.file_size == (tiny_export.path / "model.onnx").stat().st_size
    manifest = open_bundle(tiny_export.path).manifest
    assert manifest == tiny_export.manifest
    assert manifest.weights.source == "seeded"
    assert manifest.weights.seed == 0
    assert manifest.versions["torch"] == torch.__version__


def test_the_same_request_gives_the_same_bytes(
    tiny_export: ExportReport, tiny_config_file: Path, tmp_path: Path
) -> None:
    again = export(ModelRequest(config=tiny_config_file), tmp_path / "again")
    for name in ("model.onnx", "model.json"):
        assert (again.path / name).read_bytes() == (tiny_export.path / name).read_bytes()


@pytest.mark.parametrize("dynamic", [("batch",), ("size",), ("batch", "size")])
def test_dynamic_bundles_are_verified_along_their_open_axes(
    dynamic: tuple[str, ...], tiny_config_file: Path, tmp_path: Path
) -> None:
    report = export(
        ModelRequest(config=tiny_config_file),
        tmp_path / "b",
        dynamic=dynamic,
        size_range=(20, 200) if "size" in dynamic else None,
    )
    shapes = {case.inputs["image"].shape for case in open_bundle(report.path).reference()}
    assert len({shape[0] for shape in shapes}) == 1 + ("batch" in dynamic)
    assert len({shape[2:] for shape in shapes}) == (3 if "size" in dynamic else 1)
    assert verify(report.path, layers=True).passed


def test_the_default_size_range_starts_where_nothing_pads(
    tiny_config_file: Path, tmp_path: Path
) -> None:
    assert smallest_unpadded_size(TINY) == 45  # 12 tokens of 4 pixels, the last one cut short
    report = export(ModelRequest(config=tiny_config_file), tmp_path / "b", dynamic=["size"])
    assert report.manifest.graph.size_range == (45, 4096)
    model = onnx.load(tmp_path / "b" / "model.onnx")
    assert "Pad" not in {node.op_type for node in model.graph.node}


def test_a_dynamic_size_includes_the_image_size(tmp_path: Path) -> None:
    small = TINY.replace(image_size=(32, 40))  # 45 pixels are the smallest that need no padding
    (tmp_path / "c.json").write_text(small.model_dump_json())
    report = export(ModelRequest(config=tmp_path / "c.json"), tmp_path / "b", dynamic=["size"])
    assert report.manifest.graph.size_range == (32, 4096)
    assert verify(report.path).passed


def test_a_dynamic_size_starts_where_every_level_has_two_tokens(tmp_path: Path) -> None:
    config = TINY.replace(depths=(1, 1, 1), num_heads=(2, 2, 2), image_size=(24, 24))
    (tmp_path / "c.json").write_text(config.model_dump_json())
    request = ModelRequest(config=tmp_path / "c.json")
    with pytest.raises(ConfigError, match=r"starts below 17 pixels.*Write it as .* MIN from 17"):
        export(request, tmp_path / "b", dynamic=["size"], size_range=(16, 64))
    report = export(request, tmp_path / "b", dynamic=["size"], size_range=(17, 64))
    assert verify(report.path).passed


@pytest.mark.parametrize("name", [n for n, v in VARIANTS.items() if not v.config.global_attention])
def test_smallest_unpadded_sizes_are_tight(name: str) -> None:
    config = VARIANTS[name].config
    spans = [max(level) * config.kernel_size for level in config.dilations]

    def fits(side: int) -> bool:
        sizes = config.feature_sizes((side, side))
        return all(size[0] >= span for size, span in zip(sizes, spans, strict=True))

    smallest = smallest_unpadded_size(config)
    assert fits(smallest)
    assert not fits(smallest - 1)
    assert smallest <= config.image_size[0]


def test_without_a_body_the_file_is_stripped_but_was_verified(
    tiny_config_file: Path, tmp_path: Path
) -> None:
    report = export(ModelRequest(config=tiny_config_file), tmp_path / "b", body="none")
    assert report.manifest.verification is not None
    model = onnx.load(tmp_path / "b" / "model.onnx")
    assert not model.functions
    assert sum(node.domain == "dinat" for node in model.graph.node) == 3
    open_bundle(report.path).check_model()


def test_large_models_keep_their_weights_beside_the_file(
    tiny_config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_LARGEST_FILE", 1000)
    report = export(ModelRequest(config=tiny_config_file), tmp_path / "b")
    names = sorted(entry.name for entry in report.path.iterdir())
    assert names == ["model.json", "model.onnx", "model.onnx.data", "reference.npz"]
    assert report.file_size > 4 * 20_000
    assert (report.path / "model.onnx").stat().st_size < 60_000
    assert verify(report.path, layers=True).passed


def test_a_backbone_bundle_has_one_output_per_level(tiny_config_file: Path, tmp_path: Path) -> None:
    report = export(ModelRequest(config=tiny_config_file, task="backbone"), tmp_path / "b")
    assert [spec.name for spec in report.manifest.graph.outputs] == ["stage1", "stage2"]
    assert report.manifest.labels is None
    assert verify(report.path).passed


def test_a_backbone_without_its_last_level_can_be_verified(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(TINY.replace(out_levels=(0,)).model_dump_json())
    report = export(ModelRequest(config=config), tmp_path / "b")
    assert verify(report.path, layers=True).passed


def test_a_checkpoint_brings_weights_labels_and_preprocessing(tmp_path: Path) -> None:
    preprocessing = Preprocessing(resize=(70, 70), crop=(64, 64), mean=(0.5,) * 3, std=(0.25,) * 3)
    model = seeded_model(TINY, 9)
    labels = [f"thing {i}" for i in range(10)]
    save_model(tmp_path / "trained", model, TINY, preprocessing, labels)
    manifest = export(ModelRequest(checkpoint=tmp_path / "trained"), tmp_path / "b").manifest
    assert manifest.name == "trained"
    assert manifest.labels == labels
    assert manifest.preprocessing == preprocessing
    assert manifest.weights.source == "checkpoint"
    assert manifest.weights.origin == "trained"
    (case, _) = open_bundle(tmp_path / "b").reference()
    with torch.inference_mode():
        expected = model(torch.from_numpy(case.inputs["image"])).numpy()
    assert np.array_equal(case.outputs["logits"], expected)


def test_verification_failures_write_nothing(tiny_config_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="output logits of case 0-1x3x64x64 is off by"):
        export(
            ModelRequest(config=tiny_config_file), tmp_path / "b", tolerance=Tolerance(1e-12, 0.0)
        )
    assert list(tmp_path.iterdir()) == []


def test_unwritable_outputs_are_refused_before_any_work(
    tiny_config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "resolve", lambda _: pytest.fail("worked before checking"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is no directory"):
        export(ModelRequest(config=tiny_config_file), tmp_path / "file" / "b")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary").write_text("x")
    with pytest.raises(OutputError, match="a directory with other content"):
        export(ModelRequest(config=tiny_config_file), tmp_path / "mine")


def test_an_older_bundle_is_replaced(tiny_config_file: Path, tmp_path: Path) -> None:
    first = export(ModelRequest(config=tiny_config_file), tmp_path / "b", verify=False)
    second = export(ModelRequest(config=tiny_config_file, seed=1), tmp_path / "b", verify=False)
    assert first.manifest.weights.sha256 != second.manifest.weights.sha256
    assert open_bundle(tmp_path / "b").manifest == second.manifest
    assert [entry.name for entry in tmp_path.iterdir()] == ["b"]
    assert second.manifest.verification is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_leaves_nothing_behind(
    number: signal.Signals, tiny_config_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "dinat_deploy", "export", "--config", str(tiny_config_file)]
    process = subprocess.Popen(
        [*command, "--output", str(out / "b")],
        stderr=subprocess.PIPE,
        text=True,
        # Tests started in the background inherit that SIGINT is ignored.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not (out.exists() and list(out.iterdir())):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.5)
    os.kill(process.pid, number)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 130, messages
    assert "Interrupted. Nothing was written." in messages
    assert "Traceback" not in messages
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (ModelRequest(), ConfigError, "Which model?"),
        (ModelRequest(pretrained=True), ConfigError, "--pretrained needs to know which model"),
        (
            ModelRequest(model="dinat_mini", checkpoint="x.pth", pretrained=True),
            ConfigError,
            "exclude each other",
        ),
        (ModelRequest(model="dinat_mini", depths=(1, 2)), ConfigError, "num_heads lists 4 levels"),
        (ModelRequest(model="dinat_mini", dilations="1,2"), ConfigError, "dilations lists"),
        (ModelRequest(config="nowhere.json"), ConfigError, "is not readable JSON"),
        (
            ModelRequest(model="vitrpb_small", image_size=(256, 256)),
            ConfigError,
            "14x14 token grid",
        ),
        (ModelRequest(model="dinat_mini", labels="nowhere.txt"), ConfigError, "is not readable"),
    ],
)
def test_requests_that_make_no_sense(
    request_: ModelRequest, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        export(request_, tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_weights_without_a_name_need_one(tmp_path: Path) -> None:
    model = seeded_model(TINY, 0)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="does not say which model it is"):
        resolve(ModelRequest(checkpoint=tmp_path / "weights.pth"))


@pytest.mark.parametrize(
    ("others", "note"),
    [
        (2, "left out 2 tensors of other parts (neck.0, neck.1)"),
        (4, "left out 4 tensors of other parts (neck.0, neck.1, neck.2 ...)"),
    ],
)
def test_what_a_checkpoint_has_beside_the_model_is_noted(
    others: int, note: str, tiny_config_file: Path, tmp_path: Path
) -> None:
    state = {f"backbone.{name}": t for name, t in seeded_model(TINY, 0).state_dict().items()}
    state |= {f"neck.{number}": torch.zeros(1) for number in range(others)}
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    source = resolve(ModelRequest(config=tiny_config_file, checkpoint=tmp_path / "w.pth"))
    assert source.notes == [note]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size_range": (224, 512)}, "A size range needs a dynamic size"),
        ({"dynamic": ["size"], "size_range": (512, 224)}, "holds fewer than three sizes"),
        ({"dynamic": ["size"], "size_range": (64, 65)}, "holds fewer than three sizes"),
        ({"dynamic": ["size"], "size_range": (1, 64)}, "starts below 9 pixels"),
        ({"dynamic": ["size"], "size_range": (65, 512)}, "64x64 lies outside the size range"),
        ({"dynamic": ["time"]}, "Unknown dynamic axis 'time'"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"body": "fancy"}, "Unknown body 'fancy'"),
    ],
)
def test_options_that_make_no_sense(
    options: dict[str, object], message: str, tiny_config_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        export(ModelRequest(config=tiny_config_file), tmp_path / "b", **options)


def test_fixed_grids_cannot_be_dynamic(tmp_path: Path) -> None:
    config = ModelConfig(
        architecture="isotropic", embed_dim=16, depths=(1,), num_heads=(2,), kernel_size=4,
        global_attention=True, image_size=(64, 64),
    )  # fmt: skip
    (tmp_path / "c.json").write_text(config.model_dump_json())
    with pytest.raises(ConfigError, match="its size cannot be dynamic"):
        export(ModelRequest(config=tmp_path / "c.json"), tmp_path / "b", dynamic=["size"])


def test_settings_replace_those_of_the_variant(tmp_path: Path) -> None:
    source = resolve(
        ModelRequest(
            model="dinat_mini", depths=(1, 1), num_heads=(2, 4), dilations="1/2", kernel_size=5,
            num_classes=7, image_size=(96, 128),
        )
    )  # fmt: skip
    config = source.config
    assert (config.depths, config.dilations) == ((1, 1), ((1,), (2,)))
    assert (config.kernel_size, config.num_classes, config.image_size) == (5, 7, (96, 128))
    assert source.preprocessing.crop == (96, 128)
    assert source.labels is None


def test_downstream_schedules_are_chosen_by_name() -> None:
    source = resolve(ModelRequest(model="dinat_mini", task="backbone", dilations="detection"))
    assert source.config.dilations[0] == (1, 28, 1)
    assert source.config.out_levels == (0, 1, 2, 3)
    with pytest.raises(ConfigError, match="No published 'mask2former' dilations for dinat_mini"):
        resolve(ModelRequest(model="dinat_mini", dilations="mask2former"))


def test_labels_come_from_the_file_or_from_imagenet(tmp_path: Path) -> None:
    assert get_variant("dinat_mini").config.num_classes == 1000
    few = {"model": "dinat_mini", "depths": (1,), "num_heads": (2,)}
    assert resolve(ModelRequest(**few)).labels[207] == "golden retriever"
    (tmp_path / "l.txt").write_text("yes\nno\n")
    chosen = ModelRequest(**few, num_classes=2, labels=tmp_path / "l.txt")
    assert resolve(chosen).labels == ["yes", "no"]
    with pytest.raises(ConfigError, match="has 2 labels, the model 3 classes"):
        resolve(ModelRequest(**few, num_classes=3, labels=tmp_path / "l.txt"))


def test_made_up_weights_are_said_to_be_made_up(tiny_config_file: Path, tmp_path: Path) -> None:
    notes: list[str] = []

    class Listener(exporting.Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    export(ModelRequest(config=tiny_config_file), tmp_path / "b", verify=False, progress=Listener())
    assert notes == [
        "No checkpoint given: the weights are random (seed 0). Accuracy will be that of chance."
    ]


def test_the_report_is_plain_data(tiny_export: ExportReport) -> None:
    data = json.loads(json.dumps(tiny_export.to_dict()))
    assert data["manifest"]["graph"]["op_nodes"] == 3
