"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

from dinat_deploy.models.config import ModelConfig
from dinat_deploy.pipeline.exporting import ExportReport, export
from dinat_deploy.pipeline.sources import ModelRequest
from tests.large_model import LargeExport, exported

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start what takes long first, so that no process is left alone with it at the end."""
    items.sort(key=lambda item: "slow" not in item.keywords)


@pytest.fixture(scope="session", autouse=True)
def _functions_of_onnxscript_read_once() -> Iterator[None]:
    """PyTorch's exporter parses the source of onnxscript's 500 functions in every export.

    That is half of the time of a small export. A test process does it once; exports that run in
    processes of their own do it as users' do.
    """
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        read = cache(ONNXRegistry.from_torchlib)
    except (ImportError, AttributeError):  # private, and may move
        yield
        return

    def copy(*arguments: Any, **options: Any) -> Any:
        known, registry = read(*arguments, **options), ONNXRegistry()
        vars(registry).update(vars(known))
        # Exports add operators of their own to these.
        registry.functions = {name: list(found) for name, found in known.functions.items()}
        return registry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(copy))
        yield


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


@pytest.fixture(scope="session")
def dinat_large(tmp_path_factory: pytest.TempPathFactory) -> LargeExport:
    """The largest published classifier, exported once for all test processes of this run."""
    base = tmp_path_factory.getbasetemp()
    return exported(base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base)
