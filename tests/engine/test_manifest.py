"""engine.json: what it records, and that changes to an engine's files are noticed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dinat_deploy.engine.builder import BuilderOptions
from dinat_deploy.engine.manifest import Engine, OnnxSource, is_engine, onnx_source, open_engine
from dinat_deploy.errors import EngineError
from dinat_deploy.files import sha256
from tests.engine.engines import library_in, model_in, write_engine


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return model_in(tmp_path)


@pytest.fixture
def engine(tmp_path: Path, model: Path) -> Engine:
    return write_engine(tmp_path / "engine", model, library_in(tmp_path))


def test_what_is_written_is_read_and_passes_all_checks(engine: Engine, model: Path) -> None:
    assert engine.manifest.created_by.startswith("dinat-deploy ")
    assert engine.manifest.profiles[0]["image"].opt == (2, 3, 64, 64)
    assert engine.manifest.options == BuilderOptions(optimization_level=2, workspace_mib=None)
    assert open_engine(engine.path).manifest == engine.manifest
    assert is_engine(engine.path)
    assert engine.check_plan() == sha256(engine.plan_path)
    engine.check_onnx(model)


def test_a_changed_plan_is_noticed(engine: Engine) -> None:
    content = bytearray(engine.plan_path.read_bytes())
    content[500] ^= 1
    engine.plan_path.write_bytes(content)
    with pytest.raises(
        EngineError, match=r"model\.plan was changed .*engine\.json was written for"
    ):
        engine.check_plan()
    engine.plan_path.write_bytes(content[:-1])
    with pytest.raises(EngineError, match=r"has 1003 bytes, and engine\.json was written for 1004"):
        engine.check_plan()
    engine.plan_path.write_bytes(content + b"more")
    with pytest.raises(EngineError, match=r"has 1008 bytes, and engine\.json was written for 1004"):
        engine.check_plan()
    engine.plan_path.unlink()
    with pytest.raises(EngineError, match=r"has no model\.plan"):
        engine.check_plan()


def test_what_helps_names_the_command_and_the_places(tmp_path: Path, model: Path) -> None:
    """Where build puts engines by default, the model is known; elsewhere the output is named."""
    apart = write_engine(tmp_path / "my engine", model)
    assert apart.model_path is None
    assert apart.rebuild() == (
        "Build it again: `dinat-deploy build model.onnx --backend tensorrt-rtx --output "
        f"'{tmp_path / 'my engine'}'`."
    )
    beside = write_engine(tmp_path / "model.engines" / "tensorrt-rtx", model)
    assert beside.model_path == model
    assert beside.rebuild("--arch", "86") == (
        f"Build it again: `dinat-deploy build {model} --backend tensorrt-rtx --arch 86`."
    )
    in_folder = write_engine(tmp_path / "engines" / "tensorrt-rtx", model)
    assert in_folder.model_path is None  # not a bundle yet
    (tmp_path / "model.json").write_text('{"format_version": 1}')
    assert in_folder.model_path == model
    model.unlink()
    assert beside.model_path is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("model.onnx", "was built from an ONNX file with SHA-256"),
        ("model.onnx.data", "was built from an ONNX file with weights of SHA-256"),
    ],
)
def test_another_onnx_file_is_noticed(
    changed: str, message: str, engine: Engine, model: Path
) -> None:
    (model.parent / changed).write_bytes(b"something else")
    with pytest.raises(EngineError, match=message):
        engine.check_onnx(model)
    (model.parent / changed).unlink()
    with pytest.raises(EngineError, match="No such file"):
        engine.check_onnx(model)


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
