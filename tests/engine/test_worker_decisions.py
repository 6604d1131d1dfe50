"""What the worker does with every option on releases of TensorRT that need a GPU to build.

The TensorRT here records what is done to it and has the names of the real release.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from dinat_deploy.engine import worker
from dinat_deploy.engine.builder import BuilderOptions, BuildOutcome, BuildTask, Gpu, PluginRequest
from dinat_deploy.engine.profiles import parse_profile
from dinat_deploy.errors import EngineError
from dinat_deploy.graph.schema import PACKED
from dinat_deploy.session import tensorrt_api
from tests.engine.nvidia_bindings import RELEASES, Bindings, surface
from tests.engine.recording_tensorrt import RecordingTensorRt, Script
from tests.graph.op_models import op_model

LAYERS = [
    ("CONSTANT", "weights", "[ONNX Layer: weights]", ["w"]),
    ("CONVOLUTION", "conv", "[ONNX Layer: conv]", ["a"]),
    ("ACTIVATION", "relu", "[ONNX Layer: relu]", ["y"]),
]
GPU = Gpu(name="NVIDIA Orin", capability="87", driver="12.6")
OLD, NEW = "10.0", "10.16"


class Messages:
    """A channel of which nobody reads."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def send(self, kind: str, **content: Any) -> None:
        self.sent.append(kind)


