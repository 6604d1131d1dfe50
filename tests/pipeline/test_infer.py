"""infer: the same numbers as PyTorch on the same picture, whatever the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dinat_deploy.errors import BundleError, ImageError
from dinat_deploy.models.model_card import save_model
from dinat_deploy.models.preprocessing import Preprocessing, load_batch
from dinat_deploy.models.weights import seeded_model
from dinat_deploy.pipeline.exporting import export
from dinat_deploy.pipeline.inferring import infer
from dinat_deploy.pipeline.sources import ModelRequest
from tests.conftest import TINY

LABELS = [f"thing {i}" for i in range(10)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("trained") / "model"
    preprocessing = Preprocessing.for_evaluation((64, 64), 0.875)
    return save_model(directory, seeded_model(TINY, 4), TINY, preprocessing, LABELS)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(3)
    paths = []
    for number in range(3):
        pixels = rng.integers(0, 256, (80 + number, 100, 3), dtype=np.uint8)
        paths.append(directory / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


@pytest.mark.parametrize("options", [{}, {"batch": 2}, {"dynamic": ["batch"]}])
def test_predictions_equal_pytorch(
    options: dict[str, object], trained: Path, photos: list[Path], tmp_path: Path
) -> None:
    export(ModelRequest(checkpoint=trained), tmp_path / "b", **options)
    found = infer(tmp_path / "b", photos, top=10)
    pixels = load_batch(photos, Preprocessing.for_evaluation((64, 64), 0.875))
    with torch.inference_mode():
        expected = seeded_model(TINY, 4)(torch.from_numpy(pixels)).softmax(-1).numpy()
    assert [result.image for result in found] == [str(path) for path in photos]
    for result, row in zip(found, expected, strict=True):
        assert [guess.index for guess in result.predictions] == list(np.argsort(-row))
        assert [guess.label for guess in result.predictions] == [
            LABELS[guess.index] for guess in result.predictions
        ]
        for guess in result.predictions:
            assert guess.probability == pytest.approx(row[guess.index], abs=1e-5)
        assert sum(guess.probability for guess in result.predictions) == pytest.approx(1)
        assert result.milliseconds > 0


def test_top_limits_the_guesses(tiny_bundle: Path, photos: list[Path]) -> None:
    (result,) = infer(tiny_bundle, photos[:1], top=3)
    assert len(result.predictions) == 3
    assert result.predictions[0].label is None  # ten classes without names


def test_backbones_do_not_classify(
    tiny_config_file: Path, photos: list[Path], tmp_path: Path
) -> None:
    export(ModelRequest(config=tiny_config_file, task="backbone"), tmp_path / "b", verify=False)
    with pytest.raises(BundleError, match="is no classifier: its outputs are stage1, stage2"):
        infer(tmp_path / "b", photos)


def test_files_without_a_body_cannot_run_here(
    tiny_config_file: Path, photos: list[Path], tmp_path: Path
) -> None:
    export(ModelRequest(config=tiny_config_file), tmp_path / "b", body="none", verify=False)
    with pytest.raises(BundleError, match="--body standard"):
        infer(tmp_path / "b", photos)


def test_pictures_that_are_none_are_named(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_text("x")
    with pytest.raises(ImageError, match=r"x\.jpg is not a picture"):
        infer(tiny_bundle, [tmp_path / "x.jpg"])
