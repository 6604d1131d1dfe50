"""The shapes example: scenes that can be relied on, and a segmenter that keeps its mIoU in INT8."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from dinat_deploy.cli import cli
from dinat_deploy.data.opening import open_dataset
from dinat_deploy.models.model_card import save_model

EXAMPLE = Path(__file__).parents[1] / "examples" / "shapes"
# A tenth of the steps that the example trains for by default, after which it has 88 %.
SCENES, EPOCHS, LEAST_MIOU = 800, 3, 0.3


@pytest.fixture(scope="module")
def example() -> Iterator[dict[str, ModuleType]]:
    """The modules of the example, which import each other by their plain names."""
    import importlib

    hidden = {name: sys.modules.pop(name) for name in ("data", "train") if name in sys.modules}
    sys.path.insert(0, str(EXAMPLE))
    try:
        yield {name: importlib.import_module(name) for name in ("data", "train")}
    finally:
        sys.path.remove(str(EXAMPLE))
        for name in ("data", "train"):
            sys.modules.pop(name, None)
        sys.modules.update(hidden)


def test_scenes_depend_on_seed_and_number_alone(example: dict[str, ModuleType]) -> None:
    data = example["data"]
    pictures, masks = data.scenes(5, 12)
    for found, expected in zip(data.scene(5, 7), (np.asarray(pictures[7]), masks[7]), strict=True):
        assert np.array_equal(found, expected)
    assert not np.array_equal(data.scene(6, 7)[1], masks[7])
    occurring = np.unique(data.scenes(5, 60)[1])
    assert occurring.tolist() == list(range(len(data.LABELS)))


def test_shapes_have_the_area_that_geometry_gives(example: dict[str, ModuleType]) -> None:
    data = example["data"]
    rows, columns = np.mgrid[:400, :400] - 199.5
    fifth, radius = np.pi / 5, 150.0
    tip, corner = data._STAR_TIP, data._STAR_CORNER
    areas = {
        "disc": np.pi * 0.85**2,
        "ring": np.pi * (1 - 0.55**2),
        "square": 1.5**2,
        "triangle": 3 * np.sqrt(3) * 0.55**2,
        "star": 5 * tip * corner * np.sin(fifth),
        "cross": 2 * 2 * 0.6 - 0.6**2,
    }
    assert list(areas) == data.LABELS[1:]
    for kind, area in areas.items():
        inside = data._inside(kind, rows, columns, radius, 0.4)
        assert inside.sum() / radius**2 == pytest.approx(area, rel=0.02), kind


def test_scenes_are_written_as_a_data_set(example: dict[str, ModuleType], tmp_path: Path) -> None:
    data = example["data"]
    for place in ("first", "second"):
        data.write_folder(tmp_path / place, data.HELD_OUT, 3)
    for file in sorted((tmp_path / "first").rglob("*.*")):
        again = tmp_path / "second" / file.relative_to(tmp_path / "first")
        assert file.read_bytes() == again.read_bytes()
    labels = (tmp_path / "first" / "classes.txt").read_text().split()
    dataset = open_dataset(tmp_path / "first", data.PREPROCESSING, labels=labels)
    assert (len(dataset), dataset.task) == (3, "segmentation")
    picture, mask = data.scene(data.HELD_OUT, 2)
    sample = dataset.load(2)
    assert np.array_equal(sample.label, mask)
    pixels = sample.image.transpose(1, 2, 0) * 0.25 + 0.5
    assert np.abs(pixels * 255 - picture).max() < 1e-3


def as_json(*arguments: object) -> Any:
    """What our command prints with --json."""
    done = CliRunner().invoke(cli, [*map(str, arguments), "--json"], standalone_mode=False)
    assert done.exception is None, done.output
    assert not done.return_value, done.output
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_trained_segmenter_keeps_its_miou_in_int8(
    example: dict[str, ModuleType], tmp_path: Path
) -> None:
    """INT8 and the 16-bit types lose no more than a point."""
    data, train = example["data"], example["train"]
    model = train.train(*train.load(data.TRAINING, SCENES), EPOCHS, seed=0)
    images, masks = train.load(data.HELD_OUT, 100)
    trained = train.mean_iou(model, images, masks)
    assert trained >= LEAST_MIOU
    save_model(tmp_path / "model", model, train.CONFIG, data.PREPROCESSING, data.LABELS)
    data.write_folder(tmp_path / "held-out", data.HELD_OUT, 100)
    data.write_folder(tmp_path / "calibration", data.CALIBRATION, 200)

    bundle = tmp_path / "bundle"
    words = ("--checkpoint", tmp_path / "model", "--output", bundle, "--dynamic", "batch")
    made = as_json("export", *words)
    assert made["manifest"]["labels"] == data.LABELS

    as_json(
        "calibrate",
        bundle,
        "--data",
        tmp_path / "calibration",
        "--limit",
        200,
        "--precision",
        "none",
    )
    as_json("convert", bundle, "--precision", "fp16")
    # How far noise is off depends on the weights, and training on the machine; scenes are compared.
    words = ("--precision", "int8", "--estimator", "entropy", "--rest", "fp32", "--rtol", 1)
    quantization = as_json("convert", bundle, *words)["variant"]["quantization"]
    head = {f"decode_head.{name}.conv/Conv" for name, module in model.decode_head.named_modules()
            if type(module).__name__ == "ConvModule"}  # fmt: skip
    assert head <= set(quantization["nodes"])
    assert quantization["macs"] >= 0.85

    names = [bundle, bundle / "model.fp16.onnx", bundle / "model.int8.onnx"]
    words = ("--data", tmp_path / "held-out", "--no-latency", "--simulate", "--max-drop", 1)
    found = as_json("evaluate", *names, *words)
    exact, half, whole = (entry["scores"]["miou"] for entry in found["artefacts"])
    # The bundle's head is folded and runs elsewhere; a pixel may differ, a class may not.
    assert exact == pytest.approx(trained, abs=1e-3)
    assert 100 * (exact - half) <= 0.2
    assert 100 * (exact - whole) <= 1
