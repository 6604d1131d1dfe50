"""Ranges against references of another kind, and against ONNX Runtime's own calibrators."""

from __future__ import annotations

import contextlib
import io
import math
from decimal import Decimal
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper
from onnxruntime.quantization.calibrate import (
    CalibrationDataReader,
    CalibrationMethod,
    HistogramCollector,
    create_calibrator,
)

from dinat_deploy.calibration.estimators import SUITED, estimate, expected_errors
from dinat_deploy.calibration.histogram import Histogram
from dinat_deploy.calibration.record import ESTIMATORS
from dinat_deploy.errors import ConfigError

COUNT = 40_000


def _distributions() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(COUNT)
    found = {
        "normal": normal,
        "laplace": rng.laplace(size=COUNT),
        "heavy-tailed": rng.standard_t(3, COUNT),
        "lognormal": rng.lognormal(0, 1, COUNT),
        "uniform": rng.uniform(-1, 1, COUNT),
        "sparse": np.where(rng.random(COUNT) < 0.9, 0, normal),
        "bimodal": np.concatenate([rng.normal(1, 0.1, COUNT), rng.normal(20, 0.5, COUNT // 100)]),
        "an outlier": np.append(normal, 60),
    }
    return {name: values.astype(np.float32) for name, values in found.items()}


DISTRIBUTIONS = _distributions()
each_distribution = pytest.mark.parametrize("name", DISTRIBUTIONS)


def histogram_of(values: np.ndarray, bins: int = 4096) -> Histogram:
    histogram = Histogram(bins)
    histogram.add(values)
    return histogram


def squared_error(values: np.ndarray, found: float, largest: int = 127) -> float:
    scale = found / largest
    quantized = np.clip(np.rint(values / scale), -largest, largest) * scale
    return float(np.mean((quantized - values) ** 2))


# --- entropy ----------------------------------------------------------------------------------


def divergence_by_definition(counts: np.ndarray, end: int, levels: int) -> float:
    """Of the range that ends after so many bins, one level after the other."""
    inside, outliers = counts[:end], counts[end:].sum()
    reference = inside.copy()
    reference[-1] += outliers
    quantized = np.zeros(end)
    level_of = np.digitize(np.arange(end), np.linspace(0, end, levels + 1)) - 1
    for level in range(levels):
        its = level_of == level
        filled = its & (reference > 0)
        if filled.any():
            quantized[filled] = inside[its].sum() / filled.sum()
    p, q = reference / reference.sum(), quantized / max(quantized.sum(), 1)
    with np.errstate(divide="ignore"):
        return float(sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0))


def nonzero_counts(values: np.ndarray, width: float) -> np.ndarray:
    sizes = np.abs(values[values != 0]).astype(np.float64)
    return np.bincount((sizes / width).astype(int)).astype(float)


def entropy_by_definition(values: np.ndarray, width: float, levels: int) -> float:
    counts = nonzero_counts(values, width)
    ends = range(levels, len(counts) + 1)
    found = np.array([divergence_by_definition(counts, end, levels) for end in ends])
    best = ends[np.flatnonzero(found <= found.min() + 1e-9)[-1]]
    return min(best * width, float(np.abs(values).max()))


@each_distribution
def test_entropy_is_the_least_divergence_by_definition(name):
    values = DISTRIBUTIONS[name]
    histogram = histogram_of(values, bins=256)
    expected = entropy_by_definition(values, histogram.width, levels=24)
    assert estimate(histogram, "entropy", levels=24) == pytest.approx(expected, rel=1e-6)


def collected_by_onnxruntime(method: str, values: np.ndarray, **options) -> float:
    defaults = {"num_bins": 2048, "num_quantized_bins": 128, "percentile": 99.9}
    settings = {**defaults, **options}
    collector = HistogramCollector(method=method, symmetric=True, scenario="same", **settings)
    with contextlib.redirect_stdout(io.StringIO()):
        collector.collect({"tensor": values})
        return float(collector.compute_collection_result()["tensor"][1])


@pytest.mark.parametrize("name", ["normal", "uniform", "heavy-tailed"])
def test_entropy_loses_no_more_information_than_onnxruntimes(name):
    """Both look for the range of least divergence. Theirs gives each level ``floor(bins / levels)``
    bins and the last one all that remain, and rounds what is spread down to integers; by the
    definition, what it finds is never better, though near where the minimum is distinct."""
    values = DISTRIBUTIONS[name]
    histogram = histogram_of(values, bins=512)
    ours = estimate(histogram, "entropy", levels=64)
    theirs = collected_by_onnxruntime("entropy", values, num_bins=1025, num_quantized_bins=129)
    counts = nonzero_counts(values, histogram.width)
    by_both = [
        divergence_by_definition(counts, min(round(found / histogram.width), len(counts)), 64)
        for found in (math.ceil(ours / histogram.width) * histogram.width, theirs)
    ]
    assert by_both[0] <= by_both[1] + 1e-9
    if name != "heavy-tailed":
        assert ours == pytest.approx(theirs, rel=0.15)


def test_zeros_do_not_change_what_entropy_finds():
    values = DISTRIBUTIONS["normal"]
    with_zeros = np.concatenate([values, np.zeros(30 * COUNT, np.float32)])
    found = estimate(histogram_of(with_zeros), "entropy")
    assert found == estimate(histogram_of(values), "entropy")


# --- percentile -------------------------------------------------------------------------------


@each_distribution
@pytest.mark.parametrize("percentile", [95.0, 99.9, 99.99, 100.0])
def test_percentile_is_exact_to_the_width_of_a_bin(name, percentile):
    values = DISTRIBUTIONS[name]
    histogram = histogram_of(values)
    rank = math.ceil(Decimal(str(percentile)) * values.size / 100)
    exact = np.sort(np.abs(values))[rank - 1]
    found = estimate(histogram, "percentile", percentile=percentile)
    assert exact <= found <= exact + histogram.width


@each_distribution
def test_percentile_agrees_with_onnxruntimes_to_the_widths_of_the_bins(name):
    values = np.abs(DISTRIBUTIONS[name])  # theirs clips at the largest positive value
    histogram = histogram_of(values)
    theirs = collected_by_onnxruntime("percentile", values)
    ours = estimate(histogram, "percentile", percentile=99.9)
    # Theirs is the lower edge of the bin, and ours the upper one.
    assert abs(ours - theirs) <= histogram.width + values.max() / 2048


def test_percentile_keeps_the_largest_value_where_it_would_clip_all_but_zeros():
    values = np.zeros(1000, np.float32)
    values[:3] = [0.25, -4, 1]
    histogram = histogram_of(values)
    assert estimate(histogram, "percentile", percentile=99) == 4.0
    assert estimate(histogram, "percentile", percentile=99.8) == pytest.approx(0.25, abs=1e-2)


# --- max --------------------------------------------------------------------------------------


class Reader(CalibrationDataReader):
    def __init__(self, feeds: list[dict[str, np.ndarray]]) -> None:
        self._left = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._left, None)


def test_max_is_that_of_onnxruntimes_calibrator(tmp_path: Path):
    names = list(DISTRIBUTIONS)
    nodes = [helper.make_node("Identity", [name], [f"{name} out"]) for name in names]
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n"]) for n in names]
    outputs = [helper.make_tensor_value_info(f"{n} out", TensorProto.FLOAT, ["n"]) for n in names]
    graph = helper.make_graph(nodes, "g", info, outputs)
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "model.onnx")
    calibrator = create_calibrator(
        tmp_path / "model.onnx",
        augmented_model_path=str(tmp_path / "augmented.onnx"),
        calibrate_method=CalibrationMethod.MinMax,
        extra_options={"symmetric": True},
    )
    calibrator.collect_data(Reader([DISTRIBUTIONS]))
    theirs = calibrator.compute_data()
    for name, values in DISTRIBUTIONS.items():
        lowest, highest = (float(end.item()) for end in theirs[name].range_value)
        assert estimate(histogram_of(values), "max") == highest == -lowest


