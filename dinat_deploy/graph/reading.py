"""Read ONNX files of unknown origin: what is damaged is found here and not by whoever works on it.

The package onnx reads whatever the protobuf library can; that a tensor has as many bytes as its
shape says, and that weights in other files are there and beside the model, is checked here, without
reading the weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx import AttributeProto, TensorProto

from dinat_deploy.errors import BundleError

_AGAIN = "Export the model again, or copy it again with all of its files."
# The largest number of bytes that fit a protobuf message; a tensor in another file can be larger.
_LARGEST = 1 << 48
_HALVES = {TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1}  # of a byte
_COMPLEX = {TensorProto.COMPLEX64, TensorProto.COMPLEX128}
_UNDEFINED = (TensorProto.UNDEFINED, TensorProto.STRING)


def load_structure(path: Path) -> onnx.ModelProto:
    """Read an ONNX file without its external data.

    Raises:
        BundleError: there is no such file, or it is not ONNX.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (FileNotFoundError, IsADirectoryError):
        raise BundleError(f"There is no ONNX file {path}.", "Check the path.") from None
    except (DecodeError, OSError, ValueError) as error:
        raise BundleError(f"{path} is not an ONNX file: {error}.", "Check the path.") from None
    if not model.graph.node:
        raise BundleError(f"{path} is not an ONNX file, or an empty one.", "Check the path.")
    return model


def load_checked(path: Path) -> onnx.ModelProto:
    """The same, its weights checked; those in other files are not read.

    Raises:
        BundleError: there is no such file, it is not ONNX, or weights are damaged or missing.
    """
    model = load_structure(path)
    for tensor in _tensors(model):
        reason = _fault(tensor, path.parent)
        if reason is not None:
            name = f"the tensor {tensor.name}" if tensor.name else "a tensor"
            raise BundleError(f"{path} is damaged: {name} {reason}.", _AGAIN)
    return model


def load_model(path: Path) -> onnx.ModelProto:
    """The model with all of its weights; raises as :func:`load_checked`."""
    model = load_checked(path)
    onnx.load_external_data_for_model(model, str(path.parent))
    return model


def load_ir(path: Path) -> ir.Model:
    """The model as an intermediate representation to work on; weights in other files are mapped.

    Raises:
        BundleError: as of :func:`load_checked`, or the graph contradicts itself.
    """
    proto = load_checked(path)
    try:
        model = ir.from_proto(proto)
    # SerdeError is a RuntimeError; the others get through where the reader expects no such fault.
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise BundleError(f"{path} is no valid ONNX model: {innermost(error)}.", _AGAIN) from None
    ir.external_data.set_base_dir(model.graph, path.parent)
    return model


def innermost(error: BaseException) -> str:
    """The first line of the error that others were raised from, which says what is wrong."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = next(iter(str(error).splitlines()), "") or type(error).__name__
    return said.rstrip(".")


def _tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Initializers and constants of the graph, of graphs in it, and of functions."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_nodes(function.node)


def _of_graph(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t
            elif attribute.type == AttributeProto.GRAPH:
                yield from _of_graph(attribute.g)


def _fault(tensor: TensorProto, folder: Path) -> str | None:
    """What is wrong with a tensor, None if nothing is."""
    if tensor.data_type in _UNDEFINED:
        return None if tensor.data_type == TensorProto.STRING else "has no type"
    try:
        item = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, TypeError, ValueError):
        return f"has the type {tensor.data_type}, which there is not"
    if any(size < 0 for size in tensor.dims):
        return f"has the shape {list(tensor.dims)}"
    values = math.prod(tensor.dims)
    needed = -(-values // 2) if tensor.data_type in _HALVES else values * item
    if needed > _LARGEST:
        return f"has the shape {list(tensor.dims)}, which no memory holds"
    if tensor.data_location == TensorProto.EXTERNAL:
        return _external_fault(tensor, folder, needed)
    if tensor.HasField("raw_data"):
        if tensor.ByteSize() != _size_with(tensor, needed):
            return f"of the shape {list(tensor.dims)} has not the {needed} bytes that it needs"
        return None
    held, parts = _values_listed(tensor), values
    if tensor.data_type in _COMPLEX:
        parts = 2 * values
    if held not in (parts, needed if tensor.data_type in _HALVES else parts):
        return f"of the shape {list(tensor.dims)} has {held} values"
    return None


def _size_with(tensor: TensorProto, count: int) -> int:
    """Bytes of the message if its raw values took ``count``; the values are not copied to see."""
    rest = TensorProto(dims=tensor.dims, metadata_props=tensor.metadata_props)
    for name in ("data_type", "name", "doc_string", "data_location"):
        if tensor.HasField(name):
            setattr(rest, name, getattr(tensor, name))
    length = max(1, -(-count.bit_length() // 7))  # of the number that says how many follow
    return rest.ByteSize() + 1 + length + count


def _values_listed(tensor: TensorProto) -> int:
    """Values that are written as numbers and not as bytes."""
    lists = (
        tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data,
        tensor.uint64_data,
    )  # fmt: skip
    return sum(map(len, lists))


def _external_fault(tensor: TensorProto, folder: Path, needed: int) -> str | None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    name = entries.get("location", "")
    place = PurePosixPath(name.replace("\\", "/"))
    # ONNX demands it, and whoever copies or links the file relies on it.
    if not place.parts or place.is_absolute() or ".." in place.parts or ":" in place.parts[0]:
        return f"is kept in {name!r}, which is not below the model's own directory"
    try:
        size = (folder / name).stat().st_size if (folder / name).is_file() else None
        offset = int(entries.get("offset") or 0)
        length = int(entries.get("length") or needed)
    except (OSError, ValueError) as error:
        return f"is kept in {name!r}, of which no part can be read: {error}"
    if size is None:
        return f"is kept in {name}, which is not beside it"
    if offset < 0 or length != needed or offset + length > size:
        return (
            f"needs {needed} bytes, and {length} at {offset} of the {size} in {name} are named for "
            "it"
        )
    return None
