"""What ``build`` makes of a plan: the copy for old parsers, the manifest, the record of host code,
and that neither a kill nor another build damages an engine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from dinat_deploy.engine import trust
from dinat_deploy.engine.builder import (
    BuilderOptions,
    BuildOutcome,
    BuildTask,
    EngineLayer,
    Gpu,
    PluginLayer,
)
from dinat_deploy.engine.checks import Here, check_engine
from dinat_deploy.engine.manifest import open_engine
from dinat_deploy.engine.tensorrt import TensorRtBuilder
from dinat_deploy.errors import EngineError
from dinat_deploy.files import sha256
from dinat_deploy.pipeline import build_plan
from dinat_deploy.pipeline.building import build
from dinat_deploy.progress import Progress
from tests.engine.engines import library_in
from tests.engine.test_checks import LIBRARY_INSIDE

ROOT = Path(__file__).parents[2]
ORIN = Gpu(name="Orin", capability="87", driver="12.6", memory=32 << 30)
RTX: dict[str, Any] = {"backend": "tensorrt-rtx", "architectures": ["86"], "optimization_level": 0}


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("DINAT_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


class Jetson:
    """A Jetson whose builder writes this plan and notes what it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
        self.version = version
        self.plan = b"ftrt" + bytes(100)
        self.task: BuildTask | None = None
        self.model: onnx.ModelProto | None = None
        monkeypatch.setattr(build_plan, "current_gpu", lambda: ORIN)
        monkeypatch.setattr(TensorRtBuilder, "version", lambda builder: version)
        monkeypatch.setattr(TensorRtBuilder, "_here", lambda builder: ORIN.capability)
        monkeypatch.setattr(
            TensorRtBuilder, "build", lambda builder, task, progress: self.build(task, progress)
        )

    def build(self, task: BuildTask, progress: Progress) -> BuildOutcome:
        self.task, self.model = task, onnx.load(task.model)
        task.plan.write_bytes(self.plan)
        return BuildOutcome(
            version=self.version,
            gpu=ORIN,
            engine_layers=[EngineLayer(name="all of it", kind="myelin")],
            dla_unsupported=["softmax"],
            timing_cache_hits=True,
            inputs=[],
            outputs=[],
            layers={"plugin_v3": 3},
            plugin_layers=[PluginLayer(node="na", dtype="float")],
            body_nodes=[],
            parse_seconds=0.5,
            build_seconds=1.5,
            peak_memory=None,
            warnings=[],
        )


