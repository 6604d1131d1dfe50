"""An engine loaded by TensorRT: its tensors, its profiles, its contexts, and what TensorRT says."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from weakref import WeakKeyDictionary, WeakSet

from dinat_deploy.errors import EngineError
from dinat_deploy.session import tensorrt_api as api
from dinat_deploy.session import tensorrt_versions as versions
from dinat_deploy.session.element_types import STORAGE
from dinat_deploy.session.tensorrt_api import Flavor, Log, listed

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Bounds = tuple[Shape, Shape, Shape]

_BUILD_AGAIN = "Build the engine again with `dinat-deploy build`, on this machine and TensorRT."


class QuietLog(Log):
    """What TensorRT says to one session; it goes into our errors and notes instead of to stderr."""

    def __init__(self) -> None:
        super().__init__(None)

    def add(self, severity: str, text: str) -> None:
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(text)
        elif severity == "WARNING":
            self.warnings[text] = None


class _Listeners(Log):
    """Passes everything on to all sessions that are open."""

    def __init__(self) -> None:
        super().__init__(None)
        self.logs: WeakSet[QuietLog] = WeakSet()

    def add(self, severity: str, text: str) -> None:
        for log in list(self.logs):
            log.add(severity, text)


# TensorRT keeps the address of the first logger that it gets for as long as anything of it lives,
# and ignores any further one. So there is one for the whole process, which is never destroyed.
_loggers: WeakKeyDictionary[Any, tuple[Any, _Listeners]] = WeakKeyDictionary()


def _logger(trt: Any, log: QuietLog) -> Any:
    if trt not in _loggers:
        listeners = _Listeners()
        _loggers[trt] = (api.make_logger(trt, listeners), listeners)
    logger, listeners = _loggers[trt]
    listeners.logs.add(log)
    return logger


@dataclass(frozen=True)
class EngineTensor:
    """An input or output.

    Attributes:
        dtype: its element type, one of :data:`dinat_deploy.session.element_types.STORAGE`.
        shape: -1 where it is dynamic.
        on_host: whether TensorRT wants its values in host memory (they determine shapes).
    """

    name: str
    dtype: str
    shape: Shape
    on_host: bool

    @property
    def itemsize(self) -> int:
        return STORAGE[self.dtype].itemsize

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} {_text(self.shape)}"


class LoadedEngine:
    """A plan, deserialised.

    Args:
        plan: the file.
        content: the file, if it is open already; ``plan`` is then only its name.
        plugin_library: loaded first, if the plan needs one.
        allow_host_code: let TensorRT run code out of the plan (an embedded plugin, a lean runtime).
        dla_core: for an engine built for a DLA.

    Attributes:
        version: of TensorRT.
        inputs, outputs: by name, in TensorRT's order.
        profiles: of every profile: input -> its smallest, best and largest shape.
        engine, trt: TensorRT's engine and module.

    Raises:
        EngineError: TensorRT refuses the plan or the plugin; its words are in the message.
        MissingDependencyError: TensorRT is not installed.
    """

    def __init__(
        self,
        plan: Path,
        *,
        flavor: Flavor,
        content: BinaryIO | None = None,
        plugin_library: Path | None = None,
        allow_host_code: bool = False,
        dla_core: int | None = None,
    ) -> None:
        self.plan = plan
        self.title = api.TITLES[flavor]
        self.trt = api.import_tensorrt(flavor)
        self.version = str(self.trt.__version__)
        self.log = QuietLog()
        self.plan_bytes = 0
        self._logger = _logger(self.trt, self.log)
        self.runtime = self.call("start", self.trt.Runtime, self._logger)
        try:
            if allow_host_code:
                self.runtime.engine_host_code_allowed = True
            if dla_core is not None:
                self.runtime.DLA_core = dla_core
            if plugin_library is not None:
                api.load_plugin(self.runtime.get_plugin_registry(), plugin_library, (), self.log)
            self.engine = self._deserialize(content)
            self._config = versions.runtime_config(self.trt, self.engine)
            self._read_tensors()
        except BaseException:
            self.close()
            raise

    def _deserialize(self, content: BinaryIO | None) -> Any:
        try:
            with (
                nullcontext(content) if content else self.plan.open("rb") as stream,
                # Not read into memory: TensorRT makes a copy anyway.
                mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            ):
                self.plan_bytes = len(mapped)
                return self.call(f"load {self.plan}", self._deserialize_buffer, mapped)
        except OSError as error:
            raise EngineError(f"{self.plan}: {error.strerror}.", _BUILD_AGAIN) from None
        except ValueError:  # of mmap
            raise EngineError(f"{self.plan} is empty.", _BUILD_AGAIN) from None

    def _deserialize_buffer(self, content: Any) -> Any:
        return self.runtime.deserialize_cuda_engine(content)

    def _read_tensors(self) -> None:
        # Not in variables of its own: the traceback of an error would keep the engine alive.
        trt = self.trt
        self.inputs: dict[str, EngineTensor] = {}
        self.outputs: dict[str, EngineTensor] = {}
        for index in range(self.engine.num_io_tensors):
            name = self.engine.get_tensor_name(index)
            tensor = EngineTensor(
                name,
                versions.element_type(self.engine.get_tensor_dtype(name)),
                tuple(self.engine.get_tensor_shape(name)),
                self.engine.get_tensor_location(name) == trt.TensorLocation.HOST,
            )
            self._check(tensor)
            is_input = self.engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            (self.inputs if is_input else self.outputs)[name] = tensor
        self.profiles: list[dict[str, Bounds]] = [
            {name: self._bounds(tensor, index) for name, tensor in self.inputs.items()}
            for index in range(self.engine.num_optimization_profiles)
        ]

    def _check(self, tensor: EngineTensor) -> None:
        if tensor.dtype not in STORAGE:
            raise EngineError(
                f"The engine's {tensor.name} is of type {tensor.dtype}; of inputs and outputs, "
                f"{', '.join(STORAGE)} can be used.",
                "Export the model with other types at its ends.",
            )
        layout = self.engine.get_tensor_format(tensor.name)
        if layout != self.trt.TensorFormat.LINEAR:
            raise EngineError(
                f"The engine's {tensor.name} is laid out as {layout.name}, and only linear tensors "
                "can be used.",
                "Build the engine without formats for its inputs and outputs.",
            )

    def _bounds(self, tensor: EngineTensor, profile: int) -> Bounds:
        if -1 not in tensor.shape:
            return tensor.shape, tensor.shape, tensor.shape
        low, best, high = self.engine.get_tensor_profile_shape(tensor.name, profile)
        return tuple(low), tuple(best), tuple(high)

    def call(self, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call TensorRT, and raise with its words if it fails.

        Args:
            what: what cannot be done if it fails.
            function: returns None or False, or raises, if it fails.
        """
        self.log.errors.clear()
        try:
            result = function(*arguments)
        except Exception as error:  # of pybind11, without a type of its own
            self.log.errors.append(str(error))
            result = None
        if result is None or result is False:
            raise self.failure(what)
        return result

    def failure(self, what: str) -> EngineError:
        """The error of something that failed just now."""
        said = list(dict.fromkeys(self.log.errors))
        return EngineError(
            f"{self.title} {self.version} cannot {what}.{listed(said)}",
            _BUILD_AGAIN if what.startswith("load") else "",
        )

    def choose_profile(self, shapes: Shapes, fixed: int | None = None) -> int:
        """The first profile that has these shapes of all inputs.

        Args:
            fixed: the only profile to consider.

        Raises:
            EngineError: none has; all are named.
        """
        if fixed is not None and not 0 <= fixed < len(self.profiles):
            raise EngineError(
                f"The engine {self.plan.parent} has no profile {fixed}; it has "
                f"{len(self.profiles)}.",
                "Profiles are counted from 0.",
            )
        considered = range(len(self.profiles)) if fixed is None else (fixed,)
        for index in considered:
            if all(_within(shapes[name], self.profiles[index][name]) for name in self.inputs):
                return index
        given = ", ".join(f"{name}={_text(shapes[name])}" for name in self.inputs)
        ranges = "; ".join(self._describe(index) for index in considered)
        raise EngineError(
            f"The engine {self.plan.parent} does not take {given}; it was built for {ranges}.",
            "Use shapes within a profile, or build again with another --profile."
            if any(-1 in tensor.shape for tensor in self.inputs.values())
            else "Use these shapes, or export again with --dynamic.",
        )

    def _describe(self, profile: int) -> str:
        parts = []
        for name, (low, best, high) in self.profiles[profile].items():
            shapes = [low] if low == best == high else [low, best, high]
            parts.append(f"{name}={':'.join(map(_text, shapes))}")
        return ",".join(parts)

    def create_context(self) -> Any:
        """An execution context without scratch memory."""
        return self.call(
            "make an execution context",
            versions.create_context,
            self.trt,
            self.engine,
            self._config,
        )

    def close(self) -> None:
        """Free the engine, then TensorRT's runtime; all contexts must be gone."""
        self.engine = self._config = None
        self.runtime = None


def _within(shape: Sequence[int], bounds: Bounds) -> bool:
    low, _, high = bounds
    return len(shape) == len(low) and all(
        least <= size <= most for least, size, most in zip(low, shape, high, strict=True)
    )


def _text(shape: Sequence[int]) -> str:
    return "x".join("?" if size < 0 else str(size) for size in shape) or "scalar"
