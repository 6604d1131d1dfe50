"""A graph with switches is the float32 model with all of them off, the quantized one with all on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from dinat_deploy.errors import ConversionError
from dinat_deploy.graph import schema
from dinat_deploy.graph.formats import FORMATS, QUANTIZED_FORMATS
from dinat_deploy.graph.islands import data_nodes, find_islands
from dinat_deploy.graph.islands import rules as islands_rules
from dinat_deploy.graph.precision import convert
from dinat_deploy.graph.quantization.placement import place
from dinat_deploy.graph.quantization.records import Placement, Site
from dinat_deploy.graph.quantization.rules import rules
from dinat_deploy.graph.quantization.switches import (
    ERRORS,
    SWITCHES,
    add_quantization_errors,
    add_quantization_switches,
    add_rounding_errors,
    add_rounding_switches,
)
from dinat_deploy.graph.quantization.weights import capture
from dinat_deploy.graph.quantization.writer import quantize
from dinat_deploy.graph.ranges import add_probes
from dinat_deploy.graph.simulation import simulate
from dinat_deploy.models.seeding import seeded_image

INT8, FP8, FP16 = QUANTIZED_FORMATS["int8"], QUANTIZED_FORMATS["fp8"], FORMATS["fp16"]
IMAGE = seeded_image((1, 3, 64, 64), 5)
Run = Callable[..., dict[str, np.ndarray]]


def session(model: ir.Model) -> Run:
    """Runs a model node by node as it is written: fused nodes would sum up in another order."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    made = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in made.get_outputs()]

    def run(switches: np.ndarray | None = None) -> dict[str, np.ndarray]:
        feeds = {"image": IMAGE}
        if switches is not None:
            feeds[SWITCHES] = switches.astype(np.float32)
        return dict(zip(names, made.run(names, feeds), strict=True))

    return run


@pytest.fixture(scope="module")
def load(tiny_bundle: Path) -> Callable[[], ir.Model]:
    schema.register()
    return lambda: ir.load(tiny_bundle / "model.onnx")


@pytest.fixture(scope="module")
def float32(load: Callable[[], ir.Model]) -> dict[str, np.ndarray]:
    return session(load())()


@pytest.fixture(scope="module")
def ranges(load: Callable[[], ir.Model]) -> dict[str, float]:
    model = load()
    probes = add_probes(model)
    found = session(model)()
    return {tensor: float(found[output]) for output, tensor in probes.tensors.items()}


def everywhere(model: ir.Model, precision: str) -> Placement:
    form = QUANTIZED_FORMATS[precision]
    return place(model, rules(model, form), residual=True, attention=True)


@pytest.mark.parametrize("form", [INT8, FP8], ids=["int8", "fp8"])
def test_all_off_is_the_float32_model_and_all_on_the_quantized_one_to_the_last_bit(
    form: object, load: Callable[[], ir.Model], ranges: dict[str, float], float32: dict
) -> None:
    switched, static = load(), load()
    names = add_quantization_switches(switched, everywhere(switched, form.precision), ranges, form)
    onnx.checker.check_model(ir.to_proto(switched), full_check=True)
    placement = everywhere(static, form.precision)
    quantize(static, placement, ranges, form, capture(static, placement))
    run, quantized = session(switched), session(static)()

    off, on = run(np.zeros(len(names))), run(np.ones(len(names)))

    assert names == [site.node for site in placement.sites] + [p.tensor for p in placement.pairs]
    np.testing.assert_array_equal(off["logits"], float32["logits"])
    np.testing.assert_array_equal(on["logits"], quantized["logits"])
    assert np.any(on["logits"] != off["logits"])


def test_one_switch_quantizes_one_site(
    load: Callable[[], ir.Model], ranges: dict[str, float]
) -> None:
    switched = load()
    placement = everywhere(switched, "int8")
    names = add_quantization_switches(switched, placement, ranges, INT8)
    run = session(switched)
    for number in (0, len(placement.sites) - 1, len(placement.sites), len(names) - 1):
        alone = Placement(
            [site for site in placement.sites if site.node == names[number]],
            [pair for pair in placement.pairs if pair.tensor == names[number]],
        )
        static = load()
        quantize(static, alone, ranges, INT8, capture(static, alone))
        found = run(np.eye(len(names))[number])
        np.testing.assert_array_equal(found["logits"], session(static)()["logits"])


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_rounding_switches_give_the_simulated_16_bit_model(
    precision: str, load: Callable[[], ir.Model], float32: dict
) -> None:
    form = FORMATS[precision]
    switched, static = load(), load()
    kept = find_islands(switched, islands_rules(switched, form))
    names = add_rounding_switches(
        switched, [node for node in data_nodes(switched.graph) if node not in kept], form
    )
    onnx.checker.check_model(ir.to_proto(switched), full_check=True)
    convert(static, form, find_islands(static, islands_rules(static, form)))
    simulate(static, form, inline=False)
    run = session(switched)

    np.testing.assert_array_equal(run(np.zeros(len(names)))["logits"], float32["logits"])
    # Rounding what was rounded changes nothing, so that node by node is as good as tensor by tensor.
    np.testing.assert_array_equal(run(np.ones(len(names)))["logits"], session(static)()["logits"])


