"""Engines built with our plugin by TensorRT-RTX, on a machine without a GPU."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import dinat_deploy
from dinat_deploy.engine.checks import check_plugin
from dinat_deploy.engine.manifest import open_engine
from dinat_deploy.engine.tensorrt_rtx import TensorRtRtxBuilder
from dinat_deploy.errors import EngineError
from dinat_deploy.files import sha256
from dinat_deploy.graph.schema import PACKED, SPLIT
from dinat_deploy.pipeline.building import build, plan_build
from dinat_deploy.progress import Silent
from tests.graph.op_models import op_model

pytestmark = pytest.mark.rtx
RTX: dict[str, Any] = {"backend": "tensorrt-rtx", "architectures": ["86"], "optimization_level": 0}
NODES = [
    "levels.0.blocks.0.attn/NeighborhoodAttention2D",
    "levels.0.blocks.1.attn/NeighborhoodAttention2D",
    "levels.1.blocks.0.attn/NeighborhoodAttention2D",
]


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def test_every_attention_node_becomes_a_plugin_layer(bundle: Path, plugin_library: Path) -> None:
    report = build(bundle, plugin_library=plugin_library, **RTX)
    manifest = report.manifest
    assert report.path == bundle / "engines" / "tensorrt-rtx-plugin"
    assert [(layer.node, layer.dtype) for layer in manifest.layers.plugin] == [
        (node, "float") for node in NODES
    ]
    assert manifest.layers.types["plugin_v3"] == 3
    assert manifest.layers.body == []
    plugin = manifest.plugin
    assert plugin is not None
    assert plugin.operators == [PACKED]
    assert (plugin.namespace, plugin.version, plugin.embedded) == ("dinat", "1", False)
    assert plugin.library == "libdinat_tensorrt.so"
    assert plugin.library_version == dinat_deploy.__version__
    assert plugin.sha256 == sha256(plugin_library)
    assert report.warnings == []
    engine = open_engine(report.path)
    check_plugin(engine, plugin_library)
    assert plugin_library.read_bytes() not in engine.plan_path.read_bytes()


def test_an_embedded_plugin_is_inside_the_plan(bundle: Path, plugin_library: Path) -> None:
    report = build(bundle, plugin_library=plugin_library, embed_plugin=True, **RTX)
    engine = open_engine(report.path)
    assert engine.manifest.plugin is not None
    assert engine.manifest.plugin.embedded is True
    assert plugin_library.read_bytes() in engine.plan_path.read_bytes()
    check_plugin(engine, None)


def test_the_library_that_is_found_is_used_and_no_plugin_takes_the_body(
    bundle: Path, plugin_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DINAT_NATIVE_DIR", str(plugin_library.parent))
    found = build(bundle, **RTX)
    assert len(found.manifest.layers.plugin) == 3
    # The nodes name our plugin all the same; it is just not there.
    body = build(bundle, plugin=False, **RTX)
    assert body.manifest.layers.plugin == []
    assert body.manifest.layers.body == NODES
    assert "plugin_v3" not in body.manifest.layers.types
    assert body.path != found.path


@pytest.mark.parametrize("layout", [PACKED, SPLIT])
@pytest.mark.parametrize("dynamic", ["none", "batch", "size"])
@pytest.mark.parametrize(
    ("element_type", "name"),
    [
        (TensorProto.FLOAT, "float"),
        (TensorProto.FLOAT16, "float16"),
        (TensorProto.BFLOAT16, "bfloat16"),
    ],
)
def test_a_file_without_body_builds_in_every_type_and_shape(
    element_type: int,
    name: str,
    dynamic: str,
    layout: str,
    plugin_library: Path,
    tmp_path: Path,
    rng: np.random.Generator,
) -> None:
    model = op_model(
        (2, 14, 15, 2, 32),
        kernel_size=(5, 3),
        dilation=(2, 3),
        scale=0.2,
        rpb=rng.standard_normal((2, 9, 5)).astype(np.float32),
        layout=layout,
        dynamic=dynamic,
        element_type=element_type,
        with_body=False,
    )
    onnx.save(model, tmp_path / "op.onnx")
    profiles = []
    if dynamic != "none":
        sizes = {"batch": ["14x15"] * 3, "size": ["10x9", "14x15", "64x70"]}[dynamic]
        tail = "192" if layout == PACKED else "2x32"
        shapes = ":".join(f"{n}x{size}x{tail}" for n, size in zip((1, 2, 5), sizes, strict=True))
        names = ["qkv"] if layout == PACKED else ["query", "key", "value"]
        profiles = [",".join(f"{tensor}={shapes}" for tensor in names)]
    report = build(tmp_path / "op.onnx", plugin_library=plugin_library, profiles=profiles, **RTX)
    assert [(layer.node, layer.dtype) for layer in report.manifest.layers.plugin] == [("na", name)]
    assert report.manifest.layers.types == {"plugin_v3": 1, "constant": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dilation": [5, 5]}, "kernel_size"),
        ({"num_heads": 3}, "qkv has shape"),
        ({"kernel_size": [7, 7]}, "rpb has shape"),
    ],
    ids=["window larger than the map", "heads", "bias table"],
)
def test_a_violated_constraint_is_refused_at_parse_time_with_our_message(
    change: dict[str, Any], message: str, plugin_library: Path, tmp_path: Path
) -> None:
    rpb = np.zeros((2, 9, 9), np.float32)
    model = op_model(
        (1, 16, 16, 2, 32), kernel_size=(5, 5), dilation=(2, 2), scale=0.2, rpb=rpb, with_body=False
    )
    for attribute in model.graph.node[0].attribute:
        if attribute.name in change:
            replaced = onnx.helper.make_attribute(attribute.name, change[attribute.name])
            attribute.CopyFrom(replaced)
    onnx.save(model, tmp_path / "op.onnx")
    with pytest.raises(EngineError) as caught:
        build(tmp_path / "op.onnx", plugin_library=plugin_library, **RTX)
    cause = caught.value.cause
    assert "The plugin says:" in cause
    said = cause.partition("The plugin says:")[2]
    assert "'na'" in said
    assert message in said
    assert "  na (NeighborhoodAttention2D): " in cause


def test_a_profile_with_maps_smaller_than_the_window_is_refused_with_our_message(
    plugin_library: Path, tmp_path: Path
) -> None:
    model = op_model(
        (1, 16, 16, 2, 32), kernel_size=(5, 5), dilation=(2, 2), scale=0.2, dynamic="size"
    )
    onnx.save(model, tmp_path / "op.onnx")
    fitting, small = "1x10x10x192:1x16x16x192:2x32x32x192", "1x9x10x192:1x16x16x192:2x32x32x192"
    options = {**RTX, "plugin_library": plugin_library}
    assert build(tmp_path / "op.onnx", profiles=[f"qkv={fitting}"], **options).path.is_dir()
    with pytest.raises(EngineError, match="could not build the engine") as caught:
        build(tmp_path / "op.onnx", tmp_path / "no", profiles=[f"qkv={small}"], **options)
    assert "'na'" in caught.value.cause
    assert "kernel_size 5 * dilation 2 = 10 exceeds the map's height of 9" in caught.value.cause
    assert not (tmp_path / "no").exists()


def drop_plugin_attributes(node: onnx.NodeProto) -> None:
    kept = [a for a in node.attribute if not a.name.startswith("plugin_")]
    del node.attribute[:]
    node.attribute.extend(kept)


def test_a_node_that_the_parser_does_not_give_to_the_plugin_is_an_error(
    bundle: Path, plugin_library: Path, tmp_path: Path
) -> None:
    """Without its plugin attributes the parser takes the body, silently."""
    model = onnx.load(bundle / "model.onnx")
    for node in model.graph.node:
        if node.name == NODES[1]:
            drop_plugin_attributes(node)
    path = tmp_path / "changed.onnx"
    onnx.save(model, path)
    with pytest.raises(EngineError) as caught:
        build(path, plugin_library=plugin_library, **RTX)
    assert "2 of 3 attention nodes became layers of the plugin" in caught.value.cause
    assert caught.value.cause.endswith(f"these did not:\n  {NODES[1]}")
    assert len(build(path, plugin=False, **RTX).manifest.layers.body) == 3


def test_nodes_without_a_name_are_counted(plugin_library: Path, tmp_path: Path) -> None:
    model = op_model((1, 8, 8, 1, 16), kernel_size=(3, 3), dilation=(1, 1), scale=0.2)
    model.graph.node[0].name = ""
    onnx.save(model, tmp_path / "op.onnx")
    report = build(tmp_path / "op.onnx", plugin_library=plugin_library, **RTX)
    assert len(report.manifest.layers.plugin) == 1
    drop_plugin_attributes(model.graph.node[0])
    onnx.save(model, tmp_path / "op.onnx")
    with pytest.raises(EngineError, match="0 of 1 attention nodes became layers"):
        build(tmp_path / "op.onnx", plugin_library=plugin_library, **RTX)


def test_a_plugin_that_lacks_the_operator_is_named(bundle: Path, plugin_library: Path) -> None:
    task = plan_build(bundle, plugin_library=plugin_library, **RTX).task
    assert task.plugin is not None
    request = task.plugin.model_copy(update={"operators": ["NeighborhoodAttention3D"]})
    with pytest.raises(EngineError, match="has no NeighborhoodAttention3D version 1") as caught:
        TensorRtRtxBuilder().build(task.model_copy(update={"plugin": request}), Silent())
    assert f"it has {PACKED} 1, {SPLIT} 1" in caught.value.cause
