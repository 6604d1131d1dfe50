"""Measuring an engine, as trtexec does: events around what the GPU does, on its streams.

There are always a few inferences under way, so that the GPU never waits for the host to queue the
next one (unless the host cannot keep up, which the enqueue times show). Times are read from the
events when a block is over, not while it runs.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Literal

from dinat_deploy.errors import EngineError
from dinat_deploy.session import tensorrt_versions as versions
from dinat_deploy.session.base import Block, LayerTime, MemoryUse, RunOptions, Timing
from dinat_deploy.session.cuda import CudaError, Device
from dinat_deploy.session.cuda.device import Event
from dinat_deploy.session.element_types import Array
from dinat_deploy.session.measuring import MemoryGain
from dinat_deploy.session.tensorrt_callbacks import make_profiler
from dinat_deploy.session.tensorrt_engine import LoadedEngine
from dinat_deploy.session.tensorrt_lane import Bound, Lane
from dinat_deploy.session.tensorrt_layers import layer_times

# Inferences under way in a stream; two keep the GPU busy (trtexec has as many).
DEPTH = 2
# Times are read after this many inferences, so that a long block does not need a million events.
_MOST_UNREAD = 4096


@dataclass
class _Marks:
    """Events of an inference; the copies' are None without copies."""

    begin: Event
    compute: Event | None
    computed: Event
    end: Event | None
    enqueue: float = 0.0

    @property
    def last(self) -> Event:
        return self.end if self.end is not None else self.computed


class _Slot:
    """A lane with the inferences under way in it."""

    def __init__(self, lane: Lane, bound: Bound) -> None:
        self.lane = lane
        self.bound = bound
        self.under_way: deque[_Marks] = deque()


