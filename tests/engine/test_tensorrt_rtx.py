"""Engines built with TensorRT-RTX from the operator's body, on a machine without a GPU."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import onnx
import pytest

from dinat_deploy.engine import process
from dinat_deploy.engine.manifest import open_engine
from dinat_deploy.engine.tensorrt_rtx import TensorRtRtxBuilder
from dinat_deploy.errors import EngineError, OutputError
from dinat_deploy.pipeline.building import build, plan_build
from dinat_deploy.progress import Silent
from dinat_deploy.session import tensorrt_api
from tests.engine.test_process import gone

pytestmark = pytest.mark.rtx
RTX: dict[str, Any] = {"backend": "tensorrt-rtx", "architectures": ["86"], "optimization_level": 0}


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle that may be written to."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


class Recorder(Silent):
    """Notes stages and what they report; can do something when one begins."""

    def __init__(self, on_stage: Callable[[str], None] = lambda name: None) -> None:
        self.stages: list[str] = []
        self.shares: list[float] = []
        self.phases: set[str] = set()
        self.notes: list[str] = []
        self._on_stage = on_stage

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.stages.append(name)
        self._on_stage(name)
        yield

    @contextmanager
    def portion(self, name: str) -> Iterator[Callable[[float, str], None]]:
        with self.stage(name):
            yield self._report

    def _report(self, share: float, phase: str) -> None:
        self.shares.append(share)
        self.phases.add(phase)

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_bundle_becomes_an_engine_with_a_true_manifest(bundle: Path) -> None:
    progress = Recorder()
    report = build(bundle, progress=progress, **RTX)
    assert report.path == bundle / "engines" / "tensorrt-rtx-body"
    assert sorted(path.name for path in report.path.iterdir()) == ["engine.json", "model.plan"]

    engine = open_engine(report.path)
    engine.check_plan()
    engine.check_onnx(bundle / "model.onnx")
    manifest = engine.manifest
    assert manifest == report.manifest
    assert engine.plan_path.read_bytes()[1:4] == b"trt"
    assert manifest.plan.bytes == engine.plan_path.stat().st_size > 100_000
    assert manifest.model == "tiny"
    assert manifest.architectures == ["86"]
    assert manifest.precision == "float32"
    assert [(t.name, t.dtype, t.shape) for t in manifest.inputs] == [
        ("image", "float", [1, 3, 64, 64])
    ]
    assert [(t.name, t.shape) for t in manifest.outputs] == [("logits", [1, 10])]
    assert manifest.profiles == []
    assert manifest.options.optimization_level == 0
    assert manifest.runtime.version == TensorRtRtxBuilder().version()
    assert manifest.plugin is None
    assert manifest.layers.plugin == []
    assert manifest.layers.body == [
        "levels.0.blocks.0.attn/NeighborhoodAttention2D",
        "levels.0.blocks.1.attn/NeighborhoodAttention2D",
        "levels.1.blocks.0.attn/NeighborhoodAttention2D",
    ]
    assert manifest.layers.types["convolution"] == 3
    assert report.peak_memory is not None and 1e8 < report.peak_memory < 2e9
    assert report.warnings == []

    assert progress.stages == [
        "Reading the ONNX file", "Parsing the ONNX file", "Building the engine",
        "Writing the plan", "Writing the manifest",
    ]  # fmt: skip
    assert progress.shares == sorted(progress.shares)
    assert progress.shares[-1] > 0.5
    assert len(progress.phases) > 1
    assert any("plugin library for TensorRT was not found" in note for note in progress.notes)


def test_an_onnx_file_with_dynamic_shapes_two_profiles_and_external_data(
    dynamic_bundle: Path, tmp_path: Path
) -> None:
    model = onnx.load(dynamic_bundle / "model.onnx")
    path = tmp_path / "dynamic.onnx"
    onnx.save(model, path, save_as_external_data=True, location="dynamic.bin", size_threshold=0)
    profiles = ["image=1x3x48x48:1x3x64x64:1x3x96x96", "image=4x3x64x64"]
    log = tmp_path / "all.log"
    report = build(path, plugin=False, profiles=profiles, verbose_log=log, **RTX)
    assert report.path == tmp_path / "dynamic.engines" / "tensorrt-rtx-body"
    manifest = report.manifest
    assert manifest.model is None
    assert list(manifest.onnx.external_data) == ["dynamic.bin"]
    assert manifest.inputs[0].shape == ["batch", 3, "height", "width"]
    assert manifest.outputs[0].shape == ["batch", 10]
    assert [profile["image"].max for profile in manifest.profiles] == [
        (1, 3, 96, 96),
        (4, 3, 64, 64),
    ]
    assert report.notes == []
    open_engine(report.path).check_onnx(path)
    (tmp_path / "dynamic.bin").write_bytes(bytes(9))
    with pytest.raises(EngineError, match=r"weights of SHA-256 .*dynamic\.bin has"):
        open_engine(report.path).check_onnx(path)
    assert "[VERBOSE]" in log.read_text()
    assert "dynamic.onnx" in log.read_text()


def test_no_torch_and_no_onnx_are_needed(bundle: Path) -> None:
    """As on a device that only builds what another machine exported."""
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxscript', 'onnx_ir', 'onnxruntime', 'safetensors'):\n"
        "    sys.modules[name] = None\n"
        "import dinat_deploy\n"
        f"report = dinat_deploy.build({str(bundle)!r}, backend='tensorrt-rtx', "
        "architectures=['86'], optimization_level=0)\n"
        "assert len(report.manifest.layers.body) == 3\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_the_parser_refuses_is_listed_by_node(bundle: Path, tmp_path: Path) -> None:
    model = onnx.load(bundle / "model.onnx")
    names = []
    for node in model.graph.node:
        if node.op_type == "LayerNormalization":
            node.op_type = "Frobnicate"
            names.append(node.name)
    path = tmp_path / "odd.onnx"
    onnx.save(model, path)
    with pytest.raises(EngineError) as caught:
        build(path, **RTX)
    lines = caught.value.cause.splitlines()
    assert lines[0] == f"TensorRT's parser refuses {path}."
    assert [line.partition(" (Frobnicate): ")[0] for line in lines[1:]] == [f"  {n}" for n in names]
    assert "Plugin not found" in lines[1]
    assert not (tmp_path / "odd.engines").exists() or not any((tmp_path / "odd.engines").iterdir())


def test_what_is_said_of_the_missing_driver_is_not_listed() -> None:
    driver = (
        "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (cudaError 35: CUDA "
        "driver version is insufficient for CUDA runtime version)"
    )
    found = tensorrt_api.listed([f"Invalid Node - na\nwrong shape\n{driver}", driver, "cause"])
    assert found == "\n  Invalid Node - na\n  wrong shape\n  cause"
    assert tensorrt_api.listed([driver]) == f"\n  {driver}"  # it is all that is known


@contextmanager
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Process numbers of the workers that are started."""
    started: list[int] = []

    class Popen(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            started.append(self.pid)

    with monkeypatch.context() as patch:
        patch.setattr(process.subprocess, "Popen", Popen)
        yield started


@pytest.mark.parametrize(
    ("number", "message"),
    [(signal.SIGSEGV, r"crashed \(SIGSEGV\)"), (signal.SIGKILL, r"was killed \(SIGKILL\)")],
)
def test_a_builder_that_dies_is_an_error_and_leaves_nothing(
    number: signal.Signals, message: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with workers(monkeypatch) as started:

        def kill(stage: str) -> None:
            if stage == "Building the engine":
                os.kill(started[0], number)

        with pytest.raises(EngineError, match=message):
            build(bundle, progress=Recorder(kill), **RTX)
    assert gone(started[0])
    assert list((bundle / "engines").iterdir()) == []


def test_an_exception_while_building_ends_the_builder_and_leaves_nothing(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(stage: str) -> None:
        if stage == "Building the engine":
            raise KeyboardInterrupt

    with workers(monkeypatch) as started, pytest.raises(KeyboardInterrupt):
        build(bundle, progress=Recorder(interrupt), **RTX)
    assert gone(started[0])
    assert list((bundle / "engines").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_the_command_leaves_nothing(number: signal.Signals, bundle: Path) -> None:
    command = [sys.executable, "-m", "dinat_deploy", "build", str(bundle), "--backend"]
    running = subprocess.Popen(
        [*command, "tensorrt-rtx"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # Tests started in the background inherit that SIGINT is ignored.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    assert running.stderr is not None
    # A line is printed when a stage is done: the worker comes next. Stopped, it cannot be done
    # before the signal arrives.
    assert any(line.startswith("Reading the ONNX file ...") for line in running.stderr)
    children: list[str] = []
    while not (children and b"engine.worker" in Path(f"/proc/{children[0]}/cmdline").read_bytes()):
        assert running.poll() is None
        time.sleep(0.01)
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGSTOP)
    running.send_signal(number)
    _, messages = running.communicate(timeout=20)
    assert running.returncode == 130
    assert "Interrupted. Nothing was written." in messages
    assert len(children) == 1
    # Interrupted while the worker was being started, the command leaves it to see its input end.
    with suppress(ProcessLookupError):
        os.kill(int(children[0]), signal.SIGCONT)
    assert gone(int(children[0]))
    assert list((bundle / "engines").iterdir()) == []


def test_an_engine_replaces_an_older_one_and_nothing_else(relu_model: Path, tmp_path: Path) -> None:
    place = tmp_path / "engine"
    place.mkdir()
    (place / "precious.txt").write_text("mine")
    with pytest.raises(OutputError, match="a directory with other content"):
        build(relu_model, place, **RTX)
    assert [path.name for path in place.iterdir()] == ["precious.txt"]
    (place / "precious.txt").unlink()
    build(relu_model, place, **RTX)
    again = build(relu_model, place, **{**RTX, "architectures": ["89"]})
    assert open_engine(place).manifest == again.manifest
    assert again.manifest.architectures == ["89"]
    open_engine(place).check_plan()


def test_a_full_disk_is_an_error(relu_model: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    plan = plan_build(relu_model, **RTX)
    task = plan.task.model_copy(update={"plan": Path("/dev/full")})
    with pytest.raises(EngineError, match="Writing failed: .*No space left on device"):
        TensorRtRtxBuilder().build(task, Silent())


@pytest.mark.parametrize("architecture", ["75", "80", "86", "89", "120", "121"])
def test_every_architecture_can_be_built_for(architecture: str, relu_model: Path) -> None:
    report = build(relu_model, workspace_mib=64, **{**RTX, "architectures": [architecture]})
    assert report.manifest.architectures == [architecture]
    assert report.manifest.options.workspace_mib == 64
    assert report.manifest.layers.types == {"activation": 1}


def test_an_architecture_that_this_release_lacks_is_named(relu_model: Path) -> None:
    task = plan_build(relu_model, **RTX).task.model_copy(update={"architectures": ["52"]})
    with pytest.raises(
        EngineError, match=r"TensorRT-RTX 1\S+ cannot build for compute capability 52"
    ):
        TensorRtRtxBuilder().build(task, Silent())


def test_options_and_tensors_to_let_out_reach_the_builder(bundle: Path, tmp_path: Path) -> None:
    task = plan_build(bundle, plugin=False, **RTX).task
    norms = [
        node.output[0]
        for node in onnx.load(bundle / "model.onnx").graph.node
        if node.op_type == "LayerNormalization"
    ]
    changes = {
        "plan": tmp_path / "model.plan",
        "options": task.options.model_copy(update={"tf32": True, "workspace_mib": 64}),
        "extra_outputs": norms[:1],
        "debug_tensors": norms[1:3],
    }
    task = task.model_copy(update=changes)
    outcome = TensorRtRtxBuilder().build(task, Silent())
    assert [tensor.name for tensor in outcome.outputs] == ["logits", norms[0]]
    assert outcome.engine_layers is None and outcome.gpu is None  # ahead of time
    content = task.plan.read_bytes()
    assert all(name.encode() in content for name in norms[:3])
    assert norms[3].encode() not in content


def test_a_library_that_is_no_plugin_is_refused(bundle: Path, tmp_path: Path) -> None:
    library = tmp_path / "libnothing.so"
    library.write_bytes(b"\x7fELF\x02\x01 and nothing that could be loaded")
    with pytest.raises(EngineError, match=r"libnothing\.so cannot be loaded") as caught:
        build(bundle, plugin_library=library, **RTX)
    assert "dinat-deploy plugin build" in caught.value.cure
