"""The TensorRT plugin's host code in a library of its own, called as TensorRT would call it.

The CMake target ``dinat_tensorrt_driver``: the plugin's sources, ``plugins/tensorrt/tests/driver.cpp``
and a stand-in for the CUDA kernels, with the undefined-behaviour sanitizer. Neither TensorRT nor CUDA
is needed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.plugins import abi

PACKED = "NeighborhoodAttention2D"
SPLIT = "NeighborhoodAttention2DSplit"

FLOAT, HALF, INT8, INT32, BF16 = 0, 1, 2, 3, 7  # nvinfer1::DataType
LINEAR, CHW2 = 0, 1  # nvinfer1::TensorFormat
BUILD, RUNTIME = 0, 1  # nvinfer1::TensorRTPhase
NO_DRIVER = 35  # cudaErrorInsufficientDriver
NO_KERNEL_IMAGE = 209  # cudaErrorNoKernelImageForDevice


class Dims(ctypes.Structure):
    _fields_ = [("count", ctypes.c_int32), ("d", ctypes.c_int64 * 8)]

    @classmethod
    def of(cls, sizes: Sequence[int]) -> Dims:
        return cls(len(sizes), (ctypes.c_int64 * 8)(*sizes))

    @property
    def sizes(self) -> list[int]:
        return list(self.d[: self.count])


class TensorDesc(ctypes.Structure):
    _fields_ = [
        ("dims", Dims),
        ("type", ctypes.c_int32),
        ("format", ctypes.c_int32),
        ("scale", ctypes.c_float),
    ]


class DynamicTensorDesc(ctypes.Structure):
    _fields_ = [("desc", TensorDesc), ("min", Dims), ("max", Dims), ("opt", Dims)]


class Field(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("type", ctypes.c_int32),
        ("length", ctypes.c_int32),
    ]


class FieldCollection(ctypes.Structure):
    _fields_ = [("count", ctypes.c_int32), ("fields", ctypes.POINTER(Field))]


FIELD_TYPES: dict[str, tuple[int, type[ctypes._SimpleCData]]] = {  # type: ignore[type-arg]
    "float32": (1, ctypes.c_float),
    "float64": (2, ctypes.c_double),
    "int32": (5, ctypes.c_int32),
    "string": (6, ctypes.c_char),
    "int64": (10, ctypes.c_int64),
}


@dataclass(frozen=True)
class Value:
    """Values of an attribute in a given type, for attributes that have the wrong one."""

    kind: str
    values: Sequence[float] | Sequence[int]


def fields_of(attributes: Mapping[str, object]) -> tuple[FieldCollection, list[object]]:
    """A collection as TensorRT's ONNX parser makes it, and what must be kept alive for it.

    Integers become int32, floats float32; None becomes a field without data.
    """
    kept: list[object] = []
    fields = (Field * len(attributes))()
    for field, (name, given) in zip(fields, attributes.items(), strict=True):
        if given is None:
            field.name, field.type, field.length = name.encode(), FIELD_TYPES["int32"][0], 1
            continue
        if isinstance(given, str):
            value = Value("string", [given.encode()[i : i + 1] for i in range(len(given))])  # type: ignore[arg-type]
        elif isinstance(given, Value):
            value = given
        else:
            values = given if isinstance(given, (list, tuple)) else [given]
            value = Value("float32" if isinstance(values[0], float) else "int32", values)
        code, kind = FIELD_TYPES[value.kind]
        array = (kind * len(value.values))(*value.values)
        kept.append(array)
        field.name, field.type, field.length = name.encode(), code, len(array)
        field.data = ctypes.cast(array, ctypes.c_void_p)
    kept.append(fields)
    return FieldCollection(len(fields), fields), kept


def values_of(collection: FieldCollection) -> dict[str, object]:
    """Fields back as Python values."""
    kinds = {code: (name, kind) for name, (code, kind) in FIELD_TYPES.items()}
    found: dict[str, object] = {}
    for field in collection.fields[: collection.count]:
        name, kind = kinds[field.type]
        raw = ctypes.string_at(field.data, field.length * ctypes.sizeof(kind))
        array = (kind * field.length).from_buffer_copy(raw)
        found[field.name.decode()] = raw.decode() if name == "string" else list(array)
    return found


def tensor(sizes: Sequence[int], kind: int = FLOAT, layout: int = LINEAR) -> TensorDesc:
    return TensorDesc(Dims.of(sizes), kind, layout, -1.0)


def dynamic(
    network: Sequence[int],
    least: Sequence[int] | None = None,
    best: Sequence[int] | None = None,
    most: Sequence[int] | None = None,
    kind: int = FLOAT,
) -> DynamicTensorDesc:
    """A tensor with its profile; a missing point is the network's shape."""
    shapes = [Dims.of(network if shape is None else shape) for shape in (least, most, best)]
    return DynamicTensorDesc(tensor(network, kind), *shapes)