class TensorRTPreparedRun:
    """See :class:`dinat_deploy.session.base.PreparedRun`.

    Args:
        arrays: the inputs in the engine's types.
        loading: how much the process grew by loading the engine.
        attention_nodes: names of the ONNX nodes that are neighborhood attention.

    Raises:
        EngineError: the engine does not take these inputs, or fails.
    """

    kind: Literal["cpu", "gpu"] = "gpu"

    def __init__(
        self,
        engine: LoadedEngine,
        device: Device,
        arrays: Mapping[str, Array],
        options: RunOptions,
        *,
        profile: int | None = None,
        loading: MemoryGain,
        attention_nodes: Collection[str] = (),
    ) -> None:
        if options.streams < 1:
            raise EngineError(f"{options.streams} streams cannot run anything.", "Ask for 1.")
        self.notes: list[str] = []
        self._engine, self._device = engine, device
        self._arrays, self._options = dict(arrays), options
        self._profile_index = profile
        self._loading, self._preparing = loading, MemoryGain()
        self._attention = frozenset(attention_nodes)
        self._spare: list[Event] = []
        self._all_events: list[Event] = []
        self._slots: list[_Slot] = []
        self._closed = False
        try:
            with device.active(), self._preparing.watched():
                for _ in range(options.streams):
                    self._slots.append(self._make_slot())
        except BaseException:
            self.close()
            raise

    def _make_slot(self) -> _Slot:
        lane = Lane(self._engine, self._device, profile=self._profile_index)
        try:
            bound = lane.select(self._arrays)
            lane.stage(self._arrays)
            lane.copy_in(bound)
            # Once as it is, which lets TensorRT allocate and initialise; once recorded.
            for _ in range(2):
                lane.launch(bound, graph=self._options.cuda_graph)
                lane.synchronize()
            # A first copy out makes the host memory that later ones go to.
            lane.copy_out(bound)
            lane.synchronize()
        except BaseException:
            lane.close()
            raise
        self.notes += [note for note in lane.notes if note not in self.notes]
        return _Slot(lane, bound)

    # Events -------------------------------------------------------------------------------------

    def _event(self) -> Event:
        if self._spare:
            return self._spare.pop()
        event = self._device.create_event(blocking=not self._options.spin_wait)
        self._all_events.append(event)
        return event

    def _wait(self, event: Event) -> None:
        if self._options.spin_wait:
            while not self._device.happened(event):
                pass
        else:
            self._device.wait(event)

    def _recycle(self, marks: _Marks) -> None:
        events = (marks.begin, marks.compute, marks.computed, marks.end)
        self._spare += [event for event in events if event is not None]

    # Running ------------------------------------------------------------------------------------

    def _infer(self, slot: _Slot) -> _Marks:
        """Queue an inference, after waiting for the one before the last."""
        if len(slot.under_way) >= DEPTH:
            self._wait(slot.under_way.popleft().last)
        device, lane, transfers = self._device, slot.lane, self._options.transfers
        stream = lane.stream
        marks = _Marks(
            begin=self._event(),
            compute=self._event() if transfers else None,
            computed=self._event(),
            end=self._event() if transfers else None,
        )
        device.record(marks.begin, stream)
        if marks.compute is not None:
            lane.copy_in(slot.bound)
            device.record(marks.compute, stream)
        before = time.perf_counter()
        lane.launch(slot.bound, graph=self._options.cuda_graph)
        marks.enqueue = 1e3 * (time.perf_counter() - before)
        device.record(marks.computed, stream)
        if marks.end is not None:
            lane.copy_out(slot.bound)
            device.record(marks.end, stream)
        slot.under_way.append(marks)
        return marks

    def _drain(self) -> None:
        for slot in self._slots:
            while slot.under_way:
                self._wait(slot.under_way.popleft().last)
            slot.lane.buffers.free_retired()

    def block(self, seconds: float, least: int) -> Block:
        self._check_open()
        device = self._device
        timings: list[Timing] = []
        with device.active():
            base = self._event()
            device.record(base, self._slots[0].lane.stream)
            self._wait(base)
            # The first inferences find an idle GPU, whose waiting for the host would be measured.
            primed = [self._infer(slot) for _ in range(DEPTH) for slot in self._slots]
            unread: list[_Marks] = []
            span = _Span()
            started = time.perf_counter()
            while len(timings) + len(unread) < least or time.perf_counter() - started < seconds:
                unread += [self._infer(slot) for slot in self._slots]
                if len(unread) >= _MOST_UNREAD:
                    self._drain()
                    timings += self._read(unread, base, span)
                    unread = []
            self._drain()
            timings += self._read(unread, base, span)
            for marks in primed:
                self._recycle(marks)
            self._spare.append(base)
        return Block(timings, span.seconds)

    def _read(self, all_marks: list[_Marks], base: Event, span: _Span) -> list[Timing]:
        """Times of inferences that are done; their events may be used again."""
        elapsed = self._device.elapsed
        timings = []
        for marks in all_marks:
            compute_from = marks.compute if marks.compute is not None else marks.begin
            to_device = elapsed(marks.begin, marks.compute) if marks.compute is not None else 0.0
            compute = elapsed(compute_from, marks.computed)
            to_host = elapsed(marks.computed, marks.end) if marks.end is not None else 0.0
            timings.append(
                Timing(
                    latency=to_device + compute + to_host,
                    compute=compute,
                    host_to_device=to_device,
                    device_to_host=to_host,
                    enqueue=marks.enqueue,
                )
            )
            span.add(elapsed(base, marks.begin), elapsed(base, marks.last))
            self._recycle(marks)
        return timings

    def profile(self, iterations: int) -> list[LayerTime]:
        self._check_open()
        iterations = max(iterations, 1)
        profiler = make_profiler(self._engine.trt)
        with self._device.active():
            lane = Lane(self._engine, self._device, profile=self._profile_index, profiler=profiler)
            try:
                bound = lane.select(self._arrays)
                lane.stage(self._arrays)
                lane.copy_in(bound)
                # With a profiler TensorRT waits for every inference and reports its layers.
                bound.context.enqueue_emits_profile = True
                lane.enqueue(bound)
                lane.synchronize()
                profiler.milliseconds.clear()  # the first inference initialises
                for _ in range(iterations):
                    lane.enqueue(bound)
                lane.synchronize()
            finally:
                lane.close()
        return layer_times(self._engine, profiler.milliseconds, iterations, self._attention)

    def memory(self) -> MemoryUse:
        self._check_open()
        slot = self._slots[0]
        names = (*self._engine.inputs, *self._engine.outputs)
        grown, more = self._loading.bytes, self._preparing.bytes
        told = versions.weight_bytes(self._engine.trt, self._engine.engine)
        return MemoryUse(
            # Next to the weights, a plan holds little.
            weights=told if told is not None else self._engine.plan_bytes,
            activations=slot.bound.scratch,
            inputs_outputs=slot.lane.buffers.size(names),
            process=None if grown is None or more is None else grown + more,
        )

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError("This measurement was closed.", "Prepare another one.")

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with ExitStack() as stack:
            stack.enter_context(self._device.active())
            for slot in self._slots:
                slot.lane.close()
            for event in self._all_events:
                with suppress(CudaError):
                    self._device.destroy_event(event)
        self._slots.clear()
        self._all_events.clear()
        self._spare.clear()


class _Span:
    """From the begin of the first inference of a block to the end of the last."""

    def __init__(self) -> None:
        self._first: float | None = None
        self._last = 0.0

    def add(self, begin: float, end: float) -> None:
        """Count an inference, by its milliseconds since the same event."""
        self._first = begin if self._first is None else min(self._first, begin)
        self._last = max(self._last, end)

    @property
    def seconds(self) -> float:
        return 0.0 if self._first is None else (self._last - self._first) / 1e3
