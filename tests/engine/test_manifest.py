"""engine.json: what it records, and that every change to an engine is noticed before its use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dinat_deploy.bundle import TensorSpec
from dinat_deploy.engine.builder import BuilderOptions, PluginLayer
from dinat_deploy.engine.manifest import (
    Engine,
    EngineManifest,
    LayerInfo,
    OnnxSource,
    PlanInfo,
    PluginInfo,
    Runtime,
    is_engine,
    onnx_source,
    open_engine,
)
from dinat_deploy.engine.profiles import parse_profile
from dinat_deploy.errors import EngineError
from dinat_deploy.files import sha256


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"an ONNX file")
    (tmp_path / "model.onnx.data").write_bytes(b"weights")
    return path


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "libdinat_tensorrt.so"
    path.write_bytes(b"a plugin")
    return path


@pytest.fixture
def engine(tmp_path: Path, model: Path, library: Path) -> Engine:
    folder = tmp_path / "engine"
    folder.mkdir()
    plan = folder / "model.plan"
    plan.write_bytes(b"ftrt" + bytes(1000))
    manifest = EngineManifest(
        model="dinat_mini",
        runtime=Runtime(flavor="tensorrt-rtx", version="1.7.1.116"),
        architectures=["86", "89"],
        precision="float16",
        inputs=[TensorSpec(name="image", dtype="float", shape=["batch", 3, 64, 64])],
        outputs=[TensorSpec(name="logits", dtype="float", shape=["batch", 10])],
        profiles=[parse_profile("image=1x3x64x64:2x3x64x64:4x3x64x64")],
        options=BuilderOptions(optimization_level=2),
        onnx=onnx_source(model, ("model.onnx.data",)),
        plugin=PluginInfo(
            operators=["NeighborhoodAttention2D"], namespace="dinat", version="1",
            library=library.name, library_version="0.1.0", sha256=sha256(library), embedded=False,
        ),
        layers=LayerInfo(
            types={"plugin_v3": 1}, plugin=[PluginLayer(node="a", dtype="float16")], body=[]
        ),
        plan=PlanInfo(file="model.plan", sha256=sha256(plan), bytes=plan.stat().st_size),
    )  # fmt: skip
    (folder / "engine.json").write_text(manifest.to_json())
    return open_engine(folder)


def test_what_is_written_is_read_and_passes_all_checks(
    engine: Engine, model: Path, library: Path
) -> None:
    assert engine.manifest.created_by.startswith("dinat-deploy ")
    assert engine.manifest.profiles[0]["image"].opt == (2, 3, 64, 64)
    assert engine.manifest.options == BuilderOptions(optimization_level=2, workspace_mib=None)
    assert open_engine(engine.path).manifest == engine.manifest
    assert is_engine(engine.path)
    engine.check_plan()
    engine.check_onnx(model)
    engine.check_plugin(library)


def test_a_changed_plan_is_noticed(engine: Engine) -> None:
    content = bytearray(engine.plan_path.read_bytes())
    content[500] ^= 1
    engine.plan_path.write_bytes(content)
    with pytest.raises(
        EngineError, match=r"model\.plan has SHA-256 .*engine\.json was written for"
    ):
        engine.check_plan()
    engine.plan_path.write_bytes(content[:-1])
    with pytest.raises(EngineError, match=r"has 1003 bytes, and engine\.json was written for 1004"):
        engine.check_plan()
    engine.plan_path.unlink()
    with pytest.raises(EngineError, match=r"has no model\.plan") as caught:
        engine.check_plan()
    assert "dinat-deploy build ... --backend tensorrt-rtx" in caught.value.cure


@pytest.mark.parametrize("changed", ["model.onnx", "model.onnx.data"])
def test_another_onnx_file_is_noticed(changed: str, engine: Engine, model: Path) -> None:
    (model.parent / changed).write_bytes(b"something else")
    with pytest.raises(EngineError, match="was built from an ONNX file with SHA-256"):
        engine.check_onnx(model)
    (model.parent / changed).unlink()
    with pytest.raises(EngineError, match="No such file"):
        engine.check_onnx(model)


def test_a_missing_or_other_plugin_is_noticed(engine: Engine, library: Path) -> None:
    with pytest.raises(EngineError, match="calls the plugin NeighborhoodAttention2D of libdinat"):
        engine.check_plugin(None)
    library.write_bytes(b"another build")
    with pytest.raises(EngineError, match=r"was built with a libdinat_tensorrt\.so of SHA-256"):
        engine.check_plugin(library)


def test_an_embedded_plugin_needs_no_library(engine: Engine) -> None:
    plugin = engine.manifest.plugin
    assert plugin is not None
    embedded = plugin.model_copy(update={"embedded": True})
    changed = engine.manifest.model_copy(update={"plugin": embedded})
    Engine(engine.path, changed).check_plugin(None)


def test_a_plan_without_plugin_needs_no_library(engine: Engine) -> None:
    Engine(engine.path, engine.manifest.model_copy(update={"plugin": None})).check_plugin(None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "has format 2; this dinat-deploy reads up to 1"),
        (
            {"runtime": {"flavor": "tensorrt-rtx"}},
            r"is not valid: runtime\.version: Field required",
        ),
        (
            {"runtime": {"flavor": "tensorflow", "version": "1"}},
            r"runtime\.flavor: Input should be",
        ),
        ({"plan": {"file": "p", "sha256": "0", "bytes": "many"}}, r"plan\.bytes: "),
        ({"signature": "x"}, "signature: Extra inputs"),
        ({"onnx": None}, "onnx: "),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(
    change: dict[str, object], message: str, engine: Engine
) -> None:
    path = engine.path / "engine.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(EngineError, match=message):
        open_engine(engine.path)


@pytest.mark.parametrize("content", ["", "{", "[1]", "\xff" * 9, "[" * 100_000])
def test_a_manifest_that_is_no_json_is_refused(content: str, engine: Engine) -> None:
    (engine.path / "engine.json").write_bytes(content.encode("latin-1"))
    assert not is_engine(engine.path)
    with pytest.raises(EngineError, match=r"is not (readable JSON|valid)"):
        open_engine(engine.path)


def test_places_without_an_engine_are_refused(tmp_path: Path, model: Path) -> None:
    with pytest.raises(EngineError, match="There is no engine"):
        open_engine(tmp_path / "nowhere")
    for path in (tmp_path, model):
        assert not is_engine(path)
        with pytest.raises(EngineError, match=r"is not an engine: it has no engine\.json"):
            open_engine(path)


def test_digests_of_a_missing_file_name_it(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"gone\.onnx: No such file"):
        onnx_source(tmp_path / "gone.onnx", ())
    assert OnnxSource(file="m", sha256="0").external_data == {}
