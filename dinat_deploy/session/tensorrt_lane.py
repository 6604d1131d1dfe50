"""A lane: one stream, and the buffers and contexts of the inferences that run on it, in order.

TensorRT leaves it undefined what a recorded graph does once its context has been changed. So every
set of input shapes has a context of its own, which is not changed after its graph was recorded. All
contexts of a lane share buffers and scratch memory, as they never run at the same time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dinat_deploy.errors import EngineError
from dinat_deploy.session import tensorrt_versions as versions
from dinat_deploy.session.base import FloatArray
from dinat_deploy.session.cuda import CudaError, Device
from dinat_deploy.session.cuda.device import Graph, HostMemory
from dinat_deploy.session.element_types import STORAGE, Array, decode
from dinat_deploy.session.tensorrt_buffers import Buffers
from dinat_deploy.session.tensorrt_callbacks import make_debug_listener, make_output_allocator
from dinat_deploy.session.tensorrt_engine import EngineTensor, LoadedEngine, Shape, Shapes

# Contexts of different shapes that a lane keeps; each takes some memory of its own.
MOST_CONTEXTS = 4
_SCRATCH = "(scratch memory)"


@dataclass
class Bound:
    """A context that is set to one set of input shapes.

    Attributes:
        outputs: shape of every output; None if only the run tells it.
        scratch: bytes of scratch memory that it needs.
        generation: of the buffers whose addresses it knows.
        enqueued: whether it has run since it was last changed, as recording a graph demands.
        graph: the recorded inference.
        refused: whether recording was tried in vain.
    """

    context: Any
    inputs: dict[str, Shape]
    outputs: dict[str, Shape | None]
    scratch: int
    generation: int = -1
    enqueued: bool = False
    graph: Graph | None = None
    refused: bool = False


@dataclass(frozen=True)
class _Key:
    purpose: str
    shapes: tuple[Shape, ...]
    values: tuple[bytes, ...] = field(default=())


class Lane:
    """See the module; call its methods within ``device.active()``, one at a time.

    Args:
        profile: the only optimisation profile to use; None chooses by shape.
        debug: tensors inside the engine to copy out of every run.
        profiler: TensorRT's profiler for all contexts.

    Attributes:
        notes: what did not work and was done without.
        debug_tensors: the tensors of ``debug`` in the last run.
    """

    def __init__(
        self,
        engine: LoadedEngine,
        device: Device,
        *,
        profile: int | None = None,
        debug: Sequence[str] = (),
        profiler: Any | None = None,
    ) -> None:
        self.engine = engine
        self.notes: list[str] = []
        self._device = device
        self._profile = profile
        self._debug = tuple(debug)
        self._profiler = profiler
        self._listener = make_debug_listener(engine.trt, device) if debug else None
        self._allocator: Any | None = None
        self._bound: OrderedDict[_Key, Bound] = OrderedDict()
        self.buffers = Buffers(device)
        self.stream = device.create_stream()

    @property
    def debug_tensors(self) -> dict[str, FloatArray]:
        return self._listener.tensors if self._listener is not None else {}

    # Contexts -----------------------------------------------------------------------------------

    def select(self, arrays: Mapping[str, Array]) -> Bound:
        """The context for the shapes of these inputs, connected to the lane's buffers.

        Values of inputs that TensorRT wants on the host are taken here.
        """
        inputs = self.engine.inputs
        shapes = {name: tuple(arrays[name].shape) for name in inputs}
        on_host = [name for name, tensor in inputs.items() if tensor.on_host]
        for name in on_host:
            self._host_values(inputs[name], arrays[name])
        key = _Key(
            "buffers",
            tuple(shapes.values()),
            tuple(np.ascontiguousarray(arrays[name]).tobytes() for name in on_host),
        )
        bound = self._find(key, shapes)
        self._connect(bound)
        return bound

    def select_for(self, shapes: Shapes) -> Bound:
        """A context for these shapes whose inputs and outputs are the caller's to connect."""
        bound = self._find(_Key("caller", tuple(shapes[n] for n in self.engine.inputs)), shapes)
        scratch = self._reserve({_SCRATCH: bound.scratch})[_SCRATCH]
        versions.set_device_memory(bound.context, scratch, bound.scratch)
        return bound

    def _host_values(self, tensor: EngineTensor, array: Array) -> None:
        memory = self.buffers.host(tensor.name, array.nbytes)
        memory[:] = _bytes(array)

    def _find(self, key: _Key, shapes: Shapes) -> Bound:
        if key in self._bound:
            self._bound.move_to_end(key)
            return self._bound[key]
        profile = self.engine.choose_profile(shapes, self._profile)
        if len(self._bound) >= MOST_CONTEXTS:
            self._device.synchronize(self.stream)
            self._drop(self._bound.popitem(last=False)[1])
        bound = self._bind(profile, shapes)
        self._bound[key] = bound
        return bound

    def _bind(self, profile: int, shapes: Shapes) -> Bound:
        engine = self.engine
        context = engine.create_context()
        if profile != 0:  # a new context has profile 0
            engine.call(
                f"use profile {profile}",
                context.set_optimization_profile_async,
                profile,
                self.stream,
            )
        for name, tensor in engine.inputs.items():
            what = f"take the shape {'x'.join(map(str, shapes[name]))} of {name}"
            engine.call(what, context.set_input_shape, name, tuple(shapes[name]))
            if tensor.on_host:
                address = self.buffers.host(name, _volume(shapes[name]) * tensor.itemsize)
                engine.call(f"take {name}", context.set_tensor_address, name, address.ctypes.data)
        missing = engine.call("infer shapes", context.infer_shapes)
        if missing:
            raise EngineError(f"TensorRT wants to know more of {', '.join(missing)}.")
        if self._listener is not None:
            self._listen(context)
        if self._profiler is not None:
            context.profiler = self._profiler
        outputs: dict[str, Shape | None] = {}
        for name in engine.outputs:
            shape = tuple(context.get_tensor_shape(name))
            outputs[name] = None if -1 in shape else shape
            if outputs[name] is None:
                engine.call(
                    f"allocate {name}", context.set_output_allocator, name, self._make_allocator()
                )
        engine.log.errors.clear()
        scratch = int(context.update_device_memory_size_for_shapes())
        if scratch == 0 and engine.log.errors:
            raise engine.failure("tell how much memory these shapes need")
        return Bound(context, dict(shapes), outputs, max(scratch, 1))

    def _listen(self, context: Any) -> None:
        self.engine.call("watch tensors", context.set_debug_listener, self._listener)
        for name in self._debug:
            self.engine.call(f"watch the tensor {name}", context.set_tensor_debug_state, name, True)

    def _make_allocator(self) -> Any:
        if self._allocator is None:
            # In the middle of a run: the former memory may still be read.
            self._allocator = make_output_allocator(
                self.engine.trt, lambda name, size: self.buffers.device(name, size, in_use=True)
            )
        return self._allocator

    def _reserve(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Addresses of buffers of at least these sizes, by name."""
        if not all(self.buffers.fits(name, size) for name, size in sizes.items()):
            # What is queued may use the smaller ones, which are freed.
            self._device.synchronize(self.stream)
        return {name: self.buffers.device(name, size) for name, size in sizes.items()}

    def _connect(self, bound: Bound) -> None:
        """Let a context know where its buffers are, if it does not know yet."""
        tensors = {**self.engine.inputs, **self.engine.outputs}
        shapes = {**bound.inputs, **{n: s for n, s in bound.outputs.items() if s is not None}}
        sizes = {name: _volume(shape) * tensors[name].itemsize for name, shape in shapes.items()}
        on_host = [name for name in sizes if tensors[name].on_host]
        addresses = {n: self.buffers.host(n, sizes.pop(n)).ctypes.data for n in on_host}
        addresses |= self._reserve({**sizes, _SCRATCH: bound.scratch})
        if bound.generation == self.buffers.generation:
            return
        self._drop_graph(bound)
        scratch = addresses.pop(_SCRATCH)
        versions.set_device_memory(bound.context, scratch, bound.scratch)
        for name, address in addresses.items():
            self.engine.call(
                f"use the buffer of {name}", bound.context.set_tensor_address, name, address
            )
        bound.generation, bound.enqueued = self.buffers.generation, False

    # Data ---------------------------------------------------------------------------------------

    def stage(self, arrays: Mapping[str, Array]) -> None:
        """Put inputs where :meth:`copy_in` takes them from; no copy may be under way."""
        for name, tensor in self.engine.inputs.items():
            if not tensor.on_host:
                self.buffers.staging(name, arrays[name].nbytes)[:] = _bytes(arrays[name])

    def copy_in(self, bound: Bound) -> None:
        """Queue copies of the staged inputs to the GPU."""
        for name, tensor in self.engine.inputs.items():
            size = _volume(bound.inputs[name]) * tensor.itemsize
            if size and not tensor.on_host:
                source = self.buffers.staging(name, size)
                self._device.to_device(self.buffers.device(name, size), source, self.stream)

    def copy_out(self, bound: Bound) -> None:
        """Queue copies of the outputs to host memory."""
        for name, (size, _) in self._output_sizes(bound).items():
            if size and not self.engine.outputs[name].on_host:
                target = self.buffers.staging(name, size)
                self._device.to_host(target, self.buffers.device(name, size), self.stream)

    def outputs(self, bound: Bound) -> dict[str, FloatArray]:
        """The outputs that :meth:`copy_out` fetched, once the stream was waited for."""
        found = {}
        for name, (size, shape) in self._output_sizes(bound).items():
            dtype = self.engine.outputs[name].dtype
            content = self.buffers.staging(name, size).view(STORAGE[dtype]).reshape(shape)
            found[name] = decode(content, dtype)
        return found

    def _output_sizes(self, bound: Bound) -> dict[str, tuple[int, Shape]]:
        found = {}
        for name, known in bound.outputs.items():
            shape = known if known is not None else self._told_shape(name)
            found[name] = (_volume(shape) * self.engine.outputs[name].itemsize, shape)
        return found

    def _told_shape(self, name: str) -> Shape:
        if self._allocator is None or name not in self._allocator.shapes:
            raise EngineError(f"TensorRT did not tell the shape of the output {name}.")
        shape: Shape = self._allocator.shapes[name]
        return shape

    # Running ------------------------------------------------------------------------------------

    def launch(self, bound: Bound, *, graph: bool) -> None:
        """Queue an inference.

        Args:
            graph: replay a recorded one; the first inference is not recorded, and the second one
                records. Where that fails, a note is added and inferences are queued one by one.
        """
        if graph and bound.graph is None and bound.enqueued and not bound.refused:
            bound.graph = self._record(bound)
            bound.refused = bound.graph is None
        if graph and bound.graph is not None:
            self._device.launch(bound.graph, self.stream)
        else:
            self.enqueue(bound)

    def enqueue(self, bound: Bound) -> None:
        """Queue an inference kernel by kernel."""
        log = self.engine.log
        log.errors.clear()
        launched = bound.context.execute_async_v3(self.stream)
        for callback in (self._allocator, self._listener):
            if callback is not None and callback.error is not None:
                error, callback.error = callback.error, None
                raise error
        if not launched:
            raise self.engine.failure("run the engine")
        bound.enqueued = True

    def _record(self, bound: Bound) -> Graph | None:
        obstacle = self._no_graph(bound)
        graph = None
        if obstacle is None:
            self.engine.log.errors.clear()
            stream = self.stream
            try:
                graph = self._device.capture(
                    stream, lambda: bool(bound.context.execute_async_v3(stream))
                )
            except CudaError as error:
                obstacle = error.cause
            else:
                said = self.engine.log.errors[:1] or ["CUDA does not permit what it launches"]
                obstacle = said[0].strip()
        if graph is None:
            note = f"No CUDA graph: {obstacle}"
            if note not in self.notes:
                self.notes.append(note)
        return graph

    def _no_graph(self, bound: Bound) -> str | None:
        if not self._device.records_graphs:
            return f"{self._device.binding} cannot record one."
        if any(shape is None for shape in bound.outputs.values()):
            return "shapes of outputs depend on their values."
        if self._debug:
            return "tensors inside the engine are watched."
        if not versions.may_be_captured(bound.context, self.stream):
            return "TensorRT-RTX says that this engine's launches cannot be recorded."
        return None

    def synchronize(self) -> None:
        """Wait for everything that was queued."""
        self._device.synchronize(self.stream)
        self.buffers.free_retired()

    # The end ------------------------------------------------------------------------------------

    def _drop_graph(self, bound: Bound) -> None:
        if bound.graph is not None:
            graph, bound.graph = bound.graph, None
            self._device.destroy_graph(graph)

    def _drop(self, bound: Bound) -> None:
        with suppress(CudaError):
            self._drop_graph(bound)
        bound.context = None

    def close(self) -> None:
        """Free everything, in the order in which it depends on each other."""
        with suppress(CudaError):
            self._device.synchronize(self.stream)
        while self._bound:
            self._drop(self._bound.popitem()[1])
        self._allocator = self._listener = self._profiler = None
        self.buffers.close()
        with suppress(CudaError):
            self._device.destroy_stream(self.stream)


def _volume(shape: Sequence[int]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _bytes(array: Array) -> HostMemory:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
