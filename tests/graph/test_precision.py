"""16-bit types in a graph: which nodes take them, where the Casts stand, what the numbers become."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from dinat_deploy.bundle import open_bundle
from dinat_deploy.errors import ConversionError
from dinat_deploy.graph import schema
from dinat_deploy.graph.formats import FORMATS, measure_rounding
from dinat_deploy.graph.islands import accepted_types, find_islands, rules, weight_roundings
from dinat_deploy.graph.precision import Conversion, check_convertible, convert
from dinat_deploy.graph.ranges import Ranges, add_probes, attention_scales, record
from dinat_deploy.graph.simulation import simulate
from dinat_deploy.models.seeding import seeded_image
from tests.graph.op_models import op_model

FP16, BF16 = FORMATS["fp16"], FORMATS["bf16"]
FLOAT = ir.DataType.FLOAT
IMAGE = {"image": seeded_image((1, 3, 64, 64), 5)}


@pytest.fixture
def model(tiny_bundle: Path) -> ir.Model:
    schema.register()
    return ir.load(tiny_bundle / "model.onnx")


def converted(model: ir.Model, precision: str, **options: object) -> dict[str, str]:
    """Convert in place by all rules; node -> reason to stay in float32."""
    form = FORMATS[precision]
    options = {"weights": weight_roundings(model, form), **options}
    islands = find_islands(model, rules(model, form, **options))
    convert(model, form, islands)
    return {str(node.name): reason for node, reason in islands.items()}


def run(model: ir.Model, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def check(model: ir.Model) -> None:
    """The file is valid, in its types too."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)


def types(node: ir.Node) -> set[str]:
    """Floating-point types that a node reads and writes."""
    values = [value for value in (*node.inputs, *node.outputs) if value is not None]
    return {value.dtype.name for value in values if value.dtype is not None} - {"INT64"}


@pytest.mark.parametrize("form", [FP16, BF16], ids=["fp16", "bf16"])
def test_every_node_has_one_type(form: object, model: ir.Model) -> None:
    islands = converted(model, form.precision)
    check(model)
    low = form.data_type.name
    for node in model.graph:
        if node.op_type == "Cast":
            assert types(node) == {"FLOAT", low}
        else:
            assert types(node) == {"FLOAT" if node.name in islands else low}, node.name
    kept = Counter(node.op_type for node in model.graph if node.name in islands)
    expected = {"LayerNormalization": 9, "ReduceMean": 1, "Gemm": 1}
    if form is BF16:  # ONNX knows no bfloat16 convolution before opset 22
        expected |= {"Conv": 3, "Transpose": 2}
    assert kept == expected
    assert islands["head/Gemm"] == "the head of the output logits"
    assert {value.dtype for value in (*model.graph.inputs, *model.graph.outputs)} == {FLOAT}


def test_each_tensor_is_cast_once_and_never_back(model: ir.Model) -> None:
    converted(model, "fp16")
    casts = [node for node in model.graph if node.op_type == "Cast"]
    assert len(casts) == 16
    assert len({(cast.inputs[0].name, cast.outputs[0].dtype) for cast in casts}) == len(casts)
    for cast in casts:
        assert cast.inputs[0].dtype != cast.outputs[0].dtype
        assert cast.inputs[0].producer() not in casts
        assert cast.outputs[0].uses() or cast.outputs[0].is_graph_output()
    # Each norm reads one widened tensor and is read narrowed, but for the first, which the next
    # norm reads as it is, and the last, which the head does.
    for node in model.graph:
        if node.op_type == "LayerNormalization" and "norm2" in str(node.name):
            assert node.inputs[0].producer().op_type == "Cast"
            assert [use.node.op_type for use in node.outputs[0].uses()] == ["Cast"]


def test_the_body_stays_attached_and_unchanged(model: ir.Model) -> None:
    before = [ir.to_proto(function) for function in model.functions.values()]
    converted(model, "fp16")
    assert [ir.to_proto(function) for function in model.functions.values()] == before != []
    nodes = [node for node in model.graph if node.domain == "dinat"]
    assert [types(node) for node in nodes] == [{"FLOAT16"}] * 3  # qkv, rpb and output


def test_float16_runs_and_is_close(tiny_bundle: Path, model: ir.Model) -> None:
    converted(model, "fp16")
    for case in open_bundle(tiny_bundle).reference():
        found = run(model, case.inputs)["logits"]
        assert found.dtype == np.float32
        assert 0 < np.abs(found - case.outputs["logits"]).max() < 5e-3


