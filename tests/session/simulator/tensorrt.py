"""The module ``tensorrt`` (what runs engines, not what builds them) on a simulated GPU.

``make_rtx_module`` gives ``tensorrt_rtx``, whose contexts are made with a configuration.

Whatever TensorRT's headers demand of a caller is demanded here. Names and arguments are compared
with NVIDIA's bindings by ``test_simulator``.
"""

from __future__ import annotations

import ctypes
import enum
import json
import weakref
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np

from tests.session.simulator.gpu import ALIGNMENT, POISON, GpuError, Operation, SimulatedGpu, Span
from tests.session.simulator.plan import Array, Model, SimulatedPlan


class Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class DataType(enum.IntEnum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    BOOL = 4
    UINT8 = 5
    FP8 = 6
    BF16 = 7
    INT64 = 8


class TensorIOMode(enum.IntEnum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class TensorLocation(enum.IntEnum):
    DEVICE = 0
    HOST = 1


class TensorFormat(enum.IntEnum):
    LINEAR = 0
    HWC8 = 5


class LayerInformationFormat(enum.IntEnum):
    ONELINE = 0
    JSON = 1


class ExecutionContextAllocationStrategy(enum.IntEnum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class EngineStat(enum.IntEnum):
    TOTAL_WEIGHTS_SIZE = 0
    STRIPPED_WEIGHTS_SIZE = 1


class Dims:
    """A shape, which is neither a tuple nor equal to one."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = tuple(sizes)

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[int]:
        return iter(self._sizes)

    def __getitem__(self, index: int) -> int:
        return self._sizes[index]


class _Interface:
    """Base of what callers implement: without its constructor the real one crashes."""

    def __init__(self) -> None:
        self._initialised = True


class ILogger(_Interface):
    Severity = Severity


class IProfiler(_Interface):
    pass


class IOutputAllocator(_Interface):
    pass


class IDebugListener(_Interface):
    pass


def _initialised(implementation: Any) -> Any:
    if not getattr(implementation, "_initialised", False):
        raise TypeError("the constructor of the interface was not called")
    return implementation


class _Creator:
    def __init__(self, name: str, version: str, namespace: str) -> None:
        self.name, self.plugin_version, self.plugin_namespace = name, version, namespace


class IPluginRegistry:
    all_creators: list[_Creator]

    def __init__(self, log: Any) -> None:
        self._log = log
        self.all_creators = []

    def load_library(self, plugin_path: str) -> object | None:
        """A stand-in for a library is a text file: a line for each plugin, its name, version and
        namespace."""
        try:
            with open(plugin_path, encoding="utf-8") as stream:  # noqa: PTH123
                creators = [_Creator(*line.split()) for line in stream]
        except (OSError, TypeError, UnicodeDecodeError):
            self._log(Severity.ERROR, f"Unable to load library: {plugin_path}")
            return None
        self.all_creators += creators
        return object()


class _World:
    """What exists once in a process."""

    def __init__(self, gpu: SimulatedGpu, version: str) -> None:
        self.gpu = gpu
        self.version = version
        self.alive: dict[str, int] = {"runtimes": 0, "engines": 0, "contexts": 0}
        self.configurations: list[IRuntimeConfig] = []
        self._logger: weakref.ref[Any] | None = None

    def use_logger(self, logger: Any) -> None:
        """TensorRT keeps the address of the first logger for as long as anything lives."""
        if self.alive["runtimes"] == 0:
            self._logger = weakref.ref(logger)
        elif self._logger is not None and self._logger() is not logger:
            self.log(Severity.WARNING, "The logger passed into createInferRuntime differs from one")

    def log(self, severity: Severity, message: str) -> None:
        logger = self._logger() if self._logger is not None else None
        if logger is None:
            self.gpu.violations.append("the logger was destroyed before TensorRT")
        else:
            logger.log(severity, message)


class Runtime:
    _engine_class: type[ICudaEngine]
    logger: Any
    engine_host_code_allowed: bool
    DLA_core: int

    def __init__(self, world: _World, logger: Any) -> None:
        self._world = world
        self.logger = _initialised(logger)
        world.use_logger(logger)
        world.alive["runtimes"] += 1
        self.engine_host_code_allowed = False
        self.DLA_core = -1
        self._registry = IPluginRegistry(world.log)

    def __del__(self) -> None:
        self._world.alive["runtimes"] -= 1

    def get_plugin_registry(self) -> IPluginRegistry:
        return self._registry

    def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
        plan = SimulatedPlan.from_bytes(bytes(memoryview(serialized_engine)))
        if plan is None:
            return self._refuse("Serialization assertion stdVersionRead == kSERIALIZATION_VERSION")
        if plan.version != self._world.version:
            return self._refuse(
                f"Version tag does not match. Note: Current Version: {self._world.version}, "
                f"Serialized Engine Version: {plan.version}"
            )
        if plan.host_code and not self.engine_host_code_allowed:
            return self._refuse("Cannot deserialize engine with host code")
        have = [[c.name, c.plugin_version, c.plugin_namespace] for c in self._registry.all_creators]
        for plugin in plan.plugins:
            if plugin not in have and not plan.host_code:
                return self._refuse(f"Cannot find plugin: {plugin[0]}, version: {plugin[1]}")
        return self._engine_class(self._world, self, plan)

    def _refuse(self, message: str) -> None:
        self._world.log(Severity.ERROR, f"IRuntime::deserializeCudaEngine: Error Code 1: {message}")


class ICudaEngine:
    def __init__(self, world: _World, runtime: Runtime, plan: SimulatedPlan) -> None:
        self._world, self._runtime, self._plan = world, runtime, plan
        self._model = Model(plan)
        self._names = [*self._model.inputs, *self._model.outputs]
        world.alive["engines"] += 1

    def __del__(self) -> None:
        self._world.alive["engines"] -= 1

    @property
    def name(self) -> str:
        return "simulated"

    @property
    def num_io_tensors(self) -> int:
        return len(self._names)

    @property
    def num_layers(self) -> int:
        return len(self._model.layers(self._plan))

    @property
    def num_optimization_profiles(self) -> int:
        return max(1, len(self._plan.profiles))

    @property
    def device_memory_size_v2(self) -> int:
        return max(
            self.get_device_memory_size_for_profile_v2(index)
            for index in range(self.num_optimization_profiles)
        )

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        largest = {name: self._bounds(name, profile_index)[2] for name in self._model.inputs}
        return _scratch_bytes(largest)

    def get_engine_stat(self, stat: EngineStat = EngineStat.TOTAL_WEIGHTS_SIZE) -> int:
        return self._model.weight_bytes if stat == EngineStat.TOTAL_WEIGHTS_SIZE else 0

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        if name in self._model.inputs:
            return TensorIOMode.INPUT
        return TensorIOMode.OUTPUT if name in self._model.outputs else TensorIOMode.NONE

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType[self._model.types[name]]

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims(self._model.shapes[name])

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.HOST if name in self._plan.host else TensorLocation.DEVICE

    def get_tensor_format(self, name: str) -> TensorFormat:
        return TensorFormat.LINEAR

    def is_shape_inference_io(self, name: str) -> bool:
        return name in self._plan.host

    def is_debug_tensor(self, name: str) -> bool:
        return name in self._plan.debug

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        return [Dims(shape) for shape in self._bounds(name, profile_index)]

    def _bounds(self, name: str, profile_index: int) -> list[list[int]]:
        if self._plan.profiles and name in self._plan.profiles[profile_index]:
            return self._plan.profiles[profile_index][name]
        return [list(self._model.shapes[name])] * 3

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self)

    def create_execution_context(
        self,
        strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC,
    ) -> IExecutionContext:
        return IExecutionContext(self, strategy)


class EngineInspector:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine

    def get_engine_information(self, format: LayerInformationFormat) -> str:  # noqa: A002
        if format != LayerInformationFormat.JSON:
            raise NotImplementedError
        return json.dumps({"Layers": self._engine._model.layers(self._engine._plan)})


def _scratch_bytes(shapes: dict[str, list[int]]) -> int:
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

    def __init__(self, engine: ICudaEngine, strategy: ExecutionContextAllocationStrategy) -> None:
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
        self._allocators[name] = _initialised(output_allocator)
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        if self.infer_shapes():
            self._error("shapes are missing")
            return 0
        self._sized = True
        return _scratch_bytes({name: list(s) for name, s in self._input_shapes().items()})

    def set_device_memory(self, memory: int, size: int) -> None:
        if memory % ALIGNMENT:
            self._error("device memory is not aligned")
            return
        if self._memory != (memory, size):
            self._memory = (memory, size)
            self._state.number += 1

    def set_debug_listener(self, listener: Any) -> bool:
        # Without a reference, as TensorRT's binding: the caller must keep it alive.
        self._listener = weakref.ref(_initialised(listener))
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
                _scratch_bytes({name: list(s) for name, s in self._input_shapes().items()})
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
        profiler = _initialised(self.profiler)
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


class CudaGraphStrategy(enum.IntEnum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


class DynamicShapesKernelSpecializationStrategy(enum.IntEnum):
    LAZY = 0
    EAGER = 1
    NONE = 2


class IRuntimeCache:
    pass


class IRuntimeConfig:
    dynamic_shapes_kernel_specialization_strategy: DynamicShapesKernelSpecializationStrategy

    def __init__(self) -> None:
        self.dynamic_shapes_kernel_specialization_strategy = (
            DynamicShapesKernelSpecializationStrategy.LAZY
        )
        self._strategy = ExecutionContextAllocationStrategy.STATIC
        self._cache: IRuntimeCache | None = None

    def set_execution_context_allocation_strategy(
        self,
        strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC,
    ) -> None:
        self._strategy = strategy

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache()

    def set_runtime_cache(self, cache: IRuntimeCache | None = None) -> bool:
        self._cache = cache
        return True


class RtxEngine(ICudaEngine):
    """TensorRT-RTX's. ``configurations`` are those that contexts were made with."""

    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig()

    def create_execution_context(  # type: ignore[override]
        self, runtime_config: IRuntimeConfig | None = None
    ) -> IExecutionContext:
        config = runtime_config or IRuntimeConfig()
        if not isinstance(config, IRuntimeConfig):
            raise TypeError("create_execution_context(): incompatible function arguments")
        self._world.configurations.append(config)
        return RtxContext(self, config._strategy)


class RtxContext(IExecutionContext):
    def is_stream_capturable(self, stream: int) -> bool:
        return self._engine._plan.capturable


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


_CLASSES = (
    ILogger,
    IProfiler,
    IOutputAllocator,
    IDebugListener,
    IPluginRegistry,
    ICudaEngine,
    IExecutionContext,
    EngineInspector,
    DataType,
    TensorIOMode,
    TensorLocation,
    TensorFormat,
    LayerInformationFormat,
    ExecutionContextAllocationStrategy,
    EngineStat,
    Dims,
)


def make_module(gpu: SimulatedGpu, version: str = "10.13.3.9") -> ModuleType:
    """The module ``tensorrt`` of a version, whose engines run on ``gpu``."""
    return _make(gpu, version, "tensorrt", _CLASSES)


def make_rtx_module(gpu: SimulatedGpu, version: str = "1.7.1.116") -> ModuleType:
    """The module ``tensorrt_rtx`` of a version."""
    module = _make(gpu, version, "tensorrt_rtx", (*_CLASSES, *_RTX_CLASSES))
    module.ICudaEngine, module.IExecutionContext = RtxEngine, RtxContext  # type: ignore[attr-defined]
    return module


_RTX_CLASSES = (
    CudaGraphStrategy,
    DynamicShapesKernelSpecializationStrategy,
    IRuntimeCache,
    IRuntimeConfig,
)


def _make(gpu: SimulatedGpu, version: str, name: str, classes: tuple[type, ...]) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    world = _World(gpu, version)

    class BoundRuntime(Runtime):
        __annotations__ = Runtime.__annotations__
        _engine_class = RtxEngine if name == "tensorrt_rtx" else ICudaEngine

        def __init__(self, logger: Any) -> None:
            super().__init__(world, logger)

    attributes: dict[str, Any] = {kind.__name__: kind for kind in classes}
    attributes |= {"Runtime": BoundRuntime, "__version__": version, "world": world}
    for key, value in attributes.items():
        setattr(module, key, value)
    return module
