"""A TensorRT that records what is done to it, with exactly the names that a real release has.

Releases 10.x cannot build without a GPU, so what our worker decides is looked at from this side. The
names come from NVIDIA's own bindings (nvidia_bindings.surface): an attribute that the real class does
not have cannot be used here either. The methods ``Class_method`` say what is answered.
"""

# ruff: noqa: N802 (methods are called as the class and method that they answer for)

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from tests.engine.nvidia_bindings import Surface

_OWN = ("_kind", "_trt", "_values")


@dataclass
class Script:
    """What the recording TensorRT answers, and what it was asked.

    Attributes:
        layers: (type, name, metadata, outputs) of the network's layers.
        on_dla: names of the layers that the DLA supports, and the number of DLA cores.
        stored: timing caches that can be read -> their entries.
        inspector: JSON of the inspector; None for an engine that cannot be loaded.
        calls: (class, method, arguments) in order.
        settings: (class, attribute) -> last value.
    """

    layers: list[tuple[str, str, str, list[str]]]
    on_dla: tuple[str, ...] = ()
    dla_cores: int = 0
    stored: dict[bytes, set[str]] = field(default_factory=dict)
    measured: set[str] = field(default_factory=set)
    inspector: str | None = '{"Layers": []}'
    creators: list[tuple[str, str, str]] = field(default_factory=list)
    calls: list[tuple[str, str, tuple[Any, ...]]] = field(default_factory=list)
    settings: dict[tuple[str, str], Any] = field(default_factory=dict)

    def called(self, kind: str, method: str) -> list[tuple[Any, ...]]:
        return [arguments for k, m, arguments in self.calls if (k, m) == (kind, method)]


class Thing:
    """An object of one of TensorRT's classes."""

    def __init__(self, trt: RecordingTensorRt, kind: str, **values: Any) -> None:
        self._kind, self._trt, self._values = kind, trt, values
        for name in values:
            trt.demand(kind, name)

    def __getattr__(self, name: str) -> Any:
        self._trt.demand(self._kind, name)
        if name in self._values:
            return self._values[name]
        if (self._kind, name) in self._trt.script.settings:
            return self._trt.script.settings[self._kind, name]
        method = getattr(self._trt, f"{self._kind}_{name}".replace(".", "_"), None)

        def call(*arguments: Any) -> Any:
            self._trt.script.calls.append((self._kind, name, arguments))
            return method(self, *arguments) if method else None

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN:
            object.__setattr__(self, name, value)
        else:
            self._trt.demand(self._kind, name)
            self._trt.script.settings[self._kind, name] = value


