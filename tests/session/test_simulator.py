"""The simulated GPU itself: mistakes are noticed, and NVIDIA's modules have all that it offers."""

from __future__ import annotations

import enum
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.engine.conftest import nvidia
from tests.engine.nvidia_bindings import Bindings, Surface, rtx_surface, surface
from tests.session.onnx_models import square_model
from tests.session.simulator import SimulatedMachine
from tests.session.simulator.gpu import GpuError, Operation, SimulatedGpu

__all__ = ["nvidia"]

SIZE = 64


class Scene:
    """A stream with a buffer on the GPU and one on the host."""

    def __init__(self) -> None:
        self.gpu = SimulatedGpu()
        self.stream = self.gpu.create_stream()
        self.address = self.gpu.allocate(SIZE)
        self.host = self.gpu.allocate_pinned(SIZE)
        self.memory = self.gpu._host(self.host, SIZE)

    def copy_in(self) -> None:
        self.gpu.copy_to_device(self.address, self.host, SIZE, self.stream)

    def copy_out(self) -> None:
        self.gpu.copy_to_host(self.host, self.address, SIZE, self.stream)


@pytest.fixture
def scene() -> Scene:
    return Scene()


# Mistakes with CUDA -----------------------------------------------------------------------------


def test_results_are_not_there_before_somebody_waits(scene: Scene) -> None:
    scene.gpu.view(scene.address, SIZE)[:] = 5
    scene.copy_out()
    assert (scene.memory == 0xFF).all()
    scene.gpu.synchronize(scene.stream)
    assert (scene.memory == 5).all()


def test_what_is_changed_before_it_is_copied_is_copied_changed(scene: Scene) -> None:
    scene.memory[:] = 1
    scene.copy_in()
    scene.memory[:] = 2
    scene.gpu.synchronize(scene.stream)
    assert (scene.gpu.view(scene.address, SIZE) == 2).all()


def test_memory_that_is_freed_too_early_is_noticed(scene: Scene) -> None:
    scene.copy_in()
    scene.gpu.free(scene.address)
    assert scene.gpu.violations == ["device memory was freed while a stream was to use it"]
    with pytest.raises(GpuError, match="IllegalAddress"):
        scene.gpu.synchronize(scene.stream)
    with pytest.raises(GpuError, match="IllegalAddress"):  # it stays
        scene.gpu.allocate(1)


def test_pinned_memory_that_is_freed_too_early_is_noticed(scene: Scene) -> None:
    scene.copy_in()
    scene.gpu.free_pinned(scene.host)
    assert scene.gpu.violations == ["pinned memory was freed while a stream was to use it"]


def test_ordinary_memory_cannot_be_copied_asynchronously(scene: Scene) -> None:
    ordinary = np.zeros(SIZE, np.uint8)
    with pytest.raises(GpuError, match="InvalidValue"):
        scene.gpu.copy_to_device(scene.address, ordinary.ctypes.data, SIZE, scene.stream)
    with pytest.raises(GpuError, match="InvalidValue"):
        scene.gpu.copy_to_host(ordinary.ctypes.data, scene.address, SIZE, scene.stream)


def test_running_over_the_end_is_noticed(scene: Scene) -> None:
    scene.gpu.copy_to_device(scene.address + 1, scene.host, SIZE, scene.stream)
    with pytest.raises(GpuError, match="IllegalAddress"):
        scene.gpu.synchronize(scene.stream)


def test_memory_is_never_at_the_same_address_twice(scene: Scene) -> None:
    scene.gpu.free(scene.address)
    assert scene.gpu.allocate(SIZE) != scene.address


def test_freeing_twice_is_refused(scene: Scene) -> None:
    for free, handle in [
        (scene.gpu.free, scene.address),
        (scene.gpu.free_pinned, scene.host),
        (scene.gpu.destroy_stream, scene.stream),
        (scene.gpu.destroy_event, scene.gpu.create_event(blocking=True)),
    ]:
        free(handle)
        with pytest.raises(GpuError):
            free(handle)