class Plugin:
    """One plugin object; deleted with this."""

    def __init__(self, driver: Driver, address: int) -> None:
        self._driver, self._lib, self._address = driver, driver.lib, address

    def __del__(self) -> None:
        self._lib.driverDestroy(self._address)

    def _text(self, which: int) -> str:
        return self._lib.driverText(self._address, which).decode()  # type: ignore[no-any-return]

    @property
    def identity(self) -> tuple[str, str, str]:
        """Name, version, namespace."""
        return self._text(0), self._text(1), self._text(2)

    @property
    def timing_id(self) -> str:
        return self._text(3)

    @property
    def metadata(self) -> str:
        return self._text(4)

    def clone(self) -> Plugin:
        return Plugin(self._driver, self._lib.driverClone(self._address))

    def attach(self) -> Plugin:
        return Plugin(self._driver, self._lib.driverAttach(self._address))

    def serialized(self) -> FieldCollection:
        return self._lib.driverSerialize(self._address).contents  # type: ignore[no-any-return]

    def output_type(self, *inputs: int, outputs: int = 1) -> int | None:
        """The output's type; None for a failure."""
        given = (ctypes.c_int32 * len(inputs))(*inputs)
        found = ctypes.c_int32(-1)
        status = self._lib.driverOutputTypes(
            self._address, given, len(inputs), ctypes.byref(found), outputs
        )
        return None if status else found.value

    def output_shape(self, *inputs: Sequence[int]) -> list[int] | None:
        """The output's shape, -1 for an expression; None for a failure."""
        given = (Dims * len(inputs))(*(Dims.of(sizes) for sizes in inputs))
        found = Dims()
        status = self._lib.driverOutputShape(self._address, given, len(inputs), ctypes.byref(found))
        return None if status else found.sizes

    def supports(self, position: int, *tensors: TensorDesc) -> bool:
        """The last tensor is the output."""
        given = (DynamicTensorDesc * len(tensors))(*(DynamicTensorDesc(t) for t in tensors))
        return self._lib.driverSupports(self._address, position, given, len(tensors) - 1, 1)  # type: ignore[no-any-return]

    def configure(self, *tensors: DynamicTensorDesc) -> bool:
        """Whether it succeeded. The last tensor is the output."""
        inputs = (DynamicTensorDesc * (len(tensors) - 1))(*tensors[:-1])
        status = self._lib.driverConfigure(
            self._address, inputs, len(inputs), ctypes.byref(tensors[-1]), 1
        )
        return not status

    def tactics(self) -> list[int]:
        count = self._lib.driverTacticCount(self._address)
        found = (ctypes.c_int32 * count)()
        assert self._lib.driverTactics(self._address, found, count) == 0
        return list(found)

    def set_tactic(self, tactic: int) -> bool:
        return not self._lib.driverSetTactic(self._address, tactic)

    def change_shape(self, *tensors: TensorDesc) -> bool:
        """Whether it succeeded. The last tensor is the output."""
        inputs = (TensorDesc * (len(tensors) - 1))(*tensors[:-1])
        status = self._lib.driverShapeChange(
            self._address, inputs, len(inputs), ctypes.byref(tensors[-1]), 1
        )
        return not status

    def enqueue(self, inputs: Sequence[int], output: int, stream: int = 0) -> bool:
        """Whether it succeeded. Tensors and stream by address."""
        given = (ctypes.c_void_p * len(inputs))(*inputs)
        outputs = (ctypes.c_void_p * 1)(output)
        return not self._lib.driverEnqueue(self._address, given, outputs, ctypes.c_void_p(stream))


