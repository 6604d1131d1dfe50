"""Q/DQ nodes in a graph: where they stand, their scales, and what the numbers become."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from dinat_deploy.errors import ConversionError
from dinat_deploy.graph import schema
from dinat_deploy.graph.formats import FORMATS, QUANTIZED_FORMATS, QuantizedFormat
from dinat_deploy.graph.islands import find_islands
from dinat_deploy.graph.islands import rules as islands_rules
from dinat_deploy.graph.precision import convert
from dinat_deploy.graph.quantization.placement import place
from dinat_deploy.graph.quantization.records import Pair, Placement
from dinat_deploy.graph.quantization.rules import rules
from dinat_deploy.graph.quantization.sums import QuantizedSums
from dinat_deploy.graph.quantization.weights import capture
from dinat_deploy.graph.quantization.writer import Quantized, quantize
from dinat_deploy.graph.ranges import add_probes
from dinat_deploy.graph.simulation import simulate
from dinat_deploy.models.seeding import seeded_image
from tests.graph.quantization.graphs import check, graph, node, run

INT8, FP8 = QUANTIZED_FORMATS["int8"], QUANTIZED_FORMATS["fp8"]
FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
IMAGE = {"image": seeded_image((1, 3, 64, 64), 5)}
BOTH = pytest.mark.parametrize("form", [INT8, FP8], ids=["int8", "fp8"])
Load = Callable[[], ir.Model]


@pytest.fixture(scope="module")
def load(tiny_bundle: Path) -> Load:
    schema.register()
    return lambda: ir.load(tiny_bundle / "model.onnx")


@pytest.fixture(scope="module")
def ranges(load: Load) -> dict[str, float]:
    model = load()
    probes = add_probes(model)
    found = run(model, IMAGE)
    return {tensor: float(found[output]) for output, tensor in probes.tensors.items()}


@pytest.fixture(scope="module")
def logits(load: Load) -> np.ndarray:
    return run(load(), IMAGE)["logits"]


def written(
    model: ir.Model,
    ranges: dict[str, float],
    form: QuantizedFormat,
    rest: str = "fp32",
    *,
    sums: bool = False,
    pairs: bool = False,
) -> tuple[Placement, Quantized]:
    """Quantize in place, the rest in another type; ``sums`` leaves the products in float32."""
    asked = rules(model, form, include=["*"] if form is FP8 else [], exclude=["head/*"])
    placement = place(model, asked, residual=pairs, attention=pairs)
    weights = capture(model, placement)
    if rest != "fp32":
        low = FORMATS[rest]
        kept = [QuantizedSums(model.graph, placement)] if sums else []
        convert(model, low, find_islands(model, [*kept, *islands_rules(model, low)]))
    return placement, quantize(model, placement, ranges, form, weights)


def by_name(model: ir.Model) -> dict[str, ir.Node]:
    return {str(made.name): made for made in model.graph}


def constant(value: ir.Value | None) -> np.ndarray:
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()


# --- structure ------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("rest", ["fp32", "fp16", "bf16"])
def test_the_factors_of_every_site_are_quantized_and_nothing_else(
    rest: str, form: QuantizedFormat, load: Load, ranges: dict[str, float]
) -> None:
    model = load()
    body = [ir.to_proto(function) for function in model.functions.values()]
    placement, done = written(model, ranges, form, rest)
    check(model)
    assert done == Quantized(nodes=15, pairs=15, weights=15)
    nodes = by_name(model)
    for site in placement.sites:
        first, second = nodes[site.node].inputs[:2]
        kind = first.dtype
        assert second.dtype == nodes[site.node].outputs[0].dtype == kind
        dequantize, weight = first.producer(), second.producer()
        assert {dequantize.op_type, weight.op_type} == {"DequantizeLinear"}
        source = dequantize.inputs[0].producer()
        assert source.op_type == "QuantizeLinear"
        # The same scale and zero point on both sides, in the type that the node computes in.
        assert source.inputs[1:] == dequantize.inputs[1:]
        for pair, axis in ((dequantize, None), (weight, site.axis)):
            stored, scale, zero = pair.inputs
            assert (stored.dtype, scale.dtype, zero.dtype) == (form.data_type, kind, form.data_type)
            assert scale.shape == zero.shape
            assert not constant(zero).astype(np.float32).any()
            assert pair.attributes.get_int("axis") == axis
            channels = [] if axis is None else [stored.shape[axis]]
            assert list(scale.shape) == channels
        assert weight.inputs[0].is_initializer()
        assert site.weight not in model.graph.initializers
    counted = Counter(made.op_type for made in model.graph)
    assert (counted["QuantizeLinear"], counted["DequantizeLinear"]) == (15, 30)
    readers = {n.op_type for made in model.graph if made.op_type == "DequantizeLinear"
               for n in (use.node for use in made.outputs[0].uses())}  # fmt: skip
    assert readers == {"Conv", "MatMul"}
    assert [ir.to_proto(function) for function in model.functions.values()] == body != []
    assert {value.dtype for value in (*model.graph.inputs, *model.graph.outputs)} == {FLOAT}


def test_pairs_quantize_what_their_readers_read_and_no_other(
    load: Load, ranges: dict[str, float]
) -> None:
    model = load()
    placement, done = written(model, ranges, INT8, "fp16", pairs=True)
    check(model)
    assert done.pairs == 15 + len(placement.pairs) == 24
    nodes = by_name(model)
    for pair in placement.pairs:
        reader = nodes[pair.readers[0]]
        found = [v for v in reader.inputs if v.producer().op_type == "DequantizeLinear"] \
            if reader.op_type == "Add" else [reader.inputs[0]]  # fmt: skip
        assert len(found) == 1
        assert found[0].dtype == HALF
        assert found[0].producer().op_type == "DequantizeLinear"
        assert [use.node for use in found[0].uses()] == [reader]
    for made in nodes.values():
        if made.op_type in ("LayerNormalization", "Gelu", "Transpose", "ReduceMean"):
            assert made.inputs[0].producer().op_type != "DequantizeLinear"


def test_readers_of_a_tensor_share_a_pair_and_those_of_a_weight_its_values() -> None:
    weights = {"w": np.eye(4, dtype=np.float32), "v": np.ones((4, 4), np.float32)}
    model = graph(
        [
            node("MatMul", ["x", "w"], ["a"], "one"),
            node("MatMul", ["x", "v"], ["b"], "two"),
            node("Add", ["a", "b"], ["c"], "sum"),
            node("MatMul", ["c", "w"], ["y"], "three"),
        ],
        weights,
        inputs={"x": [4, 4]},
    )
    placement = place(model, rules(model, INT8, head=True), residual=True)
    assert placement.pairs == [Pair("a", ("sum",), "shortcut of a residual sum")]
    done = quantize(model, placement, dict.fromkeys("xac", 2.0), INT8, capture(model, placement))
    check(model)
    assert done == Quantized(nodes=3, pairs=3, weights=2)
    nodes = by_name(model)
    assert nodes["one"].inputs[0] is nodes["two"].inputs[0]
    assert nodes["one"].inputs[1] is nodes["three"].inputs[1]
    stored = [v for v in model.graph.initializers.values() if v.dtype == ir.DataType.INT8]
    assert sorted(str(value.name) for value in stored) == [
        "v/int8", "w/int8", "zero_point/int8", "zero_point/int8/4",
    ]  # fmt: skip


def test_a_weight_of_nodes_in_two_types_is_stored_for_each() -> None:
    weights = {"w": np.eye(4, dtype=np.float32) * 3}
    model = graph(
        [node("MatMul", ["x", "w"], ["a"], "one"), node("MatMul", ["a", "w"], ["y"], "two")],
        weights,
        inputs={"x": [4, 4]},
    )
    placement = place(model, rules(model, INT8, head=True))
    exact = capture(model, placement)
    convert(model, FORMATS["fp16"], {by_name(model)["two"]})
    done = quantize(model, placement, {"x": 1.0, "a": 1.0}, INT8, exact)
    check(model)
    assert done.weights == 2
    kinds = [by_name(model)[name].inputs[1].dtype for name in ("one", "two")]
    assert kinds == [HALF, FLOAT]
    assert "w" not in model.graph.initializers


def test_with_float32_sums_only_what_follows_the_bias_is_16_bit(
    load: Load, ranges: dict[str, float]
) -> None:
    model = load()
    placement, _ = written(model, ranges, INT8, "fp16", sums=True)
    check(model)
    nodes = by_name(model)
    for site in placement.sites:
        product = nodes[site.node]
        assert {value.dtype for value in product.inputs} == {FLOAT}
        bias = nodes.get(site.node.replace("MatMul", "Add"), product)
        assert bias.outputs[0].dtype == FLOAT
    for name in ("levels.0.blocks.0", "levels.1.blocks.0"):
        assert nodes[f"{name}/Add"].outputs[0].dtype == HALF
        assert nodes[f"{name}.mlp/Gelu"].inputs[0].dtype == HALF
        assert nodes[f"{name}.attn/NeighborhoodAttention2D"].inputs[0].dtype == HALF
        # From a norm to the integers there is no rounding in between.
        quantizer = nodes[f"{name}.mlp.fc1/MatMul"].inputs[0].producer().inputs[0].producer()
        assert quantizer.inputs[0].producer().op_type == "LayerNormalization"


# --- refusals -------------------------------------------------------------------------------------


def test_a_quantized_graph_is_not_quantized_again(load: Load, ranges: dict[str, float]) -> None:
    model = load()
    placement = place(model, rules(model, INT8))
    exact = capture(model, placement)
    quantize(model, placement, ranges, INT8, exact)
    with pytest.raises(ConversionError, match="quantized already"):
        quantize(model, placement, ranges, INT8, exact)
    with pytest.raises(ConversionError, match="quantized already"):
        place(model, [])


@pytest.mark.parametrize("op_type", ["QLinearMatMul", "MatMulInteger", "ConvInteger"])
def test_integer_operators_count_as_quantized(op_type: str, load: Load) -> None:
    model = load()
    made = ir.node(op_type, [], name="integers")
    model.graph.append(made)
    with pytest.raises(ConversionError, match=f"integers is a {op_type}"):
        place(model, [])


def product(opset: int = 20, weight: float = 1.0) -> ir.Model:
    """One product, no head by the option."""
    weights = {"w": np.full((4, 6), weight, np.float32)}
    inputs = {"x": [3, 4]}
    return graph([node("MatMul", ["x", "w"], ["y"], "p")], weights, inputs=inputs, opset=opset)


@pytest.mark.parametrize(
    ("found", "message"),
    [({}, "is not recorded"), ({"x": np.nan}, "is nan"), ({"x": np.inf}, "is inf")],
)
def test_a_range_that_is_missing_is_named_and_the_graph_unchanged(
    found: dict[str, float], message: str
) -> None:
    model = product()
    before = ir.to_proto(model)
    placement = place(model, rules(model, INT8, head=True))
    with pytest.raises(ConversionError, match=f"tensor x, which p reads, {message}"):
        quantize(model, placement, found, INT8, capture(model, placement))
    assert ir.to_proto(model) == before


@pytest.mark.parametrize(
    ("opset", "form", "rest", "message"),
    [
        (18, INT8, "fp16", "opset 18, and int8 beside 16-bit types needs 19 or later"),
        (17, FP8, "fp32", r"opset 17, and float8 \(E4M3\) beside float32 needs 19 or later"),
    ],
)
def test_an_opset_without_such_nodes_is_refused(
    opset: int, form: QuantizedFormat, rest: str, message: str
) -> None:
    model = product(opset)
    placement = place(model, rules(model, form, head=True))
    exact = capture(model, placement)
    if rest == "fp16":
        convert(model, FORMATS["fp16"], ())
    with pytest.raises(ConversionError, match=message) as caught:
        quantize(model, placement, {"x": 1.0}, form, exact)
    assert "--opset 19" in caught.value.cure


@pytest.mark.parametrize("opset", [17, 18, 19, 20, 21])
def test_int8_beside_float32_takes_every_opset(opset: int) -> None:
    model = product(opset)
    placement = place(model, rules(model, INT8, head=True))
    quantize(model, placement, {"x": 1.0}, INT8, capture(model, placement))
    check(model)
    x = np.full((3, 4), 0.5, np.float32)
    assert run(model, {"x": x})["y"] == pytest.approx(np.full((3, 6), 2.0), rel=0.02)


def test_another_models_placement_is_refused(load: Load, ranges: dict[str, float]) -> None:
    placement = place(load(), rules(load(), INT8), residual=True)
    with pytest.raises(ConversionError, match="no node patch_embed.proj.0/Conv"):
        quantize(product(), placement, ranges, INT8, {})
    model = load()
    sum_node = by_name(model)["levels.0.blocks.0/Add"]
    sum_node.replace_input_with(0, model.graph.inputs[0])
    with pytest.raises(ConversionError, match="Add does not read the tensor patch_embed"):
        quantize(model, placement, ranges, INT8, capture(model, placement))


# --- numbers --------------------------------------------------------------------------------------


def test_raised_scales_are_reported() -> None:
    model = product(weight=1e-4)
    placement = place(model, rules(model, INT8, head=True))
    exact = capture(model, placement)
    convert(model, FORMATS["fp16"], ())
    done = quantize(model, placement, {"x": 0.0}, INT8, exact)
    assert done.raised == {"w": 6, "x/to_float16": 1}


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_weights_are_quantized_with_the_scale_as_it_is_stored(
    kind: str, rng: np.random.Generator
) -> None:
    weight = rng.standard_normal((4, 6)).astype(np.float32) / 9
    model = product()
    model.graph.initializers["w"].const_value = ir.tensor(weight)
    placement = place(model, rules(model, INT8, head=True))
    exact = capture(model, placement)
    convert(model, FORMATS[kind], ())
    quantize(model, placement, {"x": 1.0}, INT8, exact)
    dequantize = by_name(model)["p"].inputs[1].producer()
    stored, scale = constant(dequantize.inputs[0]), constant(dequantize.inputs[1])
    assert scale.dtype == FORMATS[kind].numpy
    wide = scale.astype(np.float32)
    assert not np.array_equal(wide, np.abs(weight).max(0) / np.float32(127))
    assert np.array_equal(stored, np.rint(weight / wide).clip(-127, 127).astype(np.int8))


def fake(array: np.ndarray, largest: np.ndarray, form: QuantizedFormat) -> np.ndarray:
    """Quantized and dequantized, by numpy alone, as QuantizeLinear does it: int8 has a -128."""
    scale = (np.asarray(largest) / form.largest).astype(np.float32)
    found = array / scale
    if form is INT8:
        return np.rint(found).clip(-128, 127) * scale
    return found.clip(-448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale


@BOTH
@pytest.mark.parametrize(
    ("op_type", "shape", "attributes"),
    [
        ("MatMul", (4, 6), {}),
        ("Gemm", (6, 4), {"transB": 1, "alpha": 0.5}),
        ("Conv", (6, 2, 3, 3), {"group": 2}),
        ("ConvTranspose", (4, 6, 2, 2), {}),
    ],
)
def test_a_product_is_that_of_the_rounded_factors(
    op_type: str,
    shape: tuple[int, ...],
    attributes: dict[str, object],
    form: QuantizedFormat,
    rng: np.random.Generator,
) -> None:
    inputs = [3, 4, 5, 5] if "Conv" in op_type else [3, 4]
    weight = rng.standard_normal(shape).astype(np.float32)
    made = node(op_type, ["x", "w"], ["y"], "p", **attributes)
    model = graph([made], {"w": weight}, inputs={"x": inputs})
    placement = place(model, rules(model, form, head=True, include=["*"]))
    axis = placement.sites[0].axis
    x = rng.standard_normal(inputs).astype(np.float32)
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(others, keepdims=True)
    plain = graph([made], {"w": fake(weight, largest, form)}, inputs={"x": inputs})
    expected = run(plain, {"x": fake(x, np.float32(0.9), form)}, exact=True)["y"]
    quantize(model, placement, {"x": 0.9}, form, capture(model, placement))
    check(model)
    assert np.abs(x).max() > 0.9  # some values are clipped
    for exact in (True, False):  # with and without integer kernels
        found = run(model, {"x": x}, exact=exact)["y"]
        assert found == pytest.approx(expected, abs=1e-5 * float(np.abs(expected).max()))


@BOTH
@pytest.mark.parametrize("rest", ["fp32", "fp16"])
def test_values_beyond_the_range_saturate(form: QuantizedFormat, rest: str) -> None:
    weights = {"w": np.eye(4, dtype=np.float32)}
    model = graph([node("MatMul", ["x", "w"], ["y"], "p")], weights, inputs={"x": [3, 4]})
    placement = place(model, rules(model, form, head=True))
    exact = capture(model, placement)
    if rest == "fp16":
        convert(model, FORMATS[rest], ())
    quantize(model, placement, {"x": 2.0}, form, exact)
    x = np.array([[2.0, 2.1, 50.0, 6e4], [-2.0, -2.1, -50.0, -6e4], [0, 0, 0, 0]], np.float32)
    found = run(model, {"x": x})["y"]
    least = -2 * 128 / 127 if form is INT8 else -2
    assert found == pytest.approx(np.clip(x, least, 2), rel=2e-3)


@pytest.mark.parametrize(
    ("form", "rest", "sums"),
    [
        (INT8, "fp32", False),
        (INT8, "fp16", False),
        (INT8, "fp16", True),
        (INT8, "bf16", True),
        (FP8, "fp32", False),
        (FP8, "fp16", True),
    ],
)
def test_a_whole_model_runs_and_is_close(
    form: QuantizedFormat,
    rest: str,
    sums: bool,
    load: Load,
    ranges: dict[str, float],
    logits: np.ndarray,
) -> None:
    def model() -> ir.Model:
        made = load()
        written(made, ranges, form, rest, sums=sums)
        return made

    limit = np.abs(logits).max() * (0.03 if form is INT8 else 0.12)
    found = {}
    if rest != "bf16":  # ONNX Runtime has few operators for it
        found["as it is"] = run(model(), IMAGE)["logits"]
    if rest != "fp32":
        for inline in (True, False):
            simulated = model()
            simulate(simulated, FORMATS[rest], inline=inline)
            check(simulated)
            found[f"simulated {inline}"] = run(simulated, IMAGE)["logits"]
    for way, result in found.items():
        assert result.dtype == np.float32
        assert 0 < np.abs(result - logits).max() < limit, way


@BOTH
def test_the_simulation_of_16_bit_scales_is_exact(
    form: QuantizedFormat, rng: np.random.Generator
) -> None:
    weight = rng.standard_normal((4, 6)).astype(np.float32)
    model = graph([node("MatMul", ["x", "w"], ["y"], "p")], {"w": weight}, inputs={"x": [3, 4]})
    placement = place(model, rules(model, form, head=True))
    exact = capture(model, placement)
    convert(model, FORMATS["fp16"], ())
    quantize(model, placement, {"x": 1.5}, form, exact)
    simulate(model, FORMATS["fp16"], inline=True)

    def half(array: np.ndarray) -> np.ndarray:
        return array.astype(np.float16).astype(np.float32)

    def rounded(array: np.ndarray, largest: np.ndarray) -> np.ndarray:
        scale = half(np.asarray(largest / form.largest))
        return half(fake(array, scale * np.float32(form.largest), form))

    x = rng.standard_normal((3, 4)).astype(np.float32)
    factors = rounded(half(x), np.float32(1.5)), rounded(weight, np.abs(weight).max(0))
    expected = half(factors[0] @ factors[1])
    found = run(model, {"x": x}, exact=True)["y"]
    assert found == pytest.approx(expected, rel=2**-10)  # a sum in another order may round up


# --- files ----------------------------------------------------------------------------------------


@BOTH
def test_the_same_bytes_each_time_and_a_quarter_of_the_weights(
    form: QuantizedFormat, load: Load, ranges: dict[str, float], tmp_path: Path
) -> None:
    for name in ("one", "two"):
        model = load()
        placement, _ = written(model, ranges, form, "fp16")
        ir.save(model, tmp_path / f"{name}.onnx")
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()
    before = load().graph.initializers
    stored = model.graph.initializers
    for site in placement.sites:
        small = stored[f"{site.weight}/{form.precision}"].const_value
        assert small.nbytes * 4 == before[site.weight].const_value.nbytes


def test_weights_in_a_file_of_their_own(
    load: Load, ranges: dict[str, float], tmp_path: Path
) -> None:
    ir.save(load(), tmp_path / "large.onnx", external_data="large.onnx.data")
    model = ir.load(tmp_path / "large.onnx")
    placement, _ = written(model, ranges, INT8)
    values = [model.graph.initializers[f"{s.weight}/int8"].const_value for s in placement.sites]
    assert all(isinstance(value, ir.LazyTensor) for value in values)
    ir.save(model, tmp_path / "int8.onnx", external_data="int8.onnx.data")
    onnx.checker.check_model(str(tmp_path / "int8.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(tmp_path / "int8.onnx")
    plain = load()
    written(plain, ranges, INT8)
    assert np.array_equal(session.run(None, IMAGE)[0], run(plain, IMAGE)["logits"])
