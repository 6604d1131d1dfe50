"""The builder for TensorRT: NVIDIA's bindings of TensorRT 11 build, over TensorRT-RTX's libraries."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from dinat_deploy.engine import worker
from dinat_deploy.engine.builder import BuilderOptions, BuildOutcome, BuildTask, PluginRequest
from dinat_deploy.engine.options import check_tensorrt, check_tensorrt_rtx
from dinat_deploy.engine.profiles import parse_profile
from dinat_deploy.engine.tensorrt import TensorRtBuilder
from dinat_deploy.errors import EngineError, MissingDependencyError
from dinat_deploy.graph.schema import PACKED
from dinat_deploy.progress import Silent
from tests.engine.nvidia_bindings import BUILDING, Bindings
from tests.engine.test_tensorrt_rtx import Recorder
from tests.graph.op_models import op_model

FAST = BuilderOptions(optimization_level=0)
Build = Callable[..., BuildOutcome]


@pytest.fixture(params=BUILDING)
def tensorrt(
    request: pytest.FixtureRequest, nvidia: Callable[..., Bindings], monkeypatch: pytest.MonkeyPatch
) -> Bindings:
    """A TensorRT 11 in this process and in the workers that it starts."""
    found = nvidia(request.param, building=True)
    monkeypatch.syspath_prepend(found.site)
    for name, value in found.environment().items():
        monkeypatch.setenv(name, value)
    # Whatever we call must not be deprecated in the newest release.
    monkeypatch.setenv("PYTHONWARNINGS", "error::DeprecationWarning")
    return found


@pytest.fixture
def build(tensorrt: Bindings, tmp_path: Path) -> Build:
    """Builds a model to ``model.plan`` with TensorRtBuilder, as on a machine with a GPU."""

    def run(model: Path, progress: Silent | None = None, **fields: Any) -> BuildOutcome:
        fields.setdefault("options", FAST)
        task = BuildTask(flavor="tensorrt", model=model, plan=tmp_path / "model.plan", **fields)
        builder = TensorRtBuilder(capability=lambda: "86")
        return builder.build(task, progress or Silent())

    return run


@pytest.mark.rtx
def test_a_model_becomes_a_plan_with_progress_and_a_verbose_log(
    build: Build, tensorrt: Bindings, relu_model: Path, tmp_path: Path
) -> None:
    progress, log = Recorder(), tmp_path / "all.log"
    outcome = build(relu_model, progress, verbose_log=log)
    assert (tmp_path / "model.plan").read_bytes()[1:4] == b"trt"
    assert outcome.version == tensorrt.version == TensorRtBuilder().version()
    assert outcome.layers == {"activation": 1}
    assert [(t.name, t.dtype, t.shape) for t in outcome.inputs] == [("x", "float", [2])]
    assert [(t.name, t.dtype, t.shape) for t in outcome.outputs] == [("y", "float", [2])]
    assert outcome.warnings == []
    assert outcome.gpu is None and outcome.engine_layers is None
    assert progress.stages == ["Parsing the ONNX file", "Building the engine", "Writing the plan"]
    assert progress.shares and progress.shares == sorted(progress.shares)
    assert "[VERBOSE]" in log.read_text() and "relu.onnx" in log.read_text()


@pytest.mark.rtx
def test_a_bundle_builds_from_the_body_and_lets_tensors_out(
    build: Build, tiny_bundle: Path, tmp_path: Path
) -> None:
    model = tiny_bundle / "model.onnx"
    norms = [
        node.output[0]
        for node in onnx.load(model).graph.node
        if node.op_type == "LayerNormalization"
    ]
    outcome = build(model, extra_outputs=[norms[0], "logits"])
    assert [tensor.name for tensor in outcome.outputs] == ["logits", norms[0]]
    assert outcome.body_nodes == [
        "levels.0.blocks.0.attn/NeighborhoodAttention2D",
        "levels.0.blocks.1.attn/NeighborhoodAttention2D",
        "levels.1.blocks.0.attn/NeighborhoodAttention2D",
    ]
    assert outcome.plugin_layers == []
    assert outcome.layers["convolution"] == 3
    assert (tmp_path / "model.plan").stat().st_size > 100_000


@pytest.mark.rtx
def test_tensors_that_no_layer_computes_are_named(build: Build, relu_model: Path) -> None:
    with pytest.raises(EngineError, match=r"2 of 3 tensors .* by no layer") as caught:
        build(relu_model, extra_outputs=["y", "nowhere"], debug_tensors=["x"])
    assert caught.value.cause.endswith(":\n  nowhere\n  x")


@pytest.mark.rtx
@pytest.mark.parametrize("embed", [False, True])
def test_attention_becomes_a_plugin_layer(
    embed: bool, build: Build, plugin_library: Path, tmp_path: Path
) -> None:
    model = op_model(
        (1, 14, 15, 2, 32), kernel_size=(5, 3), dilation=(2, 3), scale=0.2, dynamic="batch"
    )
    onnx.save(model, tmp_path / "op.onnx")
    request = PluginRequest(library=plugin_library, operators=[PACKED], nodes=["na"], embed=embed)
    profile = parse_profile("qkv=1x14x15x192:2x14x15x192:5x14x15x192")
    outcome = build(tmp_path / "op.onnx", plugin=request, profiles=[profile])
    assert [(layer.node, layer.dtype) for layer in outcome.plugin_layers] == [("na", "float")]
    assert outcome.body_nodes == []
    inside = plugin_library.read_bytes() in (tmp_path / "model.plan").read_bytes()
    assert inside is embed


@pytest.mark.rtx
def test_two_profiles_of_a_dynamic_model(build: Build, tmp_path: Path) -> None:
    model = op_model(
        (2, 14, 15, 2, 32), kernel_size=(5, 3), dilation=(2, 3), scale=0.2, dynamic="batch",
        rpb=np.ones((2, 9, 5), np.float32), element_type=TensorProto.FLOAT16,
    )  # fmt: skip
    onnx.save(model, tmp_path / "op.onnx")
    profiles = ["qkv=1x14x15x192", "qkv=2x14x15x192:4x14x15x192:8x14x15x192"]
    outcome = build(tmp_path / "op.onnx", profiles=[parse_profile(entry) for entry in profiles])
    assert outcome.inputs[0].dtype == "float16"
    assert outcome.inputs[0].shape == ["?", 14, 15, 192]
    with pytest.raises(EngineError, match="could not build the engine"):
        build(tmp_path / "op.onnx")


@pytest.mark.rtx
def test_options_reach_tensorrt(build: Build, relu_model: Path, tmp_path: Path) -> None:
    options = BuilderOptions(
        optimization_level=1, workspace_mib=64, refit=True, strip_weights=True, tf32=True
    )
    outcome = build(relu_model, options=options, timing_cache=tmp_path / "times" / "a.cache")
    assert outcome.layers == {"activation": 1}
    # These libraries measure nothing.
    assert outcome.timing_cache_hits is False
    assert not (tmp_path / "times").exists()


@pytest.mark.rtx
def test_what_the_parser_refuses_is_listed_by_node(build: Build, relu_model: Path) -> None:
    model = onnx.load(relu_model)
    model.graph.node[0].op_type, model.graph.node[0].name = "Frobnicate", "odd"
    onnx.save(model, relu_model)
    with pytest.raises(EngineError, match=r"refuses .*relu\.onnx.\n  odd \(Frobnicate\): "):
        build(relu_model)


@pytest.mark.rtx
def test_a_machine_without_dla_says_so(build: Build, tensorrt: Bindings, relu_model: Path) -> None:
    with pytest.raises(
        EngineError,
        match=rf"DLA core 0 is wanted, and this machine has none that TensorRT {tensorrt.version}",
    ):
        build(relu_model, options=BuilderOptions(dla_core=0))


def test_a_machine_without_a_gpu_is_told_before_anything_starts(tmp_path: Path) -> None:
    builder = TensorRtBuilder(worker="no.such.module", capability=lambda: None)
    task = BuildTask(flavor="tensorrt", model=tmp_path / "m.onnx", plan=tmp_path / "plan")
    for start in (lambda: builder.architectures([]), lambda: builder.build(task, Silent())):
        with pytest.raises(EngineError) as caught:
            start()
        assert caught.value.cause == (
            "Building with TensorRT needs the GPU that the engine is for, and this machine has "
            "none (no NVIDIA driver)."
        )
        assert "--backend tensorrt-rtx" in caught.value.cure


@pytest.mark.parametrize("asked", [[], ["current"], ["89"], ["8.9", "sm_89"]])
def test_plans_are_for_the_gpu_at_hand(asked: list[str]) -> None:
    assert TensorRtBuilder(capability=lambda: "89").architectures(asked) == ["89"]


def test_other_gpus_are_refused() -> None:
    with pytest.raises(
        EngineError, match="built on the GPU that they are for, which is 89"
    ) as caught:
        TensorRtBuilder(capability=lambda: "89").architectures(["89", "87"])
    assert "87 is wanted" in caught.value.cause
    assert "hardware compatibility" in caught.value.cure


def test_every_supported_version_takes_plugins() -> None:
    assert TensorRtBuilder().plugin_obstacle() is None


def test_versions_before_10_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.py").touch()
    (tmp_path / "tensorrt-8.6.1.dist-info").mkdir()
    (tmp_path / "tensorrt-8.6.1.dist-info" / "METADATA").write_text(
        "Name: tensorrt\nVersion: 8.6.1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        MissingDependencyError, match=r"8\.6\.1 is installed, and building needs 10\.0"
    ):
        TensorRtBuilder().version()


def task(**options: Any) -> BuildTask:
    cache = options.pop("timing_cache", None)
    fields = {"flavor": "tensorrt", "model": Path("m"), "plan": Path("p"), "timing_cache": cache}
    return BuildTask(options=BuilderOptions(**options), **fields)


@pytest.mark.parametrize(
    ("options", "version", "capability", "message"),
    [
        (
            {"hardware_compatibility": "same-capability"}, "10.8.0.43", "86",
            r"GPUs of the same compute capability .* since TensorRT 10\.9, and 10\.8\.0\.43 is inst",
        ),
        (
            {"hardware_compatibility": "ampere+"}, "10.3.0", "75",
            r"built on Ampere \(80\) or later, and this GPU has compute capability 75",
        ),
        ({"hardware_compatibility": "same-capability"}, "11.4.0", "70", r"Turing \(75\) or later"),
    ],
)  # fmt: skip
def test_what_a_version_or_gpu_lacks_is_named(
    options: dict[str, Any], version: str, capability: str, message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        check_tensorrt(task(**options), version, capability)


@pytest.mark.parametrize(
    ("options", "version"),
    [
        ({}, "10.0.1"),
        ({"hardware_compatibility": "ampere+"}, "10.0.1"),
        ({"hardware_compatibility": "same-capability"}, "10.9.0.34"),
        (
            {"refit": True, "strip_weights": True, "version_compatible": True, "dla_core": 0},
            "10.3.0",
        ),
    ],
)
def test_what_a_version_has_passes(options: dict[str, Any], version: str) -> None:
    check_tensorrt(task(**options), version, "87")


@pytest.mark.parametrize(
    ("options", "message", "cure"),
    [
        ({"hardware_compatibility": "ampere+"}, "1.7.1 has no hardware compatibility", "--arch"),
        ({"version_compatible": True}, "1.7.1 builds no version compatible plans", "tensorrt"),
        ({"dla_core": 1}, "1.7.1 has no DLA", "Jetson"),
        ({"timing_cache": Path("c")}, "1.7.1 has no timing cache", "out"),
        ({"refit": True}, r"1.7.1 needs a GPU .* has none \(no NVIDIA driver\)", "Build there"),
        ({"strip_weights": True}, "needs a GPU to build an engine whose weights", "Build there"),
    ],
)
def test_what_tensorrt_rtx_lacks_is_named(options: dict[str, Any], message: str, cure: str) -> None:
    with pytest.raises(EngineError, match=message) as caught:
        check_tensorrt_rtx(task(**options), "1.7.1", None)
    assert re.search(cure, caught.value.cure)
    check_tensorrt_rtx(task(refit=True, strip_weights=True, tf32=True), "1.7.1", "86")


def test_the_worker_is_the_packages_own() -> None:
    assert worker.__name__ == "dinat_deploy.engine.worker"