# --- mse --------------------------------------------------------------------------------------


@each_distribution
def test_mse_has_the_least_squared_error_of_the_values_themselves(name):
    values = DISTRIBUTIONS[name].astype(np.float64)
    found = estimate(histogram_of(DISTRIBUTIONS[name]), "mse")
    tried = np.abs(values).max() * np.geomspace(1 / 100, 1, 200)
    least = min(squared_error(values, one) for one in tried)
    assert squared_error(values, found) <= 1.02 * least


@each_distribution
def test_expected_errors_are_those_of_the_values(name):
    histogram = histogram_of(DISTRIBUTIONS[name])
    ranges = histogram.max * np.array([1, 0.7, 0.3])
    exact = [squared_error(DISTRIBUTIONS[name].astype(np.float64), one) for one in ranges]
    np.testing.assert_allclose(expected_errors(histogram, ranges), exact, rtol=0.03)


def test_levels_are_those_of_the_format():
    values = DISTRIBUTIONS["laplace"].astype(np.float64)
    histogram = histogram_of(DISTRIBUTIONS["laplace"])
    coarse = estimate(histogram, "mse", levels=8)  # of 4 bits
    assert squared_error(values, coarse, 7) < squared_error(values, estimate(histogram, "mse"), 7)
    assert coarse < estimate(histogram, "mse")