def test_the_same_numbers_as_the_converter_of_onnxruntime(
    tiny_bundle: Path, model: ir.Model
) -> None:
    islands = converted(model, "fp16")
    theirs = convert_float_to_float16(
        onnx.load(tiny_bundle / "model.onnx"),
        keep_io_types=True,
        op_block_list=[],
        node_block_list=list(islands),
    )
    ours = {tensor.name: tensor for tensor in ir.to_proto(model).graph.initializer}
    for tensor in theirs.graph.initializer:
        assert tensor.data_type == ours[tensor.name].data_type, tensor.name
        assert np.array_equal(
            numpy_helper.to_array(tensor), numpy_helper.to_array(ours[tensor.name])
        )
    session = onnxruntime.InferenceSession(theirs.SerializeToString())
    # Theirs rounds what the float32 nodes return as well.
    assert np.abs(session.run(None, IMAGE)[0] - run(model, IMAGE)["logits"]).max() < 4e-3
    assert len(ir.to_proto(model).graph.node) < len(theirs.graph.node)


def test_inputs_and_outputs_can_be_converted_too(model: ir.Model) -> None:
    form = FP16
    islands = find_islands(model, rules(model, form))
    convert(model, form, islands, form.data_type)
    check(model)
    assert model.graph.inputs[0].dtype == model.graph.outputs[0].dtype == form.data_type
    assert [output.name for output in model.graph.outputs] == ["logits"]
    found = run(model, {"image": IMAGE["image"].astype(np.float16)})["logits"]
    assert found.dtype == np.float16


def test_taps_keep_their_names(tiny_bundle: Path, model: ir.Model) -> None:
    converted(model, "bf16")
    names = {value.name for node in model.graph for value in node.outputs}
    assert set(open_bundle(tiny_bundle).manifest.taps.values()) <= names


def test_the_same_graph_gives_the_same_bytes(tiny_bundle: Path) -> None:
    def bytes_of() -> bytes:
        model = ir.load(tiny_bundle / "model.onnx")
        converted(model, "bf16")
        return ir.to_proto(model).SerializeToString(deterministic=True)

    assert bytes_of() == bytes_of()


def test_a_weight_that_both_types_need_is_stored_in_both(
    tiny_bundle: Path, model: ir.Model
) -> None:
    shared, other = "levels.0.blocks.0.mlp.fc2.bias", "levels.0.blocks.1.mlp.fc2.bias"
    node = next(n for n in model.graph if n.name == "levels.0.blocks.1.mlp.fc2/Add")
    node.replace_input_with(
        [value.name for value in node.inputs].index(other), model.graph.initializers[shared]
    )
    exact = model.graph.initializers[shared].const_value.numpy()
    converted(model, "fp16", keep=["levels.0.blocks.1.mlp.fc2/Add"])
    check(model)
    held = model.graph.initializers
    assert np.array_equal(held[shared].const_value.numpy(), exact)
    assert np.array_equal(held[f"{shared}/float16"].const_value.numpy(), exact.astype(np.float16))
    assert held["levels.0.blocks.0.mlp.fc2.weight.T"].dtype == FP16.data_type
    assert not [name for name in held if name.endswith("/float16") and name != f"{shared}/float16"]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("layout", schema.OP_TYPES)
def test_the_operator_with_and_without_its_packing(
    layout: str, precision: str, rng: np.random.Generator
) -> None:
    proto = op_model(
        (1, 8, 9, 2, 16), kernel_size=(3, 3), dilation=(2, 1), scale=0.25, layout=layout,
        rpb=rng.standard_normal((2, 5, 5)).astype(np.float32),
    )  # fmt: skip
    model = ir.from_proto(proto)
    feeds = {
        value.name: rng.standard_normal(tuple(value.shape)).astype(np.float32)
        for value in model.graph.inputs
    }
    expected = run(model, feeds)["output"]
    assert converted(model, precision) == {}
    check(model)
    simulate(model, FORMATS[precision], inline=True)
    error = np.abs(run(model, feeds)["output"] - expected).max()
    assert 0 < error < {"fp16": 5e-3, "bf16": 5e-2}[precision]


