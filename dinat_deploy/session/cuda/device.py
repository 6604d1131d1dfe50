"""What is needed of CUDA, and the choice of a binding that provides it.

All of it concerns the first visible GPU (``CUDA_VISIBLE_DEVICES`` chooses another one) and its
primary context, which TensorRT and PyTorch use too, so that addresses and streams can be shared.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from ctypes import CDLL
from dataclasses import dataclass
from importlib import util
from typing import Any, NewType, Protocol

import numpy as np
import numpy.typing as npt

from dinat_deploy.errors import DinatDeployError, EngineError, MissingDependencyError

# A stream's handle as CUDA knows it; TensorRT takes it as a number.
Stream = NewType("Stream", int)
# What a binding hands out for an event or a graph; only the same binding understands it.
Event = Any
Graph = Any
HostMemory = npt.NDArray[np.uint8]

# In the order in which they are tried.
BINDINGS = ("cuda-python", "pycuda")
_INSTALL = "pip install 'dinat-deploy[gpu]' brings cuda-python; pycuda will do as well."
_NO_GPU_CURE = "Build, inspect and verify ONNX files here, and run engines on a machine with a GPU."


class CudaError(EngineError):
    """A call of CUDA that failed.

    Args:
        call: the function.
        said: CUDA's name of the error, and its words if the binding tells them.
    """

    def __init__(self, call: str, said: str) -> None:
        super().__init__(
            f"CUDA failed in {call}: {said}.",
            "After an error in a kernel the process must start anew; `nvidia-smi` shows what "
            "else uses the GPU.",
        )
        self.call = call
        self.said = said


class OutOfDeviceMemoryError(CudaError):
    """No device or pinned memory is left for an allocation of ``size`` bytes."""

    def __init__(self, call: str, said: str, size: int) -> None:
        super().__init__(call, said)
        self.cause = f"{call} of {size / 2**20:.1f} MiB failed: {said}."
        self.cure = "Free GPU memory (`nvidia-smi` shows who uses it), or run smaller shapes."
        self.args = (f"{self.cause} {self.cure}",)


@dataclass(frozen=True)
class DeviceProperties:
    """The GPU; None where its driver does not tell.

    Attributes:
        capability: compute capability like ``89``.
        driver: version of CUDA that the driver supports, like ``13.0``.
        clock_mhz: of its multiprocessors, at most.
        bandwidth_gbs: of its memory at the highest clock, in 10^9 bytes a second.
        l2_bytes, total_bytes: sizes of its cache and memory.
        integrated: whether it shares the memory of the host (Jetson).
    """

    name: str
    capability: str
    driver: str
    multiprocessors: int
    clock_mhz: float | None
    bandwidth_gbs: float | None
    l2_bytes: int | None
    total_bytes: int
    integrated: bool


class Device(Protocol):
    """The GPU through one binding.

    Every method raises :class:`CudaError` if CUDA refuses. Methods may be called by one thread at
    a time, within :meth:`active`.

    Attributes:
        binding: the binding and its version.
        records_graphs: whether :meth:`capture` can ever return a graph.
    """

    binding: str
    records_graphs: bool
    properties: DeviceProperties

    def active(self) -> AbstractContextManager[None]:
        """Makes the GPU's primary context current in this thread, and the former one after."""
        ...

    def allocate(self, size: int) -> int:
        """Address of ``size`` bytes of device memory, aligned to 256 bytes."""
        ...

    def free(self, address: int) -> None:
        """Give memory back; nothing in flight may use it."""
        ...

    def allocate_pinned(self, size: int) -> HostMemory:
        """Page-locked host memory, which copies need to be asynchronous."""
        ...

    def free_pinned(self, memory: HostMemory) -> None:
        """Give memory of :meth:`allocate_pinned` back; the array must not be used afterwards."""
        ...

    def create_stream(self) -> Stream:
        """A stream that does not wait for the default stream."""
        ...

    def destroy_stream(self, stream: Stream) -> None: ...

    def synchronize(self, stream: Stream) -> None:
        """Wait for all that was queued on a stream."""
        ...

    def create_event(self, *, blocking: bool) -> Event:
        """An event that takes times; waiting for it sleeps if ``blocking``, and polls otherwise."""
        ...

    def destroy_event(self, event: Event) -> None: ...

    def record(self, event: Event, stream: Stream) -> None: ...

    def wait(self, event: Event) -> None:
        """Return when the event has happened."""
        ...

    def happened(self, event: Event) -> bool: ...

    def elapsed(self, start: Event, end: Event) -> float:
        """Milliseconds between two events that happened, on the same or on different streams."""
        ...

    def to_device(self, address: int, source: HostMemory, stream: Stream) -> None:
        """Queue a copy of pinned memory, which must stay unchanged until it is done."""
        ...

    def to_host(self, target: HostMemory, address: int, stream: Stream) -> None:
        """Queue a copy to pinned memory, which is filled once the stream was waited for."""
        ...

    def read(self, address: int, size: int, stream: int) -> HostMemory:
        """Copy to ordinary memory behind all that is queued on any stream's handle, and wait."""
        ...

    def capture(self, stream: Stream, launch: Callable[[], bool]) -> Graph | None:
        """Record what ``launch`` queues on the stream as a graph, without running it.

        Returns:
            The graph; None if ``launch`` returned False or did what cannot be recorded.
        """
        ...

    def launch(self, graph: Graph, stream: Stream) -> None: ...

    def destroy_graph(self, graph: Graph) -> None: ...

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of device memory."""
        ...


def no_gpu(reason: str) -> EngineError:
    """The error of a machine without a GPU."""
    return EngineError(
        f"Running an engine needs an NVIDIA GPU and its driver: {reason}.", _NO_GPU_CURE
    )


def open_device(binding: str | None = None) -> Device:
    """The first visible GPU.

    Args:
        binding: one of :data:`BINDINGS`; None takes the first one that is installed.

    Raises:
        EngineError: there is no GPU, or no driver for it.
        MissingDependencyError: no binding is installed, or not the one asked for.
    """
    openers: dict[str, tuple[str, Callable[[], Device]]] = {
        "cuda-python": ("cuda", _open_cuda_python),
        "pycuda": ("pycuda", _open_pycuda),
    }
    if binding is not None and binding not in openers:
        raise EngineError(
            f"There is no CUDA binding {binding!r}.", f"Choose one of {', '.join(BINDINGS)}."
        )
    broken: list[str] = []
    for name in [binding] if binding else BINDINGS:
        module, opener = openers[name]
        if util.find_spec(module) is None:
            continue
        try:
            return opener()
        except ImportError as error:
            if isinstance(error, DinatDeployError):
                raise
            broken.append(f"{name} cannot be loaded: {error}")
    if not _has_driver():
        raise no_gpu("the driver's library is not installed")
    wanted = binding or " or ".join(BINDINGS)
    reason = "; ".join(broken) or "which is not installed"
    raise MissingDependencyError(
        f"Running an engine needs the Python package {wanted}, {reason}.", _INSTALL
    )


def _open_cuda_python() -> Device:
    from dinat_deploy.session.cuda.cuda_python import CudaPythonDevice

    return CudaPythonDevice()


def _open_pycuda() -> Device:
    from dinat_deploy.session.cuda.pycuda import PycudaDevice

    return PycudaDevice()


def _has_driver() -> bool:
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            CDLL(name)
        except OSError:
            continue
        return True
    return False
