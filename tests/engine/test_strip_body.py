"""Copies of ONNX files without the operator's body, compared with what the package onnx makes."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import pytest
from onnx import helper

from dinat_deploy.engine import strip_body as module
from dinat_deploy.engine.onnx_file import read_onnx
from dinat_deploy.engine.strip_body import strip_body
from dinat_deploy.errors import EngineError
from tests.graph.op_models import op_model


def without_functions(path: Path, *, kept: str = "") -> onnx.ModelProto:
    model = onnx.load(path, load_external_data=False)
    functions = [function for function in model.functions if function.domain == kept]
    del model.functions[:]
    model.functions.extend(functions)
    return model


def test_only_the_body_is_missing(tiny_bundle: Path, tmp_path: Path) -> None:
    path = tiny_bundle / "model.onnx"
    copy = strip_body(path, tmp_path / "copy", ())
    assert copy == tmp_path / "copy" / "model.onnx"
    found = onnx.load(copy)
    assert found == without_functions(path)
    onnx.checker.check_model(found)
    assert len(onnx.load(path).functions) == 1
    # The parser still learns which plugin to take.
    nodes = [node for node in found.graph.node if node.domain == "dinat"]
    assert len(nodes) == 3
    for node in nodes:
        names = {attribute.name for attribute in node.attribute}
        assert {"plugin_namespace", "plugin_version", "num_heads", "scale"} <= names
    read = read_onnx(copy)
    assert read.without_body == ["NeighborhoodAttention2D"]
    assert read.op_nodes == read_onnx(path).op_nodes


def test_functions_of_others_and_the_order_of_fields_do_not_matter(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    model = op_model((1, 8, 8, 1, 16), kernel_size=(3, 3), dilation=(1, 1), scale=0.2)
    opset = helper.make_opsetid("", 17)
    x, y = (helper.make_node("Identity", ["a"], ["b"]) for _ in range(2))
    for name, node in (("Before", x), ("After", y)):
        own = helper.make_function("other", name, ["a"], ["b"], [node], [opset])
        model.functions.insert(0 if name == "Before" else len(model.functions), own)
    model.opset_import.append(helper.make_opsetid("other", 1))
    model.metadata_props.add(key="who", value="behind the functions")
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    expected = without_functions(path, kept="other")
    assert onnx.load(strip_body(path, tmp_path / "copy", ())) == expected
    # Protobuf lets fields come in any order: functions first, the rest behind.
    functions = onnx.ModelProto(functions=model.functions).SerializeToString()
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    del rest.functions[:]
    path.write_bytes(functions + rest.SerializeToString())
    assert onnx.load(strip_body(path, tmp_path / "other", ())) == expected


@pytest.mark.parametrize("links", [True, False])
def test_external_data_is_found_from_the_copy(
    links: bool, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "in" / "m.onnx"
    path.parent.mkdir()
    model = onnx.load(tiny_bundle / "model.onnx")
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)

    def refuse(self: Path, target: Path) -> None:
        raise OSError("not on this disk")

    if not links:
        monkeypatch.setattr(Path, "symlink_to", refuse)
    copy = strip_body(path, tmp_path / "copy", read_onnx(path).external)
    data = copy.parent / "m.data"
    assert data.read_bytes() == (path.parent / "m.data").read_bytes()
    assert data.is_symlink() is links
    if not links:  # the package onnx follows none
        expected = onnx.load(path)
        del expected.functions[:]
        assert onnx.load(copy) == expected
        onnx.checker.check_model(copy)


def test_a_file_is_copied_in_pieces(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that one of 2 GB does not have to fit into memory."""
    pieces: list[int] = []
    monkeypatch.setattr(module, "_CHUNK", 1000)
    copy = module._copy

    def watched(view: memoryview, target: BinaryIO) -> None:
        class Target:
            def write(self, piece: memoryview) -> int:
                pieces.append(len(piece))
                return target.write(piece)

        copy(view, Target())  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_copy", watched)
    path = tiny_bundle / "model.onnx"
    assert onnx.load(strip_body(path, tmp_path / "copy", ())) == without_functions(path)
    assert max(pieces) == 1000
    assert len(pieces) > path.stat().st_size // 1000 - 20


def test_what_is_no_onnx_and_places_without_room_are_errors(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(EngineError, match="is not an ONNX file"):
        strip_body(junk, tmp_path / "copy", ())
    (tmp_path / "file").write_text("x")
    with pytest.raises(EngineError, match="cannot be made"):
        strip_body(tiny_bundle / "model.onnx", tmp_path / "file", ())
    with pytest.raises(EngineError, match="cannot be made"):
        strip_body(tmp_path / "gone.onnx", tmp_path / "copy", ())
