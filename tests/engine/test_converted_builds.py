"""Bundles in 16-bit types, built strongly typed by TensorRT-RTX on a machine without a GPU."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from dinat_deploy.engine.manifest import open_engine
from dinat_deploy.files import sha256
from dinat_deploy.pipeline.building import build
from dinat_deploy.pipeline.converting import convert
from tests.engine.test_plugin_builds import NODES

pytestmark = pytest.mark.rtx
RTX: dict[str, Any] = {"backend": "tensorrt-rtx", "architectures": ["86"], "optimization_level": 0}
TYPES = {"fp16": "float16", "bf16": "bfloat16"}


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.mark.parametrize("precision", TYPES)
def test_the_body_builds_in_the_type_of_its_node(precision: str, bundle: Path) -> None:
    path = convert(bundle, precision, verify=False).path
    report = build(path, plugin=False, **RTX)
    assert report.path == bundle / "engines" / f"tensorrt-rtx-body-{precision}"
    manifest = open_engine(report.path).manifest
    assert manifest.model == "tiny"
    assert manifest.layers.body == NODES
    assert manifest.precision.startswith(f"{TYPES[precision]}+float")
    assert [tensor.dtype for tensor in (*manifest.inputs, *manifest.outputs)] == ["float"] * 2
    assert (manifest.onnx.file, manifest.onnx.sha256) == (path.name, sha256(path))
    assert report.warnings == []
    # Beside it, not in its place.
    assert build(bundle, plugin=False, **RTX).path != report.path


@pytest.mark.parametrize("precision", TYPES)
def test_the_plugins_layers_have_the_type_too(
    precision: str, bundle: Path, plugin_library: Path
) -> None:
    path = convert(bundle, precision, io="fp16", verify=False).path
    report = build(path, plugin_library=plugin_library, **RTX)
    assert [(layer.node, layer.dtype) for layer in report.manifest.layers.plugin] == [
        (node, TYPES[precision]) for node in NODES
    ]
    assert [tensor.dtype for tensor in report.manifest.inputs] == ["float16"]
    assert report.warnings == []


def test_pixels_go_into_an_engine_with_the_body(dynamic_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(dynamic_bundle, tmp_path / "bundle"))
    path = convert(bundle, "fp16", io="uint8", verify=False).path
    profile = "image=1x3x48x48:2x3x64x64:3x3x64x96"
    manifest = build(path, plugin=False, profiles=[profile], **RTX).manifest
    assert [(t.name, t.dtype, t.shape) for t in manifest.inputs] == [
        ("image", "uint8", ["batch", 3, "height", "width"])
    ]
    assert [tensor.dtype for tensor in manifest.outputs] == ["float"]
    assert manifest.profiles[0]["image"].max == (3, 3, 64, 96)
    assert manifest.precision.startswith("float16+float")


def test_pixels_go_into_an_engine_with_the_plugin(bundle: Path, plugin_library: Path) -> None:
    path = convert(bundle, "bf16", io="uint8", verify=False).path
    report = build(path, plugin_library=plugin_library, **RTX)
    assert [tensor.dtype for tensor in report.manifest.inputs] == ["uint8"]
    assert [(layer.node, layer.dtype) for layer in report.manifest.layers.plugin] == [
        (node, "bfloat16") for node in NODES
    ]
    assert report.warnings == []