def test_what_is_not_freed_is_listed(scene: Scene) -> None:
    scene.gpu.create_event(blocking=True)
    assert scene.gpu.leaks() == {
        "device memory": 1,
        "pinned memory": 1,
        "streams": 1,
        "events": 1,
    }


def test_two_streams_with_the_same_memory_are_noticed_unless_one_waits(scene: Scene) -> None:
    other = scene.gpu.create_stream()
    scene.copy_in()
    scene.gpu.wait_for_stream(other, scene.stream)
    scene.gpu.copy_to_host(scene.host, scene.address, SIZE, other)
    assert not scene.gpu.violations
    scene.copy_in()
    assert scene.gpu.violations == ["two streams use the same memory at the same time"]
    scene.gpu.drain()


def test_a_stream_that_is_destroyed_with_work_queued_is_noticed(scene: Scene) -> None:
    scene.copy_in()
    scene.gpu.destroy_stream(scene.stream)
    assert scene.gpu.violations == ["a stream was destroyed before its work was done"]


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda s: s.gpu.synchronize(s.stream),
        lambda s: s.gpu.allocate(1),
        lambda s: s.gpu.free(s.address),
        lambda s: s.gpu.allocate_pinned(1),
        lambda s: s.gpu.happened(s.gpu.create_event(blocking=True)),
        lambda s: s.gpu.wait(s.gpu.create_event(blocking=True)),
        lambda s: s.gpu.read(s.address, 1),
    ],
)
def test_what_cannot_be_recorded_spoils_the_recording(
    scene: Scene, forbidden: Callable[[Scene], object]
) -> None:
    scene.gpu.begin_capture(scene.stream)
    scene.copy_in()
    with pytest.raises(GpuError, match="StreamCaptureUnsupported"):
        forbidden(scene)
    with pytest.raises(GpuError, match="StreamCaptureInvalidated"):
        scene.gpu.end_capture(scene.stream)
    assert not scene.gpu.graphs and not scene.gpu.stream(scene.stream).queue


def test_a_recording_runs_only_when_launched(scene: Scene) -> None:
    scene.gpu.begin_capture(scene.stream)
    scene.copy_in()
    graph = scene.gpu.end_capture(scene.stream)
    scene.memory[:] = 3
    scene.gpu.synchronize(scene.stream)
    assert (scene.gpu.view(scene.address, SIZE) == 0xFF).all()
    scene.gpu.launch(graph, scene.stream)
    scene.gpu.synchronize(scene.stream)
    assert (scene.gpu.view(scene.address, SIZE) == 3).all()


def test_times_between_events_are_of_what_ran_between_them(scene: Scene) -> None:
    start, end = scene.gpu.create_event(blocking=True), scene.gpu.create_event(blocking=True)
    with pytest.raises(GpuError, match="InvalidResourceHandle"):
        scene.gpu.elapsed(start, end)
    scene.gpu.record(start, scene.stream)
    scene.gpu.enqueue(scene.stream, Operation(lambda: None, 3.0))
    scene.gpu.record(end, scene.stream)
    with pytest.raises(GpuError, match="NotReady"):
        scene.gpu.elapsed(start, end)
    scene.gpu.wait(end)
    assert scene.gpu.elapsed(start, end) == 3.0


# Mistakes with TensorRT ---------------------------------------------------------------------------


