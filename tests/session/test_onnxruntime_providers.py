"""ONNX Runtime's providers for GPUs: what is asked for runs, or is refused with a reason.

Nothing here needs a GPU or ``onnxruntime-gpu``: the rules are tested on a stand-in for the module,
and on the real one as far as it goes.
"""

from __future__ import annotations

import ctypes
import stat
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx
import onnxruntime
import pytest

from dinat_deploy.errors import BundleError, ConfigError, DinatDeployError, MissingDependencyError
from dinat_deploy.models.seeding import seeded_image
from dinat_deploy.pipeline.running import onnx_session
from dinat_deploy.session import onnxruntime_model, onnxruntime_providers, onnxruntime_session
from dinat_deploy.session.base import RunOptions
from dinat_deploy.session.onnxruntime_providers import (
    CPU,
    Chosen,
    ProviderOptions,
    choose,
    confirm,
    engine_cache,
    nodes_by_provider,
    note_of_strays,
    provider_settings,
)
from dinat_deploy.session.onnxruntime_session import LoadOptions, OnnxRuntimeSession
from tests.graph.op_models import op_model

CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
RTX = "NvTensorRTRTXExecutionProvider"
IMAGE = {"image": seeded_image((1, 3, 64, 64), 7)}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two GPUs, and a cache that nobody else uses."""
    monkeypatch.setattr(onnxruntime_providers, "gpu_names", lambda: ["First", "Second"])
    monkeypatch.delenv("DINAT_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def runtime(folder: Path, *available: str) -> Any:
    """A stand-in for the module ``onnxruntime`` with these providers."""
    (folder / "capi").mkdir(exist_ok=True)
    return SimpleNamespace(
        __version__="1.31.1",
        __file__=str(folder / "__init__.py"),
        cuda_version="13.0",
        get_available_providers=lambda: [*available, CPU],
    )


def test_our_names_of_providers_are_those_of_onnxruntime() -> None:
    # The provider for TensorRT-RTX comes in a package of its own, which says its name.
    ours = set(onnxruntime_providers.NAMES.values()) - {RTX}
    assert ours <= set(onnxruntime.get_all_providers())


def test_what_is_used_of_onnxruntime_is_there() -> None:
    """The stand-ins below have nothing that the real module lacks."""
    for name in (
        "get_available_providers", "get_ep_devices", "register_execution_provider_library",
        "preload_dlls", "cuda_version",
    ):  # fmt: skip
        assert hasattr(onnxruntime, name), name
    for name in ("add_provider_for_devices", "register_custom_ops_library"):
        assert hasattr(onnxruntime.SessionOptions, name), name


def test_without_a_driver_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(name: str) -> None:
        assert name == "libcuda.so.1"
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    assert onnxruntime_providers.gpu_names() == []
    without_devices = SimpleNamespace(cuInit=lambda flags: 100)  # CUDA_ERROR_NO_DEVICE
    monkeypatch.setattr(ctypes, "CDLL", lambda name: without_devices)
    assert onnxruntime_providers.gpu_names() == []


class TestChoice:
    def test_the_cpu_needs_nothing(self, tmp_path: Path) -> None:
        chosen = choose(runtime(tmp_path), None, "cpu", ProviderOptions())
        assert chosen.providers == [CPU]

    @pytest.mark.usefixtures("gpu")
    def test_tensorrt_leaves_what_it_does_not_take_to_cuda_and_then_to_the_cpu(
        self, tmp_path: Path
    ) -> None:
        full = runtime(tmp_path, TENSORRT, CUDA)
        chosen = choose(full, None, "tensorrt", ProviderOptions(device=1, cuda_graph=True))
        assert chosen.providers is not None
        names = [entry if isinstance(entry, str) else entry[0] for entry in chosen.providers]
        assert names == [TENSORRT, CUDA, CPU]
        settings = [entry[1] for entry in chosen.providers if not isinstance(entry, str)]
        assert settings[0]["trt_cuda_graph_enable"] == "1"
        # Recording is up to TensorRT alone.
        assert settings[1] == {"device_id": "1", "enable_cuda_graph": "0", "use_tf32": "0"}

    def test_without_a_gpu_no_package_is_asked_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(onnxruntime_providers, "gpu_names", list)
        with pytest.raises(MissingDependencyError, match="this machine has none") as caught:
            choose(runtime(tmp_path), None, "cuda", ProviderOptions())
        assert "pip" not in str(caught.value)

    @pytest.mark.usefixtures("gpu")
    def test_the_number_of_the_gpu_is_checked(self, tmp_path: Path) -> None:
        with pytest.raises(MissingDependencyError, match="no GPU 2 here; there are 2: First, Sec"):
            choose(runtime(tmp_path, CUDA), None, "cuda", ProviderOptions(device=2))

    @pytest.mark.usefixtures("gpu")
    @pytest.mark.parametrize(
        ("name", "package"),
        [
            ("cuda", "onnxruntime-gpu[cuda,cudnn]"),
            ("tensorrt", "onnxruntime-gpu[cuda,cudnn]"),
            ("tensorrt-rtx", "onnxruntime-ep-nv-tensorrt-rtx"),
        ],
    )
    def test_a_provider_that_is_not_there_is_named_with_its_package(
        self, name: str, package: str, tmp_path: Path
    ) -> None:
        with pytest.raises(MissingDependencyError) as caught:
            choose(runtime(tmp_path), None, name, ProviderOptions())
        expected = onnxruntime_providers.NAMES[name]
        assert f"1.31.1 here has no {expected}; it has {CPU}" in caught.value.cause
        assert package in caught.value.cure

    @pytest.mark.usefixtures("gpu")
    def test_a_library_that_is_missing_is_named(self, tmp_path: Path) -> None:
        full = runtime(tmp_path, CUDA)
        for name in ("cuda", "shared"):
            file = tmp_path / "capi" / f"libonnxruntime_providers_{name}.so"
            file.write_bytes(b"no library")
        with pytest.raises(MissingDependencyError) as caught:
            choose(full, None, "cuda", ProviderOptions())
        assert "CUDA provider cannot be loaded: " in caught.value.cause
        assert "It is built for CUDA 13.0" in caught.value.cure

    def test_a_fall_back_to_the_cpu_is_an_error(self, tiny_bundle: Path) -> None:
        session = onnxruntime.InferenceSession(str(tiny_bundle / "model.onnx"), providers=[CPU])
        confirm(session, Chosen("cpu"))
        with pytest.raises(MissingDependencyError, match=f"could not start {CUDA} and would run"):
            confirm(session, Chosen("cuda"))


class TestRtxPackage:
    """NVIDIA's package of the provider, as far as its few functions go."""

    def package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = ModuleType("onnxruntime_ep_nv_tensorrt_rtx")
        module.get_ep_name = lambda: RTX  # type: ignore[attr-defined]
        module.get_library_path = lambda: "/nowhere/lib.so"  # type: ignore[attr-defined]
        module.__spec__ = SimpleNamespace()  # type: ignore[assignment]
        monkeypatch.setitem(__import__("sys").modules, module.__name__, module)

    @pytest.mark.usefixtures("gpu")
    def test_a_library_that_cannot_be_loaded_is_named(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.package(monkeypatch)
        options = onnxruntime.SessionOptions()
        with pytest.raises(MissingDependencyError, match="cannot be loaded: .*/nowhere/lib.so"):
            choose(onnxruntime, options, "tensorrt-rtx", ProviderOptions())

    @pytest.mark.usefixtures("gpu")
    def test_old_releases_take_no_such_packages(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        self.package(monkeypatch)
        with pytest.raises(MissingDependencyError, match="takes no providers from other packages"):
            choose(runtime(tmp_path), None, "tensorrt-rtx", ProviderOptions())

    @pytest.mark.usefixtures("gpu")
    def test_the_chosen_gpu_is_added_with_its_options(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        self.package(monkeypatch)
        devices = [SimpleNamespace(ep_name=RTX, number=number) for number in range(2)]
        added: list[Any] = []
        stand_in = runtime(tmp_path)
        stand_in.get_ep_devices = lambda: devices
        options = SimpleNamespace(add_provider_for_devices=lambda *given: added.append(given))
        chosen = choose(
            stand_in, options, "tensorrt-rtx", ProviderOptions(device=1, cache=tmp_path)
        )
        assert chosen.providers is None
        assert added == [
            ([devices[1]], {"enable_cuda_graph": "0", "nv_runtime_cache_path": str(tmp_path)})
        ]
        devices.clear()
        stand_in.register_execution_provider_library = lambda *_: None
        with pytest.raises(MissingDependencyError, match="takes 0 of the GPUs"):
            choose(stand_in, options, "tensorrt-rtx", ProviderOptions())


def test_engines_are_cached_for_this_user_and_this_model_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DINAT_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    first.write_text("a")
    second.write_text("b")
    place = engine_cache("tensorrt", "1.31.1", first)
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert engine_cache("tensorrt", "1.31.1", first) == place
    assert engine_cache("tensorrt", "1.31.1", second) != place
    assert engine_cache("tensorrt", "1.32.0", first) != place
    settings = provider_settings("tensorrt", ProviderOptions(cache=place))
    assert settings["trt_engine_cache_enable"] == "1"
    assert settings["trt_engine_cache_path"] == str(place)
    monkeypatch.setenv("XDG_CACHE_HOME", str(first))
    with pytest.raises(DinatDeployError, match="cannot be used"):
        engine_cache("tensorrt", "1.31.1", first)


class TestPlugin:
    def test_the_nodes_move_to_the_domain_of_tensorrts_plugins(self, tiny_bundle: Path) -> None:
        model = onnxruntime_model.load(tiny_bundle / "model.onnx", "A test")
        before = [node.SerializeToString() for node in model.graph.node if node.domain != "dinat"]
        assert onnxruntime_model.name_plugins(model) == 3
        moved = [node for node in model.graph.node if node.domain == "trt.plugins"]
        assert [node.op_type for node in moved] == ["NeighborhoodAttention2D"] * 3
        for node in moved:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            assert attributes["plugin_namespace"] == b"dinat"
            assert attributes["plugin_version"] == b"1"
        assert not model.functions
        assert "dinat" not in {entry.domain for entry in model.opset_import}
        assert "trt.plugins" in {entry.domain for entry in model.opset_import}
        rest = [n.SerializeToString() for n in model.graph.node if n.domain != "trt.plugins"]
        assert rest == before
        onnx.checker.check_model(model)

    def test_its_library_is_named_to_tensorrt_alone(self, tmp_path: Path) -> None:
        options = ProviderOptions(plugin_library=tmp_path / "libdinat_tensorrt.so")
        name = "trt_extra_plugin_lib_paths"
        assert provider_settings("tensorrt", options)[name] == str(options.plugin_library)
        assert name not in provider_settings("cuda", options)
        assert name not in provider_settings("tensorrt-rtx", options)

    @pytest.mark.parametrize("provider", ["tensorrt", "tensorrt-rtx"])
    def test_files_without_a_body_need_it(self, provider: str, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="was given no plugin for it"):
            onnx_session(tmp_path / "bare.onnx", False, provider=provider)


class TestOperatorsLibrary:
    def test_tensorrt_cannot_use_it(self, tiny_bundle: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="TensorRT provider cannot use the operator's lib"):
            OnnxRuntimeSession(
                tiny_bundle / "model.onnx", provider="tensorrt", custom_op=tmp_path / "x.so"
            )

    @pytest.mark.usefixtures("gpu")
    def test_without_cuda_code_it_would_take_the_attention_off_the_gpu(
        self, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        library = tmp_path / "libdinat_onnxruntime.so"
        library.write_bytes(b"")

        class Options:
            def register_custom_ops_library(self, path: str) -> None:
                assert path == str(library)

        stand_in = runtime(tmp_path)
        stand_in.SessionOptions = Options
        monkeypatch.setattr(onnxruntime_session, "import_onnxruntime", lambda: stand_in)
        with pytest.raises(MissingDependencyError, match="was built without CUDA"):
            OnnxRuntimeSession(tiny_bundle / "model.onnx", provider="cuda", custom_op=library)


def test_unknown_providers_are_refused(tiny_bundle: Path) -> None:
    with pytest.raises(ConfigError, match="has no provider 'rocm'"):
        OnnxRuntimeSession(tiny_bundle / "model.onnx", provider="rocm")


class TestStrays:
    def test_nodes_are_counted_by_what_runs_them(self, tmp_path: Path) -> None:
        model = op_model((1, 8, 8, 1, 4), kernel_size=(3, 3), dilation=(1, 1), scale=1.0)
        onnx.save(model, tmp_path / "m.onnx")
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), options, providers=[CPU])
        counts = nodes_by_provider(session)
        assert [*counts] == [CPU] and counts[CPU] > 10
        assert nodes_by_provider(object()) == {}  # an older ONNX Runtime

    def test_those_that_run_elsewhere_are_noted(self) -> None:
        assert note_of_strays({CUDA: 40}, "cuda") is None
        assert note_of_strays({}, "cuda") is None
        assert note_of_strays({CUDA: 38, CPU: 2}, "cuda") == (
            f"Of 40 nodes, 2 on {CPU} instead of {CUDA}."
        )


class TestPreparedOnAGpu:
    """The prepared run for GPUs, on ONNX Runtime's own values and bindings.

    The CPU stands in for the GPU: whatever is placed on ``cuda`` is placed there.
    """

    @pytest.fixture
    def session(self, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> OnnxRuntimeSession:
        values, bindings = onnxruntime.OrtValue, onnxruntime.IOBinding
        place, bind = values.ortvalue_from_numpy, bindings.bind_output
        monkeypatch.setattr(
            values, "ortvalue_from_numpy", staticmethod(lambda array, *device: place(array))
        )
        monkeypatch.setattr(bindings, "bind_output", lambda own, name, *device: bind(own, name))
        session = OnnxRuntimeSession(tiny_bundle / "model.onnx", custom_op=False, threads=1)
        load = session.load

        def on_the_cpu(options: LoadOptions) -> Any:
            self.loaded.append(options)
            session.provider = "cpu"
            try:
                return load(options)
            finally:
                session.provider = "cuda"

        self.loaded: list[LoadOptions] = []
        monkeypatch.setattr(session, "load", on_the_cpu)
        session.provider = "cuda"
        return session

    @pytest.mark.parametrize("transfers", [False, True])
    def test_copies_and_launches_are_timed_apart(
        self, transfers: bool, session: OnnxRuntimeSession
    ) -> None:
        run = session.prepare(IMAGE, RunOptions(transfers=transfers))
        assert run.kind == "gpu"
        assert [options.cuda_graph for options in self.loaded] == [True]
        for timing in run.block(0.0, 3).timings:
            parts = timing.host_to_device + timing.compute + timing.device_to_host
            assert timing.latency == pytest.approx(parts, rel=1e-6)
            assert timing.enqueue is not None and 0 < timing.enqueue <= timing.compute
            assert (timing.host_to_device > 0) == (timing.device_to_host > 0) == transfers

    def test_layers_have_no_times(self, session: OnnxRuntimeSession) -> None:
        run = session.prepare(IMAGE, RunOptions())
        with pytest.raises(DinatDeployError, match="tells no times of layers"):
            run.profile(1)

    def test_without_a_cuda_graph_it_still_runs(
        self, session: OnnxRuntimeSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bind = onnxruntime.InferenceSession.run_with_iobinding
        failures = iter([RuntimeError("this graph cannot be captured")])

        def fail_once(own: Any, *arguments: Any) -> None:
            for failure in failures:
                raise failure
            bind(own, *arguments)

        monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", fail_once)
        run = session.prepare(IMAGE, RunOptions())
        assert run.notes == [
            "ONNX Runtime could not record a CUDA graph: this graph cannot be captured"
        ]
        assert [options.cuda_graph for options in self.loaded] == [True, False]
        assert len(run.block(0.0, 2).timings) == 2