class RecordingTensorRt:
    """Stands for the module ``tensorrt``."""

    __name__ = "tensorrt"

    def __init__(self, version: str, surface: Surface, script: Script) -> None:
        self.__version__ = version
        self._surface = surface
        self.script = script
        self._network = Thing(
            self,
            "INetworkDefinition",
            num_layers=len(script.layers),
            num_inputs=1,
            num_outputs=1,
        )
        self._layers = [
            Thing(
                self, "ILayer", type=self.LayerType[kind], name=name, metadata=metadata,
                num_outputs=len(outputs),
            )
            for kind, name, metadata, outputs in script.layers
        ]  # fmt: skip
        last = script.layers[-1][3][-1]
        self._tensors = {
            name: self._tensor(name, is_network_output=name == last)
            for *_, outputs in script.layers
            for name in outputs
        }

    def demand(self, kind: str, name: str) -> None:
        """Raise AttributeError unless the real class has this attribute."""
        if name not in self._surface[kind]:
            raise AttributeError(f"TensorRT {self.__version__} has no {kind}.{name}")

    def __getattr__(self, name: str) -> Any:
        self.demand("", name)
        members = self._surface.get(name, {})
        if "value" in members:  # an enumeration of pybind11
            names = [member for member in members if member.isupper()]
            return IntEnum(name, {member: number for number, member in enumerate(names)})
        if name.startswith("I"):  # an interface that we implement
            return type(name, (), {"__init__": lambda self: None})
        return lambda *arguments: self._construct(name, arguments)

    def _construct(self, name: str, arguments: tuple[Any, ...]) -> Thing:
        self.script.calls.append((name, "__init__", arguments))
        return Thing(
            self, name, **({"num_DLA_cores": self.script.dla_cores} if name == "Builder" else {})
        )

    def _tensor(self, name: str, **values: Any) -> Thing:
        return Thing(
            self, "ITensor", name=name, dtype=self.DataType["FLOAT"], shape=(1, 4), **values
        )

    # -- answers, by class and method -----------------------------------------------------------

    def Builder_create_network(self, builder: Thing, flags: int) -> Thing:
        return self._network

    def Builder_create_builder_config(self, builder: Thing) -> Thing:
        return Thing(self, "IBuilderConfig")

    def Builder_create_optimization_profile(self, builder: Thing) -> Thing:
        return Thing(self, "IOptimizationProfile")

    def Builder_get_plugin_registry(self, builder: Thing) -> Thing:
        return self._registry()

    def Runtime_get_plugin_registry(self, runtime: Thing) -> Thing:
        return self._registry()

    def _registry(self) -> Thing:
        creators = [
            Thing(self, "IPluginCreatorV3One", name=n, plugin_version=v, plugin_namespace=s)
            for n, v, s in self.script.creators
        ]
        return Thing(self, "IPluginRegistry", all_creators=creators)

    def IPluginRegistry_load_library(self, registry: Thing, path: str) -> object:
        return object()

    def Builder_build_serialized_network(
        self, builder: Thing, network: Thing, config: Thing
    ) -> bytes:
        cache = self.script.settings.get(("IBuilderConfig", "cache"))
        if cache is not None:
            cache._values["entries"] |= self.script.measured
        return b"ftrt plan"

    def OnnxParser_parse_from_file(self, parser: Thing, path: str) -> bool:
        return True

    def INetworkDefinition_get_layer(self, network: Thing, number: int) -> Thing:
        return self._layers[number]

    def INetworkDefinition_get_input(self, network: Thing, number: int) -> Thing:
        return self._tensor("x")

    def INetworkDefinition_get_output(self, network: Thing, number: int) -> Thing:
        return self._tensor(self.script.layers[-1][3][-1])

    def INetworkDefinition_mark_debug(self, network: Thing, tensor: Thing) -> bool:
        return not tensor.name.startswith("stubborn")

    def ILayer_get_output(self, layer: Thing, number: int) -> Thing:
        outputs = next(outputs for _, name, _, outputs in self.script.layers if name == layer.name)
        return self._tensors[outputs[number]]

    def IBuilderConfig_add_optimization_profile(self, config: Thing, profile: Thing) -> int:
        return 0

    def IBuilderConfig_can_run_on_DLA(self, config: Thing, layer: Thing) -> bool:
        return layer.name in self.script.on_dla

    def IBuilderConfig_create_timing_cache(self, config: Thing, data: bytes) -> Thing:
        # As the real one does: what cannot be read becomes an empty cache.
        return _Cache(self, set(self.script.stored.get(data, set())))

    def IBuilderConfig_set_timing_cache(self, config: Thing, cache: Thing, ignore: bool) -> bool:
        if "of another GPU" in cache._values["entries"] and not ignore:
            return False
        self.script.settings["IBuilderConfig", "cache"] = cache
        return True

    def ITimingCache_serialize(self, cache: Thing) -> bytes:
        data = ("header " + " ".join(sorted(cache._values["entries"]))).encode()
        self.script.stored[data] = set(cache._values["entries"])
        return data

    def ITimingCache_combine(self, cache: Thing, other: Thing, ignore: bool) -> bool:
        if "of another GPU" in cache._values["entries"] and not ignore:
            return False
        cache._values["entries"] |= other._values["entries"]
        return True

    def Runtime_deserialize_cuda_engine(self, runtime: Thing, plan: bytes) -> Thing | None:
        return Thing(self, "ICudaEngine") if self.script.inspector is not None else None

    def ICudaEngine_create_engine_inspector(self, engine: Thing) -> Thing:
        return Thing(self, "EngineInspector")

    def EngineInspector_get_engine_information(self, inspector: Thing, form: Any) -> str:
        assert form.name == "JSON"
        return self.script.inspector or ""


class _Cache(Thing):
    def __init__(self, trt: RecordingTensorRt, entries: set[str]) -> None:
        super().__init__(trt, "ITimingCache")
        self._values["entries"] = entries