class Prepared:
    """A context of y = x * x + x with everything set as it should be."""

    def __init__(self, folder: Path, **plan: Any) -> None:
        self.machine = SimulatedMachine()
        trt, gpu = self.machine.trt, self.machine.gpu
        self.gpu = gpu
        profiles = [{"x": ([1, 4], [2, 4], [8, 4])}] * 2
        engine = self.machine.engine(
            square_model(folder / "square.onnx"), folder / "engine", profiles=profiles, **plan
        )
        self.said: list[str] = []
        said = self.said

        class Logger(trt.ILogger):
            def log(self, severity: Any, message: str) -> None:
                said.append(message)

        self.logger = Logger()
        runtime = trt.Runtime(self.logger)
        self.engine = runtime.deserialize_cuda_engine((engine / "model.plan").read_bytes())
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self.context = self.engine.create_execution_context(strategy)
        self.stream = gpu.create_stream()
        self.context.set_input_shape("x", (2, 4))
        self.x, self.y = gpu.allocate(32), gpu.allocate(32)
        self.context.set_tensor_address("x", self.x)
        self.context.set_tensor_address("y", self.y)
        self.size = self.context.update_device_memory_size_for_shapes()
        self.scratch = gpu.allocate(self.size)
        self.context.set_device_memory(self.scratch, self.size)
        gpu.view(self.x, 32)[:] = np.full(8, 3, np.float32).view(np.uint8)

    def result(self) -> np.ndarray:
        return self.gpu.read(self.y, 32).view(np.float32)

    def record(self) -> int:
        self.gpu.begin_capture(self.stream)
        assert self.context.execute_async_v3(self.stream)
        return self.gpu.end_capture(self.stream)


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return Prepared(tmp_path)


def test_a_context_that_was_told_everything_runs(prepared: Prepared) -> None:
    assert prepared.context.execute_async_v3(prepared.stream)
    assert (prepared.result() == 12).all()
    graph = prepared.record()
    prepared.gpu.view(prepared.x, 32)[:] = np.full(8, 2, np.float32).view(np.uint8)
    prepared.gpu.launch(graph, prepared.stream)
    assert (prepared.result() == 6).all()
    assert not prepared.gpu.violations and not prepared.said


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (lambda p: p.context.set_tensor_address("y", 0), "Neither address or allocator"),
        (lambda p: p.context.set_device_memory(p.scratch, p.size - 1), "bytes of device memory"),
        (lambda p: p.context.set_input_shape("x", (3, 4)), "bytes of device memory"),
        (lambda p: p.context.set_optimization_profile_async(1, p.stream), "not specified"),
    ],
)
def test_what_a_context_was_not_told_stops_it(
    prepared: Prepared, mistake: Callable[[Prepared], object], words: str
) -> None:
    mistake(prepared)
    assert not prepared.context.execute_async_v3(prepared.stream)
    assert words in prepared.said[-1]


@pytest.mark.parametrize(
    ("refused", "words"),
    [
        (lambda p: p.context.set_input_shape("x", (9, 4)), "out of profile"),
        (lambda p: p.context.set_input_shape("x", (2, 5)), "out of profile"),
        (lambda p: p.context.set_input_shape("x", (2,)), "out of profile"),
        (lambda p: p.context.set_input_shape("z", (2, 4)), "no input"),
        (lambda p: p.context.set_tensor_address("x", p.x + 16), "not aligned"),
        (lambda p: p.context.set_tensor_address("z", p.x), "no tensor"),
        (lambda p: p.context.set_optimization_profile_async(2, p.stream), "out of range"),
        (lambda p: p.context.set_tensor_debug_state("product", True), "no debug tensor"),
    ],
)
def test_what_a_context_does_not_take_is_refused(
    prepared: Prepared, refused: Callable[[Prepared], object], words: str
) -> None:
    assert refused(prepared) is False
    assert words in prepared.said[-1]


