"""The PyTorch operator against NATTEN's golden cases, loops, and the operator's invariants."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinat_deploy.ops import reference
from dinat_deploy.ops.functional import (
    neighborhood_attention,
    neighborhood_attention_2d,
    neighborhood_attention_qkv_2d,
)
from tests import bruteforce
from tests.golden import op_case, op_case_names
from tests.ops.strategies import Problem, blinded, problems


def run(problem: Problem, tensors: list[np.ndarray], rpb: np.ndarray | None) -> np.ndarray:
    query, key, value = (torch.from_numpy(array) for array in tensors)
    return neighborhood_attention_2d(
        query,
        key,
        value,
        None if rpb is None else torch.from_numpy(rpb),
        kernel_size=problem.kernel,
        dilation=problem.dilation,
    ).numpy()


@pytest.mark.parametrize("name", op_case_names())
def test_golden_cases_in_both_layouts(name: str) -> None:
    case = op_case(name)
    rpb = None if case.rpb is None else torch.from_numpy(case.rpb)
    settings = {"kernel_size": case.kernel_size, "dilation": case.dilation, "scale": case.scale}
    split = neighborhood_attention_2d(
        torch.from_numpy(case.query),
        torch.from_numpy(case.key),
        torch.from_numpy(case.value),
        rpb,
        **settings,
    )
    assert np.abs(split.numpy() - case.output).max() <= 2e-5
    packed = neighborhood_attention_qkv_2d(
        torch.from_numpy(case.qkv), rpb, num_heads=case.num_heads, **settings
    )
    assert np.abs(packed.numpy() - case.packed_output).max() <= 2e-5


@pytest.mark.parametrize("name", op_case_names()[::4])
def test_golden_cases_in_float64(name: str) -> None:
    case = op_case(name)
    tensors = [torch.from_numpy(a).double() for a in (case.query, case.key, case.value)]
    rpb = None if case.rpb is None else torch.from_numpy(case.rpb)
    found = neighborhood_attention_2d(
        *tensors, rpb, kernel_size=case.kernel_size, dilation=case.dilation, scale=case.scale
    )
    assert found.dtype == torch.float64
    assert np.abs(found.numpy() - case.output).max() <= 2e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", op_case_names()[::4])
def test_half_precision_rounds_only_the_result(name: str, dtype: torch.dtype) -> None:
    case = op_case(name)
    half = [torch.from_numpy(a).to(dtype) for a in (case.query, case.key, case.value)]
    rpb = None if case.rpb is None else torch.from_numpy(case.rpb).to(dtype)
    settings = {"kernel_size": case.kernel_size, "dilation": case.dilation, "scale": case.scale}
    found = neighborhood_attention_2d(*half, rpb, **settings)
    single = [tensor.float() for tensor in half]
    exact = neighborhood_attention_2d(*single, None if rpb is None else rpb.float(), **settings)
    assert found.dtype == dtype
    assert torch.equal(found, exact.to(dtype))


@given(problems())
def test_equals_loops(problem: Problem) -> None:
    tensors, rpb = problem.arrays()
    expected = bruteforce.attention(*tensors, rpb, problem.kernel, problem.dilation, problem.scale)
    assert np.abs(run(problem, tensors, rpb) - expected).max() <= 2e-5


@given(problems(tight=True))
def test_a_window_as_large_as_the_dilation_group_is_dense_attention_in_the_group(
    problem: Problem,
) -> None:
    tensors, rpb = problem.arrays()
    found = run(problem, tensors, rpb)
    (kh, kw), (dh, dw) = problem.kernel, problem.dilation
    query, key, value = (torch.from_numpy(array) for array in tensors)
    for row, column in itertools.product(range(dh), range(dw)):
        # [B, kh, kw, heads, dim] -> [B, heads, kh*kw, dim]
        q, k, v = (
            t[:, row::dh, column::dw].flatten(1, 2).transpose(1, 2) for t in (query, key, value)
        )
        scores = q @ k.transpose(-2, -1) * problem.scale
        if rpb is not None:
            rows = torch.arange(kh)[None, :] - torch.arange(kh)[:, None] + kh - 1
            columns = torch.arange(kw)[None, :] - torch.arange(kw)[:, None] + kw - 1
            bias = torch.from_numpy(rpb)[:, rows[:, None, :, None], columns[None, :, None, :]]
            scores = scores + bias.reshape(1, problem.heads, kh * kw, kh * kw)
        dense = scores.softmax(-1) @ v
        group = found[:, row::dh, column::dw]
        expected = dense.transpose(1, 2).reshape(group.shape).numpy()
        assert np.abs(group - expected).max() <= 2e-5


@given(problems())
def test_dilation_is_attention_without_dilation_on_the_deinterleaved_map(problem: Problem) -> None:
    tensors, rpb = problem.arrays()
    found = run(problem, tensors, rpb)
    dh, dw = problem.dilation
    for row, column in itertools.product(range(dh), range(dw)):
        parts = [np.ascontiguousarray(array[:, row::dh, column::dw]) for array in tensors]
        plain = Problem(**{**problem.__dict__, "dilation": (1, 1)})
        assert np.abs(found[:, row::dh, column::dw] - run(plain, parts, rpb)).max() <= 2e-5


@given(problems())
def test_a_constant_value_comes_out_unchanged(problem: Problem) -> None:
    tensors, rpb = problem.arrays()
    tensors[2] = np.full_like(tensors[2], 3.25)
    assert np.abs(run(problem, tensors, rpb) - 3.25).max() <= 1e-5


@given(problems(), st.data())
def test_huge_numbers_outside_the_window_change_nothing(
    problem: Problem, data: st.DataObject
) -> None:
    tensors, rpb = problem.arrays()
    before = run(problem, tensors, rpb)
    changed, blind = blinded(problem, tensors, data, 1e9)
    after = run(problem, changed, rpb)
    assert np.array_equal(before[:, blind], after[:, blind])


@given(problems(), st.integers(1, 200))
def test_chunks_of_tiles_change_nothing(problem: Problem, limit: int) -> None:
    tensors, rpb = problem.arrays()
    whole = run(problem, tensors, rpb)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "_SCORES_AT_ONCE", limit)
        assert np.abs(run(problem, tensors, rpb) - whole).max() <= 1e-6


@pytest.mark.parametrize("rank", [1, 2, 3])
@given(data=st.data())
@settings(max_examples=25)
def test_any_rank_with_stride_and_causality_equals_loops(rank: int, data: st.DataObject) -> None:
    kernel = [data.draw(st.integers(1, 5)) for _ in range(rank)]
    dilation = [data.draw(st.integers(1, 2)) for _ in range(rank)]
    stride = [data.draw(st.integers(1, k)) for k in kernel]
    causal = [data.draw(st.booleans()) for _ in range(rank)]
    slack = 9 if rank < 3 else 3
    sizes = [
        k * d + data.draw(st.integers(0, slack)) for k, d in zip(kernel, dilation, strict=True)
    ]
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    query, key, value = (
        rng.standard_normal((2, *sizes, 2, 4)).astype(np.float32) for _ in range(3)
    )
    found = neighborhood_attention(
        *(torch.from_numpy(array) for array in (query, key, value)),
        kernel_size=kernel,
        dilation=dilation,
        stride=stride,
        is_causal=causal,
    )
    expected = bruteforce.attention(query, key, value, None, kernel, dilation, 0.5, stride, causal)
    assert np.abs(found.numpy() - expected).max() <= 2e-5


@pytest.mark.parametrize("rank", [1, 3])
def test_positional_bias_in_other_ranks(rank: int, rng: np.random.Generator) -> None:
    sizes = (7, 9, 8)[:rank]
    query, key, value = (
        rng.standard_normal((1, *sizes, 2, 4)).astype(np.float32) for _ in range(3)
    )
    rpb = rng.standard_normal((2, *[5] * rank)).astype(np.float32)
    found = neighborhood_attention(
        *(torch.from_numpy(array) for array in (query, key, value, rpb)), kernel_size=3, dilation=2
    )
    expected = bruteforce.attention(query, key, value, rpb, [3] * rank, [2] * rank, 0.5)
    assert np.abs(found.numpy() - expected).max() <= 2e-5


@pytest.mark.parametrize(
    ("sizes", "kernel", "dilation"),
    [((7, 9), 3, 2), ((6, 6), 3, 2), ((20, 5), 3, 1), ((9, 12), (3, 4), (3, 1))],
)
@pytest.mark.parametrize("has_rpb", [True, False])
@pytest.mark.parametrize("limit", [1 << 26, 200])
def test_gradients_equal_finite_differences(
    sizes: tuple[int, int],
    kernel: int | tuple[int, int],
    dilation: int | tuple[int, int],
    has_rpb: bool,
    limit: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reference, "_SCORES_AT_ONCE", limit)
    generator = torch.Generator().manual_seed(0)
    table = (2 * kernel - 1,) * 2 if isinstance(kernel, int) else tuple(2 * k - 1 for k in kernel)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)

    inputs = [drawn(2, *sizes, 2, 3) for _ in range(3)]
    if has_rpb:
        inputs.append(drawn(2, *table))
    assert torch.autograd.gradcheck(
        lambda *tensors: neighborhood_attention_2d(*tensors, kernel_size=kernel, dilation=dilation),
        inputs,
        fast_mode=True,
    )


def test_gradients_of_the_packed_layout_equal_those_of_the_split_one() -> None:
    generator = torch.Generator().manual_seed(1)
    qkv = torch.randn(2, 9, 8, 3 * 2 * 4, generator=generator, requires_grad=True)
    rpb = torch.randn(2, 5, 5, generator=generator, requires_grad=True)
    weight = torch.randn(2, 9, 8, 8, generator=generator)
    (neighborhood_attention_qkv_2d(qkv, rpb, num_heads=2, kernel_size=3) * weight).sum().backward()
    packed = qkv.grad.clone(), rpb.grad.clone()
    qkv.grad = rpb.grad = None
    query, key, value = qkv.view(2, 9, 8, 3, 2, 4).unbind(3)
    split = neighborhood_attention_2d(query, key, value, rpb, kernel_size=3)
    (split.flatten(-2) * weight).sum().backward()
    assert torch.allclose(packed[0], qkv.grad, atol=1e-6)
    assert torch.allclose(packed[1], rpb.grad, atol=1e-5)


def test_half_precision_trains() -> None:
    tensors = [torch.randn(1, 6, 6, 2, 4, dtype=torch.bfloat16, requires_grad=True) for _ in "qkv"]
    rpb = torch.zeros(2, 5, 5, requires_grad=True)  # kept in float32, as under autocast
    neighborhood_attention_2d(*tensors, rpb, kernel_size=3).sum().backward()
    assert all(tensor.grad.dtype == torch.bfloat16 for tensor in tensors)
    assert rpb.grad.dtype == torch.float32


def test_an_empty_batch_gives_an_empty_result() -> None:
    empty = torch.zeros(0, 7, 7, 2, 4)
    assert neighborhood_attention_2d(empty, empty, empty, kernel_size=3).shape == empty.shape
