"""Mistakes in a call are refused with the two sides of the mismatch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dinat_deploy.errors import DinatDeployError, OperatorError
from dinat_deploy.ops.functional import (
    neighborhood_attention,
    neighborhood_attention_2d,
    neighborhood_attention_qkv_2d,
)

X = torch.zeros(1, 8, 9, 2, 4)


def test_operator_errors_are_value_errors_and_ours() -> None:
    with pytest.raises(ValueError, match="has shape"):
        neighborhood_attention_2d(X[0], X[0], X[0], kernel_size=3)
    assert issubclass(OperatorError, DinatDeployError)


def test_a_map_smaller_than_the_window_is_refused_with_a_cure() -> None:
    with pytest.raises(OperatorError) as caught:
        neighborhood_attention_2d(X, X, X, kernel_size=3, dilation=3)
    assert caught.value.cause == (
        "kernel_size 3 * dilation 3 = 9 exceeds axis 0 of the map, which has 8 tokens."
    )
    assert "zero-pad" in caught.value.cure


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"kernel_size": (3, 3, 3)},
            r"kernel_size has 3 values \(3, 3, 3\) for an operator of 2 axes",
        ),
        ({"kernel_size": 0}, "must be at least 1"),
        ({"kernel_size": 3, "dilation": 0}, "must be at least 1"),
        (
            {"kernel_size": 3, "rpb": torch.zeros(2, 5, 6)},
            r"rpb has shape \(2, 5, 6\), expected \(2, 5, 5\)",
        ),
        ({"kernel_size": 3, "rpb": torch.zeros(3, 5, 5)}, r"expected \(2, 5, 5\) for 2 heads"),
    ],
)
def test_wrong_parameters(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(OperatorError, match=message):
        neighborhood_attention_2d(X, X, X, **arguments)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ((X, X[:, :7], X), "differ in shape"),
        ((X, X.half(), X), "differ in type: torch.float32, torch.float16"),
        ((X.int(), X.int(), X.int()), "needs floating-point tensors, not torch.int32"),
    ],
)
def test_tensors_that_do_not_match(tensors: tuple[torch.Tensor, ...], message: str) -> None:
    with pytest.raises(OperatorError, match=message):
        neighborhood_attention_2d(*tensors, kernel_size=3)


@pytest.mark.parametrize("rank", [0, 4])
def test_rank_must_be_one_to_three(rank: int) -> None:
    x = torch.zeros(1, *[3] * rank, 2, 4)
    with pytest.raises(OperatorError, match="expected \\[batch, 1 to 3 axes, heads, dim\\]"):
        neighborhood_attention(x, x, x, kernel_size=3)


@pytest.mark.parametrize("extra", [{"stride": 2}, {"is_causal": True}])
def test_bias_excludes_stride_and_causality(extra: dict[str, object]) -> None:
    with pytest.raises(OperatorError, match="not defined together with stride or causality"):
        neighborhood_attention(X, X, X, torch.zeros(2, 5, 5), kernel_size=3, **extra)


def test_packed_channels_must_split_into_heads() -> None:
    with pytest.raises(OperatorError, match="24 qkv channels do not split into 3 x 5 heads"):
        neighborhood_attention_qkv_2d(torch.zeros(1, 8, 8, 24), num_heads=5, kernel_size=3)
    with pytest.raises(OperatorError, match="expected \\[B, H, W, 3\\*heads\\*dim\\]"):
        neighborhood_attention_qkv_2d(torch.zeros(8, 8, 24), num_heads=2, kernel_size=3)


def test_scale_defaults_to_the_inverse_root_of_the_head_dimension() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 5, 5, 1, 16) for _ in range(3))
    default = neighborhood_attention_2d(query, key, value, kernel_size=3)
    stated = neighborhood_attention_2d(query, key, value, kernel_size=3, scale=0.25)
    assert torch.equal(default, stated)


def test_numpy_integers_are_as_good_as_pythons() -> None:
    x = torch.randn(X.shape, generator=torch.Generator().manual_seed(0))
    expected = neighborhood_attention_2d(x, x, x, kernel_size=3, dilation=(1, 2))
    found = neighborhood_attention_2d(
        x, x, x, kernel_size=np.int64(3), dilation=np.array([1, 2], dtype=np.int32)
    )
    assert torch.equal(found, expected)
