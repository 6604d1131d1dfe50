"""TensorRT's execution context on a simulated GPU: it insists on all that the headers demand."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.session.simulator.gpu import ALIGNMENT, POISON, GpuError, Operation, SimulatedGpu, Span
from tests.session.simulator.interfaces import (
    DataType,
    Dims,
    ExecutionContextAllocationStrategy,
    Severity,
    TensorLocation,
    initialised,
)
from tests.session.simulator.plan import Array, Model


def scratch_bytes(shapes: dict[str, list[int]]) -> int:
    return 1024 + 8 * sum(int(np.prod(shape)) for shape in shapes.values())


class _State:
    """What a context has been told; queued work looks at it when it runs.

    Attributes:
        number: counts changes; a graph is good for the one at which it was recorded.
    """

    def __init__(self) -> None:
        self.number = 0
        self.alive = True
        self.in_flight = 0


class IExecutionContext:
    profiler: Any
    enqueue_emits_profile: bool

    def __init__(self, engine: Any, strategy: ExecutionContextAllocationStrategy) -> None:
        self._engine, self._strategy = engine, strategy
        self._gpu = engine._world.gpu
        self._model = engine._model
        self._state = _State()
        self._enqueued_at = -1
        self._profile = 0
        self._profile_stream: int | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._allocators: dict[str, Any] = {}
        self._memory: tuple[int, int] | None = None
        self._sized = False
        self._listener: Any = None
        self._debugged: set[str] = set()
        self.profiler = None
        self.enqueue_emits_profile = True
        self._own_memory = 0
        if strategy == ExecutionContextAllocationStrategy.STATIC:
            self._own_memory = self._gpu.allocate(engine.device_memory_size_v2)
        engine._world.alive["contexts"] += 1

    def __del__(self) -> None:
        if not hasattr(self, "_own_memory"):
            return
        self._engine._world.alive["contexts"] -= 1
        self._state.alive = False
        if self._state.in_flight:
            self._gpu.violations.append("a context was destroyed while its work was queued")
        if self._own_memory:
            self._gpu.free(self._own_memory)

    # What it is told ----------------------------------------------------------------------------

    def _error(self, message: str) -> bool:
        self._engine._world.log(Severity.ERROR, f"IExecutionContext: Error Code 3: {message}")
        return False

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if not 0 <= profile_index < self._engine.num_optimization_profiles:
            return self._error(f"profile {profile_index} is out of range")
        if self._gpu.is_capturing(stream_handle):
            self._gpu.spoil_capture(stream_handle)
            return self._error("profile set while capturing")
        self._profile, self._profile_stream = profile_index, stream_handle
        self._shapes.clear()
        self._sized = False
        self._state.number += 1
        return True

    @property
    def active_optimization_profile(self) -> int:
        return self._profile

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        if not isinstance(shape, (tuple, list)):
            raise TypeError("set_input_shape(): incompatible function arguments")
        if name not in self._model.inputs:
            return self._error(f"{name} is no input")
        least, _, most = self._engine._bounds(name, self._profile)
        if len(shape) != len(least) or any(
            not low <= size <= high for low, size, high in zip(least, shape, most, strict=False)
        ):
            return self._error(
                f"Static dimension mismatch or out of profile {self._profile}: {name} {tuple(shape)}"
            )
        if self._shapes.get(name) != tuple(shape):
            self._shapes[name] = tuple(shape)
            self._sized = False
            self._state.number += 1
        return True

    def infer_shapes(self) -> list[str]:
        missing = [
            name
            for name in self._model.inputs
            if name not in self._shapes and -1 in self._model.shapes[name]
        ]
        return missing + [
            name
            for name in self._model.inputs
            if name in self._engine._plan.host and not self._addresses.get(name)
        ]

    def _input_shapes(self) -> dict[str, tuple[int, ...]]:
        return {
            name: self._shapes.get(name, self._model.shapes[name]) for name in self._model.inputs
        }

    def get_tensor_shape(self, name: str) -> Dims:
        shapes = self._input_shapes()
        if name in shapes:
            return Dims(shapes[name])
        if any(-1 in shape for shape in shapes.values()):
            return Dims(self._model.shapes[name])
        found = self._model.output_shapes(shapes)[name]
        if name in self._engine._plan.data_dependent:
            return Dims([-1] * len(found))
        return Dims(found)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._engine._names:
            return self._error(f"{name} is no tensor of the engine")
        if name not in self._engine._plan.host and memory % ALIGNMENT:
            return self._error(f"the address of {name} is not aligned to {ALIGNMENT} bytes")
        if self._addresses.get(name) != memory:
            self._addresses[name] = memory
            self._state.number += 1
        return True

    def set_output_allocator(self, name: str, output_allocator: Any) -> bool:
        if name not in self._model.outputs:
            return self._error(f"{name} is no output")
        self._allocators[name] = initialised(output_allocator)
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        if self.infer_shapes():
            self._error("shapes are missing")
            return 0
        self._sized = True
        return scratch_bytes({name: list(s) for name, s in self._input_shapes().items()})

    def set_device_memory(self, memory: int, size: int) -> None:
        if memory % ALIGNMENT:
            self._error("device memory is not aligned")
            return
        if self._memory != (memory, size):
            self._memory = (memory, size)
            self._state.number += 1

    def set_debug_listener(self, listener: Any) -> bool:
        # Without a reference, as TensorRT's binding: the caller must keep it alive.
        self._listener = weakref.ref(initialised(listener))
        return True

    def set_tensor_debug_state(self, name: str, flag: bool) -> bool:
        if name not in self._engine._plan.debug:
            return self._error(f"{name} is no debug tensor")
        (self._debugged.add if flag else self._debugged.discard)(name)
        return True

    # Running ------------------------------------------------------------------------------------

    def _obstacle(self, stream_handle: int) -> str | None:
        missing = self.infer_shapes()
        if missing:
            return f"shapes of {missing} are not specified"
        for name in self._engine._names:
            if not self._addresses.get(name) and name not in self._allocators:
                return f"Neither address or allocator is set for tensor {name}"
        for name in self._model.outputs:
            if name in self._engine._plan.data_dependent and name not in self._allocators:
                return f"the output {name} needs an allocator"
        if self._strategy == ExecutionContextAllocationStrategy.USER_MANAGED:
            needed = (
                scratch_bytes({name: list(s) for name, s in self._input_shapes().items()})
                if self._sized
                else self._engine.get_device_memory_size_for_profile_v2(self._profile)
            )
            if self._memory is None or self._memory[1] < needed:
                return f"{needed} bytes of device memory are needed and {self._memory} were given"
        if self._profile_stream not in (None, stream_handle):
            self._gpu.violations.append("a profile was set on another stream than it is used on")
        return None

    def execute_async_v3(self, stream_handle: int) -> bool:
        gpu, state = self._gpu, self._state
        gpu.calls.append("execute_async_v3")
        obstacle = self._obstacle(stream_handle)
        if obstacle is not None:
            return self._error(obstacle)
        capturing = gpu.is_capturing(stream_handle)
        dependent = bool(self._engine._plan.data_dependent)
        if capturing and (
            not self._engine._plan.capturable
            or dependent
            or self._debugged
            or self._enqueued_at != state.number
        ):
            gpu.spoil_capture(stream_handle)
            return self._error("operation not permitted when stream is capturing")
        try:
            if dependent:
                self._run_dependent(stream_handle)
            elif self._debugged:
                self._run_debugged(stream_handle)
            else:
                gpu.enqueue(stream_handle, self._operation(capturing))
            if self.profiler is not None and self.enqueue_emits_profile and not capturing:
                gpu.synchronize(stream_handle)
                self._report()
        except GpuError as error:
            return self._error(f"Cuda failure: {error}")
        self._enqueued_at = state.number
        return True

    def _report(self) -> None:
        profiler = initialised(self.profiler)
        layers = self._model.layers(self._engine._plan)
        for number, layer in enumerate(layers):
            name = layer if isinstance(layer, str) else layer["Name"]
            profiler.report_layer_time(name, 0.25 * (number + 1))

    def _spans(self) -> tuple[Span, ...]:
        spans = []
        shapes = self._input_shapes()
        found = self._model.output_shapes(shapes)
        for name in self._engine._names:
            if name in self._engine._plan.host or not self._addresses.get(name):
                continue
            shape = shapes.get(name) or found[name]
            size = int(np.prod(shape)) * self._model.element(name).itemsize
            spans.append(Span(self._addresses[name], size, name in self._model.outputs))
        if self._memory is not None:
            spans.append(Span(*self._memory, written=True))
        return tuple(spans)

    def _operation(self, capturing: bool) -> Operation:
        """The inference with what the context knows now."""
        gpu, state, number = self._gpu, self._state, self._state.number
        shapes, addresses = self._input_shapes(), dict(self._addresses)
        memory, model, host = self._memory, self._model, self._engine._plan.host
        on_host = {name: _host_array(self, name, shapes[name]) for name in shapes if name in host}

        def run() -> None:
            state.in_flight -= 0 if capturing else 1
            feeds = {
                name: on_host[name] if name in host else _load(gpu, model, addresses, name, shape)
                for name, shape in shapes.items()
            }
            if memory is not None:
                gpu.view(*memory)[:] = POISON
            results = model.run(feeds)
            stale = capturing and (not state.alive or state.number != number)
            if stale:
                gpu.violations.append("a graph ran whose context had been changed or destroyed")
            for name in model.outputs:
                data = results[name].view(np.uint8).reshape(-1) if results[name].size else None
                if data is None:
                    continue
                if name in host:
                    ctypes.memmove(addresses[name], data.ctypes.data, data.size)
                else:
                    gpu.view(addresses[name], data.size)[:] = POISON if stale else data

        state.in_flight += 0 if capturing else 1
        return Operation(run, gpu.compute_ms, self._spans())

    def _now(self, stream_handle: int) -> dict[str, Array]:
        """All results, after everything queued: what needs them on the host waits for the GPU."""
        self._gpu.synchronize(stream_handle)
        shapes = self._input_shapes()
        feeds = {
            name: _load(self._gpu, self._model, self._addresses, name, shape)
            for name, shape in shapes.items()
        }
        return self._model.run(feeds)

    def _write(self, stream_handle: int, address: int, array: Array) -> None:
        data = np.ascontiguousarray(array).view(np.uint8).reshape(-1)

        def run() -> None:
            self._gpu.view(address, data.size)[:] = data

        if data.size:
            spans = (Span(address, data.size, written=True),)
            self._gpu.enqueue(stream_handle, Operation(run, self._gpu.compute_ms, spans))

    def _run_dependent(self, stream_handle: int) -> None:
        results = self._now(stream_handle)
        for name in self._model.outputs:
            address = self._addresses.get(name, 0)
            if name in self._allocators:
                allocator = self._allocators[name]
                size = max(1, results[name].nbytes)
                address = allocator.reallocate_output_async(
                    name, address, size, ALIGNMENT, stream_handle
                )
                if not address or address % ALIGNMENT:
                    raise GpuError("the output allocator gave no aligned memory")
                allocator.notify_shape(name, Dims(results[name].shape))
            self._write(stream_handle, address, results[name])

    def _run_debugged(self, stream_handle: int) -> None:
        listener = self._listener() if self._listener is not None else None
        if listener is None:
            self._gpu.violations.append("the debug listener was destroyed before its context")
            return
        results = self._now(stream_handle)
        for name in sorted(self._debugged):
            array = results[name]
            address = self._gpu.allocate(max(1, array.nbytes))
            self._write(stream_handle, address, array)
            listener.process_debug_tensor(
                address,
                TensorLocation.DEVICE,
                DataType[self._model.types[name]],
                Dims(array.shape),
                name,
                stream_handle,
            )
            # The content is the listener's only until it returns.
            self._gpu.synchronize(stream_handle)
            self._gpu.free(address)
        for name in self._model.outputs:
            self._write(stream_handle, self._addresses[name], results[name])


def _load(
    gpu: SimulatedGpu, model: Model, addresses: dict[str, int], name: str, shape: tuple[int, ...]
) -> Array:
    element = model.element(name)
    size = int(np.prod(shape)) * element.itemsize
    if not size:
        return np.zeros(shape, element)
    return gpu.view(addresses[name], size).copy().view(element).reshape(shape)


def _host_array(context: IExecutionContext, name: str, shape: tuple[int, ...]) -> Array:
    element = context._model.element(name)
    size = int(np.prod(shape)) * element.itemsize
    data = ctypes.string_at(context._addresses[name], size)
    return np.frombuffer(data, element).reshape(shape)


class RtxContext(IExecutionContext):
    def is_stream_capturable(self, stream: int) -> bool:
        return self._engine._plan.capturable