def test_shapes_are_tuples_or_lists(prepared: Prepared) -> None:
    with pytest.raises(TypeError):
        prepared.context.set_input_shape("x", np.array([2, 4]))
    assert prepared.context.get_tensor_shape("y") != (2, 4)  # Dims, which must be converted


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.context.set_input_shape("x", (1, 4)),
        lambda p: p.context.set_tensor_address("y", p.x),
        lambda p: p.context.set_device_memory(p.scratch, p.size + 256),
        lambda p: p.__delattr__("context"),
    ],
)
def test_a_graph_whose_context_was_changed_gives_nonsense(
    prepared: Prepared, change: Callable[[Prepared], object]
) -> None:
    prepared.context.execute_async_v3(prepared.stream)
    graph = prepared.record()
    prepared.gpu.synchronize(prepared.stream)
    change(prepared)
    prepared.gpu.launch(graph, prepared.stream)
    assert np.isnan(prepared.result()).all()
    assert prepared.gpu.violations == ["a graph ran whose context had been changed or destroyed"]


def test_a_context_must_have_run_before_it_is_recorded(prepared: Prepared) -> None:
    prepared.gpu.begin_capture(prepared.stream)
    assert not prepared.context.execute_async_v3(prepared.stream)
    with pytest.raises(GpuError, match="StreamCaptureInvalidated"):
        prepared.gpu.end_capture(prepared.stream)


def test_a_buffer_that_is_too_small_is_noticed(prepared: Prepared) -> None:
    prepared.context.set_tensor_address("y", prepared.gpu.allocate(31))
    assert prepared.context.execute_async_v3(prepared.stream)
    with pytest.raises(GpuError, match="IllegalAddress"):
        prepared.gpu.synchronize(prepared.stream)


def test_a_context_that_goes_too_early_is_noticed(prepared: Prepared) -> None:
    prepared.context.execute_async_v3(prepared.stream)
    del prepared.context
    assert prepared.gpu.violations == ["a context was destroyed while its work was queued"]


def test_a_logger_that_goes_too_early_is_noticed(prepared: Prepared) -> None:
    # TensorRT keeps the address of the first one, whatever it is given later.
    trt = prepared.machine.trt

    class Other(trt.ILogger):
        def log(self, severity: Any, message: str) -> None:
            raise AssertionError("this one is ignored")

    second = trt.Runtime(Other())
    assert second.logger is not prepared.logger and "differs from one" in prepared.said[-1]
    prepared.engine._runtime.logger = None
    prepared.logger = None
    prepared.context.set_input_shape("z", (1,))
    assert prepared.gpu.violations == ["the logger was destroyed before TensorRT"]


def test_a_profile_set_on_another_stream_is_noticed(prepared: Prepared) -> None:
    other = prepared.gpu.create_stream()
    prepared.context.set_optimization_profile_async(1, other)
    prepared.context.set_input_shape("x", (2, 4))
    prepared.context.update_device_memory_size_for_shapes()
    prepared.context.execute_async_v3(prepared.stream)
    assert "a profile was set on another stream than it is used on" in prepared.gpu.violations


def test_interfaces_whose_constructor_was_not_called_are_refused(prepared: Prepared) -> None:
    class Allocator(prepared.machine.trt.IOutputAllocator):
        def __init__(self) -> None:
            pass

    with pytest.raises(TypeError, match="constructor of the interface"):
        prepared.context.set_output_allocator("y", Allocator())


def test_a_debug_listener_that_goes_too_early_is_noticed(tmp_path: Path) -> None:
    prepared = Prepared(tmp_path, taps={"layer": "product"}, taps_kind="debug")

    class Listener(prepared.machine.trt.IDebugListener):
        pass

    prepared.context.set_debug_listener(Listener())
    prepared.context.set_tensor_debug_state("product", True)
    prepared.context.execute_async_v3(prepared.stream)
    assert prepared.gpu.violations == ["the debug listener was destroyed before its context"]


# NVIDIA's modules ---------------------------------------------------------------------------------

# Not in the first releases: our code asks whether they are there, or does without.
_LATER = {
    ("", "EngineStat"),
    ("ICudaEngine", "get_engine_stat"),
    ("ICudaEngine", "device_memory_size_v2"),
    ("ICudaEngine", "get_device_memory_size_for_profile_v2"),
    ("IExecutionContext", "set_device_memory"),
}


