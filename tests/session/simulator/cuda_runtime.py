"""The module ``cuda.bindings.runtime`` (formerly ``cuda.cudart``) on a simulated GPU.

Only what is here exists: a call of anything else fails the test. ``test_simulator`` compares names,
arguments and results with the real module.
"""

# ruff: noqa: N801, N802, N815 -- the names are CUDA's

from __future__ import annotations

import ctypes
import enum
from collections.abc import Callable
from functools import wraps
from types import ModuleType, SimpleNamespace
from typing import Any

from tests.session.simulator.gpu import GpuError, SimulatedGpu


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorStubLibrary = 34
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidResourceHandle = 400
    cudaErrorIllegalState = 401
    cudaErrorNotReady = 600
    cudaErrorIllegalAddress = 700
    cudaErrorLaunchFailure = 719
    cudaErrorSystemDriverMismatch = 803
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1
    cudaStreamCaptureModeRelaxed = 2


class cudaDeviceAttr(enum.IntEnum):
    cudaDevAttrClockRate = 13
    cudaDevAttrMemoryClockRate = 36
    cudaDevAttrGlobalMemoryBusWidth = 37


_ATTRIBUTES = {
    cudaDeviceAttr.cudaDevAttrClockRate: 2_520_000,
    cudaDeviceAttr.cudaDevAttrMemoryClockRate: 10_501_000,
    cudaDeviceAttr.cudaDevAttrGlobalMemoryBusWidth: 384,
}


class _Handle:
    """What the real module wraps handles in: a number, but not an ``int``."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __int__(self) -> int:
        return self._value


def _status(function: Callable[..., Any]) -> Callable[..., tuple[Any, ...]]:
    """Turn a function into one that returns CUDA's status before its results."""
    results = function.__name__ not in _WITHOUT_RESULTS

    @wraps(function)
    def call(*arguments: Any) -> tuple[Any, ...]:
        try:
            value = function(*arguments)
        except GpuError as error:
            return (cudaError_t[str(error)], None) if results else (cudaError_t[str(error)],)
        if not results:
            return (cudaError_t.cudaSuccess,)
        return (cudaError_t.cudaSuccess, *(value if isinstance(value, tuple) else (value,)))

    return call


_WITHOUT_RESULTS = {
    "cudaSetDevice",
    "cudaFree",
    "cudaFreeHost",
    "cudaStreamDestroy",
    "cudaStreamSynchronize",
    "cudaEventDestroy",
    "cudaEventRecord",
    "cudaEventSynchronize",
    "cudaEventQuery",
    "cudaMemcpyAsync",
    "cudaMemcpy",
    "cudaStreamBeginCapture",
    "cudaGraphLaunch",
    "cudaGraphDestroy",
    "cudaGraphExecDestroy",
    "cudaGetLastError",
}


