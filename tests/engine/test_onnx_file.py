"""The ONNX reader that needs no onnx, compared with the package onnx."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dinat_deploy.engine import onnx_file
from dinat_deploy.engine.onnx_file import read_onnx
from dinat_deploy.errors import EngineError
from dinat_deploy.graph import schema
from dinat_deploy.graph.inspection import inspect_model


def linear(path: Path, dtype: int = TensorProto.FLOAT, **save: object) -> None:
    """A product of an input [n, ?, 4] with weights [4, 6], which are inputs too as in old files."""
    x = helper.make_tensor_value_info("x", dtype, ["n", None, 4])
    w = helper.make_tensor_value_info("w", dtype, [4, 6])
    y = helper.make_tensor_value_info("y", dtype, ["n", None, 6])
    values = np.arange(24).reshape(4, 6).astype(helper.tensor_dtype_to_np_dtype(dtype))
    weights = numpy_helper.from_array(values, "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    onnx.save(
        helper.make_model(helper.make_graph([node], "g", [x, w], [y], [weights])), path, **save
    )


def test_a_model_is_read_as_onnx_reads_it(tiny_bundle: Path) -> None:
    path = tiny_bundle / "model.onnx"
    found, expected = read_onnx(path), inspect_model(path)
    assert [(t.name, t.dtype, list(t.shape)) for t in found.inputs] == [
        (t.name, t.type, t.shape) for t in expected.inputs
    ]
    assert [(t.name, list(t.shape)) for t in found.outputs] == [
        (t.name, t.shape) for t in expected.outputs
    ]
    assert [(n.name, n.op_type) for n in found.op_nodes] == [
        (n.name, n.op_type) for n in expected.op_nodes
    ]
    assert found.weights["float"] == expected.weights["float"]["values"]
    assert found.bodies == {"NeighborhoodAttention2D"}
    assert found.without_body == []
    assert found.external == ()
    assert found.precision == "float32"


def test_a_file_without_body_says_what_needs_a_plugin(tiny_bundle: Path, tmp_path: Path) -> None:
    model = onnx.load(tiny_bundle / "model.onnx")
    del model.functions[:]
    onnx.save(model, tmp_path / "m.onnx")
    found = read_onnx(tmp_path / "m.onnx")
    assert found.bodies == frozenset()
    assert found.without_body == ["NeighborhoodAttention2D"]


def test_names_are_those_of_the_schema() -> None:
    """They are written twice because the schema needs onnx."""
    assert onnx_file.DOMAIN == schema.DOMAIN
    assert onnx_file.OP_TYPES == schema.OP_TYPES


def test_weights_that_are_inputs_and_unnamed_dimensions(tmp_path: Path) -> None:
    linear(tmp_path / "m.onnx")
    found = read_onnx(tmp_path / "m.onnx")
    assert [(t.name, t.shape) for t in found.inputs] == [("x", ("n", "?", 4))]
    assert str(found.inputs[0]) == "x [n x ? x 4]"
    assert found.weights == {"float": 24}
    assert found.op_nodes == ()


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [(TensorProto.FLOAT16, "float16"), (TensorProto.BFLOAT16, "bfloat16")],
)
def test_precision_is_the_type_of_the_weights(dtype: int, precision: str, tmp_path: Path) -> None:
    linear(tmp_path / "m.onnx", dtype)
    assert read_onnx(tmp_path / "m.onnx").precision == precision


def test_precision_of_a_quantized_model_names_int8_first(tmp_path: Path) -> None:
    linear(tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    model.graph.node.insert(0, helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]))
    onnx.save(model, tmp_path / "m.onnx")
    assert read_onnx(tmp_path / "m.onnx").precision == "int8+float32"


def test_external_data_is_named_and_must_be_there(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    linear(path, save_as_external_data=True, location="m.data", size_threshold=0)
    assert read_onnx(path).external == ("m.data",)
    assert read_onnx(path).weights == {"float": 24}
    (tmp_path / "m.data").unlink()
    with pytest.raises(EngineError, match=r"keeps weights in m\.data, which is not beside it"):
        read_onnx(path)


def test_weights_are_skipped_not_read(tmp_path: Path) -> None:
    """A file with 3 GB of weights (a hole on the disk) is read at once."""

    def field(number: int, content: bytes, more: int = 0) -> bytes:
        size, digits = len(content) + more, b""
        while size > 127:
            digits, size = digits + bytes([size & 127 | 128]), size >> 7
        return bytes([number << 3 | 2]) + digits + bytes([size]) + content

    node = helper.make_node("Identity", ["w"], ["y"], name="copy").SerializeToString()
    header = TensorProto(dims=[3 << 28], data_type=TensorProto.FLOAT, name="w").SerializeToString()
    size = 3 << 30
    tensor = header + field(9, b"", size)
    graph = field(1, node) + field(5, tensor, size)
    path = tmp_path / "big.onnx"
    path.write_bytes(field(7, graph, size))
    os.truncate(path, path.stat().st_size + size)
    started = time.monotonic()
    assert read_onnx(path).weights == {"float": 3 << 28}
    assert time.monotonic() - started < 1


def test_files_that_are_no_onnx_are_refused(tmp_path: Path) -> None:
    junk, empty = tmp_path / "junk.onnx", tmp_path / "empty.onnx"
    junk.write_bytes(b"PK\x03\x04 and so on")
    empty.write_bytes(b"")
    for path in (junk, empty, tmp_path):
        with pytest.raises(EngineError, match="is not an ONNX file"):
            read_onnx(path)
    with pytest.raises(EngineError, match="There is no ONNX file"):
        read_onnx(tmp_path / "missing.onnx")


def test_a_truncated_file_is_refused_wherever_it_ends(tiny_bundle: Path, tmp_path: Path) -> None:
    whole = (tiny_bundle / "model.onnx").read_bytes()
    path = tmp_path / "cut.onnx"
    for size in (*range(1, 400), *range(400, len(whole) - 12_000, 997)):
        path.write_bytes(whole[:size])
        with pytest.raises(EngineError):
            read_onnx(path)


def test_damaged_bytes_never_end_in_another_error(
    tiny_bundle: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    whole = bytearray((tiny_bundle / "model.onnx").read_bytes())
    path = tmp_path / "damaged.onnx"
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 40):
            damaged[place] = int(rng.integers(0, 256))
        path.write_bytes(damaged)
        try:
            read_onnx(path)
        except EngineError:
            refused += 1
    assert refused > 0
