"""What is decided and refused before any builder starts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from dinat_deploy.bundle import open_bundle
from dinat_deploy.engine import plugin_choice, tensorrt_rtx
from dinat_deploy.engine.builder import BuilderOptions, Gpu
from dinat_deploy.engine.tensorrt import TensorRtBuilder
from dinat_deploy.engine.tensorrt_rtx import TensorRtRtxBuilder
from dinat_deploy.errors import (
    BundleError,
    ConfigError,
    EngineError,
    MissingDependencyError,
    OutputError,
)
from dinat_deploy.pipeline import build_plan
from dinat_deploy.pipeline.building import build, plan_build
from dinat_deploy.session import tensorrt_api

RTX: dict[str, Any] = {"backend": "tensorrt-rtx"}
rtx = pytest.mark.rtx


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "libmine.so"
    # The header of an ELF file; the rest is not looked into while planning.
    path.write_bytes(b"\x7fELF\x02\x01".ljust(18, b"\0") + b"\x3e\0")
    return path


@pytest.fixture
def bodiless(tiny_bundle: Path, tmp_path: Path) -> Path:
    model = onnx.load(tiny_bundle / "model.onnx")
    del model.functions[:]
    onnx.save(model, tmp_path / "bodiless.onnx")
    return tmp_path / "bodiless.onnx"


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ([], ["80", "86", "89", "120"]),
        (["86"], ["86"]),
        (
            ["120", "8.9", "sm_75", "sm86", "12.1", "compute_80", "89"],
            ["75", "80", "86", "89", "120", "121"],
        ),
    ],
)
def test_architectures_are_read_in_any_spelling(asked: list[str], found: list[str]) -> None:
    assert TensorRtRtxBuilder().architectures(asked) == found


@pytest.mark.parametrize("asked", ["87", "90", "110", "8.7", "ampere", "", "8.66"])
def test_unknown_architectures_are_named_with_the_list(asked: str) -> None:
    with pytest.raises(EngineError, match="does not build for compute capability") as caught:
        TensorRtRtxBuilder().architectures(["86", asked])
    assert f"capability {asked}." in caught.value.cause
    assert "75 (Turing), 80 (Ampere A100)" in caught.value.cure
    assert "Orin, Thor, Hopper" in caught.value.cure


def test_current_asks_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_rtx, "current_capability", lambda: "89")
    assert TensorRtRtxBuilder().architectures(["current", "86"]) == ["86", "89"]
    monkeypatch.setattr(tensorrt_rtx, "current_capability", lambda: "90")
    with pytest.raises(EngineError, match="of the GPU in this machine, 90,"):
        TensorRtRtxBuilder().architectures(["current"])
    monkeypatch.setattr(tensorrt_rtx, "current_capability", lambda: None)
    with pytest.raises(EngineError, match="needs an NVIDIA GPU with its driver"):
        TensorRtRtxBuilder().architectures(["current"])


def test_a_missing_tensorrt_rtx_is_named_with_the_way_to_get_it(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_api.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'dinat-deploy\[rtx\]'"):
        plan_build(tiny_bundle, **RTX)


def test_other_backends_are_unknown(tiny_bundle: Path) -> None:
    with pytest.raises(ConfigError, match="Unknown backend 'openvino'"):
        plan_build(tiny_bundle, backend="openvino")


@rtx
def test_one_architecture_and_one_profile_may_be_given_as_a_string(dynamic_bundle: Path) -> None:
    shape = "image=1x3x64x64"
    plan = plan_build(dynamic_bundle, architectures="86,89", profiles=shape, **RTX)
    assert plan.task.architectures == ["86", "89"]
    assert plan.task == plan_build(
        dynamic_bundle, architectures=["86", "89"], profiles=[shape], **RTX
    ).task  # fmt: skip


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"optimization_level": 6}, "optimization level is 6; expected 0 to 5"),
        ({"optimization_level": -1}, "optimization level is -1"),
        ({"workspace_mib": 0}, "workspace is 0 MiB; expected 1 or more"),
    ],
)
def test_limits_out_of_range_are_refused(
    limits: dict[str, int], message: str, tiny_bundle: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_build(tiny_bundle, **limits, **RTX)


@rtx
def test_the_onnx_file_of_a_bundle_is_the_bundle(tiny_bundle: Path) -> None:
    by_folder, by_file = (
        plan_build(tiny_bundle, **RTX),
        plan_build(tiny_bundle / "model.onnx", **RTX),
    )
    assert by_folder.bundle is not None
    assert by_folder == by_file
    assert by_folder.output == tiny_bundle / "engines" / "tensorrt-rtx-body"


@rtx
def test_a_changed_file_of_a_bundle_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    with (copy / "model.onnx").open("ab") as stream:
        stream.write(b"\x1a\x00")
    with pytest.raises(BundleError, match="and model.json was written for"):
        plan_build(copy, **RTX)


@rtx
def test_places_without_a_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle"):
        plan_build(tmp_path, **RTX)
    with pytest.raises(EngineError, match="There is no ONNX file"):
        plan_build(tmp_path / "model.onnx", **RTX)


@rtx
def test_a_dynamic_bundle_gets_a_profile_and_a_note(dynamic_bundle: Path) -> None:
    plan = plan_build(dynamic_bundle, **RTX)
    assert [str(profile["image"]) for profile in plan.task.profiles] == [
        "1x3x48x48:4x3x64x64:8x3x96x96"
    ]
    assert any("image=1x3x48x48:4x3x64x64:8x3x96x96" in note for note in plan.notes)
    with pytest.raises(EngineError, match="was exported for 48 to 96 pixels"):
        plan_build(dynamic_bundle, profiles=["image=1x3x32x32"], **RTX)


@rtx
def test_a_dynamic_onnx_file_needs_a_profile(dynamic_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    shutil.copy(dynamic_bundle / "model.onnx", path)
    with pytest.raises(EngineError, match=r"image \[batch x 3 x height x width\] is dynamic"):
        plan_build(path, **RTX)
    assert plan_build(path, profiles=["image=1x3x64x64"], **RTX).task.profiles


@rtx
@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01".ljust(20, b"\0")])
def test_a_plugin_library_that_is_none_is_refused(
    content: bytes, tiny_bundle: Path, tmp_path: Path
) -> None:
    library = tmp_path / "libmine.so"
    library.write_bytes(content)
    with pytest.raises(EngineError, match=r"libmine\.so is no shared library") as caught:
        plan_build(tiny_bundle, plugin_library=library, **RTX)
    assert "leave --plugin-library out" in caught.value.cure


@rtx
def test_turing_gets_no_model_in_float32(tiny_bundle: Path, tmp_path: Path) -> None:
    """TensorRT-RTX has no such matrix products for it, and finds that out late."""
    options = {**RTX, "architectures": ["75", "86"]}
    with pytest.raises(EngineError, match=r"capability 75 \(Turing\), and .* in float32") as caught:
        plan_build(tiny_bundle, **options)
    assert caught.value.cure == "Leave 75 out of --arch."
    mixed = onnx.load(tiny_bundle / "model.onnx")
    weight = mixed.graph.initializer[0]
    half = numpy_helper.to_array(weight).astype(np.float16)
    weight.CopyFrom(numpy_helper.from_array(half, weight.name))
    onnx.save(mixed, tmp_path / "mixed.onnx")
    (note,) = [
        note for note in plan_build(tmp_path / "mixed.onnx", **options).notes if "75" in note
    ]
    assert "the build fails if the model has one (float32+float16)" in note


@rtx
def test_the_plugin_is_used_when_it_is_found(
    tiny_bundle: Path, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin_choice, "find_library", lambda name: library)
    plan = plan_build(tiny_bundle, **RTX)
    assert plan.task.plugin is not None
    assert plan.task.plugin.library == library
    assert plan.task.plugin.operators == ["NeighborhoodAttention2D"]
    assert len(plan.task.plugin.nodes) == 3
    assert plan.task.plugin.embed is False
    assert plan.output.name == "tensorrt-rtx-plugin"
    assert plan.notes == []
    body = plan_build(tiny_bundle, plugin=False, **RTX)
    assert body.task.plugin is None
    assert body.output.name == "tensorrt-rtx-body"
    assert body.notes == []


@rtx
def test_without_a_library_the_body_is_used_with_a_note(tiny_bundle: Path) -> None:
    plan = plan_build(tiny_bundle, **RTX)
    assert plan.task.plugin is None
    assert "the plugin library for TensorRT was not found" in plan.notes[0]
    assert "dinat-deploy plugin build" in plan.notes[0]


@rtx
@pytest.mark.parametrize("options", [{"plugin": True}, {"embed_plugin": True}])
def test_a_wanted_plugin_that_is_missing_is_an_error(
    options: dict[str, Any], tiny_bundle: Path
) -> None:
    with pytest.raises(
        EngineError, match="^The plugin library for TensorRT was not found"
    ) as caught:
        plan_build(tiny_bundle, **options, **RTX)
    assert "dinat-deploy plugin build" in caught.value.cure


@rtx
def test_a_named_plugin_that_is_missing_is_an_error(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"There is no plugin library .*gone\.so"):
        plan_build(tiny_bundle, plugin_library=tmp_path / "gone.so", **RTX)


@rtx
@pytest.mark.parametrize(
    ("plugin", "why"),
    [(None, "the plugin library for TensorRT was not found"), (False, "--no-plugin forbids")],
)
def test_a_file_without_body_needs_a_plugin(
    plugin: bool | None, why: str, bodiless: Path, library: Path
) -> None:
    with pytest.raises(EngineError, match=f"has no body for NeighborhoodAttention2D, and {why}"):
        plan_build(bodiless, plugin=plugin, **RTX)
    assert plan_build(bodiless, plugin_library=library, **RTX).task.plugin is not None


@rtx
@pytest.mark.parametrize("options", [{"embed_plugin": True}, {"plugin_library": "x.so"}])
def test_contradicting_options_are_refused(options: dict[str, Any], tiny_bundle: Path) -> None:
    with pytest.raises(ConfigError, match="--no-plugin contradicts"):
        plan_build(tiny_bundle, plugin=False, **options, **RTX)


@rtx
def test_a_model_without_attention_wants_no_plugin(relu_model: Path, library: Path) -> None:
    plan = plan_build(relu_model, **RTX)
    assert plan.task.plugin is None
    assert plan.output == relu_model.parent / "relu.engines" / "tensorrt-rtx"
    with pytest.raises(EngineError, match="has no neighborhood attention nodes"):
        plan_build(relu_model, plugin_library=library, **RTX)


@rtx
def test_releases_without_plugins_take_the_body(
    tiny_bundle: Path, bodiless: Path, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TensorRtRtxBuilder, "version", lambda self: "1.6.1.120")
    monkeypatch.setattr(plugin_choice, "find_library", lambda name: library)
    message = r"TensorRT-RTX takes plugins since 1\.7, and 1\.6\.1\.120 is installed\."
    plan = plan_build(tiny_bundle, **RTX)
    assert plan.task.plugin is None
    assert "pip install -U tensorrt-rtx" in plan.notes[0]
    for path, options in ((tiny_bundle, {"plugin": True}), (bodiless, {})):
        with pytest.raises(EngineError, match=message) as caught:
            plan_build(path, **options, **RTX)
        assert "pip install -U tensorrt-rtx" in caught.value.cure
    monkeypatch.setattr(TensorRtRtxBuilder, "version", lambda self: "1.10.0")
    assert plan_build(tiny_bundle, **RTX).task.plugin is not None


class Info:
    """What native.library_info says of a library with code for Ampere only."""

    name = "dinat_tensorrt"
    machine = plugin_choice.platform.machine()
    cuda_code = ("sm_86",)
    version = "0.1.0"

    def runs_on_gpu(self, architecture: int) -> bool:
        return architecture in (86, 89)


@rtx
def test_a_plugin_without_code_for_a_target_is_refused(
    tiny_bundle: Path, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin_choice, "library_info", lambda path: Info())
    options = {**RTX, "plugin_library": library}
    assert plan_build(tiny_bundle, architectures=["86", "89"], **options).task.plugin is not None
    with pytest.raises(EngineError, match=r"has code for sm_86, .* capability 120 too") as caught:
        plan_build(tiny_bundle, architectures=["86", "120"], **options)
    assert "`dinat-deploy plugin build --arch 86,120`" in caught.value.cure
    monkeypatch.setattr(Info, "name", "dinat_onnxruntime")
    with pytest.raises(EngineError, match=r"libmine\.so is dinat_onnxruntime, not the plugin"):
        plan_build(tiny_bundle, architectures=["86"], **options)
    monkeypatch.setattr(Info, "name", "dinat_tensorrt")
    monkeypatch.setattr(Info, "machine", "riscv64")
    with pytest.raises(EngineError, match=r"libmine\.so is for riscv64, this machine is"):
        plan_build(tiny_bundle, architectures=["86"], **options)


@rtx
def test_without_named_targets_the_engine_is_for_what_the_plugin_has_code_for(
    tiny_bundle: Path, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin_choice, "library_info", lambda path: Info())
    monkeypatch.setattr(plugin_choice, "find_library", lambda name: library)
    plan = plan_build(tiny_bundle, **RTX)
    assert plan.task.plugin is not None
    assert plan.task.architectures == ["86", "89"]
    assert "no code for 80, 120. `dinat-deploy plugin build --arch 80,86,89,120`" in plan.notes[0]
    monkeypatch.setattr(Info, "runs_on_gpu", lambda self, architecture: architecture == 90)
    plan = plan_build(tiny_bundle, **RTX)
    assert plan.task.plugin is None
    assert plan.task.architectures == ["80", "86", "89", "120"]
    assert "has code for sm_86" in plan.notes[0]


@rtx
def test_a_log_that_cannot_be_written_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    for place in (tmp_path / "no" / "where.log", tmp_path):
        with pytest.raises(OutputError, match="Choose another --verbose-log"):
            plan_build(tiny_bundle, verbose_log=place, **RTX)
    plan_build(tiny_bundle, verbose_log=tmp_path / "good.log", **RTX)
    assert not (tmp_path / "good.log").exists()


def machine(
    monkeypatch: pytest.MonkeyPatch, *, full: str | None, rtx: str | None, gpu: Gpu | None
) -> None:
    """What is installed and built in."""

    def version(found: str | None) -> Any:
        def of(builder: Any) -> str:
            if found is None:
                raise MissingDependencyError("none is installed")
            return found

        return of

    monkeypatch.setattr(TensorRtBuilder, "version", version(full))
    monkeypatch.setattr(TensorRtRtxBuilder, "version", version(rtx))
    monkeypatch.setattr(build_plan, "current_gpu", lambda: gpu)
    monkeypatch.setattr(TensorRtBuilder, "_here", lambda builder: gpu.capability if gpu else None)


H100 = Gpu(name="NVIDIA H100", capability="90", driver="13.0")


@pytest.mark.parametrize(
    ("full", "rtx", "gpu", "chosen", "note"),
    [
        ("10.13.3.9", "1.7.1.116", H100, "tensorrt", "TensorRT 10.13.3.9 builds for the NVIDIA H100 at hand"),
        ("10.13.3.9", None, H100, "tensorrt", "TensorRT 10.13.3.9 builds for the NVIDIA H100"),
        ("10.13.3.9", "1.7.1.116", None, "tensorrt-rtx", "ahead of time, as there is no GPU here for TensorRT"),
        (None, "1.7.1.116", H100, "tensorrt-rtx", "ahead of time, as TensorRT is not installed"),
        (None, "1.7.1.116", None, "tensorrt-rtx", "TensorRT-RTX 1.7.1.116 builds ahead of time"),
    ],
)  # fmt: skip
def test_without_a_backend_the_one_that_can_build_here_is_taken(
    full: str | None,
    rtx: str | None,
    gpu: Gpu | None,
    chosen: str,
    note: str,
    relu_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(monkeypatch, full=full, rtx=rtx, gpu=gpu)
    plan = plan_build(relu_model)
    assert plan.flavor == chosen
    assert note in plan.notes[0]
    assert plan.output.name == chosen
    assert plan_build(relu_model, backend=chosen).notes == []


@pytest.mark.parametrize(
    ("full", "error", "message"),
    [
        ("10.13.3.9", EngineError, "TensorRT 10.13.3.9 needs the GPU that the engine is for"),
        (None, MissingDependencyError, "TensorRT or TensorRT-RTX, and neither is installed"),
    ],
)
def test_where_nothing_can_build_the_way_out_is_named(
    full: str | None,
    error: type[Exception],
    message: str,
    relu_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(monkeypatch, full=full, rtx=None, gpu=None)
    with pytest.raises(error, match=message) as caught:
        plan_build(relu_model)
    assert "'dinat-deploy[rtx]'" in caught.value.cure  # type: ignore[attr-defined]


def test_measured_times_are_kept_for_each_tensorrt_and_gpu_unless_told_otherwise(
    relu_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DINAT_CACHE_DIR", str(tmp_path / "cache"))
    machine(monkeypatch, full="10.13.3.9", rtx="1.7.1.116", gpu=H100)

    def place(**options: Any) -> Path | None:
        return plan_build(relu_model, **{"backend": "tensorrt", **options}).task.timing_cache

    own = tmp_path / "cache" / "timing" / "tensorrt-10.13.3.9-NVIDIA_H100-sm90-cuda13.0.cache"
    assert place() == place(timing_cache=True) == own
    assert not own.parent.exists()  # only a build makes it
    assert place(timing_cache=False) is None
    assert place(timing_cache=tmp_path / "mine.cache") == tmp_path / "mine.cache"
    with pytest.raises(OutputError, match="Choose another --timing-cache"):
        place(timing_cache=tmp_path / "no" / "where.cache")
    assert place(backend="tensorrt-rtx") is None
    without = plan_build(relu_model, backend="tensorrt-rtx", timing_cache=False)
    assert without.task.timing_cache is None
    assert "--no-timing-cache changes nothing" in without.notes[0]
    for asked in (True, tmp_path / "mine.cache"):
        with pytest.raises(EngineError, match="TensorRT-RTX has no timing cache"):
            place(backend="tensorrt-rtx", timing_cache=asked)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_cache_that_cannot_be_written_is_a_note(
    relu_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o500)
    monkeypatch.setenv("DINAT_CACHE_DIR", str(tmp_path / "cache"))
    machine(monkeypatch, full="10.13.3.9", rtx=None, gpu=H100)
    plan = plan_build(relu_model, backend="tensorrt")
    assert plan.task.timing_cache is None
    assert "Set DINAT_CACHE_DIR" in plan.notes[0]


def test_all_options_reach_the_builder(relu_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, full="10.13.3.9", rtx=None, gpu=H100)
    options = BuilderOptions(
        optimization_level=4, hardware_compatibility="ampere+", version_compatible=True,
        refit=True, strip_weights=True, tf32=True, dla_core=1, gpu_fallback=False,
    )  # fmt: skip
    plan = plan_build(relu_model, backend="tensorrt", options=options, workspace_mib=64)
    assert plan.task.options == options.model_copy(update={"workspace_mib": 64})
    assert plan_build(
        relu_model, backend="tensorrt", options=options, optimization_level=4
    ).task.options == options  # fmt: skip
    with pytest.raises(ConfigError, match="optimization_level is 2 as an argument and 4 in the"):
        plan_build(relu_model, backend="tensorrt", options=options, optimization_level=2)
    with pytest.raises(ConfigError, match="no --dla-core is given"):
        plan_build(relu_model, backend="tensorrt", options=BuilderOptions(gpu_fallback=False))


@rtx
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"hardware_compatibility": "ampere+"}, "has no hardware compatibility"),
        ({"version_compatible": True}, "builds no version compatible plans"),
        ({"dla_core": 0}, "has no DLA"),
    ],
)
def test_options_that_a_backend_lacks_are_refused_in_a_dry_run_already(
    option: dict[str, Any], message: str, relu_model: Path
) -> None:
    with pytest.raises(EngineError, match=message):
        plan_build(relu_model, options=BuilderOptions(**option), **RTX)


@rtx
def test_taps_come_from_the_bundle(tiny_bundle: Path, relu_model: Path) -> None:
    recorded = open_bundle(tiny_bundle).manifest.taps
    tensors = list(dict.fromkeys(recorded.values()))
    assert len(tensors) >= 3
    plan = plan_build(tiny_bundle, taps="outputs", **RTX)
    assert (plan.task.extra_outputs, plan.task.debug_tensors) == (tensors, [])
    assert plan.output.name == "tensorrt-rtx-body-outputs"
    assert plan.to_dict()["taps"] == {"kind": "outputs", "tensors": recorded}
    plan = plan_build(tiny_bundle, taps="debug", **RTX)
    assert (plan.task.extra_outputs, plan.task.debug_tensors) == ([], tensors)
    assert plan_build(tiny_bundle, **RTX).taps is None
    with pytest.raises(ConfigError, match=r"relu\.onnx is in no bundle"):
        plan_build(relu_model, taps="debug", **RTX)
    with pytest.raises(ConfigError, match="Unknown taps 'all'"):
        plan_build(tiny_bundle, taps="all", **RTX)  # type: ignore[arg-type]


def adding(path: Path, *, ends: int, weights: int) -> Path:
    """x + w, in these types."""
    x, y = (helper.make_tensor_value_info(name, ends, [2]) for name in "xy")
    values = np.ones(2, helper.tensor_dtype_to_np_dtype(weights))
    nodes = [
        helper.make_node("Cast", ["x"], ["in"], to=weights),
        helper.make_node("Add", ["in", "w"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["y"], to=ends),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(values, "w")])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


@rtx
def test_double_precision_is_refused_at_the_ends_and_noted_inside(tmp_path: Path) -> None:
    double, single = onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT
    path = adding(tmp_path / "m.onnx", ends=double, weights=double)
    with pytest.raises(EngineError, match=r"The input x \[2\] .* double precision") as caught:
        plan_build(path, **RTX)
    assert "float32" in caught.value.cure
    plan = plan_build(adding(path, ends=single, weights=double), **RTX)
    assert "2 weights of the model are in double precision" in plan.notes[0]
    assert plan.model.precision == "float32"
    assert plan_build(adding(path, ends=single, weights=single), **RTX).notes == []


@rtx
def test_weights_outside_of_the_models_folder_are_refused(tmp_path: Path) -> None:
    path = adding(tmp_path / "m.onnx", ends=onnx.TensorProto.FLOAT, weights=onnx.TensorProto.FLOAT)
    for place in ("../secret", "/etc/passwd", "a/../../b", "C:\\data", "."):
        model = onnx.load(path)
        tensor = model.graph.initializer[0]
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=place)
        (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(EngineError, match="which is not below its own directory"):
            plan_build(tmp_path / "bad.onnx", **RTX)


@rtx
def test_names_that_the_system_refuses_are_our_errors(tmp_path: Path, relu_model: Path) -> None:
    """Not an OSError, which callers of the Python interface would have to know of."""
    for name in ("x" * 300, "x" * 300 + "/model.onnx"):
        with pytest.raises(EngineError, match="File name too long"):
            plan_build(tmp_path / name, **RTX)
    with pytest.raises(OutputError, match="File name too long"):
        build(relu_model, tmp_path / ("x" * 300), **RTX)
