"""Graphs that the exporter writes: node counts, names, opsets, dynamic shapes, the body."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from dinat_deploy.errors import ExportError
from dinat_deploy.exporter import ExportedGraph, to_onnx
from dinat_deploy.graph import functions, schema
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.model import DinatModel
from dinat_deploy.models.seeding import seeded_image
from dinat_deploy.models.weights import seeded_model
from dinat_deploy.ops.functional import neighborhood_attention, neighborhood_attention_2d
from tests.conftest import TINY
from tests.graph.op_models import run_model

Dims = Mapping[int, torch.export.Dim]


def export(module: nn.Module, shape: tuple[int, ...], **options: object) -> ExportedGraph:
    config = getattr(module, "config", None)
    names = config.output_names if isinstance(config, ModelConfig) else ("output",)
    return to_onnx(
        module, [torch.zeros(shape)], input_names=["image"], output_names=names, **options
    )


def size_dims(low: int) -> list[Dims]:
    dim = torch.export.Dim
    axes = {
        0: dim("batch", min=1),
        2: dim("height", min=low, max=512),
        3: dim("width", min=low, max=512),
    }
    return [axes]


def difference(graph: ExportedGraph, module: nn.Module, *shapes: tuple[int, ...]) -> float:
    """Largest error of the first output in ONNX Runtime."""
    proto = ir.to_proto(graph.model)
    worst = 0.0
    for seed, shape in enumerate(shapes):
        image = seeded_image(shape, seed)
        with torch.inference_mode():
            expected = module(torch.from_numpy(image))
        first = expected if isinstance(expected, torch.Tensor) else expected[0]
        worst = max(worst, float(np.abs(run_model(proto, image=image) - first.numpy()).max()))
    return worst


@pytest.fixture(scope="module")
def static() -> ExportedGraph:
    """The tiny classifier without layer scale at a static size; not to be changed."""
    model = seeded_model(PLAIN, 0)
    return export(model, (1, 3, 64, 64), tap_modules=model.block_names())


PLAIN = TINY.replace(layer_scale=None)
BLOCK = [
    "LayerNormalization", "MatMul", "Add", "NeighborhoodAttention2D", "MatMul", "Add", "Add",
    "LayerNormalization", "MatMul", "Add", "Gelu", "MatMul", "Add", "Add",
]  # fmt: skip


def test_a_static_block_is_exactly_its_fourteen_nodes(static: ExportedGraph) -> None:
    kinds = [
        node.op_type
        for node in static.model.graph
        if str(node.name).startswith("levels.0.blocks.1")
    ]
    assert kinds == BLOCK


def test_a_whole_static_model_has_nothing_left_over(static: ExportedGraph) -> None:
    layers = sum(PLAIN.depths)
    counted = Counter(node.op_type for node in static.model.graph)
    expected = Counter({kind: count * layers for kind, count in Counter(BLOCK).items()})
    expected += Counter(
        {
            "Conv": 3,  # two of the tokenizer, one downsampler
            "Transpose": 3,  # around convolutions; none around the operator
            "LayerNormalization": 3,
            "ReduceMean": 1,
            "Gemm": 1,
        }
    )
    assert counted == expected


def test_static_dinat_s_and_isotropic_models_have_nothing_left_over() -> None:
    merging = export(
        seeded_model(TINY.replace(architecture="dinat_s", layer_scale=None), 0), (1, 3, 64, 64)
    )
    counted = Counter(node.op_type for node in merging.model.graph)
    assert set(counted) == {*BLOCK, "Conv", "Transpose", "Slice", "Concat", "ReduceMean", "Gemm"}
    config = ModelConfig(
        architecture="isotropic", embed_dim=16, depths=(2,), num_heads=(2,), kernel_size=3
    )
    flat = export(seeded_model(config, 0), (1, 3, 64, 64))
    assert set(Counter(node.op_type for node in flat.model.graph)) == {
        *BLOCK, "Conv", "Transpose", "ReduceMean", "Gemm",
    }  # fmt: skip


@pytest.mark.parametrize("architecture", ["dinat", "dinat_s"])
@pytest.mark.parametrize("opset", [17, 18, 19, 20, 21])
def test_every_opset_is_valid_and_equals_pytorch(architecture: str, opset: int) -> None:
    model = seeded_model(TINY.replace(architecture=architecture), 0)
    graph = export(model, (1, 3, 67, 70), opset=opset)
    proto = ir.to_proto(graph.model)
    onnx.checker.check_model(proto, full_check=True)
    assert {entry.domain: entry.version for entry in proto.opset_import} == {
        "": opset, schema.DOMAIN: schema.OPSET_VERSION,
    }  # fmt: skip
    assert proto.ir_version <= 10
    assert ("Gelu" in {node.op_type for node in proto.graph.node}) == (opset >= 20)
    assert difference(graph, model, (1, 3, 67, 70)) < 1e-4


def test_gelu_below_opset_20_is_the_erf_form_that_tensorrt_fuses() -> None:
    graph = export(seeded_model(TINY, 0), (1, 3, 64, 64), opset=17).model.graph
    mlp = [node.op_type for node in graph if str(node.name).startswith("levels.1.blocks.0.mlp/")]
    assert mlp == ["Div", "Erf", "Add", "Mul", "Mul"]


@pytest.mark.parametrize("opset", [16, 22])
def test_other_opsets_are_refused(opset: int) -> None:
    with pytest.raises(ExportError, match=f"Opset {opset} is not supported"):
        export(nn.Identity(), (1, 3, 64, 64), opset=opset)


def test_the_dynamic_batch_keeps_the_static_size_of_the_operator() -> None:
    model = seeded_model(TINY, 0)
    graph = export(model, (2, 3, 64, 64), dynamic=[{0: torch.export.Dim("batch", min=1)}])
    for node in functions.op_nodes(graph.model):
        assert node.attributes.get_int("height") in (16, 8)
    assert graph.model.graph.inputs[0].shape == ir.Shape(["batch", 3, 64, 64])
    assert graph.model.graph.outputs[0].shape == ir.Shape(["batch", 10])
    assert {n.op_type for n in graph.model.graph}.isdisjoint({"Shape", "Reshape", "Gather"})
    assert difference(graph, model, (1, 3, 64, 64), (5, 3, 64, 64)) < 1e-4


@pytest.mark.parametrize("architecture", ["dinat", "dinat_s"])
def test_a_dynamic_size_that_may_need_padding_equals_pytorch_on_both_sides(
    architecture: str,
) -> None:
    model = seeded_model(TINY.replace(architecture=architecture), 0)
    graph = export(model, (2, 3, 60, 61), dynamic=size_dims(16))
    # 12 tokens needed at the first level, 6 at the second: 48 pixels; below, both must pad.
    shapes = [(1, 3, 16, 16), (2, 3, 47, 49), (1, 3, 48, 48), (3, 3, 77, 131), (1, 3, 20, 200)]
    assert difference(graph, model, *shapes) < 1e-4
    assert "Pad" in {node.op_type for node in graph.model.graph}
    proto = ir.to_proto(graph.model)
    onnx.checker.check_model(proto, full_check=True)


def test_a_dynamic_size_without_padding_has_no_shape_arithmetic() -> None:
    model = seeded_model(TINY, 0)
    graph = export(model, (2, 3, 60, 61), dynamic=size_dims(48))
    assert set(Counter(n.op_type for n in graph.model.graph)) == {
        *BLOCK, "Conv", "Transpose", "Mul", "ReduceMean", "Gemm",
    }  # fmt: skip
    assert difference(graph, model, (1, 3, 48, 48), (2, 3, 101, 77)) < 1e-4
    assert graph.model.graph.inputs[0].shape == ir.Shape(["batch", 3, "height", "width"])
    for node in functions.op_nodes(graph.model):
        assert "height" not in node.attributes


def test_the_static_padding_path_equals_pytorch() -> None:
    model = seeded_model(TINY, 0)
    graph = export(model, (2, 3, 33, 40))
    assert difference(graph, model, (2, 3, 33, 40)) < 1e-4


def test_weights_keep_their_names_and_values(static: ExportedGraph) -> None:
    model = seeded_model(PLAIN, 0)
    stored = static.model.graph.initializers
    for name, tensor in model.state_dict().items():
        if name in stored:
            assert np.array_equal(stored[name].const_value.numpy(), tensor.numpy())
        else:
            assert np.array_equal(stored[name + ".T"].const_value.numpy(), tensor.numpy().T)
    others = [name for name in stored if name.removesuffix(".T") not in model.state_dict()]
    assert all("constant" in name for name in others)


def test_equal_weights_are_not_merged() -> None:
    """Fresh models hold many equal tensors; merging them would lose their names."""
    model = DinatModel(TINY).eval()
    stored = export(model, (1, 3, 64, 64)).model.graph.initializers
    found = {name.removesuffix(".T") for name in stored}
    assert set(model.state_dict()) <= found


def test_every_block_has_an_output_of_its_name(static: ExportedGraph) -> None:
    assert list(static.taps) == [
        "patch_embed", "levels.0.blocks.0", "levels.0.blocks.1", "levels.1.blocks.0",
    ]  # fmt: skip
    produced = {value.name for node in static.model.graph for value in node.outputs}
    assert set(static.taps.values()) <= produced
    assert static.taps["levels.0.blocks.1"] == "levels.0.blocks.1"


def test_every_tensor_has_a_type_and_a_shape_and_every_node_a_name_of_its_own(
    static: ExportedGraph,
) -> None:
    graph = static.model.graph
    names = [node.name for node in graph]
    assert len(set(names)) == len(names)
    for node in graph:
        for value in node.outputs:
            assert value.shape is not None
            assert value.dtype is not None


def test_backbones_export_one_output_per_level() -> None:
    model = seeded_model(TINY.replace(out_levels=(0, 1)), 0)
    graph = export(model, (1, 3, 64, 64))
    shapes = {value.name: value.shape for value in graph.model.graph.outputs}
    assert shapes == {"stage1": ir.Shape([1, 16, 16, 16]), "stage2": ir.Shape([1, 32, 8, 8])}
    assert difference(graph, model, (1, 3, 64, 64)) < 1e-4


class Split(nn.Module):
    """Query, key and value with something between them and their projections."""

    def __init__(self, has_rpb: bool) -> None:
        super().__init__()
        self.projections = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])
        self.rpb = nn.Parameter(torch.randn(2, 5, 5)) if has_rpb else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [p(x).tanh().view(*x.shape[:3], 2, 4) for p in self.projections]
        return neighborhood_attention_2d(*parts, self.rpb, kernel_size=3, dilation=2).flatten(-2)


@pytest.mark.parametrize("has_rpb", [True, False])
def test_separate_query_key_and_value_become_the_split_operator(has_rpb: bool) -> None:
    torch.manual_seed(0)
    module = Split(has_rpb).eval()
    graph = export(module, (1, 9, 8, 8))
    (node,) = functions.op_nodes(graph.model)
    assert node.op_type == schema.SPLIT
    assert difference(graph, module, (1, 9, 8, 8)) < 1e-5


class Causal(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return neighborhood_attention(x, x, x, kernel_size=3, is_causal=True)


def test_what_has_no_operator_is_written_in_standard_ones_at_a_static_size() -> None:
    graph = export(Causal(), (1, 9, 2, 4))
    assert {node.domain for node in graph.model.graph} == {""}
    assert difference(graph, Causal(), (1, 9, 2, 4)) < 1e-6


def test_what_has_no_operator_is_refused_at_a_dynamic_size() -> None:
    dims = [{1: torch.export.Dim("length", min=3, max=64)}]
    with pytest.raises(ExportError, match="is_causal \\[True\\] has the dynamic size"):
        export(Causal(), (1, 9, 2, 4), dynamic=dims)


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() > 0 else x - 1


def test_untraceable_modules_are_refused_in_one_sentence() -> None:
    with pytest.raises(ExportError, match="torch.export could not trace Branching") as caught:
        export(Branching(), (1, 3))
    assert "\n" not in caught.value.cause


def test_the_body_can_be_left_out() -> None:
    graph = export(seeded_model(TINY, 0), (1, 3, 64, 64), with_body=False)
    assert not graph.model.functions
    assert len(functions.op_nodes(graph.model)) == 3