def make_module(gpu: SimulatedGpu, name: str = "cuda.bindings.runtime") -> ModuleType:
    """The module; ``gpu`` is what its functions work on."""
    current = [0]

    def cudaGetDeviceCount() -> int:
        if gpu.launch_error:
            raise GpuError(gpu.launch_error)
        return 1

    def cudaDriverGetVersion() -> int:
        return 13000

    def cudaGetDevice() -> int:
        return current[0]

    def cudaSetDevice(device: int) -> None:
        current[0] = device

    def cudaGetDeviceProperties(device: int) -> SimpleNamespace:
        return SimpleNamespace(
            name=b"NVIDIA Simulated 4090",
            major=8,
            minor=9,
            multiProcessorCount=128,
            l2CacheSize=72 << 20,
            totalGlobalMem=gpu.total_bytes,
            integrated=0,
        )

    def cudaDeviceGetAttribute(attribute: cudaDeviceAttr, device: int) -> int:
        return _ATTRIBUTES[attribute]

    def cudaGetErrorString(status: cudaError_t) -> bytes:
        words = status.name.removeprefix("cudaError")
        return "".join(f" {c.lower()}" if c.isupper() else c for c in words).strip().encode()

    def cudaGetLastError() -> None:
        return None

    def cudaMalloc(size: int) -> int:
        return gpu.allocate(size)

    def cudaFree(address: int) -> None:
        gpu.free(address)

    def cudaHostAlloc(size: int, flags: int) -> int:
        return gpu.allocate_pinned(size)

    def cudaFreeHost(address: int) -> None:
        gpu.free_pinned(address)

    def cudaStreamCreateWithFlags(flags: int) -> _Handle:
        if flags != 1:
            gpu.violations.append("a stream that waits for the default stream")
        return _Handle(gpu.create_stream())

    def cudaStreamDestroy(stream: Any) -> None:
        gpu.destroy_stream(int(stream))

    def cudaStreamSynchronize(stream: Any) -> None:
        gpu.calls.append("cudaStreamSynchronize")
        gpu.synchronize(int(stream))

    def cudaEventCreateWithFlags(flags: int) -> _Handle:
        return _Handle(gpu.create_event(blocking=bool(flags & 1)))

    def cudaEventDestroy(event: Any) -> None:
        gpu.destroy_event(int(event))

    def cudaEventRecord(event: Any, stream: Any) -> None:
        gpu.record(int(event), int(stream))

    def cudaEventSynchronize(event: Any) -> None:
        gpu.calls.append("cudaEventSynchronize")
        gpu.wait(int(event))

    def cudaEventQuery(event: Any) -> None:
        gpu.calls.append("cudaEventQuery")
        if not gpu.happened(int(event)):
            raise GpuError("cudaErrorNotReady")

    def cudaEventElapsedTime(start: Any, end: Any) -> float:
        return gpu.elapsed(int(start), int(end))

    def cudaMemcpyAsync(
        target: int, source: int, size: int, kind: cudaMemcpyKind, stream: Any
    ) -> None:
        gpu.calls.append(kind.name)
        if kind == cudaMemcpyKind.cudaMemcpyHostToDevice:
            gpu.copy_to_device(target, source, size, int(stream))
        else:
            gpu.copy_to_host(target, source, size, int(stream))

    def cudaMemcpy(target: int, source: int, size: int, kind: cudaMemcpyKind) -> None:
        if kind != cudaMemcpyKind.cudaMemcpyDeviceToHost:
            raise GpuError("cudaErrorInvalidValue")
        found = gpu.read(source, size)
        ctypes.memmove(target, found.ctypes.data, size)

    def cudaStreamBeginCapture(stream: Any, mode: cudaStreamCaptureMode) -> None:
        if not isinstance(mode, cudaStreamCaptureMode):
            raise TypeError("mode must be a cudaStreamCaptureMode")
        gpu.calls.append("cudaStreamBeginCapture")
        gpu.begin_capture(int(stream))

    def cudaStreamEndCapture(stream: Any) -> _Handle:
        return _Handle(gpu.end_capture(int(stream)))

    def cudaGraphInstantiate(graph: Any, flags: int) -> _Handle:
        return _Handle(gpu.instantiate(int(graph)))

    def cudaGraphLaunch(graph: Any, stream: Any) -> None:
        gpu.calls.append("cudaGraphLaunch")
        gpu.launch(int(graph), int(stream))

    def cudaGraphDestroy(graph: Any) -> None:
        gpu.destroy_graph(int(graph))

    def cudaGraphExecDestroy(graph: Any) -> None:
        gpu.destroy_graph(int(graph))

    def cudaMemGetInfo() -> tuple[int, int]:
        return gpu.total_bytes - gpu.used_bytes(), gpu.total_bytes

    module = ModuleType(name)
    for key, value in list(locals().items()):
        if key.startswith("cuda") and callable(value):
            setattr(module, key, _status(value))
    for kind in (cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode, cudaDeviceAttr):
        setattr(module, kind.__name__, kind)
    for constant, number in CONSTANTS.items():
        setattr(module, constant, number)
    return module


CONSTANTS = {
    "cudaStreamNonBlocking": 1,
    "cudaEventDefault": 0,
    "cudaEventBlockingSync": 1,
    "cudaHostAllocDefault": 0,
}