@dataclass
class Launch:
    problem: abi.Problem
    operands: abi.Operands
    tactic: int
    stream: int | None


class Driver:
    """The library of ``driver.cpp``, at a path."""

    def __init__(self, path: Path) -> None:
        self.lib = ctypes.CDLL(str(path))
        for name in ("driverCreate", "driverClone", "driverAttach"):
            getattr(self.lib, name).restype = ctypes.c_void_p
        for name in ("driverFieldNames", "driverSerialize"):
            getattr(self.lib, name).restype = ctypes.POINTER(FieldCollection)
        for name in ("driverMessages", "driverText", "dinat_plugin_version"):
            getattr(self.lib, name).restype = ctypes.c_char_p
        self.lib.driverSupports.restype = ctypes.c_bool
        for name, arguments in _ARGUMENTS.items():
            getattr(self.lib, name).argtypes = arguments

    def log_through(self, tensorrt: int, with_logger: bool = True) -> None:
        """Set a logger finder of TensorRT 10 or 11, an unknown one (0) or none (-1)."""
        self.lib.driverSetFinder(tensorrt, ctypes.c_bool(with_logger))

    def messages(self) -> str:
        """What was logged since the last call, ``new 1 text`` for an error to TensorRT 11."""
        return self.lib.driverMessages().decode()  # type: ignore[no-any-return]

    def gpu(self, device: int = 0, prepare: int = 0, launch: int = 0) -> None:
        """Set what the CUDA runtime answers; forget launches."""
        self.lib.gpuReset(device, prepare, launch)

    def launches(self) -> list[Launch]:
        found = []
        for index in range(self.lib.gpuLaunchCount()):
            launch = Launch(abi.Problem(), abi.Operands(), 0, None)
            tactic, stream = ctypes.c_int32(), ctypes.c_void_p()
            self.lib.gpuLaunch(
                index,
                ctypes.byref(launch.problem),
                ctypes.byref(launch.operands),
                ctypes.byref(tactic),
                ctypes.byref(stream),
            )
            launch.tactic, launch.stream = tactic.value, stream.value
            found.append(launch)
        return found

    def advertised(self, name: str) -> FieldCollection:
        return self.lib.driverFieldNames(name.encode()).contents  # type: ignore[no-any-return]

    def create(
        self,
        name: str,
        fields: Mapping[str, object] | FieldCollection | None,
        *,
        layer: str | None = "levels.0",
        phase: int = BUILD,
    ) -> Plugin | None:
        kept: list[object] = []
        if isinstance(fields, Mapping):
            fields, kept = fields_of(fields)
        address = self.lib.driverCreate(
            name.encode(),
            None if layer is None else layer.encode(),
            None if fields is None else ctypes.byref(fields),
            phase,
        )
        del kept
        return None if address is None else Plugin(self, address)


_INT = ctypes.c_int32
_POINTER = ctypes.c_void_p
# Of the functions that take a plugin, which is an address of 64 bits.
_ARGUMENTS: dict[str, list[type]] = {
    "driverDestroy": [_POINTER],
    "driverClone": [_POINTER],
    "driverAttach": [_POINTER],
    "driverSerialize": [_POINTER],
    "driverText": [_POINTER, _INT],
    "driverOutputTypes": [_POINTER, _POINTER, _INT, _POINTER, _INT],
    "driverOutputShape": [_POINTER, _POINTER, _INT, _POINTER],
    "driverSupports": [_POINTER, _INT, _POINTER, _INT, _INT],
    "driverConfigure": [_POINTER, _POINTER, _INT, _POINTER, _INT],
    "driverTacticCount": [_POINTER],
    "driverTactics": [_POINTER, _POINTER, _INT],
    "driverSetTactic": [_POINTER, _INT],
    "driverShapeChange": [_POINTER, _POINTER, _INT, _POINTER, _INT],
    "driverEnqueue": [_POINTER, _POINTER, _POINTER, _POINTER],
}