# --- float8 -----------------------------------------------------------------------------------


def float8_error(values: np.ndarray, found: float) -> float:
    scaled = np.clip(values / np.float32(found / 448), -448, 448)
    rounded = scaled.astype(ml_dtypes.float8_e4m3fn).astype(np.float64) * (found / 448)
    return float(np.mean((rounded - values) ** 2))


@each_distribution
def test_float8_needs_no_clipping(name):
    values = DISTRIBUTIONS[name]
    largest = float(np.abs(values).max())
    least = min(float8_error(values, largest * share) for share in np.geomspace(1 / 30, 1, 150))
    assert float8_error(values, largest) <= 1.15 * least
    assert SUITED["fp8"] == ("max",)


@pytest.mark.parametrize("name", ["heavy-tailed", "an outlier"])
def test_what_suits_int8_makes_float8_worse(name):
    histogram = histogram_of(DISTRIBUTIONS[name])
    largest = float8_error(DISTRIBUTIONS[name], histogram.max)
    for estimator in set(SUITED["int8"]) - set(SUITED["fp8"]):
        found = estimate(histogram, estimator)
        assert float8_error(DISTRIBUTIONS[name], found) > 1.3 * largest


# --- what tensors may be like -----------------------------------------------------------------

each_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)


@each_estimator
def test_constant_tensors_keep_their_value(estimator):
    values = np.full(1000, -0.3, np.float32)
    assert estimate(histogram_of(values), estimator) == float(np.float32(0.3))


@each_estimator
def test_a_single_value_among_zeros_is_kept(estimator):
    values = np.zeros(1000, np.float32)
    values[7] = 1e-3
    assert estimate(histogram_of(values), estimator) == float(np.float32(1e-3))


@each_estimator
@pytest.mark.parametrize("values", [np.zeros(10, np.float32), np.zeros(0, np.float32)])
def test_tensors_without_any_size_have_the_range_1(estimator, values):
    assert estimate(histogram_of(values), estimator) == 1.0


@each_estimator
def test_ranges_of_tiny_values_leave_room_for_a_normal_scale(estimator):
    values = np.array([1e-44, 3e-42, 1e-40], np.float32)
    assert estimate(histogram_of(values), estimator) == 2.0**-100


@given(
    hnp.arrays(np.float32, st.integers(1, 50), elements=st.floats(-(2.0**120), 2.0**120, width=32)),
    st.sampled_from(ESTIMATORS),
)
def test_every_tensor_gets_a_range_that_is_a_scale(values, estimator):
    found = estimate(histogram_of(values, bins=512), estimator)
    assert np.isfinite(found) and found == np.float32(found)
    largest = float(np.abs(values).max())
    assert 2.0**-100 <= found <= max(largest, 2.0**-100) or (largest == 0 and found == 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"estimator": "median"}, "'median' is no estimator"),
        ({"estimator": "entropy", "levels": 1}, "1 levels"),
        ({"estimator": "entropy", "levels": 300}, "300 levels cannot be told apart in 512 bins"),
        ({"estimator": "percentile", "percentile": 0.0}, "percentile is 0"),
        ({"estimator": "percentile", "percentile": 101.0}, "percentile is 101"),
    ],
)
def test_impossible_arguments_are_named(arguments, said):
    with pytest.raises(ConfigError, match=said):
        estimate(histogram_of(DISTRIBUTIONS["normal"], bins=512), **arguments)