def test_what_onnx_defines_decides() -> None:
    assert not accepted_types("", "Conv", 20).accepts(0, BF16.data_type)
    assert accepted_types("", "Conv", 22).accepts(0, BF16.data_type)
    assert accepted_types("", "Conv", 20).accepts(1, FP16.data_type)
    assert not accepted_types("", "Resize", 20).accepts(2, FP16.data_type)  # scales are float32
    assert accepted_types("", "Resize", 20).accepts(0, FP16.data_type)
    assert accepted_types("dinat", schema.PACKED, 20).accepts(1, BF16.data_type)
    assert accepted_types("com.microsoft", "Gelu", 20) is None
    assert accepted_types("", "Frobnicate", 20) is None


def small_model(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray]) -> ir.Model:
    """x [2, 4] -> y, float32, types inferred."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])
    graph = helper.make_graph(
        nodes, "g", [x], [y], [numpy_helper.from_array(w, name) for name, w in weights.items()]
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def test_sizes_and_foreign_operators_stay_as_they_are() -> None:
    node = helper.make_node
    model = small_model(
        [
            node("Shape", ["x"], ["shape"], "shape"),
            node("Cast", ["shape"], ["sizes"], "sizes", to=TensorProto.FLOAT),
            node("Mul", ["sizes", "half"], ["halves"], "halves"),
            node("Cast", ["halves"], ["rows"], "rows", to=TensorProto.INT64),
            node("Expand", ["x", "rows"], ["a"], "a"),
            node("Less", ["a", "a"], ["less"], "less"),
            node("Cast", ["less"], ["mask"], "mask", to=TensorProto.FLOAT),
            node("Mul", ["a", "mask"], ["y"], "y"),
        ],
        {"half": np.float32([1.0, 1.0])},
    )
    reasons = converted(model, "fp16")
    check(model)
    assert list(reasons) == ["less"]
    assert "compares" in reasons["less"]
    by_name = {node.name: node for node in model.graph}
    assert by_name["halves"].outputs[0].dtype == FLOAT  # arithmetic on sizes
    assert by_name["y"].outputs[0].dtype == FP16.data_type
    assert by_name["shape"].inputs[0].name == "x"  # no Cast for its sake
    assert by_name["a"].inputs[0].dtype == FP16.data_type


def test_values_that_only_move_between_float32_nodes_are_not_rounded() -> None:
    node = helper.make_node
    ones = np.ones(4, np.float32)
    model = small_model(
        [
            node("LayerNormalization", ["x", "w"], ["a"], "first"),
            node("Reshape", ["a", "shape"], ["b"], "reshape"),
            node("Transpose", ["b"], ["c"], "transpose", perm=[1, 0]),
            node("LayerNormalization", ["c", "v"], ["d"], "second"),
            node("Relu", ["d"], ["y"], "relu"),
        ],
        {"w": ones, "v": ones, "shape": np.int64([4, 2])},
    )
    reasons = converted(model, "bf16")
    assert list(reasons) == ["first", "reshape", "transpose", "second", "relu"]
    assert reasons["reshape"] == "Reshape between float32 nodes"


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_converted_model_is_not_converted_again(precision: str, model: ir.Model) -> None:
    converted(model, precision)
    name = FORMATS[precision].name
    with pytest.raises(ConversionError, match=f"The model is in {name} already"):
        check_convertible(model)


def test_quantized_models_and_subgraphs_are_refused() -> None:
    node = helper.make_node
    quantized = small_model(
        [
            node("QuantizeLinear", ["x", "s"], ["q"], "quantize"),
            node("DequantizeLinear", ["q", "s"], ["y"], "dequantize"),
        ],
        {"s": np.float32(0.1)},
    )
    with pytest.raises(ConversionError, match="quantized already .node quantize"):
        convert(quantized, FP16, {})
    branch = helper.make_graph(
        [node("Relu", ["x"], ["z"])], "branch", [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )  # fmt: skip
    branching = small_model(
        [node("If", ["c"], ["y"], "choice", then_branch=branch, else_branch=branch)],
        {"c": np.bool_(True)},
    )
    with pytest.raises(ConversionError, match=r"choice \(If\) holds a subgraph"):
        convert(branching, FP16, {})


# --- ranges ---------------------------------------------------------------------------------------


def test_recorded_ranges_are_those_of_the_tensors(tiny_bundle: Path) -> None:
    plain = ir.load(tiny_bundle / "model.onnx")
    values = [v for node in plain.graph for v in node.outputs if not v.is_graph_output()]
    plain.graph.outputs.extend(values)
    tensors = {**IMAGE, **run(plain, IMAGE)}

    probed = ir.load(tiny_bundle / "model.onnx")
    scales = attention_scales(probed)
    probes = add_probes(probed)
    ranges = Ranges()
    small = {"image": IMAGE["image"] * 0.5}
    for feeds in (IMAGE, small):
        record(ranges, probes, run(probed, feeds), scales)
    assert ranges.inputs == 2
    assert set(ranges.tensors) == set(tensors)
    assert ranges.tensors["image"] == np.abs(IMAGE["image"]).max()
    later = {name: np.abs(array).max() for name, array in run(plain, small).items()}
    for name, array in tensors.items():
        expected = max(np.abs(array).max(), later.get(name, 0.0))
        assert ranges.tensors[name] == pytest.approx(expected, rel=1e-5), name


@pytest.mark.parametrize("layout", schema.OP_TYPES)
@pytest.mark.parametrize("opset", [17, 20])
def test_scores_stay_below_their_bound(opset: int, layout: str, rng: np.random.Generator) -> None:
    shape, scale = (1, 5, 6, 3, 8), 0.3
    proto = op_model(
        shape, kernel_size=(5, 5), dilation=(1, 1), scale=scale, layout=layout, opset=opset
    )
    query, key, value = rng.standard_normal((3, *shape)).astype(np.float32)
    if layout == schema.PACKED:
        feeds = {"qkv": np.stack([query, key, value], axis=3).reshape(1, 5, 6, -1)}
    else:
        feeds = {"query": query, "key": key, "value": value}
    model = ir.from_proto(proto)
    scales = attention_scales(model)
    probes = add_probes(model)
    ranges = Ranges()
    record(ranges, probes, run(model, feeds), scales)
    tokens = {"q": query.reshape(30, 3, 8), "k": key.reshape(30, 3, 8)}
    exact = scale * np.einsum("ihd,jhd->hij", tokens["q"], tokens["k"])
    longest = {name: np.linalg.norm(array, axis=-1).max(0) for name, array in tokens.items()}
    assert ranges.scores["na"] == pytest.approx(scale * (longest["q"] * longest["k"]).max())
    assert np.abs(exact).max() <= ranges.scores["na"]


def test_a_model_that_is_broken_in_float32_is_named() -> None:
    model = small_model([helper.make_node("Exp", ["x"], ["y"], "exp")], {})
    probes = add_probes(model)
    feeds = {"x": np.full((2, 4), 100, np.float32)}
    with pytest.raises(ConversionError, match="already computes inf in the tensor y"):
        record(Ranges(), probes, run(model, feeds), {})


# --- reasons --------------------------------------------------------------------------------------


def test_a_residual_stream_that_is_too_large_stays_in_float32_all_along(model: ir.Model) -> None:
    stream = ["levels.0.blocks.0/Add:0", "levels.0.blocks.0", "levels.0.blocks.1/Add:0"]
    large = Ranges(tensors=dict.fromkeys(stream, 70000.0))
    reasons = converted(model, "fp16", ranges=large)
    check(model)
    adds = [
        "levels.0.blocks.0/Add", "levels.0.blocks.0/Add_1", "levels.0.blocks.1/Add",
        "levels.0.blocks.1/Add_1",  # reads it
    ]  # fmt: skip
    told = {name: reason for name, reason in reasons.items() if "reaches" in reason}
    assert list(told) == adds
    assert told[adds[0]] == (
        "levels.0.blocks.0/Add:0 reaches 7e+04, and 1.64e+04 is the most that float16 is trusted "
        "with"
    )
    for node in model.graph:
        for value in node.outputs:
            if value.name in stream:
                assert value.dtype == FLOAT
                assert "Cast" not in {use.node.op_type for use in value.uses()}


@pytest.mark.parametrize(("margin", "count"), [(0.25, 2), (0.5, 0)])
def test_the_margin_decides(margin: float, count: int, model: ir.Model) -> None:
    ranges = Ranges(tensors={"levels.0.blocks.0.mlp.fc1/Add:0": 20000.0})
    reasons = converted(model, "fp16", ranges=ranges, margin=margin)
    told = [name for name, reason in reasons.items() if "reaches" in reason]
    assert told == ["levels.0.blocks.0.mlp.fc1/Add", "levels.0.blocks.0.mlp/Gelu"][:count]


def test_attention_with_large_scores_stays_in_float32(model: ir.Model) -> None:
    name = "levels.0.blocks.1.attn/NeighborhoodAttention2D"
    reasons = converted(model, "fp16", ranges=Ranges(scores={name: 1e5}))
    check(model)
    assert [n for n, reason in reasons.items() if "attention scores may reach 1e+05" in reason] == [
        name
    ]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (1e-5, "rounding to float16 changes levels.0.blocks.0.gamma1 by 0.1%: 100%"),
        (1e5, "16 of 16 values of levels.0.blocks.0.gamma1 are too large for float16"),
        (0.5, None),
    ],
)
def test_constants_that_float16_cannot_hold(
    value: float, reason: str | None, model: ir.Model
) -> None:
    gamma = np.full(16, value, np.float32)
    model.graph.initializers["levels.0.blocks.0.gamma1"].const_value = ir.tensor(gamma)
    found = converted(model, "fp16").get("levels.0.blocks.0/Mul")
    if reason is None:
        assert found is None
    else:
        assert found is not None
        assert found.startswith(reason)
    check(model)


def test_patterns_name_nodes_to_keep(model: ir.Model) -> None:
    reasons = converted(model, "bf16", keep=["levels.1.*", "*.qkv/MatMul"])
    for node in model.graph:
        name = str(node.name)
        if name.startswith("levels.1.") and node.op_type != "Cast":
            assert reasons[name] == "asked for (levels.1.*)"
        elif name.endswith("qkv/MatMul"):
            assert reasons[name] == "asked for (*.qkv/MatMul)"


# --- numbers --------------------------------------------------------------------------------------


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_rounding_is_measured_value_by_value(values: list[float]) -> None:
    array = np.array(values, np.float32).clip(-1e6, 1e6)
    found = measure_rounding(array, FP16)
    with np.errstate(over="ignore"):
        pairs = [(float(x), float(np.float16(x))) for x in array]
    assert found.values == len(pairs)
    assert found.overflowed == sum(not np.isfinite(r) for _, r in pairs)
    assert found.subnormal == sum(0 < abs(x) < 2**-14 for x, _ in pairs)
    assert found.lost == sum(r == 0 != x for x, r in pairs)
    power = sum(x * x for x, _ in pairs)
    noise = sum((x - r) ** 2 for x, r in pairs if np.isfinite(r))
    assert found.error == pytest.approx(
        np.sqrt(noise / power) if power else 0.0, rel=1e-3, abs=1e-9
    )


def test_more_values_than_a_block_are_measured_alike(rng: np.random.Generator) -> None:
    array = rng.standard_normal((700, 901)).astype(np.float32)
    expected = array.astype(ml_dtypes.bfloat16).astype(np.float32) - array
    found = measure_rounding(array, BF16)
    assert found.values == array.size
    assert found.error == pytest.approx(np.linalg.norm(expected) / np.linalg.norm(array), rel=1e-4)


@pytest.mark.parametrize("form", [FP16, BF16], ids=["fp16", "bf16"])
def test_the_simulation_rounds_every_tensor_where_it_is_written(
    form: object, rng: np.random.Generator
) -> None:
    weight = rng.standard_normal((4, 4)).astype(np.float32)
    model = small_model(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"], "product"),
            helper.make_node("Mul", ["a", "c"], ["b"], "product by a constant"),
            helper.make_node("Relu", ["b"], ["y"], "relu"),
        ],
        {"w": weight, "c": np.float32(1.7)},
    )
    assert convert(model, form, {}) == Conversion(converted=3, casts=2)
    simulate(model, form, inline=True)
    assert {value.dtype for value in model.graph.initializers.values()} == {FLOAT}
    x = rng.standard_normal((2, 4)).astype(np.float32)

    def low(array: np.ndarray) -> np.ndarray:
        return array.astype(form.numpy).astype(np.float32)

    a = low((low(x).astype(np.float64) @ low(weight)).astype(np.float32))
    expected = np.maximum(low(a * low(np.float32(1.7))), 0)
    found = run(model, {"x": x})["y"]
    # The sum's order may decide a tie.
    assert np.count_nonzero(found != expected) <= 1
    assert np.abs(found - expected).max() <= np.abs(expected).max() * 2**-7


def test_the_simulation_shows_an_overflow_that_onnxruntime_hides() -> None:
    model = small_model(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"], "product"),
            helper.make_node("Mul", ["a", "c"], ["y"], "scaled"),
        ],
        {"w": np.full((4, 4), 1000, np.float32), "c": np.float32(1e-3)},
    )
    feeds = {"x": np.full((2, 4), 30, np.float32)}
    convert(model, FP16, {})
    assert np.isfinite(run(model, feeds)["y"]).all()  # 120000 in between
    simulate(model, FP16, inline=False)
    assert np.isinf(run(model, feeds)["y"]).all()
