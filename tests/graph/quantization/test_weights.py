"""Scales in the types that hold them, and weights quantized with them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto
from onnxruntime.quantization.quant_utils import quantize_data

from dinat_deploy.errors import ConversionError
from dinat_deploy.graph.formats import QUANTIZED_FORMATS, QuantizedFormat
from dinat_deploy.graph.quantization.weights import quantized, scales

INT8, FP8 = QUANTIZED_FORMATS["int8"], QUANTIZED_FORMATS["fp8"]
FLOAT, HALF, BFLOAT = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16


@given(
    st.lists(st.floats(0, 1e30), min_size=1, max_size=20),
    st.sampled_from([INT8, FP8]),
    st.sampled_from([FLOAT, BFLOAT]),
)
def test_scales_are_normal_numbers_near_the_exact_ones(
    largest: list[float], form: QuantizedFormat, kind: ir.DataType
) -> None:
    found = scales(largest, form, kind)
    values = found.values.astype(np.float64)
    least = float(ml_dtypes.finfo(kind.numpy()).smallest_normal)
    assert values.min() >= least
    exact = np.array(largest) / form.largest
    small = exact < least
    assert values[~small] == pytest.approx(exact[~small], rel=2**-8)
    assert (values[exact < least / 2] == least).all()
    assert np.count_nonzero(exact < least * (1 - 2**-8)) <= found.raised <= small.sum()


def test_a_scale_that_float16_cannot_hold_is_raised_or_refused() -> None:
    found = scales([0.0, 1e-3, 127.0], INT8, HALF)
    assert found.values.dtype == np.float16
    assert found.values.tolist() == [2.0**-14, 2.0**-14, 1.0]
    assert found.raised == 2
    with pytest.raises(ConversionError, match=r"1e\+10 has no scale in float16"):
        scales([1.0, 1e10], INT8, HALF)
    with pytest.raises(ConversionError, match="nan has no scale"):
        scales(np.nan, INT8, FLOAT)


def test_int8_weights_are_those_of_onnxruntime(rng: np.random.Generator) -> None:
    array = rng.standard_normal((64, 7)).astype(np.float32)
    ours = quantized(array, scales(np.abs(array).max(0), INT8, FLOAT).values, 1, INT8)
    for channel in range(7):
        column = array[:, channel]
        _, _, theirs = quantize_data(column, TensorProto.INT8, symmetric=True)
        assert np.array_equal(ours[:, channel], theirs)


def test_ties_go_to_even_and_values_stay_symmetric() -> None:
    array = np.array([[0.5, 1.5, 2.5, -0.5, -1.5, 127.0, -127.0, 127.4, -300.0]], np.float32)
    found = quantized(array, np.ones(1, np.float32), 0, INT8)
    assert found.tolist() == [[0, 2, 2, 0, -2, 127, -127, 127, -127]]
    eighth = quantized(array * 4, np.ones(1, np.float32), 0, FP8)  # 13 bits, of which 4 remain
    assert eighth.astype(np.float32).tolist() == [
        [2.0, 6.0, 10.0, -2.0, -6.0, 448.0, -448.0, 448.0, -448.0]
    ]
