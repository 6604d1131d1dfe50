"""The CUDA layer through both bindings, on a simulated GPU and through NVIDIA's real module."""

from __future__ import annotations

import ctypes
import enum
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinat_deploy.engine.manifest import Taps
from dinat_deploy.errors import EngineError, MissingDependencyError
from dinat_deploy.session.base import RunOptions
from dinat_deploy.session.cuda import CudaError, Device, open_device
from dinat_deploy.session.cuda import device as layer
from dinat_deploy.session.tensorrt_session import TensorRTSession
from tests.session.cuda_wheels import installed
from tests.session.onnx_models import nonzero_model, square_model
from tests.session.simulator import SimulatedMachine, simulated_gpu
from tests.session.simulator.cuda_runtime import CONSTANTS
from tests.session.simulator.gpu import GpuError
from tests.session.simulator.pycuda_driver import make_modules

__all__ = ["simulated_gpu"]

BINDINGS = ["cuda-python", "pycuda"]


@pytest.fixture(params=BINDINGS)
def gpu_device(
    request: pytest.FixtureRequest,
    simulated_gpu: SimulatedMachine,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Device]:
    if request.param == "pycuda":
        put_pycuda(simulated_gpu, monkeypatch)
    device = open_device(request.param)
    with device.active():
        yield device


