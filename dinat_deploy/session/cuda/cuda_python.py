"""CUDA through NVIDIA's ``cuda-python``: its runtime interface, of all versions from 12.0 on."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module, metadata
from typing import Any

import numpy as np

from dinat_deploy.session.cuda.device import (
    CudaError,
    DeviceProperties,
    Event,
    Graph,
    HostMemory,
    OutOfDeviceMemoryError,
    Stream,
    no_gpu,
)

_FIRST_GPU = 0
_NO_GPU = (
    "cudaErrorInsufficientDriver",
    "cudaErrorNoDevice",
    "cudaErrorStubLibrary",
    "cudaErrorSystemDriverMismatch",
)


def _import_runtime() -> Any:
    """``cuda.bindings.runtime``, or ``cuda.cudart`` as it was called before version 12.8."""
    try:
        return import_module("cuda.bindings.runtime")
    except ModuleNotFoundError as error:
        if error.name not in ("cuda.bindings", "cuda.bindings.runtime"):
            raise
    return import_module("cuda.cudart")


def _version() -> str:
    for package in ("cuda-bindings", "cuda-python"):
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return "of unknown version"


class CudaPythonDevice:
    """See :class:`dinat_deploy.session.cuda.device.Device`.

    Raises:
        EngineError: there is no GPU, or no driver.
    """

    records_graphs = True

    def __init__(self) -> None:
        self._runtime = _import_runtime()
        self.binding = f"cuda-python {_version()}"
        self._pinned: dict[int, int] = {}
        self._success = self._runtime.cudaError_t.cudaSuccess
        self._not_ready = self._runtime.cudaError_t.cudaErrorNotReady
        self._check_gpu()
        with self.active():
            self.properties = self._properties()

    def _check_gpu(self) -> None:
        try:
            status, *counted = self._runtime.cudaGetDeviceCount()
        except RuntimeError as error:  # older versions, of a missing driver
            raise no_gpu(str(error)) from None
        if status != self._success:
            if status.name in _NO_GPU:
                raise no_gpu(self._words(status))
            raise CudaError("cudaGetDeviceCount", self._words(status))
        if counted[0] == 0:
            raise no_gpu("none is visible")

    def _words(self, status: Any) -> str:
        try:
            said = self._runtime.cudaGetErrorString(status)[1].decode()
        except Exception:  # the name alone will do
            said = ""
        return f"{status.name} ({said})" if said else str(status.name)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the runtime and return what it gives beside its status."""
        status, *results = getattr(self._runtime, name)(*arguments)
        if status != self._success:
            # Errors that do not last stay behind for the next caller that asks, such as TensorRT.
            self._runtime.cudaGetLastError()
            raise CudaError(name, self._words(status))
        return results[0] if len(results) == 1 else results

    def _properties(self) -> DeviceProperties:
        told = self._call("cudaGetDeviceProperties", _FIRST_GPU)
        driver = self._call("cudaDriverGetVersion")
        clock = self._attribute("cudaDevAttrClockRate")
        memory_clock = self._attribute("cudaDevAttrMemoryClockRate")
        bus = self._attribute("cudaDevAttrGlobalMemoryBusWidth")
        name = told.name.decode() if isinstance(told.name, bytes) else str(told.name)
        return DeviceProperties(
            name=name.rstrip("\0"),
            capability=f"{told.major}{told.minor}",
            driver=f"{driver // 1000}.{driver % 1000 // 10}",
            multiprocessors=told.multiProcessorCount,
            clock_mhz=clock / 1e3 if clock else None,
            bandwidth_gbs=bandwidth(memory_clock, bus),
            l2_bytes=told.l2CacheSize or None,
            total_bytes=told.totalGlobalMem,
            integrated=bool(told.integrated),
        )

    def _attribute(self, name: str) -> int:
        # Clocks left the properties with CUDA 13, and are still told as attributes.
        attribute = getattr(self._runtime.cudaDeviceAttr, name)
        status, value = self._runtime.cudaDeviceGetAttribute(attribute, _FIRST_GPU)
        return int(value) if status == self._success else 0

    @contextmanager
    def active(self) -> Iterator[None]:
        before = self._call("cudaGetDevice")
        if before == _FIRST_GPU:
            yield
            return
        self._call("cudaSetDevice", _FIRST_GPU)
        try:
            yield
        finally:
            self._call("cudaSetDevice", before)

    def _allocate(self, name: str, size: int, *arguments: Any) -> int:
        status, address = getattr(self._runtime, name)(size, *arguments)
        if status != self._success:
            self._runtime.cudaGetLastError()
            if status == self._runtime.cudaError_t.cudaErrorMemoryAllocation:
                raise OutOfDeviceMemoryError(name, self._words(status), size)
            raise CudaError(name, self._words(status))
        return int(address)

    def allocate(self, size: int) -> int:
        return self._allocate("cudaMalloc", size)

    def free(self, address: int) -> None:
        self._call("cudaFree", address)

    def allocate_pinned(self, size: int) -> HostMemory:
        address = self._allocate("cudaHostAlloc", size, self._runtime.cudaHostAllocDefault)
        self._pinned[address] = size
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def free_pinned(self, memory: HostMemory) -> None:
        address = memory.ctypes.data
        del self._pinned[address]
        self._call("cudaFreeHost", address)

    def create_stream(self) -> Stream:
        created = self._call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking)
        return Stream(int(created))

    def destroy_stream(self, stream: Stream) -> None:
        self._call("cudaStreamDestroy", stream)

    def synchronize(self, stream: Stream) -> None:
        self._call("cudaStreamSynchronize", stream)

    def create_event(self, *, blocking: bool) -> Event:
        runtime = self._runtime
        flags = runtime.cudaEventBlockingSync if blocking else runtime.cudaEventDefault
        return self._call("cudaEventCreateWithFlags", flags)

    def destroy_event(self, event: Event) -> None:
        self._call("cudaEventDestroy", event)

    def record(self, event: Event, stream: Stream) -> None:
        self._call("cudaEventRecord", event, stream)

    def wait(self, event: Event) -> None:
        self._call("cudaEventSynchronize", event)

    def happened(self, event: Event) -> bool:
        (status,) = self._runtime.cudaEventQuery(event)
        if status == self._success:
            return True
        self._runtime.cudaGetLastError()
        if status == self._not_ready:
            return False
        raise CudaError("cudaEventQuery", self._words(status))

    def elapsed(self, start: Event, end: Event) -> float:
        return float(self._call("cudaEventElapsedTime", start, end))

    def to_device(self, address: int, source: HostMemory, stream: Stream) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, source.ctypes.data, source.nbytes, kind, stream)

    def to_host(self, target: HostMemory, address: int, stream: Stream) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, address, target.nbytes, kind, stream)

    def read(self, address: int, size: int, stream: int) -> HostMemory:
        self._call("cudaStreamSynchronize", stream)
        target = np.empty(size, np.uint8)
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpy", target.ctypes.data, address, size, kind)
        return target

    def capture(self, stream: Stream, launch: Callable[[], bool]) -> Graph | None:
        runtime = self._runtime
        # Other threads may allocate meanwhile (trtexec captures in this mode too).
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)
        launched = False
        try:
            launched = launch()
        finally:
            # In any case: until then the stream could not be used for anything else.
            status, graph = runtime.cudaStreamEndCapture(stream)
            ended = status == self._success
            if not ended:
                runtime.cudaGetLastError()
            elif not launched:
                runtime.cudaGraphDestroy(graph)
        if not ended or not launched:
            return None
        try:
            return self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: Graph, stream: Stream) -> None:
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Graph) -> None:
        self._call("cudaGraphExecDestroy", graph)

    def memory(self) -> tuple[int, int]:
        free, total = self._call("cudaMemGetInfo")
        return int(free), int(total)


def bandwidth(memory_clock_khz: int, bus_bits: int) -> float | None:
    """Peak bandwidth in GB/s from clock and width of a bus that transfers twice a cycle."""
    if not memory_clock_khz or not bus_bits:
        return None
    return 2 * memory_clock_khz * 1e3 * bus_bits / 8 / 1e9