@pytest.mark.parametrize("release", ["10.0", "10.3", "10.16", "11.0", "11.4"])
def test_nvidias_bindings_have_everything_that_the_stand_in_has(
    nvidia: Callable[..., Bindings], release: str
) -> None:
    _compare(release, SimulatedMachine().trt, surface(nvidia(release)), _LATER)


def _compare(release: str, ours: ModuleType, theirs: Surface, later: set[tuple[str, str]]) -> None:
    classes = {name: value for name, value in vars(ours).items() if isinstance(value, type)}
    assert len(classes) > 15
    for name, kind in classes.items():
        listed = theirs.get(name)
        if listed is None:
            assert ("", name) in later, f"{release} has no class {name}"
            continue
        for attribute in _public(kind):
            if (name, attribute) in later and attribute not in listed:
                continue
            assert attribute in listed, f"{release} has no {name}.{attribute}"
            own = getattr(kind, attribute, None)
            _compare_arguments(f"{name}.{attribute}", own, listed[attribute])


def test_attributes_of_objects_are_declared_in_their_class(prepared: Prepared) -> None:
    """Otherwise the comparison with NVIDIA's classes would not see them."""
    runtime = prepared.machine.trt.Runtime(prepared.logger)
    for thing in (runtime, runtime.get_plugin_registry(), prepared.engine, prepared.context):
        undeclared = {n for n in vars(thing) if not n.startswith("_")} - set(_public(type(thing)))
        assert not undeclared, (type(thing), undeclared)


def test_tensorrt_rtx_has_everything_that_the_stand_in_has() -> None:
    machine = SimulatedMachine("1.7.1.116", "tensorrt-rtx")
    _compare("tensorrt-rtx", machine.trt, rtx_surface(), set())


def _public(kind: type) -> list[str]:
    inherited = set(dir(enum.IntEnum)) | set(dir(object))
    if issubclass(kind, enum.Enum):
        return [member.name for member in kind]
    names = {*dir(kind), *inspect.get_annotations(kind)}
    return sorted(name for name in names if not name.startswith("_") and name not in inherited)


def _compare_arguments(name: str, ours: Any, documentation: str) -> None:
    """pybind11 writes the signature into the documentation, unless there are several."""
    first = documentation.strip().splitlines()[0] if documentation.strip() else ""
    written = re.match(r"\w+\((.*)\) ->", first)
    if not written or not inspect.isfunction(ours) or "*args" in first:
        return
    parameters = list(inspect.signature(ours).parameters)
    theirs = re.findall(r"(?:^|, )(\w+):", written[1])
    assert parameters == theirs, f"{name}{tuple(parameters)}, and NVIDIA's has {theirs}"


def test_what_callers_implement_is_called_as_the_bindings_call_it(tmp_path: Path) -> None:
    """Names and arguments of the callbacks, which NVIDIA's documentation of the class lists."""
    from dinat_deploy.session import tensorrt_callbacks as callbacks

    trt = SimulatedMachine().trt
    allocator = callbacks.make_output_allocator(trt, lambda name, size: 256)
    expected = {
        "reallocate_output": ["tensor_name", "memory", "size", "alignment"],
        "reallocate_output_async": ["tensor_name", "memory", "size", "alignment", "stream"],
        "notify_shape": ["tensor_name", "shape"],
    }
    for name, parameters in expected.items():
        assert list(inspect.signature(getattr(allocator, name)).parameters) == parameters


def test_the_plan_is_plain_json(tmp_path: Path) -> None:
    machine = SimulatedMachine()
    engine = machine.engine(square_model(tmp_path / "square.onnx", [2, 4]), tmp_path / "engine")
    plan = json.loads((engine / "model.plan").read_text())
    assert plan["simulated plan"]["version"] == "10.13.3.9"
