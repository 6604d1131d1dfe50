"""Work counted from ONNX files: equal to the configuration's count, complete or refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from dinat_deploy.errors import BundleError
from dinat_deploy.exporter import to_onnx
from dinat_deploy.graph import schema
from dinat_deploy.measurement.onnx_work import count_onnx, macs_by_node
from dinat_deploy.measurement.roofline import count_work
from dinat_deploy.models.complexity import cost, parameter_count
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.weights import seeded_model
from tests.conftest import TINY
from tests.graph.op_models import op_model

BACKBONE = TINY.replace(out_levels=(0, 1))
SWIN_SHAPED = TINY.replace(architecture="dinat_s")
ISOTROPIC = ModelConfig(
    architecture="isotropic", embed_dim=32, depths=(2,), num_heads=(2,), kernel_size=3,
    num_classes=0, image_size=(64, 64),
)  # fmt: skip


def export(path: Path, config: ModelConfig, shape: Sequence[int], **options: Any) -> Path:
    graph = to_onnx(
        seeded_model(config, 0), [torch.zeros(*shape)], input_names=["image"],
        output_names=config.output_names, **options,
    )  # fmt: skip
    ir.save(graph.model, path)
    return path


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, Sequence[int | str]],
    weights: dict[str, np.ndarray] | None = None,
    functions: Sequence[onnx.FunctionProto] = (),
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("mine", 1)]
    return helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=10)


def saved(built: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(built, folder / "model.onnx")
    return folder / "model.onnx"


def floats(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def test_each_node_has_its_share_of_the_count(tmp_path: Path) -> None:
    path = export(tmp_path / "model.onnx", TINY, (1, 3, 64, 64))
    by_node = macs_by_node(path)
    assert sum(by_node.values()) == count_onnx(path).macs
    # 16 x 16 tokens; a linear layer from 32 channels to three times as many; 3 x 3 neighbours.
    dim, tokens = TINY.embed_dim, 16 * 16
    assert by_node["levels.0.blocks.0.attn.qkv/MatMul"] == tokens * dim * 3 * dim
    attention = by_node["levels.0.blocks.0.attn/NeighborhoodAttention2D"]
    assert attention == 2 * tokens * dim * TINY.kernel_size**2
    assert 0 not in by_node.values()


# --- our models ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "extra_biases"),
    # The exporter gives the downsampling convolution, which has no bias, one of zeros.
    [(TINY, 32), (BACKBONE, 32), (SWIN_SHAPED, 0), (ISOTROPIC, 0)],
    ids=["dinat", "backbone", "dinat_s", "isotropic"],
)
def test_the_count_equals_that_of_the_configuration(
    config: ModelConfig, extra_biases: int, tmp_path: Path
) -> None:
    found = count_onnx(export(tmp_path / "model.onnx", config, (2, 3, 64, 96)))
    expected = cost(config, (64, 96))
    assert found.macs == 2 * expected.macs
    assert found.attention_macs == 2 * expected.attention_macs
    assert found.weight_bytes == 4 * (parameter_count(config) + extra_biases)
    from_config = count_work({"image": (2, 3, 64, 96)}, config=config)
    assert from_config is not None
    assert found.io_bytes == from_config.io_bytes
    assert (found.macs, found.attention_macs) == (from_config.macs, from_config.attention_macs)


def test_the_body_counts_no_more_than_the_operator(tmp_path: Path) -> None:
    with_body = export(tmp_path / "with.onnx", TINY, (1, 3, 64, 64))
    without = export(tmp_path / "without.onnx", TINY, (1, 3, 64, 64), with_body=False)
    assert onnx.load(with_body).functions and not onnx.load(without).functions
    assert count_onnx(with_body) == count_onnx(without)


def test_dynamic_sizes_and_batches_are_counted_for_the_shape_that_runs(tmp_path: Path) -> None:
    dim = torch.export.Dim
    axes = {0: dim("batch", min=1), 2: dim("height", min=64), 3: dim("width", min=64)}
    path = export(tmp_path / "model.onnx", TINY, (2, 3, 64, 96), dynamic=[axes])
    for batch, height, width in ((1, 64, 64), (3, 97, 130), (8, 224, 224)):
        found = count_onnx(path, {"image": (batch, 3, height, width)})
        assert found.macs == batch * cost(TINY, (height, width)).macs
        assert found.attention_macs == batch * cost(TINY, (height, width)).attention_macs
    with pytest.raises(BundleError, match=r"cannot be inferred.*shapes of all inputs"):
        count_onnx(path)


def test_weights_in_a_file_of_their_own_need_not_be_there(tmp_path: Path) -> None:
    path = export(tmp_path / "model.onnx", TINY, (1, 3, 64, 64))
    whole = count_onnx(path)
    loaded = onnx.load(path)
    onnx.save(loaded, path, save_as_external_data=True, location="weights", size_threshold=1024)
    (tmp_path / "weights").unlink()
    assert count_onnx(path) == whole


def test_tables_that_shapes_come_from_are_read_from_the_file_of_weights(tmp_path: Path) -> None:
    path = export(tmp_path / "model.onnx", TINY, (1, 3, 64, 64))
    whole = count_onnx(path)
    loaded = onnx.load(path)
    onnx.save(loaded, path, save_as_external_data=True, location="weights", size_threshold=0)
    assert count_onnx(path) == whole
    (tmp_path / "weights").unlink()
    with pytest.raises(BundleError, match="cannot be inferred"):
        count_onnx(path)


@pytest.mark.parametrize("layout", [schema.PACKED, schema.SPLIT])
@pytest.mark.parametrize("dynamic", ["none", "size"])
def test_operator_nodes_count_two_products_for_every_neighbour(
    layout: str, dynamic: str, tmp_path: Path
) -> None:
    built = op_model(
        (2, 9, 12, 4, 8), kernel_size=(3, 5), dilation=(2, 1), scale=1.0, layout=layout,
        dynamic=dynamic, rpb=np.zeros((4, 5, 9), np.float32),
    )  # fmt: skip
    names = ["qkv"] if layout == schema.PACKED else ["query", "key", "value"]
    tail = (96,) if layout == schema.PACKED else (4, 8)
    found = count_onnx(saved(built, tmp_path), dict.fromkeys(names, (2, 9, 12, *tail)))
    assert found.macs == found.attention_macs == 2 * (2 * 9 * 12) * (3 * 5) * (4 * 8)
    assert found.weight_bytes == 4 * 4 * 5 * 9
    assert found.io_bytes == 4 * (2 * 9 * 12 * 32) * 4


# --- operators of the standard -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op_type", "attributes", "inputs", "weights", "expected"),
    [
        ("Conv", {}, {"x": (2, 8, 10, 10)}, (16, 8, 3, 3), 2 * 16 * 8 * 8 * 8 * 9),
        ("Conv", {"group": 8}, {"x": (1, 8, 10, 10)}, (8, 1, 3, 3), 8 * 8 * 8 * 9),
        ("Conv", {"strides": [2]}, {"x": (1, 4, 9)}, (6, 4, 3), 6 * 4 * 4 * 3),
        ("ConvTranspose", {}, {"x": (1, 4, 5, 5)}, (4, 7, 2, 2), 4 * 25 * 7 * 4),
        ("MatMul", {}, {"x": (3, 5, 7)}, (7, 11), 3 * 5 * 7 * 11),
        ("MatMul", {}, {"x": (7,)}, (7, 11), 7 * 11),
        ("Gemm", {}, {"x": (5, 7)}, (7, 11), 5 * 7 * 11),
        ("Gemm", {"transA": 1, "transB": 1}, {"x": (7, 5)}, (11, 7), 5 * 7 * 11),
        ("Einsum", {"equation": "bij, jk -> bik"}, {"x": (3, 5, 7)}, (7, 11), 3 * 5 * 7 * 11),
        ("Add", {}, {"x": (3, 5)}, (5,), 0),
    ],
)
def test_operators_with_a_weight(
    op_type: str,
    attributes: dict[str, Any],
    inputs: dict[str, Sequence[int]],
    weights: tuple[int, ...],
    expected: int,
    tmp_path: Path,
) -> None:
    node = helper.make_node(op_type, ["x", "w"], ["out"], "node", **attributes)
    built = model([node], inputs, {"w": floats(*weights)})
    # What a run really gives has the shape that was counted with.
    found = count_onnx(saved(built, tmp_path))
    assert (found.macs, found.attention_macs) == (expected, 0)
    assert found.weight_bytes == 4 * int(np.prod(weights))


@pytest.mark.parametrize("op_type", ["MatMul", "Einsum"])
def test_products_of_two_activations_are_attention(op_type: str, tmp_path: Path) -> None:
    attributes = {"equation": "bij,bjk->bik"} if op_type == "Einsum" else {}
    node = helper.make_node(op_type, ["x", "y"], ["out"], **attributes)
    built = model([node], {"x": (2, 3, 4), "y": (2, 4, 5)})
    found = count_onnx(saved(built, tmp_path))
    assert found.macs == found.attention_macs == 2 * 3 * 4 * 5
    assert found.io_bytes == 4 * (24 + 40 + 30)


def test_what_depends_on_weights_alone_is_no_work_and_still_a_weight(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["a", "b"], ["ab"]),
        helper.make_node("Transpose", ["ab"], ["w"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "w"], ["out"]),
    ]
    weights = {"a": floats(60, 30), "b": floats(30, 80), "unused": floats(1000, 1000)}
    found = count_onnx(saved(model(nodes, {"x": (5, 80)}, weights), tmp_path))
    assert (found.macs, found.attention_macs) == (5 * 80 * 60, 0)
    assert found.weight_bytes == 4 * (60 * 30 + 30 * 80)


def test_quantized_weights_take_a_byte_and_tables_none(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "scale"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Gather", ["product", "table"], ["out"]),
    ]
    weights = {
        "q": np.ones((64, 64), np.int8),
        "scale": np.float32(0.5) * np.ones((), np.float32),
        "table": np.zeros(2000, np.int64),
    }
    found = count_onnx(saved(model(nodes, {"x": (9, 64)}, weights), tmp_path))
    assert (found.macs, found.attention_macs) == (9 * 64 * 64, 0)
    assert found.weight_bytes == 64 * 64 + 4


def test_a_function_counts_as_often_as_it_is_called(tmp_path: Path) -> None:
    twice = helper.make_function(
        "mine", "Twice", ["a", "b"], ["c"],
        [helper.make_node("MatMul", ["a", "b"], ["m"]), helper.make_node("MatMul", ["m", "b"], ["c"])],
        [helper.make_opsetid("", 20)],
    )  # fmt: skip
    nodes = [
        helper.make_node("Twice", ["x", "w"], ["y"], domain="mine"),
        helper.make_node("Twice", ["y", "w"], ["out"], domain="mine"),
    ]
    found = count_onnx(saved(model(nodes, {"x": (5, 8)}, {"w": floats(8, 8)}, [twice]), tmp_path))
    assert found.macs == 4 * 5 * 8 * 8


def test_shapes_that_are_computed_from_shapes_are_followed(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["rows"], start=0, end=1),
        helper.make_node("Concat", ["rows", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
        helper.make_node("MatMul", ["y", "w"], ["out"]),
    ]
    weights = {"rest": np.array([4, 8], np.int64), "w": floats(8, 3)}
    path = saved(model(nodes, {"x": ("n", 32)}, weights), tmp_path)
    assert count_onnx(path, {"x": (6, 32)}).macs == 6 * 4 * 8 * 3


# --- what cannot be counted ---------------------------------------------------------------------------


def branch(name: str) -> onnx.GraphProto:
    return helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], [name])], name, [],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
    )  # fmt: skip


UNCOUNTED = {
    "of a domain of its own": (
        helper.make_node("Magic", ["x"], ["out"], "wand", domain="mine"),
        r"operator mine\.Magic \('wand'\)",
    ),
    "recurrent": (helper.make_node("LSTM", ["x", "w", "w"], ["out"], hidden_size=1), "LSTM"),
    "branch": (
        helper.make_node("If", ["c"], ["out"], "if", then_branch=branch("a"), else_branch=branch("b")),
        r"How often If \('if'\) runs",
    ),
    "three factors": (
        helper.make_node("Einsum", ["x", "w", "w"], ["out"], equation="ij,jk,kl->il"), "Einsum",
    ),
    "unknown shape": (helper.make_node("NonZero", ["x"], ["out"]), "'out' cannot be inferred"),
}  # fmt: skip


@pytest.mark.parametrize("what", UNCOUNTED)
def test_there_is_no_count_without_everything(what: str, tmp_path: Path) -> None:
    node, message = UNCOUNTED[what]
    built = model([node], {"x": (4, 4)}, {"w": floats(4, 4), "c": np.array(True)})
    path = saved(built, tmp_path)
    with pytest.raises(BundleError, match=message):
        count_onnx(path)
    assert count_work({"x": (4, 4)}, model=path) is None


def test_wrong_inputs_are_named(tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["x"], ["out"])
    path = saved(model([node], {"x": ("n", 3, 8)}), tmp_path)
    assert count_onnx(path, {"x": (2, 3, 8)}).macs == 0
    with pytest.raises(BundleError, match=r"no input 'y'; it has 'x'"):
        count_onnx(path, {"y": (2, 3, 8)})
    with pytest.raises(BundleError, match=r"'x' has shape n x 3 x 8, not 2 x 4 x 8"):
        count_onnx(path, {"x": (2, 4, 8)})
    with pytest.raises(BundleError, match=r"'x' has shape n x 3 x 8, not 2 x 3"):
        count_onnx(path, {"x": (2, 3)})


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="There is no ONNX file"):
        count_onnx(tmp_path / "missing.onnx")
    (tmp_path / "text.onnx").write_text("not ONNX")
    with pytest.raises(BundleError, match="is not an ONNX file"):
        count_onnx(tmp_path / "text.onnx")
    contradiction = model(
        [helper.make_node("MatMul", ["x", "w"], ["out"])], {"x": (5, 7)}, {"w": floats(8, 3)}
    )
    with pytest.raises(BundleError, match="cannot be inferred"):
        count_onnx(saved(contradiction, tmp_path))
