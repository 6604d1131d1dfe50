"""A GPU that exists only in tests: memory, streams, events, graphs, and a ledger of all of them.

It is as strict as CUDA allows itself to be, which is stricter than most GPUs are:

- Device memory lies at addresses that the host cannot read, and is never at the same address twice.
  Fresh and freed memory is full of 0xFF (NaN in every floating-point type).
- Nothing that is queued runs before somebody waits for it. A copy from pinned memory that is changed
  too early takes the changed content, and a result that is read too early is not there.
- Copies that are to be asynchronous must be from or to pinned memory.
- While a stream is captured, the thread may neither wait nor allocate; that spoils the capture.
- A wrong address is an error that stays, as on a GPU.

What CUDA leaves undefined is noted in ``violations``, which tests want to be empty.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
POISON = 0xFF
ALIGNMENT = 256
_FIRST_ADDRESS = 0x7F00_0000_0000


class GpuError(Exception):
    """An error that CUDA reports, by the name of its status."""


@dataclass(frozen=True)
class Span:
    """Memory that an operation touches: a device address or a pinned one."""

    address: int
    size: int
    written: bool

    def meets(self, other: Span) -> bool:
        return (self.written or other.written) and (
            self.address < other.address + other.size and other.address < self.address + self.size
        )


@dataclass
class Operation:
    """Something queued on a stream; ``milliseconds`` is how long the GPU takes for it."""

    run: Callable[[], None]
    milliseconds: float = 0.0
    spans: tuple[Span, ...] = ()


@dataclass
class SimulatedStream:
    handle: int
    queue: list[Operation] = field(default_factory=list)
    captured: list[Operation] | None = None
    spoiled: bool = False
    clock: float = 0.0
    waited_for: dict[int, Operation] = field(default_factory=dict)  # stream -> its marker


@dataclass
class SimulatedEvent:
    """``recorded`` counts recordings, ``happened`` is the last one that the GPU came to."""

    handle: int
    blocking: bool
    recorded: int = 0
    happened: int = 0
    time: float = 0.0
    stream: SimulatedStream | None = None


@dataclass
class SimulatedGraph:
    operations: list[Operation]


class SimulatedGpu:
    """One GPU.

    Attributes:
        compute_ms: how long an inference takes.
        bytes_per_ms: of a copy.
        total_bytes: memory; more cannot be allocated.
        violations: what was done although CUDA or TensorRT leaves the outcome undefined.
        calls: names of what was called, in order.
    """

    def __init__(self) -> None:
        self.compute_ms = 2.0
        self.bytes_per_ms = 1e7
        self.total_bytes = 8 << 30
        self.launch_error: str | None = None
        self.violations: list[str] = []
        self.calls: list[str] = []
        self.lasting_error: str | None = None
        self._next = _FIRST_ADDRESS
        self._handle = 0x1000
        self.device: dict[int, Bytes] = {}
        self.pinned: dict[int, Any] = {}
        self._graveyard: list[Any] = []  # freed host memory that someone may still look at
        self.streams: dict[int, SimulatedStream] = {}
        self.events: dict[int, SimulatedEvent] = {}
        self.graphs: dict[int, SimulatedGraph] = {}
        self.created: dict[str, int] = {}

    # What is alive ------------------------------------------------------------------------------

    def leaks(self) -> dict[str, int]:
        """What was created and not freed, by kind; empty if all is well."""
        alive = {
            "device memory": len(self.device),
            "pinned memory": len(self.pinned),
            "streams": len(self.streams),
            "events": len(self.events),
            "graphs": len(self.graphs),
        }
        return {kind: count for kind, count in alive.items() if count}

    def used_bytes(self) -> int:
        return sum(memory.size for memory in self.device.values())

    def _new_handle(self, kind: str) -> int:
        self._handle += 0x10
        self.created[kind] = self.created.get(kind, 0) + 1
        return self._handle

    def _not_while_capturing(self) -> None:
        """Calls that CUDA refuses while this thread captures, and that spoil the capture."""
        for stream in self.streams.values():
            if stream.captured is not None:
                stream.spoiled = True
                raise GpuError("cudaErrorStreamCaptureUnsupported")
        self.check()

    def check(self) -> None:
        if self.lasting_error is not None:
            raise GpuError(self.lasting_error)

    # Memory -------------------------------------------------------------------------------------

    def allocate(self, size: int) -> int:
        self._not_while_capturing()
        if size <= 0:
            raise GpuError("cudaErrorInvalidValue")
        if self.used_bytes() + size > self.total_bytes:
            raise GpuError("cudaErrorMemoryAllocation")
        address = self._next
        # A gap, so that running over the end does not meet the next one by chance.
        self._next += -(-size // ALIGNMENT) * ALIGNMENT + (1 << 20)
        self.device[address] = np.full(size, POISON, np.uint8)
        self.created["device memory"] = self.created.get("device memory", 0) + 1
        return address

    def free(self, address: int) -> None:
        self._not_while_capturing()
        if address not in self.device:
            raise GpuError("cudaErrorInvalidValue")
        # cudaFree waits for the whole GPU, so this alone is no violation; but it must not be needed.
        size = self.device[address].size
        if self._pending(Span(address, size, written=True)):
            self.violations.append("device memory was freed while a stream was to use it")
        del self.device[address]

    def allocate_pinned(self, size: int) -> int:
        self._not_while_capturing()
        block = (ctypes.c_uint8 * size)()
        ctypes.memset(block, POISON, size)
        self.pinned[ctypes.addressof(block)] = block
        self.created["pinned memory"] = self.created.get("pinned memory", 0) + 1
        return ctypes.addressof(block)

    def free_pinned(self, address: int) -> None:
        self._not_while_capturing()
        if address not in self.pinned:
            raise GpuError("cudaErrorInvalidValue")
        block = self.pinned.pop(address)
        if self._pending(Span(address, len(block), written=True)):
            self.violations.append("pinned memory was freed while a stream was to use it")
        ctypes.memset(block, POISON, len(block))
        self._graveyard.append(block)

    def view(self, address: int, size: int) -> Bytes:
        """Device memory as its kernels see it; raises for any address outside of an allocation."""
        for start, memory in self.device.items():
            if start <= address and address + size <= start + memory.size:
                return memory[address - start : address - start + size]
        self.lasting_error = "cudaErrorIllegalAddress"
        raise GpuError(self.lasting_error)

    def _host(self, address: int, size: int) -> Bytes:
        for start, block in self.pinned.items():
            if start <= address and address + size <= start + len(block):
                return np.ctypeslib.as_array(block)[address - start : address - start + size]
        raise GpuError("cudaErrorInvalidValue")

    def read(self, address: int, size: int) -> Bytes:
        """A copy that waits, for all that is queued anywhere."""
        self._not_while_capturing()
        self.drain()
        return self.view(address, size).copy()

    # Streams ------------------------------------------------------------------------------------

    def create_stream(self) -> int:
        self._not_while_capturing()
        handle = self._new_handle("streams")
        self.streams[handle] = SimulatedStream(handle)
        return handle

    def stream(self, handle: int) -> SimulatedStream:
        if handle not in self.streams:
            raise GpuError("cudaErrorInvalidResourceHandle")
        return self.streams[handle]

    def destroy_stream(self, handle: int) -> None:
        if self.stream(handle).queue:
            self.violations.append("a stream was destroyed before its work was done")
            self.drain_stream(self.stream(handle))
        del self.streams[handle]

    def enqueue(self, handle: int, operation: Operation) -> None:
        self.check()
        stream = self.stream(handle)
        if stream.captured is not None:
            stream.captured.append(operation)
            return
        for other in self.streams.values():
            if other is stream:
                continue
            unordered = self._behind(other, stream.waited_for.get(other.handle))
            pending = (span for queued in unordered for span in queued.spans)
            if any(mine.meets(theirs) for theirs in pending for mine in operation.spans):
                self.violations.append("two streams use the same memory at the same time")
        stream.queue.append(operation)

    @staticmethod
    def _behind(stream: SimulatedStream, marker: Operation | None) -> list[Operation]:
        """What is queued on a stream behind a marker; all of it if the marker was passed."""
        positions = [i for i, queued in enumerate(stream.queue) if queued is marker]
        return stream.queue[positions[0] :] if positions else stream.queue

    def wait_for_stream(self, handle: int, other_handle: int) -> None:
        """Let a stream wait for all that is queued on another one."""
        stream, other = self.stream(handle), self.stream(other_handle)
        marker = Operation(lambda: None)
        self.enqueue(other_handle, marker)

        def run() -> None:
            while any(queued is marker for queued in other.queue):
                self._step(other)
            stream.clock = max(stream.clock, other.clock)

        self.enqueue(handle, Operation(run))
        stream.waited_for[other_handle] = marker

    def _pending(self, span: Span) -> bool:
        return any(
            span.meets(theirs)
            for stream in self.streams.values()
            for queued in stream.queue
            for theirs in queued.spans
        )

    def _step(self, stream: SimulatedStream) -> None:
        operation = stream.queue.pop(0)
        self.check()
        operation.run()
        stream.clock += operation.milliseconds

    def drain_stream(self, stream: SimulatedStream) -> None:
        while stream.queue:
            self._step(stream)

    def drain(self) -> None:
        # The youngest stream first: nobody may rely on the order between streams.
        for stream in reversed(list(self.streams.values())):
            self.drain_stream(stream)

    def synchronize(self, handle: int) -> None:
        self._not_while_capturing()
        self.drain_stream(self.stream(handle))
        self.check()

    # Copies -------------------------------------------------------------------------------------

    def copy_to_device(self, address: int, source: int, size: int, stream: int) -> None:
        self._host(source, size)

        def run() -> None:
            self.view(address, size)[:] = self._host(source, size)

        spans = (Span(address, size, written=True), Span(source, size, written=False))
        self.enqueue(stream, Operation(run, size / self.bytes_per_ms, spans))

    def copy_to_host(self, target: int, address: int, size: int, stream: int) -> None:
        self._host(target, size)

        def run() -> None:
            self._host(target, size)[:] = self.view(address, size)

        spans = (Span(target, size, written=True), Span(address, size, written=False))
        self.enqueue(stream, Operation(run, size / self.bytes_per_ms, spans))

    # Events -------------------------------------------------------------------------------------

    def create_event(self, *, blocking: bool) -> int:
        handle = self._new_handle("events")
        self.events[handle] = SimulatedEvent(handle, blocking)
        return handle

    def event(self, handle: int) -> SimulatedEvent:
        if handle not in self.events:
            raise GpuError("cudaErrorInvalidResourceHandle")
        return self.events[handle]

    def destroy_event(self, handle: int) -> None:
        self.event(handle)
        del self.events[handle]

    def record(self, handle: int, stream_handle: int) -> None:
        event, stream = self.event(handle), self.stream(stream_handle)
        event.recorded += 1
        event.stream = stream
        number = event.recorded

        def run() -> None:
            event.happened, event.time = number, stream.clock

        self.enqueue(stream_handle, Operation(run))

    def happened(self, handle: int) -> bool:
        """Whether it happened; the GPU goes on by one operation, so that polling comes to an end."""
        self._not_while_capturing()
        event = self.event(handle)
        if event.happened < event.recorded and event.stream is not None and event.stream.queue:
            self._step(event.stream)
            return False
        return event.happened == event.recorded

    def wait(self, handle: int) -> None:
        self._not_while_capturing()
        event = self.event(handle)
        while event.happened < event.recorded and event.stream is not None:
            self._step(event.stream)
        self.check()

    def elapsed(self, start: int, end: int) -> float:
        first, last = self.event(start), self.event(end)
        if not first.recorded or not last.recorded:
            raise GpuError("cudaErrorInvalidResourceHandle")
        if first.happened < first.recorded or last.happened < last.recorded:
            raise GpuError("cudaErrorNotReady")
        return last.time - first.time

    # Graphs -------------------------------------------------------------------------------------

    def begin_capture(self, handle: int) -> None:
        self.check()
        stream = self.stream(handle)
        if stream.captured is not None:
            raise GpuError("cudaErrorIllegalState")
        stream.captured, stream.spoiled = [], False

    def is_capturing(self, handle: int) -> bool:
        return self.stream(handle).captured is not None

    def spoil_capture(self, handle: int) -> None:
        self.stream(handle).spoiled = True

    def end_capture(self, handle: int) -> int:
        stream = self.stream(handle)
        if stream.captured is None:
            raise GpuError("cudaErrorIllegalState")
        operations, stream.captured = stream.captured, None
        if stream.spoiled:
            raise GpuError("cudaErrorStreamCaptureInvalidated")
        return self._add_graph(operations)

    def _add_graph(self, operations: Iterable[Operation]) -> int:
        handle = self._new_handle("graphs")
        self.graphs[handle] = SimulatedGraph(list(operations))
        return handle

    def instantiate(self, handle: int) -> int:
        return self._add_graph(self.graph(handle).operations)

    def graph(self, handle: int) -> SimulatedGraph:
        if handle not in self.graphs:
            raise GpuError("cudaErrorInvalidValue")
        return self.graphs[handle]

    def destroy_graph(self, handle: int) -> None:
        self.graph(handle)
        del self.graphs[handle]

    def launch(self, handle: int, stream: int) -> None:
        for operation in self.graph(handle).operations:
            self.enqueue(stream, operation)