def test_local_errors_are_those_of_the_site_alone(
    load: Callable[[], ir.Model], ranges: dict[str, float]
) -> None:
    compared, switched = load(), load()
    placement = everywhere(compared, "int8")
    names = add_quantization_errors(compared, placement, ranges, INT8)
    onnx.checker.check_model(ir.to_proto(compared), full_check=True)
    found = session(compared)()
    first = str(switched.graph.node(placement.sites[0].node).outputs[0].name)
    add_quantization_switches(switched, placement, ranges, INT8)
    output = next(v for node in switched.graph for v in node.outputs if v.name == first)
    switched.graph.outputs.append(output)
    run = session(switched)
    exact, changed = (run(np.eye(len(names))[0] * on)[str(output.name)] for on in (0, 1))

    assert found[ERRORS].shape == (len(names), 2)
    signal, noise = np.square(exact).sum(), np.square(exact - changed).sum()
    np.testing.assert_allclose(found[ERRORS][0], [signal, noise], rtol=1e-4)
    assert (found[ERRORS][:, 1] > 0).all()
    assert (found[ERRORS][:, 1] < 0.01 * found[ERRORS][:, 0]).all()


def test_local_errors_of_rounding_are_far_smaller_in_fp16(load: Callable[[], ir.Model]) -> None:
    shares = {}
    for precision in ("fp16", "bf16"):
        model = load()
        nodes = [node for node in model.graph if node.op_type == "MatMul"]
        add_rounding_errors(model, nodes, FORMATS[precision])
        signal, noise = session(model)()[ERRORS].T
        shares[precision] = noise / signal
    assert ((shares["bf16"] / shares["fp16"] > 30) & (shares["bf16"] < 1e-4)).all()


def test_a_product_that_reads_another_gets_a_switch_of_its_own(rng: np.random.Generator) -> None:
    """Two matrix products in a row, the second's output being the graph's."""
    weights = [
        ir.Value(
            name=name,
            shape=ir.Shape([4, 4]),
            type=ir.TensorType(ir.DataType.FLOAT),
            const_value=ir.tensor(rng.standard_normal((4, 4)).astype(np.float32), name=name),
        )
        for name in ("first", "second")
    ]
    image = ir.Value(
        name="image", shape=ir.Shape([1, 3, 64, 4]), type=ir.TensorType(ir.DataType.FLOAT)
    )
    nodes, value = [], image
    for weight in weights:
        node = ir.node("MatMul", [value, weight], name=f"{weight.name}/MatMul")
        value = node.outputs[0]
        value.name, value.type, value.shape = weight.name + ":0", image.type, image.shape
        nodes.append(node)
    graph = ir.Graph(
        [image], [value], nodes=nodes, initializers=weights, opset_imports={"": 20}, name="two"
    )
    model = ir.Model(graph, ir_version=10)
    sites = [
        Site("first/MatMul", "MatMul", "image", "first", 1),
        Site("second/MatMul", "MatMul", "first:0", "second", 1),
    ]

    names = add_quantization_switches(model, Placement(sites), {"image": 4.0, "first:0": 9.0}, INT8)

    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert names == ["first/MatMul", "second/MatMul"]
    assert [output.name for output in model.graph.outputs] == ["second:0"]


def test_what_cannot_be_switched_is_refused(
    load: Callable[[], ir.Model], ranges: dict[str, float]
) -> None:
    model = load()
    placement = everywhere(model, "int8")
    some = {name: found for name, found in ranges.items() if name != placement.tensors[0]}
    with pytest.raises(ConversionError, match=f"range of the tensor {placement.tensors[0]}"):
        add_quantization_switches(model, placement, some, INT8)
    model.graph.opset_imports[""] = 17
    with pytest.raises(ConversionError, match="opset 17, and float8"):
        add_quantization_switches(model, placement, ranges, FP8)
    quantize(model, placement, ranges, INT8, capture(model, placement))
    with pytest.raises(ConversionError, match="quantized already"):
        add_quantization_switches(model, placement, ranges, INT8)
