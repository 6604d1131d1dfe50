"""CUDA through ``pycuda``, which some machines (Jetson among them) have instead of cuda-python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np

from dinat_deploy.session.cuda.cuda_python import bandwidth
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
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, which pycuda has no name for


class PycudaDevice:
    """See :class:`dinat_deploy.session.cuda.device.Device`; pycuda records no graphs.

    Raises:
        EngineError: there is no GPU, or no driver.
    """

    records_graphs = False

    def __init__(self) -> None:
        self._driver = import_module("pycuda.driver")
        self.binding = f"pycuda {import_module('pycuda').VERSION_TEXT}"
        try:
            self._driver.init()
            count = self._driver.Device.count()
        except self._driver.Error as error:
            raise no_gpu(str(error)) from None
        if count == 0:
            raise no_gpu("none is visible")
        self._depth = 0
        self._streams: dict[int, Any] = {}
        self._allocations: dict[int, Any] = {}
        self._gpu = self._driver.Device(_FIRST_GPU)
        # The primary context is the one that TensorRT and PyTorch use.
        self._context = self._call("retain_primary_context", self._gpu.retain_primary_context)
        self.properties = self._properties()

    def _call(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._driver.Error as error:
            # pycuda says "cuMemAlloc failed: out of memory".
            call, found, said = str(error).partition(" failed: ")
            raise CudaError(call if found else name, said if found else call) from None

    def _properties(self) -> DeviceProperties:
        attribute = self._driver.device_attribute
        major, minor = self._gpu.compute_capability()
        version = self._driver.get_driver_version()
        clock = self._attribute(attribute.CLOCK_RATE)
        return DeviceProperties(
            name=self._gpu.name(),
            capability=f"{major}{minor}",
            driver=f"{version // 1000}.{version % 1000 // 10}",
            multiprocessors=self._attribute(attribute.MULTIPROCESSOR_COUNT),
            clock_mhz=clock / 1e3 if clock else None,
            bandwidth_gbs=bandwidth(
                self._attribute(attribute.MEMORY_CLOCK_RATE),
                self._attribute(attribute.GLOBAL_MEMORY_BUS_WIDTH),
            ),
            l2_bytes=self._attribute(attribute.L2_CACHE_SIZE) or None,
            total_bytes=self._gpu.total_memory(),
            integrated=bool(self._attribute(attribute.INTEGRATED)),
        )

    def _attribute(self, attribute: Any) -> int:
        return int(self._call("get_attribute", self._gpu.get_attribute, attribute))

    @contextmanager
    def active(self) -> Iterator[None]:
        if self._depth == 0:
            self._call("push", self._context.push)
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._call("pop", self._driver.Context.pop)

    def allocate(self, size: int) -> int:
        try:
            allocation = self._driver.mem_alloc(size)
        except self._driver.MemoryError as error:
            raise OutOfDeviceMemoryError("mem_alloc", str(error), size) from None
        except self._driver.Error as error:
            raise CudaError("mem_alloc", str(error)) from None
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def free(self, address: int) -> None:
        self._call("free", self._allocations.pop(address).free)

    def allocate_pinned(self, size: int) -> HostMemory:
        try:
            memory: HostMemory = self._driver.pagelocked_empty(size, np.uint8)
        except self._driver.MemoryError as error:
            raise OutOfDeviceMemoryError("pagelocked_empty", str(error), size) from None
        except self._driver.Error as error:
            raise CudaError("pagelocked_empty", str(error)) from None
        return memory

    def free_pinned(self, memory: HostMemory) -> None:
        owner: Any = memory.base
        self._call("free", owner.free)

    def create_stream(self) -> Stream:
        stream = self._call("Stream", self._driver.Stream, _NON_BLOCKING)
        self._streams[stream.handle] = stream
        return Stream(stream.handle)

    def destroy_stream(self, stream: Stream) -> None:
        del self._streams[stream]  # pycuda destroys with the object

    def synchronize(self, stream: Stream) -> None:
        self._call("synchronize", self._streams[stream].synchronize)

    def create_event(self, *, blocking: bool) -> Event:
        flags = self._driver.event_flags
        chosen = flags.BLOCKING_SYNC if blocking else flags.DEFAULT
        return _Owned(self._call("Event", self._driver.Event, chosen))

    def destroy_event(self, event: Event) -> None:
        event.object = None  # pycuda destroys with the object

    def record(self, event: Event, stream: Stream) -> None:
        self._call("record", event.object.record, self._streams[stream])

    def wait(self, event: Event) -> None:
        self._call("synchronize", event.object.synchronize)

    def happened(self, event: Event) -> bool:
        return bool(self._call("query", event.object.query))

    def elapsed(self, start: Event, end: Event) -> float:
        return float(self._call("time_till", start.object.time_till, end.object))

    def to_device(self, address: int, source: HostMemory, stream: Stream) -> None:
        copy = self._driver.memcpy_htod_async
        self._call("memcpy_htod_async", copy, address, source, self._streams[stream])

    def to_host(self, target: HostMemory, address: int, stream: Stream) -> None:
        copy = self._driver.memcpy_dtoh_async
        self._call("memcpy_dtoh_async", copy, target, address, self._streams[stream])

    def read(self, address: int, size: int, stream: int) -> HostMemory:
        # The stream may be TensorRT's own, which pycuda has no object for.
        self._call("synchronize", self._driver.Context.synchronize)
        target = np.empty(size, np.uint8)
        self._call("memcpy_dtoh", self._driver.memcpy_dtoh, target, address)
        return target

    def capture(self, stream: Stream, launch: Callable[[], bool]) -> Graph | None:
        return None

    def launch(self, graph: Graph, stream: Stream) -> None:
        raise CudaError("launch", "pycuda has no graphs")

    def destroy_graph(self, graph: Graph) -> None:
        raise CudaError("destroy_graph", "pycuda has no graphs")

    def memory(self) -> tuple[int, int]:
        free, total = self._call("mem_get_info", self._driver.mem_get_info)
        return int(free), int(total)


class _Owned:
    """An event that can be given up before the last reference to it is gone."""

    def __init__(self, created: Any) -> None:
        self.object: Any = created
