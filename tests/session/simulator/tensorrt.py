"""The module ``tensorrt`` (what runs engines, not what builds them) on a simulated GPU.

``make_rtx_module`` gives ``tensorrt_rtx``, whose contexts are made with a configuration. Names and
arguments are compared with NVIDIA's bindings by ``test_simulator``.
"""

from __future__ import annotations

import json
import weakref
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from tests.session.simulator.context import IExecutionContext, RtxContext, scratch_bytes
from tests.session.simulator.gpu import SimulatedGpu
from tests.session.simulator.interfaces import (
    CudaGraphStrategy,
    DataType,
    Dims,
    DynamicShapesKernelSpecializationStrategy,
    EngineStat,
    ExecutionContextAllocationStrategy,
    IDebugListener,
    ILogger,
    IOutputAllocator,
    IProfiler,
    LayerInformationFormat,
    Severity,
    TensorFormat,
    TensorIOMode,
    TensorLocation,
    initialised,
)
from tests.session.simulator.plan import Model, SimulatedPlan


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
        self.logger = initialised(logger)
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
        return scratch_bytes(largest)

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
