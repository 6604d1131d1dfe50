"""Error measures against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dinat_deploy.errors import ConfigError, DinatDeployError
from dinat_deploy.parity import Tolerance, compare, compare_all, tolerance_for

FLOATS = st.floats(-1e3, 1e3, width=32)
MATRICES = arrays.arrays(np.float32, (3, 4), elements=FLOATS)


@given(MATRICES, MATRICES)
def test_measures_follow_their_definitions(reference: np.ndarray, found: np.ndarray) -> None:
    errors = compare(reference, found, Tolerance(0.5, 0.0))
    error = np.abs(reference.astype(np.float64) - found)
    assert errors.max_abs == error.max()
    assert errors.mean_abs == pytest.approx(error.mean())
    assert errors.mean_abs <= errors.max_abs
    assert errors.p99_abs <= errors.max_abs
    assert errors.passed == bool(error.max() <= 0.5)
    assert -1.0000001 <= errors.cosine <= 1.0000001
    agreement = np.mean(reference.argmax(1) == found.argmax(1))
    assert errors.argmax_agreement == pytest.approx(agreement)


@given(MATRICES)
def test_equal_tensors_have_no_error(reference: np.ndarray) -> None:
    errors = compare(reference, reference.copy(), Tolerance(0.0, 0.0))
    assert (errors.max_abs, errors.relative, errors.passed) == (0.0, 0.0, True)
    assert errors.cosine == pytest.approx(1.0)
    assert errors.sqnr_db == math.inf
    assert errors.to_dict()["sqnr_db"] is None  # JSON has no infinity


def test_the_limit_grows_with_the_largest_value_not_with_each() -> None:
    reference = np.array([[0.0, 100.0]], np.float32)
    off = np.array([[0.0099, 100.0]], np.float32)
    assert compare(reference, off, Tolerance(0.0, 1e-4)).passed
    assert not compare(reference, off, Tolerance(0.0, 0.9e-4)).passed


def test_signal_to_error_ratio_in_decibels() -> None:
    reference = np.full((1, 100), 1.0, np.float32)
    assert compare(reference, reference + np.float32(0.1), Tolerance()).sqnr_db == pytest.approx(
        20, abs=1e-3
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_fail(bad: float) -> None:
    reference = np.zeros((1, 3), np.float32)
    found = reference.copy()
    found[0, 1] = bad
    assert not compare(reference, found, Tolerance(1e9, 1e9)).passed
    assert not compare(found, reference, Tolerance()).passed


def test_argmax_is_left_out_where_there_are_no_classes() -> None:
    features = np.zeros((1, 4, 3, 3), np.float32)
    assert compare(features, features, Tolerance()).argmax_agreement is None


def test_a_segmenters_classes_are_compared_by_pixel() -> None:
    reference = np.zeros((1, 3, 2, 2), np.float32)
    reference[0, 1] = 1.0
    found = reference.copy()
    found[0, 2, 0, 1] = 2.0
    errors = compare_all({"logits": reference}, {"logits": found}, ["logits"], Tolerance())
    assert errors["logits"].argmax_agreement == 0.75
    assert compare(reference, found, Tolerance(), per_pixel=True).argmax_agreement == 0.75


def test_shapes_and_names_must_match() -> None:
    zeros = np.zeros((1, 3), np.float32)
    with pytest.raises(DinatDeployError, match=r"\[1, 3\] expected, \[3, 1\] found"):
        compare(zeros, zeros.T, Tolerance())
    with pytest.raises(DinatDeployError, match="Tensor 'a': The shapes differ"):
        compare_all({"a": zeros}, {"a": zeros.T}, ["a"], Tolerance())
    with pytest.raises(DinatDeployError, match="no tensor 'a'.*It has b"):
        compare_all({"a": zeros}, {"b": zeros}, ["a"], Tolerance())


@pytest.mark.parametrize(
    ("precision", "same_as"),
    [
        ("float16", "float16+float32"),
        ("bfloat16", "float32+bfloat16"),
        ("int8+float32", "int8+float16+float32"),
        ("int8+float32", "float8e4m3fn+float32"),
        ("float16", "unknown"),
    ],
)
def test_the_coarsest_type_sets_the_limits(precision: str, same_as: str) -> None:
    assert tolerance_for(precision) == tolerance_for(same_as)


def test_coarser_types_get_wider_limits() -> None:
    limits = [
        tolerance_for("float32"),
        tolerance_for("float32", tf32=True),
        tolerance_for("float16"),
        tolerance_for("bfloat16"),
        tolerance_for("int8+float16"),
    ]
    assert limits[0] == Tolerance()
    assert [t.rtol for t in limits] == sorted({t.rtol for t in limits})
    assert tolerance_for("float16", tf32=True) == tolerance_for("float16")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_tolerance_is_a_number(value: float) -> None:
    with pytest.raises(ConfigError, match="tolerance rtol is"):
        Tolerance(rtol=value)