def put_pycuda(machine: SimulatedMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in make_modules(machine.gpu).items():
        monkeypatch.setitem(sys.modules, name, module)


# Both bindings ----------------------------------------------------------------------------------


def test_copies_go_there_and_back_in_order(gpu_device: Device) -> None:
    device = gpu_device
    stream = device.create_stream()
    address = device.allocate(100)
    assert address % 256 == 0
    out, back = device.allocate_pinned(100), device.allocate_pinned(100)
    out[:] = np.arange(100)
    device.to_device(address, out, stream)
    device.to_host(back[:50], address, stream)
    assert (back == 0xFF).all()  # nothing ran yet
    device.synchronize(stream)
    assert np.array_equal(back[:50], out[:50]) and (back[50:] == 0xFF).all()
    assert np.array_equal(device.read(address + 10, 90, stream), out[10:])
    device.free(address)
    for memory in (out, back):
        device.free_pinned(memory)
    device.destroy_stream(stream)


def test_events_take_times(gpu_device: Device) -> None:
    device = gpu_device
    stream = device.create_stream()
    start, end = device.create_event(blocking=True), device.create_event(blocking=False)
    address, memory = device.allocate(100_000), device.allocate_pinned(100_000)
    device.record(start, stream)
    device.to_device(address, memory, stream)
    device.record(end, stream)
    assert not device.happened(end)
    with pytest.raises(CudaError):
        device.elapsed(start, end)
    device.wait(end)
    assert device.happened(start) and device.happened(end)
    assert device.elapsed(start, end) == pytest.approx(100_000 / 1e7)
    device.record(end, stream)
    while not device.happened(end):
        pass
    for event in (start, end):
        device.destroy_event(event)
    device.free(address)
    device.free_pinned(memory)
    device.destroy_stream(stream)


def test_memory_and_properties_are_told(gpu_device: Device) -> None:
    free, total = gpu_device.memory()
    address = gpu_device.allocate(1 << 20)
    assert gpu_device.memory() == (free - (1 << 20), total)
    gpu_device.free(address)
    properties = gpu_device.properties
    if gpu_device.binding.startswith("pycuda"):
        assert gpu_device.binding == "pycuda 2026.1"
        assert (properties.name, properties.capability) == ("Simulated Orin", "87")
        assert (properties.driver, properties.multiprocessors) == ("12.6", 16)
        assert properties.bandwidth_gbs == pytest.approx(204.7, abs=0.1)  # LPDDR5 of AGX Orin
        assert properties.clock_mhz == 930 and properties.integrated
    else:
        assert (properties.name, properties.capability) == ("NVIDIA Simulated 4090", "89")
        assert (properties.driver, properties.multiprocessors) == ("13.0", 128)
        assert properties.bandwidth_gbs == pytest.approx(1008, abs=1)  # GDDR6X of an RTX 4090
        assert properties.clock_mhz == 2520 and not properties.integrated
    assert properties.total_bytes == total
    assert properties.l2_bytes


def test_running_out_of_memory_says_of_how_much(
    gpu_device: Device, simulated_gpu: SimulatedMachine
) -> None:
    simulated_gpu.gpu.total_bytes = 1000
    with pytest.raises(CudaError, match=r" of 12\.0 MiB failed: .*Memory"):
        gpu_device.allocate(12 << 20)


@pytest.mark.parametrize(
    ("lost", "act"),
    [
        ("synchronize", lambda d, s, e: d.synchronize(s)),
        ("record", lambda d, s, e: d.record(e, s)),
        ("wait", lambda d, s, e: d.wait(e)),
        ("happened", lambda d, s, e: d.happened(e)),
        ("elapsed", lambda d, s, e: d.elapsed(e, e)),
        ("create_stream", lambda d, s, e: d.create_stream()),
        ("create_event", lambda d, s, e: d.create_event(blocking=True)),
        ("allocate", lambda d, s, e: d.allocate(10)),
        ("allocate_pinned", lambda d, s, e: d.allocate_pinned(10)),
        ("copy_to_device", lambda d, s, e: d.to_device(1, np.zeros(1, np.uint8), s)),
        ("copy_to_host", lambda d, s, e: d.to_host(np.zeros(1, np.uint8), 1, s)),
        ("read", lambda d, s, e: d.read(1, 1, s)),
    ],
)
def test_every_refusal_is_an_error_that_names_the_call(
    gpu_device: Device,
    simulated_gpu: SimulatedMachine,
    monkeypatch: pytest.MonkeyPatch,
    lost: str,
    act: Callable[[Device, Any, Any], object],
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise GpuError("cudaErrorLaunchFailure")

    device = gpu_device
    stream, event = device.create_stream(), device.create_event(blocking=True)
    with monkeypatch.context() as patch:
        patch.setattr(simulated_gpu.gpu, lost, refuse)
        with pytest.raises(CudaError, match=r"^CUDA failed in \w+: .*LaunchFailure") as caught:
            act(device, stream, event)
    assert caught.value.call.startswith("cu") or device.binding.startswith("pycuda")
    device.destroy_event(event)
    device.destroy_stream(stream)


@pytest.mark.parametrize("binding", BINDINGS)
def test_an_engine_runs_and_is_measured_through_either(
    simulated_gpu: SimulatedMachine,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    binding: str,
) -> None:
    put_pycuda(simulated_gpu, monkeypatch)
    profile = {"x": ([1, 4], [2, 4], [64, 4])}
    model = square_model(tmp_path / "square.onnx")
    engine = simulated_gpu.engine(
        model, tmp_path / "e", profiles=[profile], taps={"a": "product"}, taps_kind="debug"
    )
    dependent = simulated_gpu.engine(
        nonzero_model(tmp_path / "nonzero.onnx"),
        tmp_path / "nonzero",
        profiles=[{"x": ([1], [2], [99])}],
        data_dependent=["positions"],
    )
    x = np.ones((3, 4), np.float32)
    taps = Taps(kind="debug", tensors={"a": "product"})
    with TensorRTSession(engine / "model.plan", flavor="tensorrt", binding=binding) as session:
        for factor in range(1, 5):
            assert np.array_equal(session.run({"x": factor * x})["y"], (factor**2 + factor) * x)
        for options in (RunOptions(), RunOptions(streams=2, transfers=True, spin_wait=True)):
            run = session.prepare({"x": x}, options)
            assert run.block(0.0, 4).timings[0].compute == pytest.approx(2.0)
            assert len(run.profile(2)) == 2
        notes = ["No CUDA graph: pycuda 2026.1 cannot record one."]
        assert session.notes == (notes if binding == "pycuda" else [])
    with TensorRTSession(
        engine / "model.plan", flavor="tensorrt", binding=binding, taps=taps
    ) as session:
        assert np.array_equal(session.run({"x": 3 * x})["product"], 9 * x)
    with TensorRTSession(dependent / "model.plan", flavor="tensorrt", binding=binding) as session:
        assert session.run({"x": x[0]})["positions"].shape == (1, 4)


# The choice -------------------------------------------------------------------------------------


def test_cuda_python_comes_first_and_pycuda_is_taken_if_it_is_alone(
    simulated_gpu: SimulatedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_pycuda(simulated_gpu, monkeypatch)
    assert open_device().binding.startswith("cuda-python")
    assert open_device("pycuda").binding == "pycuda 2026.1"
    hide(monkeypatch, "cuda")
    assert open_device().binding == "pycuda 2026.1"


def hide(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let packages seem not to be installed."""
    find = layer.util.find_spec
    monkeypatch.setattr(
        layer.util, "find_spec", lambda name, *rest: None if name in names else find(name, *rest)
    )


def test_the_old_name_of_the_module_is_known(
    simulated_gpu: SimulatedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cuda.bindings", "cuda.bindings.runtime"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cuda.cudart", simulated_gpu.cuda)
    assert open_device("cuda-python").properties.name == "NVIDIA Simulated 4090"


def test_without_a_binding_its_installation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "cuda", "pycuda")
    monkeypatch.setattr(layer, "_has_driver", lambda: True)
    with pytest.raises(
        MissingDependencyError, match="package cuda-python or pycuda, which is not installed"
    ) as caught:
        open_device()
    assert "dinat-deploy[gpu]" in caught.value.cure
    with pytest.raises(MissingDependencyError, match="package pycuda, which is not installed"):
        open_device("pycuda")
    with pytest.raises(EngineError, match="no CUDA binding 'cupy'"):
        open_device("cupy")


def test_a_binding_that_cannot_be_loaded_is_named_with_the_reason(
    simulated_gpu: SimulatedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer, "_has_driver", lambda: True)
    hide(monkeypatch, "pycuda")
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    monkeypatch.setitem(sys.modules, "cuda.cudart", None)
    with pytest.raises(MissingDependencyError, match="cuda-python cannot be loaded: .*cudart"):
        open_device()


def test_without_any_driver_that_is_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "cuda", "pycuda")

    def no_library(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(layer, "CDLL", no_library)
    with pytest.raises(EngineError, match="an NVIDIA GPU and its driver: the driver's library is"):
        open_device()


@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize("status", ["cudaErrorNoDevice", "cudaErrorInsufficientDriver"])
def test_without_a_gpu_one_sentence_says_so(
    simulated_gpu: SimulatedMachine, monkeypatch: pytest.MonkeyPatch, binding: str, status: str
) -> None:
    put_pycuda(simulated_gpu, monkeypatch)
    simulated_gpu.gpu.launch_error = status
    with pytest.raises(EngineError, match="needs an NVIDIA GPU and its driver: cu") as caught:
        open_device(binding)
    assert "\n" not in str(caught.value)


def test_other_errors_of_the_driver_are_named(simulated_gpu: SimulatedMachine) -> None:
    simulated_gpu.gpu.launch_error = "cudaErrorIllegalState"
    with pytest.raises(CudaError, match="cudaGetDeviceCount: cudaErrorIllegalState"):
        open_device()


def test_the_gpu_that_was_current_stays_so(simulated_gpu: SimulatedMachine) -> None:
    device = open_device("cuda-python")
    simulated_gpu.cuda.cudaSetDevice(1)  # such as PyTorch may have
    with device.active(), device.active():
        assert simulated_gpu.cuda.cudaGetDevice()[1] == 0
    assert simulated_gpu.cuda.cudaGetDevice()[1] == 1
    with pytest.raises(ValueError, match="inside"), device.active():
        raise ValueError("inside")
    assert simulated_gpu.cuda.cudaGetDevice()[1] == 1


# Recording --------------------------------------------------------------------------------------


def test_a_recording_runs_when_it_is_launched(simulated_gpu: SimulatedMachine) -> None:
    device = open_device("cuda-python")
    stream, address = device.create_stream(), device.allocate(4)
    memory = device.allocate_pinned(4)
    memory[:] = 7

    def launch() -> bool:
        device.to_device(address, memory, stream)
        return True

    graph = device.capture(stream, launch)
    assert (device.read(address, 4, stream) == 0xFF).all()
    device.launch(graph, stream)
    assert (device.read(address, 4, stream) == 7).all()
    device.destroy_graph(graph)
    assert not simulated_gpu.gpu.graphs

    def fails() -> bool:
        raise ValueError("inside")

    assert device.capture(stream, lambda: False) is None
    assert device.capture(stream, lambda: _waits(device, stream)) is None
    with pytest.raises(ValueError, match="inside"):
        device.capture(stream, fails)
    assert not simulated_gpu.gpu.graphs
    device.to_device(address, memory, stream)  # the stream is as it was
    device.synchronize(stream)
    device.free(address)
    device.free_pinned(memory)
    device.destroy_stream(stream)


def _waits(device: Device, stream: Any) -> bool:
    with pytest.raises(CudaError, match="cudaStreamSynchronize: cudaErrorStreamCaptureUnsupported"):
        device.synchronize(stream)
    return True


# NVIDIA's module --------------------------------------------------------------------------------

_ASK = """
import json, sys
try:
    from cuda.bindings import runtime
except ModuleNotFoundError:
    from cuda import cudart as runtime
names, enums, constants = json.loads(sys.argv[1])
print(json.dumps([
    {name: getattr(runtime, name).__doc__.splitlines()[0] for name in names},
    {name: {m.name: m.value for m in getattr(runtime, name)} for name in enums},
    {name: int(getattr(runtime, name)) for name in constants},
    sorted(a for a in dir(runtime.cudaDeviceProp()) if not a.startswith("_")),
    [int(runtime.cudaStream_t(5)), int(runtime.cudaEvent_t(6)), int(runtime.cudaGraphExec_t(7))],
]))
"""
_OPEN = """
from dinat_deploy.errors import EngineError
from dinat_deploy.session.cuda import open_device
try:
    open_device("cuda-python")
except EngineError as error:
    print(error)
"""


def run_with(site: Path, code: str, *arguments: str) -> str:
    path = os.pathsep.join([str(site), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.fixture(scope="session", params=["cuda-bindings==13.5.0", "cuda-python==12.3.0"])
def nvidia_cuda(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with NVIDIA's binding, of the new layout and of the old one."""
    return installed(request.param, tmp_path_factory)


def test_the_stand_in_is_called_as_nvidias_module_is(
    nvidia_cuda: Path, simulated_gpu: SimulatedMachine
) -> None:
    module = simulated_gpu.cuda
    names = [
        n for n in vars(module) if n.startswith("cuda") and inspect.isfunction(getattr(module, n))
    ]
    enums = [n for n, v in vars(module).items() if isinstance(v, enum.EnumMeta)]
    assert len(names) > 25 and len(enums) == 4
    asked = json.dumps([names, enums, list(CONSTANTS)])
    functions, members, constants, properties, handles = json.loads(
        run_with(nvidia_cuda, _ASK, asked)
    )
    assert constants == CONSTANTS
    assert handles == [5, 6, 7]
    for name in enums:
        for member in getattr(module, name):
            assert members[name][member.name] == member.value, (name, member)
    for name in names:
        signature = re.search(r"\((.*)\)", functions[name])
        assert signature, functions[name]
        theirs = [part for part in signature[1].split(",") if part.strip()]
        ours = inspect.signature(getattr(module, name).__wrapped__).parameters
        assert len(theirs) == len(ours), (name, functions[name])
    status, told = module.cudaGetDeviceProperties(0)
    assert status == 0 and set(vars(told)) <= set(properties)


def test_nvidias_module_without_a_driver_gives_our_sentence(nvidia_cuda: Path) -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        pass
    else:
        pytest.skip("this machine has a driver")
    said = run_with(nvidia_cuda, _OPEN)
    assert said.startswith("Running an engine needs an NVIDIA GPU and its driver: ")
    assert re.search("insufficient|libcuda", said) and said.count("\n") == 1
