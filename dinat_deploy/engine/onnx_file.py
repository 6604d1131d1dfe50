"""What a builder must know of an ONNX file, read without the package onnx.

The file is mapped and only its structure is visited: the weights of a 2 GB model are skipped, not
read. Field numbers are those of ``onnx.proto``.
"""

from __future__ import annotations

import mmap
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dinat_deploy.bundle import TensorSpec
from dinat_deploy.engine.protobuf import fields, messages, text, varint
from dinat_deploy.errors import EngineError

# TensorProto.DataType
_TYPES = {
    1: "float", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
    8: "string", 9: "bool", 10: "float16", 11: "double", 12: "uint32", 13: "uint64",
    14: "complex64", 15: "complex128", 16: "bfloat16", 17: "float8e4m3fn", 18: "float8e4m3fnuz",
    19: "float8e5m2", 20: "float8e5m2fnuz", 21: "uint4", 22: "int4", 23: "float4e2m1",
}  # fmt: skip
_FLOATING = ("float", "float16", "bfloat16")

# The domain and the names of our operators, as in dinat_deploy/graph/schema.py (which needs onnx).
DOMAIN = "dinat"
OP_TYPES = ("NeighborhoodAttention2D", "NeighborhoodAttention2DSplit")


@dataclass(frozen=True)
class GraphTensor:
    """A graph input or output; a dynamic dimension is its name, ``?`` without one."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @property
    def dynamic(self) -> bool:
        return any(isinstance(size, str) for size in self.shape)

    def __str__(self) -> str:
        return f"{self.name} [{' x '.join(str(size) for size in self.shape)}]"

    @property
    def spec(self) -> TensorSpec:
        """As manifests describe it."""
        return TensorSpec(name=self.name, dtype=self.dtype, shape=list(self.shape))


@dataclass(frozen=True)
class Node:
    """A node of the main graph."""

    name: str
    op_type: str
    domain: str


@dataclass(frozen=True)
class OnnxFile:
    """Summary of an ONNX file.

    Attributes:
        inputs: without those that have an initializer.
        op_nodes: neighborhood attention nodes, in order.
        bodies: the operators among ours that the file brings a body for.
        weights: number of floating-point weight values by element type; TensorRT makes float32 of
            double precision, which is counted in ``doubles``.
        quantized: whether QuantizeLinear or DequantizeLinear nodes occur.
        external: names of the files beside it that hold weights.
        standard: the standard operators that occur in the main graph.
    """

    path: Path
    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    op_nodes: tuple[Node, ...]
    bodies: frozenset[str]
    weights: dict[str, int]
    quantized: bool
    external: tuple[str, ...]
    doubles: int = 0
    standard: frozenset[str] = frozenset()

    @property
    def precision(self) -> str:
        """Types of the weights, the most frequent first: ``float32``, ``int8+float16``."""
        by_share = sorted(self.weights, key=lambda name: -self.weights[name])
        types = ["float32" if name == "float" else name for name in by_share]
        return "+".join((["int8"] if self.quantized else []) + types) or "float32"

    @property
    def input_specs(self) -> list[TensorSpec]:
        """The inputs as manifests describe them."""
        return [tensor.spec for tensor in self.inputs]

    @property
    def output_specs(self) -> list[TensorSpec]:
        """The outputs as manifests describe them."""
        return [tensor.spec for tensor in self.outputs]

    @property
    def without_body(self) -> list[str]:
        """Names of the attention operators that only a plugin can implement."""
        used = dict.fromkeys(node.op_type for node in self.op_nodes)
        return [op_type for op_type in used if op_type not in self.bodies]


def read_onnx(path: Path) -> OnnxFile:
    """Read the structure of an ONNX file.

    Raises:
        EngineError: there is no such file, it is not ONNX, or its external data is missing.
    """
    try:
        with path.open("rb") as stream:
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise EngineError(f"There is no ONNX file {path}.", "Check the path.") from None
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        reason = getattr(error, "strerror", None) or str(error)
        raise EngineError(f"{path} is not an ONNX file: {reason}.", "Check the path.") from None
    try:
        # Not closed by hand: it goes when the last view of it does.
        found = _model(path, memoryview(mapped))
    except (IndexError, ValueError) as error:
        raise EngineError(
            f"{path} is not an ONNX file: {error}.", "Check the path, or export again."
        ) from None
    for name in found.external:
        place = PurePosixPath(name.replace("\\", "/"))
        # ONNX demands it, and whoever copies or links the file relies on it.
        if not place.parts or place.is_absolute() or ".." in place.parts or ":" in place.parts[0]:
            raise EngineError(
                f"{path} keeps weights in {name!r}, which is not below its own directory.",
                "Save it again with its weights beside it.",
            )
        try:
            there = (path.parent / name).is_file()
        except OSError:  # the name is too long
            there = False
        if not there:
            raise EngineError(
                f"{path} keeps weights in {name}, which is not beside it.",
                "Copy both files together.",
            )
    return found


def _texts(view: memoryview) -> dict[int, str]:
    """The last text of every length-delimited field that is valid UTF-8 (names, mostly)."""
    found: dict[int, str] = {}
    for number, value in fields(view):
        if isinstance(value, memoryview) and number in (1, 2, 3, 4, 7, 10):
            try:
                found[number] = text(value)
            except UnicodeDecodeError:
                continue
    return found


def _model(path: Path, view: memoryview) -> OnnxFile:
    graph: memoryview | None = None
    bodies = set()
    for number, value in fields(view):
        if number == 7 and isinstance(value, memoryview):
            graph = value
        elif number == 25 and isinstance(value, memoryview):
            texts = _texts(value)  # FunctionProto: name = 1, domain = 10
            if texts.get(10) == DOMAIN:
                bodies.add(texts.get(1, ""))
    if graph is None:
        raise ValueError("it holds no graph")
    nodes: list[Node] = []
    inputs: list[GraphTensor] = []
    outputs: list[GraphTensor] = []
    weights: Counter[str] = Counter()
    doubles = 0
    external: set[str] = set()
    initializers: set[str] = set()
    for number, value in fields(graph):
        if not isinstance(value, memoryview):
            continue
        if number == 1:
            texts = _texts(value)  # NodeProto: name = 3, op_type = 4, domain = 7
            nodes.append(Node(texts.get(3, ""), texts.get(4, ""), texts.get(7, "")))
        elif number == 5:
            name, dtype, count, files = _tensor(value)
            initializers.add(name)
            external.update(files)
            if dtype in _FLOATING:
                weights[dtype] += count
            elif dtype == "double":
                doubles += count
        elif number == 11:
            inputs.append(_value(value))
        elif number == 12:
            outputs.append(_value(value))
    if not nodes:
        raise ValueError("its graph has no nodes")
    return OnnxFile(
        path=path,
        inputs=tuple(entry for entry in inputs if entry.name not in initializers),
        outputs=tuple(outputs),
        op_nodes=tuple(n for n in nodes if n.domain == DOMAIN and n.op_type in OP_TYPES),
        bodies=frozenset(bodies & set(OP_TYPES)),
        weights=dict(weights),
        quantized=any(n.op_type in ("QuantizeLinear", "DequantizeLinear") for n in nodes),
        external=tuple(sorted(external)),
        doubles=doubles,
        standard=frozenset(n.op_type for n in nodes if n.domain in ("", "ai.onnx")),
    )


def _tensor(view: memoryview) -> tuple[str, str, int, set[str]]:
    """Name, element type, number of values and external files of a TensorProto."""
    name, dtype, count = "", "", 1
    files: set[str] = set()
    for number, value in fields(view):
        if number == 1:  # dims, one by one or packed
            if isinstance(value, int):
                count *= value
            else:
                position = 0
                while position < len(value):
                    size, position = varint(value, position)
                    count *= size
        elif number == 2 and isinstance(value, int):
            dtype = _TYPES.get(value, f"type {value}")
        elif number == 8:
            name = text(value)
        elif number == 13 and isinstance(value, memoryview):
            entry = _texts(value)  # StringStringEntryProto: key = 1, value = 2
            if entry.get(1) == "location":
                files.add(entry.get(2, ""))
    return name, dtype, count, files


def _value(view: memoryview) -> GraphTensor:
    """A ValueInfoProto: name = 1, type = 2 -> tensor_type = 1 -> elem_type = 1, shape = 2."""
    name, dtype = "", ""
    shape: list[int | str] = []
    for number, value in fields(view):
        if number == 1:
            name = text(value)
        elif number == 2 and isinstance(value, memoryview):
            for tensor in messages(value, 1):
                for field, entry in fields(tensor):
                    if field == 1 and isinstance(entry, int):
                        dtype = _TYPES.get(entry, f"type {entry}")
                    elif field == 2 and isinstance(entry, memoryview):
                        shape = [_dimension(dim) for dim in messages(entry, 1)]
    return GraphTensor(name, dtype, tuple(shape))


def _dimension(view: memoryview) -> int | str:
    for number, value in fields(view):
        if number == 1 and isinstance(value, int):
            return value
        if number == 2:
            return text(value) or "?"
    return "?"