@pytest.mark.parametrize(
    ("version", "plugin", "stripped"),
    [
        ("10.3.0", True, True),
        ("10.6.0.26", True, True),
        ("10.7.0.23", True, False),
        ("11.4.0.106", True, False),
        ("10.3.0", False, False),
    ],
)
def test_old_parsers_get_the_model_without_its_body_if_the_plugin_is_wanted(
    version: str,
    plugin: bool,
    stripped: bool,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jetson = Jetson(monkeypatch, version)
    library = library_in(tmp_path) if plugin else None
    report = build(
        bundle, backend="tensorrt", plugin_library=library, plugin=None if plugin else False
    )
    assert jetson.task is not None and jetson.model is not None
    original = onnx.load(bundle / "model.onnx")
    assert len(original.functions) == 1
    if stripped:
        del original.functions[:]
        assert not jetson.task.model.exists()  # gone with the build
    assert jetson.model == original
    assert any("without the operator's body" in note for note in report.notes) is stripped
    assert report.manifest.onnx.body_stripped is stripped
    assert report.manifest.onnx.sha256 == sha256(bundle / "model.onnx")
    assert sorted(path.name for path in report.path.iterdir()) == ["engine.json", "model.plan"]


def test_the_manifest_records_what_the_builder_and_the_machine_were(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jetson = Jetson(monkeypatch, "10.3.0")
    options = BuilderOptions(dla_core=1, hardware_compatibility="ampere+", workspace_mib=64)
    report = build(
        bundle, backend="tensorrt", plugin_library=library_in(tmp_path), taps="debug",
        options=options, optimization_level=3,
    )  # fmt: skip
    assert jetson.task is not None
    manifest = report.manifest
    assert report.path == bundle / "engines" / "tensorrt-plugin-debug"
    assert open_engine(report.path).manifest == manifest
    assert manifest.gpu == ORIN
    assert manifest.architectures == ["87"]
    assert manifest.runtime.version == "10.3.0"
    assert manifest.runtime.platform == f"{os.uname().sysname} {os.uname().machine}"
    assert manifest.options == options.model_copy(update={"optimization_level": 3})
    assert manifest.layers.engine == [EngineLayer(name="all of it", kind="myelin")]
    assert manifest.layers.dla_unsupported == ["softmax"]
    assert manifest.taps is not None
    assert manifest.taps.kind == "debug"
    assert jetson.task.debug_tensors == list(manifest.taps.tensors.values())
    assert jetson.task.extra_outputs == []
    place = tmp_path / "cache" / "timing" / "tensorrt-10.3.0-Orin-sm87-cuda12.6.cache"
    assert jetson.task.timing_cache == report.timing_cache == place
    assert report.to_dict()["timing_cache_hits"] is True
    assert manifest.host_code == []
    assert not trust.record_path().exists()
    here = Here("tensorrt", "10.3.0", ORIN, library_in(tmp_path), dla_cores=2)
    assert check_engine(open_engine(report.path), here) == []


@pytest.mark.parametrize(
    ("options", "inside", "reason"),
    [
        ({"embed_plugin": True}, True, "the plugin library libdinat_tensorrt.so"),
        ({"options": BuilderOptions(version_compatible=True)}, False, "the lean runtime of TensorRT 10.3.0"),
        ({}, True, "a library for x86_64"),
    ],
)  # fmt: skip
def test_a_plan_with_host_code_may_run_where_it_was_built(
    options: dict[str, Any],
    inside: bool,
    reason: str,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jetson = Jetson(monkeypatch, "10.3.0")
    if inside:
        jetson.plan += LIBRARY_INSIDE
    library = library_in(tmp_path)
    report = build(bundle, backend="tensorrt", plugin_library=library, **options)
    assert report.manifest.host_code == [reason]
    here = Here("tensorrt", "10.3.0", ORIN, library)
    assert check_engine(open_engine(report.path), here) == []
    entry = json.loads(trust.record_path().read_text())
    assert (entry["how"], entry["plan"]) == ("built", str(report.path / "model.plan"))
    # On another machine it is a plan from somewhere.
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(EngineError, match="neither built nor trusted on this machine"):
        check_engine(open_engine(report.path), here)


def test_a_record_that_cannot_be_written_is_a_note(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jetson = Jetson(monkeypatch, "10.3.0")
    jetson.plan += LIBRARY_INSIDE
    (tmp_path / "data").write_text("a file")
    report = build(bundle, backend="tensorrt", plugin=False)
    assert any("To run the engine will take --trust" in note for note in report.notes)
    open_engine(report.path).check_plan()


@pytest.mark.rtx
@pytest.mark.parametrize("kind", ["outputs", "debug"])
def test_layers_can_be_let_out_of_an_engine(kind: Any, bundle: Path) -> None:
    report = build(bundle, plugin=False, taps=kind, **RTX)
    assert report.path.name == f"tensorrt-rtx-body-{kind}"
    manifest = report.manifest
    recorded = json.loads((bundle / "model.json").read_text())["taps"]
    assert manifest.taps is not None
    assert manifest.taps.tensors == recorded
    names = [tensor.name for tensor in manifest.outputs]
    extra = list(dict.fromkeys(recorded.values())) if kind == "outputs" else []
    assert names == ["logits", *extra]


@pytest.mark.rtx
def test_an_embedded_plugin_is_found_in_the_real_plan(bundle: Path, plugin_library: Path) -> None:
    report = build(bundle, plugin_library=plugin_library, embed_plugin=True, **RTX)
    assert report.manifest.host_code == ["the plugin library libdinat_tensorrt.so"]
    assert trust.libraries_inside(report.path / "model.plan") == [os.uname().machine]
    assert trust.is_known(report.manifest.plan.sha256)
    plain = build(bundle, plugin_library=plugin_library, **RTX)
    assert plain.manifest.host_code == []
    assert trust.libraries_inside(plain.path / "model.plan") == []


@pytest.mark.rtx
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_moment_a_build_leaves_a_whole_engine_or_none(
    relu_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "tmp").mkdir()
    command = [sys.executable, "-m", "tests.engine.killed_builds", relu_model, tmp_path / "out/engine", "20261124", "14"]  # fmt: skip
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert sum(found["seen"].values()) == 14
    assert any("killed" in what for what in found["seen"])
    assert found["left"] == ["engine", "first"]
    assert found["temporary"] == []
