"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from dinat_deploy.models.config import ModelConfig
from dinat_deploy.pipeline.exporting import ExportReport, export
from dinat_deploy.pipeline.sources import ModelRequest

# Examples run numerical code whose first call compiles or loads something.
settings.register_profile("project", deadline=None, max_examples=40, print_blob=True)
settings.load_profile("project")

# One test process per core (pytest-xdist): threads on top would only get in each other's way, in the
# programs that tests start too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

# Small enough to export in two seconds; two levels, both branches of every choice in the models.
TINY = ModelConfig(
    embed_dim=16,
    depths=(2, 1),
    num_heads=(2, 4),
    kernel_size=3,
    dilations=((1, 4), (2,)),
    mlp_ratio=2.0,
    layer_scale=1e-5,
    num_classes=10,
    image_size=(64, 64),
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def tiny_config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.json"
    path.write_text(TINY.model_dump_json())
    return path


@pytest.fixture(scope="session")
def tiny_export(tmp_path_factory: pytest.TempPathFactory, tiny_config_file: Path) -> ExportReport:
    """A bundle of the tiny classifier, static size. Do not change it; copy it first."""
    return export(ModelRequest(config=tiny_config_file), tmp_path_factory.mktemp("out") / "tiny")


@pytest.fixture(scope="session")
def tiny_bundle(tiny_export: ExportReport) -> Path:
    return tiny_export.path


@pytest.fixture(scope="session")
def dynamic_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_config_file: Path) -> Path:
    """A bundle of one layer with dynamic batch and size. Do not change it."""
    place = tmp_path_factory.mktemp("out") / "dynamic"
    request = ModelRequest(config=tiny_config_file, depths=(1,), num_heads=(2,), dilations="4")
    export(request, place, dynamic=["batch", "size"], size_range=(48, 96), verify=False)
    return place
