"""Directories of transformers as models of this project: the same numbers, and all the way to a
bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dinat_deploy import hf
from dinat_deploy.bundle import open_bundle
from dinat_deploy.errors import CheckpointError, ConfigError
from dinat_deploy.pipeline.requests import ModelRequest
from dinat_deploy.pipeline.sources import ModelSource, resolve
from tests.cli.conftest import Command
from tests.cli.conftest import command as command
from tests.hf import models

SIZE = (64, 96)


def ours(directory: Path, **options: Any) -> ModelSource:
    return resolve(ModelRequest(hf=directory, image_size=SIZE, **options))


def run(source: ModelSource, image: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        found = source.module(image)
    return [found] if isinstance(found, Tensor) else list(found)


@pytest.mark.parametrize("kind", models.KINDS)
def test_both_ways_of_loading_compute_the_same(kind: str, tmp_path: Path) -> None:
    directory = models.saved(kind, tmp_path)
    # transformers resizes the logits of UperNet itself.
    source = ours(directory, full_size=kind == "upernet")
    image = models.picture(*SIZE, batch=1)
    theirs = models.outputs(kind, hf.from_pretrained(directory), image)
    found = run(source, image)
    assert [x.shape for x in found] == [x.shape for x in theirs]
    for x, wanted in zip(found, theirs, strict=True):
        assert wanted.std() > 0.01
        assert torch.allclose(x, wanted, atol=1e-4, rtol=1e-4), float((x - wanted).abs().max())


@pytest.mark.parametrize("task", ["semantic", "instance"])
def test_oneformer_is_told_the_task_that_is_asked_for(task: str, tmp_path: Path) -> None:
    directory = models.saved("oneformer", tmp_path)
    source, image = ours(directory, task=task), models.picture(*SIZE)
    assert source.config.task == task
    theirs = models.outputs("oneformer", hf.from_pretrained(directory), image, task)
    for x, wanted in zip(run(source, image), theirs, strict=True):
        assert torch.allclose(x, wanted, atol=1e-4, rtol=1e-4)
    other = models.outputs("oneformer", hf.from_pretrained(directory), image, "panoptic")
    assert not torch.allclose(theirs[0], other[0], atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("classification", "classification"),
        ("backbone", "backbone"),
        ("upernet", "semantic"),
        ("mask2former", "panoptic"),
        ("oneformer", "panoptic"),
    ],
)
def test_the_directory_says_what_the_model_is_for(kind: str, task: str, tmp_path: Path) -> None:
    source = ours(models.saved(kind, tmp_path))
    assert source.config.task == task
    if kind != "backbone":
        assert source.labels == list(models.LABELS.values())


def test_a_segmenter_gives_its_backbone(tmp_path: Path) -> None:
    directory = models.saved("upernet", tmp_path)
    source, image = ours(directory, task="backbone"), models.picture(*SIZE)
    with torch.no_grad():
        theirs: Any = hf.from_pretrained(directory)
        wanted = theirs.backbone(image).feature_maps
    for x, expected in zip(run(source, image), wanted, strict=True):
        assert torch.allclose(x, expected, atol=1e-4)
    assert source.notes[-1].startswith("left out")


def test_a_model_without_classifier_gives_its_features(tmp_path: Path) -> None:
    models.made("classification").dinat.save_pretrained(tmp_path)
    source, image = ours(tmp_path), models.picture(*SIZE)
    with torch.no_grad():
        theirs: Any = hf.from_pretrained(tmp_path)
        wanted = theirs(image).pooler_output
    assert source.config.output_names == ("features",)
    assert torch.allclose(run(source, image)[0], wanted, atol=1e-4)


def test_a_segmenter_becomes_a_verified_bundle(tmp_path: Path, command: Command) -> None:
    directory = models.saved("upernet", tmp_path / "upernet")
    processor = {
        "image_processor_type": "SegformerImageProcessor", "do_resize": True, "resample": 2,
        "size": {"height": 64, "width": 96}, "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2],
    }  # fmt: skip
    (directory / "preprocessor_config.json").write_text(json.dumps(processor))
    outcome = command(
        "export", "--hf", directory, "--task", "semantic", "--output", tmp_path / "bundle"
    )
    assert outcome.status == 0, outcome.err
    assert "Verified" in outcome.out
    manifest = open_bundle(tmp_path / "bundle").manifest
    assert manifest.name == "upernet"
    assert manifest.config.task == "semantic"
    assert manifest.labels == list(models.LABELS.values())
    assert manifest.weights.source == "checkpoint"
    assert manifest.verification is not None
    assert manifest.verification.passed
    assert manifest.graph.op_nodes == 4
    preprocessing = manifest.preprocessing
    assert (preprocessing.resize_mode, preprocessing.crop) == ("stretch", (64, 96))
    assert preprocessing.mean == (0.5, 0.4, 0.3)
    assert preprocessing.interpolation == "bilinear"


def test_tasks_that_a_directory_cannot_do_are_refused(tmp_path: Path) -> None:
    upernet = models.saved("upernet", tmp_path / "upernet")
    with pytest.raises(
        CheckpointError,
        match="holds a UperNetForSemanticSegmentation, which is for semantic or backbone, not "
        "panoptic. Use --task semantic",
    ):
        ours(upernet, task="panoptic")
    classifier = models.saved("classification", tmp_path / "classifier")
    for task in ("semantic", "backbone"):
        with pytest.raises(CheckpointError, match=f"which is for classification, not {task}"):
            ours(classifier, task=task)


def test_options_that_contradict_the_directory_are_refused(tmp_path: Path) -> None:
    for option, value in (("model", "dinat_tiny"), ("checkpoint", tmp_path), ("pretrained", True)):
        with pytest.raises(ConfigError, match="--hf") as caught:
            resolve(ModelRequest(hf=tmp_path, **{option: value}))
        assert f"--{option}" in caught.value.cause
