"""Which nodes are quantized, node by node, and the reasons for those that are not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dinat_deploy.errors import ConversionError
from dinat_deploy.graph import schema
from dinat_deploy.graph.formats import FORMATS, QUANTIZED_FORMATS
from dinat_deploy.graph.precision import convert
from dinat_deploy.graph.quantization.placement import place
from dinat_deploy.graph.quantization.records import Pair, Placement, Site
from dinat_deploy.graph.quantization.rules import Rule, Verdict, rules
from dinat_deploy.pipeline.exporting import export
from dinat_deploy.pipeline.sources import ModelRequest
from tests.conftest import TINY
from tests.graph.quantization.graphs import graph, node, upernet

INT8, FP8 = QUANTIZED_FORMATS["int8"], QUANTIZED_FORMATS["fp8"]
BLOCKS = ("levels.0.blocks.0", "levels.0.blocks.1", "levels.1.blocks.0")
ATTENTION = "neighborhood attention: both factors of its products are computed"


@pytest.fixture
def model(tiny_bundle: Path) -> ir.Model:
    schema.register()
    return ir.load(tiny_bundle / "model.onnx")


def placed(model: ir.Model, **options: object) -> Placement:
    """By all rules, for int8."""
    pairs = {key: options.pop(key) for key in ("residual", "attention") if key in options}
    return place(model, rules(model, INT8, **options), **pairs)


def nodes(placement: Placement) -> list[str]:
    return [site.node for site in placement.sites]


def block(name: str) -> list[str]:
    """The quantized nodes of a DiNAT block."""
    return [f"{name}.{part}/MatMul" for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]


# --- whole models ---------------------------------------------------------------------------------


def test_a_dinat_is_quantized_at_its_convolutions_and_linear_layers(model: ir.Model) -> None:
    found = placed(model)
    assert nodes(found) == [
        "patch_embed.proj.0/Conv",
        "patch_embed.proj.1/Conv",
        *block("levels.0.blocks.0"),
        *block("levels.0.blocks.1"),
        "levels.0.downsample.reduction/Conv",
        *block("levels.1.blocks.0"),
    ]
    assert found.pairs == []
    assert found.skipped == {
        **{f"{name}.attn/NeighborhoodAttention2D": ATTENTION for name in BLOCKS},
        "head/Gemm": "the head of the output logits",
    }


def test_a_site_names_what_it_reads_and_its_output_channels(model: ir.Model) -> None:
    found = {site.node: site for site in placed(model).sites}
    conv, qkv = "patch_embed.proj.0", "levels.0.blocks.0.attn.qkv"
    assert found[f"{conv}/Conv"] == Site(f"{conv}/Conv", "Conv", "image", f"{conv}.weight", 0)
    norm = "levels.0.blocks.0.norm1/LayerNormalization:0"
    assert found[f"{qkv}/MatMul"] == Site(f"{qkv}/MatMul", "MatMul", norm, f"{qkv}.weight.T", 1)
    for site in found.values():
        shape = model.graph.initializers[site.weight].shape
        output = next(n for n in model.graph if n.name == site.node).outputs[0].shape
        channels = output[1] if site.op_type == "Conv" else output[-1]
        assert shape[site.axis] == channels


def test_a_dinat_s_is_quantized_at_its_patch_merging_too(tmp_path: Path) -> None:
    config = TINY.model_copy(update={"architecture": "dinat_s", "depths": (1, 1)})
    config = config.model_copy(update={"dilations": ((1,), (2,)), "layer_scale": None})
    (tmp_path / "config.json").write_text(config.model_dump_json())
    export(ModelRequest(config=tmp_path / "config.json"), tmp_path / "b", verify=False)
    schema.register()
    found = placed(ir.load(tmp_path / "b" / "model.onnx"))
    assert nodes(found) == [
        "patch_embed.proj/Conv",
        *block("layers.0.blocks.0"),
        "layers.0.downsample.reduction/MatMul",
        *block("layers.1.blocks.0"),
    ]
    assert set(found.skipped.values()) == {ATTENTION, "the head of the output logits"}


def test_a_upernet_is_quantized_at_all_convolutions_but_the_last(
    rng: np.random.Generator,
) -> None:
    model = upernet(rng)
    found = placed(model, residual=True)
    assert nodes(found) == ["ppm", "bottleneck", "lateral", "fpn", "fusion"]
    assert found.skipped == {"classes": "the head of the output y"}
    assert [site.activation for site in found.sites] == ["pooled", "pyramid", "high", "sum", "all"]
    # A Relu stands between both convolutions and the sum: none adds in its kernel.
    assert found.pairs == []


def test_the_order_of_tensors_is_that_of_the_graph_and_each_is_named_once(
    model: ir.Model,
) -> None:
    found = placed(model, residual=True, attention=True)
    assert len(found.tensors) == len(set(found.tensors))
    assert found.tensors[:2] == ["image", "patch_embed.proj.0/Conv:0"]
    assert "patch_embed" in found.tensors


# --- pairs ----------------------------------------------------------------------------------------


def test_attention_pairs_stand_at_the_packed_input(model: ir.Model) -> None:
    reason = "queries, keys and values of neighborhood attention"
    assert placed(model, attention=True).pairs == [
        Pair(f"{name}.attn.qkv/Add:0", (f"{name}.attn/NeighborhoodAttention2D",), reason)
        for name in BLOCKS
    ]


def test_residual_pairs_stand_at_the_shortcuts_and_behind_layer_scales(model: ir.Model) -> None:
    found = placed(model, residual=True).pairs
    assert [(pair.tensor, pair.readers) for pair in found] == [
        ("patch_embed", ("levels.0.blocks.0/Add",)),
        ("levels.0.blocks.0/Add:0", ("levels.0.blocks.0/Add_1",)),
        ("levels.0.blocks.0", ("levels.0.blocks.1/Add",)),
        ("levels.0.blocks.1/Add:0", ("levels.0.blocks.1/Add_1",)),
        ("levels.0.downsample.norm/LayerNormalization:0", ("levels.1.blocks.0/Add",)),
        ("levels.1.blocks.0/Add:0", ("levels.1.blocks.0/Add_1",)),
    ]
    assert {pair.reason for pair in found} == {"shortcut of a residual sum"}


def test_without_its_product_a_sum_has_no_pair(model: ir.Model) -> None:
    found = placed(model, residual=True, exclude=["*.proj/MatMul"]).pairs
    assert [pair.readers[0] for pair in found] == [
        "levels.0.blocks.0/Add_1", "levels.0.blocks.1/Add_1", "levels.1.blocks.0/Add_1"
    ]  # fmt: skip


def test_of_two_products_the_earlier_one_is_the_shortcut(rng: np.random.Generator) -> None:
    weights = {name: rng.standard_normal((8, 8)).astype(np.float32) for name in ("a", "b", "c")}
    model = graph(
        [
            node("MatMul", ["x", "a"], ["first"], "first"),
            node("MatMul", ["x", "b"], ["second"], "second"),
            node("Add", ["second", "first"], ["sum"], "sum"),
            node("MatMul", ["sum", "c"], ["y"], "last"),
        ],
        weights,
        inputs={"x": [4, 8]},
    )
    pair = Pair("first", ("sum",), "shortcut of a residual sum")
    assert placed(model, residual=True).pairs == [pair]


# --- rules ----------------------------------------------------------------------------------------


def products(
    *made: object,
    weights: dict[str, tuple[int, ...]],
    inputs: dict[str, Sequence[int | str]],
    outputs: Sequence[str],
) -> ir.Model:
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(shape).astype("f") for name, shape in weights.items()}
    return graph(made, arrays, inputs=inputs, outputs=outputs)


def gelu(name: str) -> object:
    """Something behind a product, so that it is not the head of an output."""
    return node("LayerNormalization", [name, f"{name}.scale"], [f"{name}.y"], f"{name}.norm")


@pytest.mark.parametrize(
    ("made", "weight", "inputs", "reason"),
    [
        (node("MatMul", ["x", "z"], ["m"], "p"), (1,), {"x": [4, 8], "z": [8, 6]},
         "the other factor is computed too"),
        (node("MatMul", ["w", "x"], ["m"], "p"), (5, 4), {"x": [4, 6]},
         "its weights are the first factor"),
        (node("MatMul", ["x", "w"], ["m"], "p"), (3, 8, 6), {"x": [3, 4, 8]},
         "its weights are 3 matrices, with columns of their own"),
        (node("Einsum", ["x", "w"], ["m"], "p", equation="ij,jk->ik"), (8, 6), {"x": [4, 8]},
         "Einsum: there is no quantized kernel for it"),
        (node("MatMul", ["x", "w"], ["m"], "p"), (8, 1), {"x": [4, 8]},
         "a product of a matrix and a vector: it has 1 output column"),
        (node("Gemm", ["x", "w"], ["m"], "p", transB=1), (1, 8), {"x": [4, 8]},
         "a product of a matrix and a vector: it has 1 output column"),
        (node("MatMul", ["x", "w"], ["m"], "p"), (8, 6), {"x": [1, 1, 8]},
         "a product of a vector and a matrix: its input has 1 row"),
        (node("Gemm", ["x", "w"], ["m"], "p", transA=1), (8, 6), {"x": [8, 1]},
         "a product of a vector and a matrix: its input has 1 row"),
    ],
)  # fmt: skip
def test_products_that_are_left_alone(
    made: object, weight: tuple[int, ...], inputs: dict[str, Sequence[int]], reason: str
) -> None:
    # The norm behind it keeps the product from being the head.
    columns = 1 if "column" in reason else 6
    weights = {"w": weight, "m.scale": (columns,)}
    model = products(made, gelu("m"), weights=weights, inputs=inputs, outputs=["m.y"])
    found = placed(model)
    assert (found.sites, found.skipped) == ([], {"p": reason})


@pytest.mark.parametrize(
    ("made", "weight", "axis"),
    [
        (node("Conv", ["x", "w"], ["m"], "p", group=4), (16, 2, 3, 3), 0),
        (node("Conv", ["x", "w"], ["m"], "p", group=8), (8, 1, 3, 3), 0),
        (node("ConvTranspose", ["x", "w"], ["m"], "p"), (8, 5, 2, 2), 1),
        (node("ConvTranspose", ["x", "w"], ["m"], "p", group=2), (8, 5, 2, 2), 1),
        (node("MatMul", ["x", "w"], ["m"], "p"), (9, 6), 1),
    ],
)
def test_the_axis_is_that_of_the_output_channels(
    made: object, weight: tuple[int, ...], axis: int
) -> None:
    weights = {"w": weight, "m.scale": (1,)}
    model = products(
        made, gelu("m"), weights=weights, inputs={"x": ["batch", 8, 9, 9]}, outputs=["m.y"]
    )
    assert placed(model).sites == [Site("p", made.op_type, "x", "w", axis)]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("transposed", "axis"), [(0, 1), (1, 0)])
def test_the_axis_of_a_gemm_is_that_of_its_columns(transposed: int, axis: int) -> None:
    weights = {"w": (6, 8) if transposed else (8, 6), "m.scale": (6,)}
    made = node("Gemm", ["x", "w"], ["m"], "p", transB=transposed)
    model = products(made, gelu("m"), weights=weights, inputs={"x": ["rows", 8]}, outputs=["m.y"])
    assert [site.axis for site in placed(model).sites] == [axis]


def test_a_weight_that_a_caller_can_replace_is_no_constant() -> None:
    model = products(
        node("MatMul", ["x", "w"], ["m"], "p"), gelu("m"),
        weights={"w": (8, 6), "m.scale": (6,)}, inputs={"x": [4, 8]}, outputs=["m.y"],
    )  # fmt: skip
    model.graph.inputs.append(model.graph.initializers["w"])
    assert placed(model).skipped == {"p": "the other factor is computed too"}


def test_patterns_and_the_option_for_the_head(model: ir.Model) -> None:
    found = placed(model, exclude=["levels.0.*", "*.fc1/MatMul"], include=["head/*", "*.fc1*"])
    assert nodes(found) == [
        "patch_embed.proj.0/Conv", "patch_embed.proj.1/Conv",
        *(name for name in block("levels.1.blocks.0") if "fc1" not in name), "head/Gemm",
    ]  # fmt: skip
    assert found.skipped["levels.0.downsample.reduction/Conv"] == "asked for (levels.0.*)"
    assert found.skipped["levels.1.blocks.0.mlp.fc1/MatMul"] == "asked for (*.fc1/MatMul)"
    # The picture is one, and so the head multiplies one row.
    row = "a product of a vector and a matrix: its input has 1 row"
    assert placed(model, head=True).skipped["head/Gemm"] == row
    # Nothing makes a constant of attention's factors.
    assert placed(model, include=["*"]).skipped == {
        name: ATTENTION for name in found.skipped if "Neighborhood" in name
    }


def test_float8_convolutions_need_16_channels(model: ir.Model) -> None:
    found = place(model, rules(model, FP8))
    few = {k: v for k, v in found.skipped.items() if k.endswith("Conv")}
    assert few == {
        "patch_embed.proj.0/Conv": "3 channels are too few for float8 convolutions, which take 16 "
        "or more",
        "patch_embed.proj.1/Conv": "8 channels are too few for float8 convolutions, which take 16 "
        "or more",
    }
    assert set(nodes(found)) == set(nodes(placed(model))) - set(few)


def test_a_user_adds_a_rule(model: ir.Model) -> None:
    class NoConvolutions:
        def verdict(self, node: ir.Node) -> Verdict | None:
            return Verdict(False, "no convolutions here") if node.op_type == "Conv" else None

    asked: list[Rule] = [*rules(model, INT8), NoConvolutions()]
    found = place(model, asked)
    reasons = [v for k, v in found.skipped.items() if k.endswith("Conv")]
    assert reasons == ["no convolutions here"] * 3


def test_what_cannot_be_quantized_is_refused(model: ir.Model) -> None:
    half = model.clone()
    convert(half, FORMATS["fp16"], ())
    with pytest.raises(ConversionError, match="float16 already"):
        placed(half)
    quantized = graph(
        [
            node("QuantizeLinear", ["x", "s"], ["q"], "quantize"),
            node("DequantizeLinear", ["q", "s"], ["y"], "dequantize"),
        ],
        {"s": np.float32(0.1)},
        inputs={"x": [2, 4]},
    )
    with pytest.raises(ConversionError, match="quantized already"):
        placed(quantized)


@pytest.mark.parametrize(
    ("rename", "message"), [("", "has no name"), ("head/Gemm", "the name head/Gemm of another")]
)
def test_nodes_must_have_names_of_their_own(
    rename: str, message: str, model: ir.Model, find: Callable[[str], ir.Node]
) -> None:
    find("levels.0.blocks.0.attn.qkv/MatMul").name = rename
    with pytest.raises(ConversionError, match=message):
        placed(model)


@pytest.fixture
def find(model: ir.Model) -> Callable[[str], ir.Node]:
    return lambda name: next(node for node in model.graph if node.name == name)
