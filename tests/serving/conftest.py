"""Bundles, engines and packages that the tests of serving share. Do not change them; copy first."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dinat_deploy.engine.manifest import Engine, OnnxSource
from dinat_deploy.files import sha256
from dinat_deploy.pipeline.exporting import export
from dinat_deploy.pipeline.packaging import Target, package
from dinat_deploy.pipeline.sources import ModelRequest
from tests.engine.engines import A4000, FULL, library_in, write_engine


@pytest.fixture(scope="session")
def batched_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_config_file: Path) -> Path:
    """A bundle of the tiny classifier with a dynamic batch and names of its ten classes."""
    place = tmp_path_factory.mktemp("serving")
    names = [*(f"class {number}" for number in range(9)), '"ü" \\ {x}']
    (place / "labels.txt").write_text("\n".join(names), encoding="utf-8")
    request = ModelRequest(config=tiny_config_file, labels=place / "labels.txt")
    return export(request, place / "tiny", dynamic=["batch"], verify=False).path


@pytest.fixture(autouse=True)
def native(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where native libraries are looked for: an empty directory. Plans are trusted by nobody."""
    place = tmp_path / "native"
    place.mkdir()
    monkeypatch.setenv("DINAT_NATIVE_DIR", str(place))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return place


@pytest.fixture
def operators(native: Path) -> Path:
    """A file that counts as the operator's library for ONNX Runtime."""
    made = library_in(native)
    return made.rename(made.with_name("libdinat_onnxruntime.so"))


@pytest.fixture
def make_engine(batched_bundle: Path, tmp_path: Path) -> Callable[..., Engine]:
    """Makes engines in a copy of the bundle: TensorRT's, for batches of 1 to 4, unless changed."""

    def make(library: Path | None = None, **changes: object) -> Engine:
        bundle = tmp_path / "bundle"
        if not bundle.exists():
            shutil.copytree(batched_bundle, bundle)
        model = bundle / "model.onnx"
        weights = bundle / "model.onnx.data"
        weights.touch()  # write_engine wants to know their digest
        source = OnnxSource(file=model.name, sha256=sha256(model))
        usual = {"runtime": FULL, "gpu": A4000, "architectures": ["86"], "onnx": source}
        made = write_engine(bundle / "engines" / "tensorrt", model, library, **usual | changes)
        weights.unlink()
        return made

    return make


@pytest.fixture(scope="session")
def _packaged(tmp_path_factory: pytest.TempPathFactory, batched_bundle: Path) -> Path:
    place = tmp_path_factory.mktemp("packaged") / "serve"
    package([batched_bundle], place, target=Target(operators=False))
    return place


@pytest.fixture
def packaged(_packaged: Path, tmp_path: Path) -> Path:
    """A copy of a package of ``batched_bundle`` for Triton, whose attention runs by its body."""
    return Path(shutil.copytree(_packaged, tmp_path / "serve"))
