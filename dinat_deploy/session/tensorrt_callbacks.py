"""What TensorRT calls while an engine runs: for memory of outputs, layer times, inner tensors.

TensorRT swallows exceptions that are raised in here, so they are kept in ``error``, for its caller
to raise. The classes are made for the module at hand, whose interfaces they implement.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dinat_deploy.errors import EngineError
from dinat_deploy.session import tensorrt_versions as versions
from dinat_deploy.session.base import FloatArray
from dinat_deploy.session.cuda import Device
from dinat_deploy.session.element_types import STORAGE, decode


def make_output_allocator(trt: Any, allocate: Callable[[str, int], int]) -> Any:
    """Gives outputs memory whose shape is only known while the engine runs.

    Args:
        allocate: (name, bytes) -> address, aligned to 256 bytes; may return the same address again.

    Returns:
        An allocator with ``shapes``, output -> shape of its last run, and ``error``.
    """

    class OutputAllocator(trt.IOutputAllocator):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.shapes: dict[str, tuple[int, ...]] = {}
            self.error: Exception | None = None

        def reallocate_output_async(
            self, tensor_name: str, memory: int, size: int, alignment: int, stream: int
        ) -> int:
            try:
                address = allocate(tensor_name, size)
                if alignment and address % alignment:
                    raise EngineError(
                        f"TensorRT wants the output {tensor_name} aligned to {alignment} bytes, "
                        f"and CUDA gave the address {address:#x}."
                    )
            except Exception as error:
                self.error = error
                return 0
            return address

        def reallocate_output(
            self, tensor_name: str, memory: int, size: int, alignment: int
        ) -> int:
            return self.reallocate_output_async(tensor_name, memory, size, alignment, 0)

        def notify_shape(self, tensor_name: str, shape: Sequence[int]) -> None:
            self.shapes[tensor_name] = tuple(shape)

    return OutputAllocator()


def make_debug_listener(trt: Any, device: Device) -> Any:
    """Takes copies of tensors inside the engine.

    Returns:
        A listener with ``tensors``, name -> float32 array of the last run, and ``error``.
    """

    class DebugListener(trt.IDebugListener):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IDebugListener.__init__(self)
            self.tensors: dict[str, FloatArray] = {}
            self.error: Exception | None = None

        def process_debug_tensor(
            self, addr: int, location: Any, kind: Any, shape: Sequence[int], name: str, stream: int
        ) -> bool:
            try:
                dtype, sizes = versions.element_type(kind), tuple(shape)
                if dtype not in STORAGE:
                    raise EngineError(f"The tensor {name} is of type {dtype}, which is not read.")
                storage = STORAGE[dtype]
                size = int(np.prod(sizes, dtype=np.int64)) * storage.itemsize
                # The content is ours only until we return, so this waits for the stream.
                if not size:
                    content = np.zeros(0, np.uint8)
                elif location == trt.TensorLocation.HOST:
                    content = np.frombuffer(ctypes.string_at(addr, size), np.uint8)
                else:
                    content = device.read(addr, size, stream)
                self.tensors[name] = decode(content.view(storage).reshape(sizes), dtype)
            except Exception as error:
                self.error = error
                return False
            return True

    return DebugListener()


def make_profiler(trt: Any) -> Any:
    """Adds up times of layers.

    Returns:
        A profiler with ``milliseconds``, layer -> sum since it was last cleared.
    """

    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.milliseconds: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            # A layer in a loop, or one of several kernels, is reported more than once.
            self.milliseconds[layer_name] = self.milliseconds.get(layer_name, 0.0) + ms

    return Profiler()