@pytest.fixture
def run(
    nvidia: Callable[..., Bindings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., BuildOutcome]:
    """Runs a build in this process."""

    def build(
        script: Script, release: str = NEW, *, gpu: Gpu | None = None, **fields: Any
    ) -> BuildOutcome:
        trt = RecordingTensorRt(RELEASES[release], surface(nvidia(release)), script)
        monkeypatch.setattr(tensorrt_api, "import_tensorrt", lambda flavor: trt)
        monkeypatch.setattr(worker, "current_gpu", lambda: gpu)
        fields.setdefault("model", tmp_path / "m.onnx")
        task = BuildTask(flavor="tensorrt", plan=tmp_path / "model.plan", **fields)
        return worker.build(task, Messages())  # type: ignore[arg-type]

    return build


Run = Callable[..., BuildOutcome]


def flags(script: Script, method: str) -> set[str]:
    return {flag.name for (flag,) in script.called("IBuilderConfig", method)}


@pytest.mark.parametrize("release", RELEASES)
def test_networks_are_strongly_typed_and_plain_builds_in_full_precision(
    release: str, run: Run, tmp_path: Path
) -> None:
    script = Script(LAYERS)
    outcome = run(script, release)
    ((given,),) = script.called("Builder", "create_network")
    # TensorRT 11 has no other networks, and the flag is deprecated there.
    assert (given != 0) is release.startswith("10.")
    assert flags(script, "set_flag") == set()
    assert flags(script, "clear_flag") == {"TF32"}
    assert script.settings["IBuilderConfig", "profiling_verbosity"].name == "DETAILED"
    assert script.settings.keys() == {
        ("IBuilderConfig", "profiling_verbosity"), ("IBuilderConfig", "progress_monitor"),
    }  # fmt: skip
    assert (tmp_path / "model.plan").read_bytes() == b"ftrt plan"
    assert outcome.version == RELEASES[release]
    assert outcome.layers == {"constant": 1, "convolution": 1, "activation": 1}
    assert outcome.timing_cache_hits is None and outcome.engine_layers is None
    assert script.called("Runtime", "__init__") == []


@pytest.mark.parametrize("release", [OLD, "10.9", NEW, "11.4"])
def test_every_option_is_set(release: str, run: Run) -> None:
    script = Script(LAYERS)
    level = "ampere+" if release == OLD else "same-capability"
    options = BuilderOptions(
        optimization_level=4, workspace_mib=512, hardware_compatibility=level, refit=True,
        version_compatible=True, strip_weights=True, tf32=True,
    )  # fmt: skip
    run(script, release, options=options, profiles=[parse_profile("x=1x4:2x4:8x4")])
    assert flags(script, "set_flag") == {"REFIT", "STRIP_PLAN", "VERSION_COMPATIBLE"}
    assert flags(script, "clear_flag") == set()
    settings = {name: value for (kind, name), value in script.settings.items()}
    assert settings["builder_optimization_level"] == 4
    named = settings["hardware_compatibility_level"].name
    assert named == ("AMPERE_PLUS" if release == OLD else "SAME_COMPUTE_CAPABILITY")
    ((pool, size),) = script.called("IBuilderConfig", "set_memory_pool_limit")
    assert (pool.name, size) == ("WORKSPACE", 512 << 20)
    assert script.called("IOptimizationProfile", "set_shape") == [("x", (1, 4), (2, 4), (8, 4))]
    assert len(script.called("IBuilderConfig", "add_optimization_profile")) == 1


@pytest.mark.parametrize("release", [OLD, NEW])
def test_layers_that_the_dla_does_not_support_are_named(release: str, run: Run) -> None:
    script = Script(LAYERS, on_dla=("conv",), dla_cores=2)
    outcome = run(script, release, options=BuilderOptions(dla_core=1))
    assert outcome.dla_unsupported == ["relu (activation)"]
    assert script.settings["IBuilderConfig", "default_device_type"].name == "DLA"
    assert script.settings["IBuilderConfig", "DLA_core"] == 1
    assert flags(script, "set_flag") == {"GPU_FALLBACK"}


def test_without_the_gpu_layers_that_the_dla_does_not_support_are_an_error(run: Run) -> None:
    alone = BuilderOptions(dla_core=0, gpu_fallback=False)
    with pytest.raises(EngineError) as caught:
        run(Script(LAYERS, on_dla=("relu",), dla_cores=1), options=alone)
    assert "does not support 1 of 3 layers" in caught.value.cause
    assert caught.value.cause.endswith(":\n  conv (convolution)")
    script = Script(LAYERS, on_dla=("conv", "relu"), dla_cores=1)
    assert run(script, options=alone).dla_unsupported == []
    assert flags(script, "set_flag") == set()
    with pytest.raises(EngineError, match="DLA core 2 is wanted, and this machine has 2 of them"):
        run(Script(LAYERS, dla_cores=2), options=BuilderOptions(dla_core=2))


@pytest.mark.parametrize("release", [OLD, NEW])
def test_the_timing_cache_is_read_and_added_to(release: str, run: Run, tmp_path: Path) -> None:
    place = tmp_path / "times.cache"
    first = Script(LAYERS, measured={"conv"})
    assert run(first, release, timing_cache=place).timing_cache_hits is False
    assert place.read_bytes() == b"header conv"
    second = Script(LAYERS, measured={"gemm"}, stored={b"header conv": {"conv"}})
    assert run(second, release, timing_cache=place).timing_cache_hits is True
    assert place.read_bytes() == b"header conv gemm"
    # Never told to take times of another GPU.
    for method in ("set_timing_cache", "combine"):
        calls = [*second.called("IBuilderConfig", method), *second.called("ITimingCache", method)]
        assert calls and all(call[-1] is False for call in calls)


@pytest.mark.parametrize(
    ("there", "stored"),
    [(b"\0garbage", {}), (b"header alien", {b"header alien": {"of another GPU"}})],
    ids=["damaged", "of another GPU"],
)
def test_a_timing_cache_that_does_not_fit_is_not_used(
    there: bytes, stored: dict[bytes, set[str]], run: Run, tmp_path: Path
) -> None:
    place = tmp_path / "times.cache"
    place.write_bytes(there)
    outcome = run(Script(LAYERS, measured={"conv"}, stored=stored), timing_cache=place)
    assert outcome.timing_cache_hits is False
    assert place.read_bytes() == b"header conv"
    assert "is not of this TensorRT and GPU" in "".join(outcome.warnings)
    assert there in [path.read_bytes() for path in tmp_path.iterdir() if path != place]


def test_nothing_measured_is_nothing_stored(run: Run, tmp_path: Path) -> None:
    place = tmp_path / "times.cache"
    run(Script(LAYERS), timing_cache=place)
    assert not place.exists()
    # An empty cache is as good as none.
    place.write_bytes(b"header ")
    outcome = run(Script(LAYERS, measured={"conv"}), timing_cache=place)
    assert place.read_bytes() == b"header conv"
    assert outcome.warnings == []


@pytest.mark.parametrize("release", [OLD, NEW, "11.4"])
def test_tensors_are_let_out(release: str, run: Run) -> None:
    script = Script(LAYERS)
    run(script, release, extra_outputs=["a", "y", "a"], debug_tensors=["a"])
    assert [t.name for (t,) in script.called("INetworkDefinition", "mark_output")] == ["a"]
    assert [t.name for (t,) in script.called("INetworkDefinition", "mark_debug")] == ["a"]
    odd = [*LAYERS[:2], ("ACTIVATION", "relu", "", ["stubborn", "y"])]
    with pytest.raises(EngineError, match="cannot mark these as debug tensors:\n  stubborn"):
        run(Script(odd), release, debug_tensors=["a", "stubborn"])


def attention(metadata: str, kind: str = "PLUGIN_V3") -> list[tuple[str, str, str, list[str]]]:
    return [*LAYERS[:2], (kind, "na_1", metadata, ["y"])]


@pytest.mark.parametrize("release", [OLD, "10.7", NEW])
@pytest.mark.parametrize("embed", [False, True])
def test_the_finished_engine_is_inspected_on_a_gpu(embed: bool, release: str, run: Run) -> None:
    script = Script(
        attention("[ONNX Layer: na]"),
        creators=[(PACKED, "1", "dinat")],
        inspector=json.dumps(
            {"Layers": [{"Name": "na", "LayerType": "PluginV3", "PluginType": PACKED}]}
        ),
    )
    request = PluginRequest(library=Path("/p.so"), operators=[PACKED], nodes=["na"], embed=embed)
    outcome = run(script, release, gpu=GPU, plugin=request)
    assert outcome.gpu == GPU
    assert outcome.engine_layers is not None
    assert [(layer.name, layer.kind) for layer in outcome.engine_layers] == [("na", "plugin")]
    assert [(layer.node, layer.dtype) for layer in outcome.plugin_layers] == [("na", "float")]
    # An embedded plugin is in the plan: it is host code, and need not be loaded a second time.
    assert script.settings["Runtime", "engine_host_code_allowed"] is embed
    assert len(script.called("IPluginRegistry", "load_library")) == (1 if embed else 2)
    serialized = script.settings.get(("IBuilderConfig", "plugins_to_serialize"))
    assert serialized == (["/p.so"] if embed else None)


def test_an_engine_for_dla_is_inspected_on_it(run: Run) -> None:
    script = Script(LAYERS, dla_cores=2, on_dla=("conv", "relu"))
    run(script, gpu=GPU, options=BuilderOptions(dla_core=1, version_compatible=True))
    assert script.settings["Runtime", "DLA_core"] == 1
    assert script.settings["Runtime", "engine_host_code_allowed"] is True


@pytest.mark.parametrize("description", [None, "no JSON", "[]"])
def test_an_engine_that_cannot_be_inspected_is_built_all_the_same(
    description: str | None, run: Run, tmp_path: Path
) -> None:
    outcome = run(Script(LAYERS, inspector=description), gpu=GPU)
    assert outcome.engine_layers is None
    assert "layers of the finished engine cannot be listed" in outcome.warnings[-1]
    assert (tmp_path / "model.plan").exists()


@pytest.mark.parametrize(
    ("release", "metadata"),
    [
        ("10.3", "[ONNX Layer: MatMul_3 | Local Function: NeighborhoodAttention2D]"),
        (NEW, "[ONNX Layer: MatMul_3 | na (NeighborhoodAttention2D)]"),
    ],
)
def test_nodes_that_became_their_body_are_named_by_old_parsers_too(
    release: str, metadata: str, run: Run, tmp_path: Path
) -> None:
    """Until 10.6 the parser tells the operator, not the node: then the file tells the nodes."""
    model = op_model((1, 8, 8, 1, 16), kernel_size=(3, 3), dilation=(1, 1), scale=0.2)
    onnx.save(model, tmp_path / "op.onnx")
    layers = attention(metadata, "MATRIX_MULTIPLY")
    assert run(Script(layers), release, model=tmp_path / "op.onnx").body_nodes == ["na"]


def test_the_recording_tensorrt_has_no_other_names_than_the_real_one(
    nvidia: Callable[..., Bindings],
) -> None:
    trt = RecordingTensorRt("10.0.1", surface(nvidia("10.0")), Script(LAYERS))
    with pytest.raises(AttributeError, match=r"TensorRT 10\.0\.1 has no EngineStat|\.EngineStat"):
        trt.EngineStat  # noqa: B018
    config = trt.Builder(None).create_builder_config()
    with pytest.raises(AttributeError, match=r"10\.0\.1 has no IBuilderConfig\.set_flags"):
        config.set_flags()
    with pytest.raises(AttributeError, match=r"has no IBuilderConfig\.tiling_optimization_level"):
        config.tiling_optimization_level = 1
    assert not hasattr(trt.HardwareCompatibilityLevel, "SAME_COMPUTE_CAPABILITY")
