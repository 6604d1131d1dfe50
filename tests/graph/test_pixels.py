"""The normalisation in the graph: where it stands, and that it computes what Python does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper

from dinat_deploy.errors import ConversionError
from dinat_deploy.graph.formats import FORMATS
from dinat_deploy.graph.pixels import normalized_name, take_pixels
from dinat_deploy.graph.precision import convert
from dinat_deploy.models.preprocessing import Preprocessing

HOW = Preprocessing(resize=(2, 128), crop=(2, 128))
# Every pixel value in every channel.
PIXELS = np.tile(np.arange(256, dtype=np.uint8).reshape(1, 1, 2, 128), (1, 3, 1, 1))


def picture_model(
    element: int = TensorProto.FLOAT, shape: tuple[int | str, ...] = ("batch", 3, 2, 128)
) -> ir.Model:
    """An image that two nodes read, one of them directly as it is given out."""
    nodes = [
        helper.make_node("Identity", ["image"], ["same"], name="same"),
        helper.make_node("Add", ["image", "image"], ["twice"], name="twice"),
    ]
    named = [helper.make_tensor_value_info(name, element, shape) for name in ("same", "twice")]
    given = helper.make_tensor_value_info("image", element, shape)
    graph = helper.make_graph(nodes, "g", [given], named)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def run(model: ir.Model, pixels: np.ndarray) -> list[np.ndarray]:
    data = ir.to_proto(model)
    onnx.checker.check_model(data, full_check=True)
    session = onnxruntime.InferenceSession(
        data.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found: list[np.ndarray] = session.run(None, {"image": pixels})
    return found


def test_every_pixel_becomes_what_python_makes_of_it() -> None:
    model = picture_model()
    assert take_pixels(model, HOW.mean, HOW.std) == {"image": "image/normalized"}
    same, twice = run(model, PIXELS)
    assert same.dtype == np.float32
    exact = (PIXELS / 255.0 - np.reshape(HOW.mean, (3, 1, 1))) / np.reshape(HOW.std, (3, 1, 1))
    # Of values up to 2.6, within two steps of float32: as exact as Python's own float32.
    assert np.abs(same - exact).max() < 5e-7
    assert np.abs(same - HOW.normalize(PIXELS)).max() < 1e-6
    assert np.array_equal(twice, same + same)


def test_the_input_keeps_its_name_and_shape_and_only_a_cast_reads_it() -> None:
    model = picture_model()
    before = list(model.graph)
    take_pixels(model, HOW.mean, HOW.std)
    (pixels,) = model.graph.inputs
    assert (pixels.name, pixels.dtype) == ("image", ir.DataType.UINT8)
    assert pixels.shape == ir.Shape(["batch", 3, 2, 128])
    assert [use.node.op_type for use in pixels.uses()] == ["Cast"]
    made = list(model.graph)[:3]
    assert [(node.op_type, node.name) for node in made] == [
        ("Cast", "image/Cast"), ("Mul", "image/Mul"), ("Add", "image/Add"),
    ]  # fmt: skip
    assert list(model.graph)[3:] == before
    normalized = made[-1].outputs[0]
    assert normalized.name == normalized_name("image")
    for node in made:
        assert (node.outputs[0].dtype, node.outputs[0].shape) == (ir.DataType.FLOAT, pixels.shape)
    assert all(value is normalized for node in before for value in node.inputs)


def test_grey_models_have_one_mean() -> None:
    how = Preprocessing(resize=(2, 128), crop=(2, 128), mean=(0.3,), std=(0.2,))
    model = picture_model(shape=(1, 1, 2, 128))
    take_pixels(model, how.mean, how.std)
    assert np.abs(run(model, PIXELS[:, :1])[0] - how.normalize(PIXELS[:, :1])).max() < 1e-6


@pytest.mark.parametrize("precision", FORMATS)
def test_the_product_and_the_sum_are_in_float32_before_16_bits(precision: str) -> None:
    """Rounding once is what rounding the float32 input was."""
    form = FORMATS[precision]
    model = picture_model()
    convert(model, form, float32=())
    take_pixels(model, HOW.mean, HOW.std)
    cast = next(node for node in model.graph if node.name.startswith("image/to_"))
    assert cast.inputs[0] is not None and cast.inputs[0].name == "image/normalized"
    assert {node.outputs[0].dtype for node in list(model.graph)[:3]} == {ir.DataType.FLOAT}
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    if precision == "fp16":  # ONNX Runtime has no Identity for bfloat16
        same, _ = run(model, PIXELS)
        assert np.abs(same - HOW.normalize(PIXELS).astype(form.numpy).astype(np.float32)).max() == 0


def quantized_model() -> ir.Model:
    """The input quantized, as the first convolution of an int8 model reads it."""
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["image/q"], name="q"),
        helper.make_node("DequantizeLinear", ["image/q", "scale", "zero"], ["y"], name="dq"),
    ]
    shape = (1, 3, 2, 128)
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [helper.make_tensor("scale", TensorProto.FLOAT, [], [0.02]),
         helper.make_tensor("zero", TensorProto.INT8, [], [0])],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return ir.from_proto(proto)


def test_what_was_quantized_is_the_normalised_tensor() -> None:
    """The scale is of the range that was recorded for ``image`` in the float32 model."""
    model = quantized_model()
    take_pixels(model, HOW.mean, HOW.std)
    quantize = next(node for node in model.graph if node.op_type == "QuantizeLinear")
    assert quantize.inputs[0] is not None and quantize.inputs[0].name == "image/normalized"
    (found,) = run(model, PIXELS)
    expected = (HOW.normalize(PIXELS) / np.float32(0.02)).round().clip(-128, 127) * np.float32(0.02)
    assert np.abs(found - expected).max() < 1e-6


def test_the_same_bytes_again() -> None:
    files = []
    for _ in range(2):
        model = picture_model()
        take_pixels(model, HOW.mean, HOW.std)
        files.append(ir.to_proto(model).SerializeToString(deterministic=True))
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (picture_model(TensorProto.FLOAT16), "image is of type float16, and pixels take the place"),
        (picture_model(shape=(1, 4, 8, 8)), r"image is 1 x 4 x 8 x 8, and .* of 3 channels"),
        (picture_model(shape=(1, 3)), r"image is 1 x 3, and .* of 3 channels"),
    ],
    ids=["float16", "four channels", "no picture"],
)
def test_what_is_no_picture_is_refused_and_left_alone(model: ir.Model, said: str) -> None:
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    with pytest.raises(ConversionError, match=said):
        take_pixels(model, HOW.mean, HOW.std)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_a_second_time_is_refused() -> None:
    model = picture_model()
    take_pixels(model, HOW.mean, HOW.std)
    with pytest.raises(ConversionError, match="image is of type uint8"):
        take_pixels(model, HOW.mean, HOW.std)


def test_the_tiny_classifier_sees_the_same(tiny_bundle: Path) -> None:
    path = tiny_bundle / "model.onnx"
    how = Preprocessing(resize=(64, 64), crop=(64, 64))
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 64, 64), dtype=np.uint8)
    plain = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = plain.run(None, {"image": how.normalize(pixels)})[0]
    model = ir.load(path)
    take_pixels(model, how.mean, how.std)
    assert np.abs(run(model, pixels)[0] - expected).max() < 1e-4 * np.abs(expected).max()
