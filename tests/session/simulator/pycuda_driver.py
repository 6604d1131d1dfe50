"""The modules ``pycuda`` and ``pycuda.driver`` on a simulated GPU.

pycuda cannot be built without CUDA, so this follows its sources by hand (src/wrapper/
wrap_cudadrv.cpp of version 2026.1): objects free what they hold when they go, nothing works outside
of a pushed context, and errors read "cuMemAlloc failed: out of memory".
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np

from tests.session.simulator.gpu import GpuError, SimulatedGpu


class Error(Exception):
    pass


class MemoryError(Error):
    pass


class LogicError(Error):
    pass


class event_flags(enum.IntEnum):  # noqa: N801
    DEFAULT = 0
    BLOCKING_SYNC = 1


class device_attribute(enum.IntEnum):  # noqa: N801
    CLOCK_RATE = 13
    MULTIPROCESSOR_COUNT = 16
    INTEGRATED = 18
    MEMORY_CLOCK_RATE = 36
    GLOBAL_MEMORY_BUS_WIDTH = 37
    L2_CACHE_SIZE = 38


_ATTRIBUTES = {
    device_attribute.CLOCK_RATE: 930_000,
    device_attribute.MULTIPROCESSOR_COUNT: 16,
    device_attribute.INTEGRATED: 1,
    device_attribute.MEMORY_CLOCK_RATE: 3_199_000,
    device_attribute.GLOBAL_MEMORY_BUS_WIDTH: 256,
    device_attribute.L2_CACHE_SIZE: 4 << 20,
}


def make_modules(gpu: SimulatedGpu) -> dict[str, ModuleType]:
    """The modules; ``gpu`` is what they work on."""
    stack: list[object] = []

    def called(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        if not stack:
            raise LogicError(f"{name} failed: invalid device context")
        try:
            return function(*arguments)
        except GpuError as error:
            kind = MemoryError if str(error) == "cudaErrorMemoryAllocation" else LogicError
            raise kind(f"{name} failed: {str(error).removeprefix('cudaError')}") from None

    def init(flags: int = 0) -> None:
        if gpu.launch_error:
            raise Error("cuInit failed: no CUDA-capable device is detected")

    class Context:
        def push(self) -> None:
            stack.append(self)

        @staticmethod
        def pop() -> None:
            if not stack:
                raise LogicError("context::pop failed: invalid device context - cannot pop")
            stack.pop()

        @staticmethod
        def synchronize() -> None:
            called("cuCtxSynchronize", gpu.drain)

    class Device:
        def __init__(self, ordinal: int) -> None:
            assert ordinal == 0

        @staticmethod
        def count() -> int:
            return 1

        def name(self) -> str:
            return "Simulated Orin"

        def compute_capability(self) -> tuple[int, int]:
            return 8, 7

        def total_memory(self) -> int:
            return gpu.total_bytes

        def get_attribute(self, attribute: device_attribute) -> int:
            return _ATTRIBUTES[attribute]

        def retain_primary_context(self) -> Context:
            return Context()

    class DeviceAllocation:
        def __init__(self, address: int) -> None:
            self._address: int | None = address

        def __int__(self) -> int:
            assert self._address is not None
            return self._address

        def free(self) -> None:
            if self._address is None:
                raise LogicError("device_allocation::free failed: invalid resource handle")
            address, self._address = self._address, None
            called("cuMemFree", gpu.free, address)

    class PagelockedHostAllocation:
        """What the arrays have as their base."""

        def __init__(self, size: int) -> None:
            self._address = called("cuMemHostAlloc", gpu.allocate_pinned, size)
            self.__array_interface__ = {
                "data": (self._address, False),
                "shape": (size,),
                "typestr": "|u1",
                "version": 3,
            }

        def free(self) -> None:
            called("cuMemFreeHost", gpu.free_pinned, self._address)

    class Stream:
        def __init__(self, flags: int = 0) -> None:
            self.handle = called("cuStreamCreate", gpu.create_stream)
            if flags != 1:
                gpu.violations.append("a stream that waits for the default stream")

        def synchronize(self) -> None:
            called("cuStreamSynchronize", gpu.synchronize, self.handle)

        def __del__(self) -> None:
            if hasattr(self, "handle"):
                gpu.destroy_stream(self.handle)

    class Event:
        def __init__(self, flags: int = 0) -> None:
            self._handle = called("cuEventCreate", lambda: gpu.create_event(blocking=bool(flags)))

        def record(self, stream: Stream | None = None) -> Event:
            assert stream is not None
            called("cuEventRecord", gpu.record, self._handle, stream.handle)
            return self

        def synchronize(self) -> Event:
            called("cuEventSynchronize", gpu.wait, self._handle)
            return self

        def query(self) -> bool:
            return bool(called("cuEventQuery", gpu.happened, self._handle))

        def time_till(self, event: Event) -> float:
            return float(called("cuEventElapsedTime", gpu.elapsed, self._handle, event._handle))

        def __del__(self) -> None:
            if hasattr(self, "_handle"):
                gpu.destroy_event(self._handle)

    def mem_alloc(size: int) -> DeviceAllocation:
        return DeviceAllocation(called("cuMemAlloc", gpu.allocate, size))

    def pagelocked_empty(shape: int, dtype: Any, order: str = "C", mem_flags: int = 0) -> Any:
        return np.asarray(PagelockedHostAllocation(shape))

    def memcpy_htod_async(dest: int, src: np.ndarray, stream: Stream | None = None) -> None:
        assert stream is not None
        called(
            "cuMemcpyHtoDAsync",
            gpu.copy_to_device,
            dest,
            src.ctypes.data,
            src.nbytes,
            stream.handle,
        )

    def memcpy_dtoh_async(dest: np.ndarray, src: int, stream: Stream | None = None) -> None:
        assert stream is not None
        called(
            "cuMemcpyDtoHAsync", gpu.copy_to_host, dest.ctypes.data, src, dest.nbytes, stream.handle
        )

    def memcpy_dtoh(dest: np.ndarray, src: int) -> None:
        dest[:] = called("cuMemcpyDtoH", gpu.read, src, dest.nbytes)

    def mem_get_info() -> tuple[int, int]:
        free = gpu.total_bytes - gpu.used_bytes()
        return called("cuMemGetInfo", lambda: (free, gpu.total_bytes))

    def get_driver_version() -> int:
        return 12060

    package, driver = ModuleType("pycuda"), ModuleType("pycuda.driver")
    for module in (package, driver):
        module.__spec__ = ModuleSpec(module.__name__, None, is_package=module is package)
    package.__path__ = []
    package.VERSION_TEXT, package.driver = "2026.1", driver  # type: ignore[attr-defined]
    names = (
        init, Context, Device, Stream, Event, mem_alloc, pagelocked_empty, memcpy_htod_async,
        memcpy_dtoh_async, memcpy_dtoh, mem_get_info, get_driver_version, Error, MemoryError,
        LogicError, event_flags, device_attribute,
    )  # fmt: skip
    for entry in names:
        setattr(driver, entry.__name__, entry)
    return {"pycuda": package, "pycuda.driver": driver}
