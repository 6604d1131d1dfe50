"""The functions of every NATTEN against its worked examples, golden outputs and plain loops."""

from __future__ import annotations

import itertools
from types import ModuleType

import numpy as np
import pytest
import torch

from dinat_deploy.errors import OperatorError
from dinat_deploy.natten import substitute
from tests import bruteforce
from tests.golden import OpCase, op_case, op_case_names


def stand_in(version: str) -> ModuleType:
    with substitute(version) as natten:
        return natten


OLD, NEW, EARLY, MIDDLE = (stand_in(v).functional for v in ("0.17", "0.21", "0.14.4", "0.15"))


def first(array: np.ndarray) -> torch.Tensor:
    """A golden array, heads-last, as NATTEN's unfused functions take it."""
    return torch.from_numpy(array).permute(0, 3, 1, 2, 4)


def rpb_of(case: OpCase) -> torch.Tensor | None:
    return None if case.rpb is None else torch.from_numpy(case.rpb)


@pytest.mark.parametrize("name", op_case_names())
def test_golden_cases_fused_and_unfused(name: str) -> None:
    case = op_case(name)
    window = {"kernel_size": case.kernel_size, "dilation": case.dilation}
    tensors = [torch.from_numpy(array) for array in (case.query, case.key, case.value)]
    fused = OLD.na2d(*tensors, **window, rpb=rpb_of(case))
    assert np.abs(fused.numpy() - case.output).max() <= 2e-5
    query, key, value = map(first, (case.query, case.key, case.value))
    scores = OLD.na2d_qk(query * case.scale, key, **window, rpb=rpb_of(case))
    found = OLD.na2d_av(scores.softmax(-1), value, **window).permute(0, 2, 3, 1, 4)
    assert np.abs(found.numpy() - case.output).max() <= 2e-5
    if rpb_of(case) is None:
        new = NEW.na2d(*tensors, **window)
        assert np.abs(new.numpy() - case.output).max() <= 2e-5


SQUARE = [n for n in op_case_names() if n.endswith("_rpb") and "k5x3" not in n]


@pytest.mark.parametrize("name", SQUARE[::5])
def test_golden_cases_under_the_names_of_every_old_version(name: str) -> None:
    case = op_case(name)
    (kernel, other), (dilation, _) = case.kernel_size, case.dilation
    assert kernel == other
    query, key, value = map(first, (case.query, case.key, case.value))
    scaled, rpb = query * case.scale, rpb_of(case)
    weights = [
        EARLY.natten2dqkrpb(scaled, key, rpb, dilation),
        MIDDLE.natten2dqkrpb(scaled, key, rpb, kernel, dilation),
        MIDDLE.na2d_qk_with_bias(scaled, key, rpb, kernel, dilation),
        OLD.natten2dqkrpb(scaled, key, rpb, kernel, dilation),
    ]
    outputs = [EARLY.natten2dav(weights[0].softmax(-1), value, dilation)]
    outputs += [
        MIDDLE.natten2dav(scores.softmax(-1), value, kernel, dilation) for scores in weights[1:]
    ]
    for output in outputs:
        assert np.abs(output.permute(0, 2, 3, 1, 4).numpy() - case.output).max() <= 2e-5


def keys_seen(length: int, **window: object) -> list[list[int]]:
    """Which keys each query of ``na1d`` sees, by values that tell the keys apart."""
    zeros = torch.zeros(1, length, 1, length)
    values = torch.eye(length).view(1, length, 1, length)
    weights = NEW.na1d(zeros, zeros, values, **window)[0, :, 0]
    return [torch.nonzero(row).flatten().tolist() for row in weights]


@pytest.mark.parametrize(
    ("length", "window", "expected"),
    [
        (8, {"kernel_size": 4}, {0: "0123", 2: "0123", 3: "1234", 7: "4567"}),
        (8, {"kernel_size": 4, "stride": 2}, {0: "0123", 1: "0123", 2: "1234", 3: "1234",
                                              4: "3456", 5: "3456", 6: "4567", 7: "4567"}),
        (6, {"kernel_size": 3, "is_causal": True}, {0: "0", 1: "01", 2: "012", 3: "123",
                                                    4: "234", 5: "345"}),
        (6, {"kernel_size": 3, "stride": 2, "is_causal": True}, {0: "0", 1: "01", 2: "12",
                                                                 3: "123", 4: "34", 5: "345"}),
        (8, {"kernel_size": 3, "dilation": 2, "is_causal": True},
         {0: "0", 1: "1", 2: "02", 3: "13", 4: "024", 5: "135", 6: "246", 7: "357"}),
        (10, {"kernel_size": 3, "dilation": 3}, {0: "036", 2: "258", 3: "036", 6: "369",
                                                 7: "147", 8: "258", 9: "369"}),
    ],
)  # fmt: skip
def test_worked_examples_of_windows(
    length: int, window: dict[str, object], expected: dict[int, str]
) -> None:
    seen = keys_seen(length, **window)
    assert {token: "".join(map(str, seen[token])) for token in expected} == expected


def test_worked_example_with_bias() -> None:
    key = 0.1 * torch.arange(7.0).view(1, 1, 7, 1)
    rpb = torch.tensor([[0, 0.1, 0.2, 0.3, 0.4]])
    scores = OLD.natten1dqkrpb(torch.ones(1, 1, 7, 1), key, rpb, 3, 1)
    assert torch.allclose(scores[0, 0, [0, 1, 3, 6]], torch.tensor(
        [[0.2, 0.4, 0.6], [0.1, 0.3, 0.5], [0.3, 0.5, 0.7], [0.4, 0.6, 0.8]]
    ))  # fmt: skip
    out = OLD.natten1dav(scores.softmax(-1), 100 * key, 3, 1)[0, 0, :, 0]
    expected = torch.tensor([11.324521, 11.324521, 31.324521, 51.324521])
    assert torch.allclose(out[[0, 1, 3, 6]], expected)


RANDOM = [
    # sizes, kernel, dilation, stride, causal
    ((11,), (3,), (2,), (1,), (False,)),
    ((12,), (4,), (2,), (3,), (True,)),
    ((7, 9), (3, 4), (2, 1), (1, 1), (False, False)),
    ((8, 6), (4, 3), (2, 1), (4, 2), (False, True)),
    ((4, 5, 6), (2, 3, 2), (1, 1, 3), (1, 1, 1), (False, False, False)),
    ((4, 5, 6), (2, 3, 4), (2, 1, 1), (2, 3, 1), (False, True, False)),
]


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("sizes", "kernel", "dilation", "stride", "causal"), RANDOM)
def test_new_functions_equal_plain_loops(
    sizes: tuple[int, ...],
    kernel: tuple[int, ...],
    dilation: tuple[int, ...],
    stride: tuple[int, ...],
    causal: tuple[bool, ...],
) -> None:
    query, key, value = (drawn(2, *sizes, 2, 4, seed=seed) for seed in range(3))
    expected = bruteforce.attention(
        query.numpy(), key.numpy(), value.numpy(), None, kernel, dilation, 0.3, stride, causal
    )
    function = getattr(NEW, f"na{len(sizes)}d")
    found = function(query, key, value, kernel, stride, dilation, causal, 0.3)
    assert np.abs(found.numpy() - expected).max() < 1e-12
    merged, lse = function(
        query, key, value, kernel, stride, dilation, causal, 0.3, return_lse=True
    )
    assert np.abs(merged.numpy() - expected).max() < 1e-6  # through float32 scores
    # exp(score) / exp(lse) are the weights: values of 1 must give 1.
    ones, _ = function(query, key, torch.ones_like(value), kernel, stride, dilation, causal, 0.3,
                       return_lse=True)  # fmt: skip
    assert torch.allclose(ones, torch.ones_like(ones))
    assert lse.shape == query.shape[:-1]


@pytest.mark.parametrize(
    "case", [case for case in RANDOM if all(step == 1 for step in case[3])], ids=str
)
def test_old_functions_equal_plain_loops_with_bias(case: tuple[tuple[int, ...], ...]) -> None:
    sizes, kernel, dilation = case[:3]
    query, key, value = (drawn(2, *sizes, 2, 4, seed=seed) for seed in range(3))
    rpb = drawn(2, *(2 * size - 1 for size in kernel), seed=3)
    expected = bruteforce.attention(
        query.numpy(), key.numpy(), value.numpy(), rpb.numpy(), kernel, dilation, 0.5
    )
    found = getattr(OLD, f"na{len(sizes)}d")(query, key, value, kernel, dilation, False, rpb)
    assert np.abs(found.numpy() - expected).max() < 1e-12


def test_tokens_from_elsewhere_are_seen_by_every_query() -> None:
    """A window that is the whole map, and more tokens, is plain attention over all of them."""
    query, key, value = (drawn(2, 3, 3, 2, 4, seed=seed) for seed in range(3))
    extra_key, extra_value = (drawn(2, 5, 2, 4, seed=seed) for seed in (3, 4))
    keys = torch.cat([key.flatten(1, 2), extra_key], dim=1)
    values = torch.cat([value.flatten(1, 2), extra_value], dim=1)
    expected, lse = NEW.attention(query.flatten(1, 2), keys, values, return_lse=True)
    extra = {"additional_keys": extra_key, "additional_values": extra_value}
    for function in (NEW.na2d, OLD.na2d):
        found = function(query, key, value, 3, **extra)
        assert torch.allclose(found.flatten(1, 2), expected, atol=1e-6)
    _, sums = NEW.na2d(query, key, value, 3, **extra, return_lse=True)
    assert torch.allclose(sums.flatten(1, 2), lse, atol=1e-6)
    # Unfused, heads first.
    q, k, v = (tensor.permute(0, 3, 1, 2, 4) for tensor in (query, key, value))
    far = [tensor.transpose(1, 2) for tensor in (extra_key, extra_value)]
    scores = OLD.na2d_qk(q * 0.5, k, 3, additional_keys=far[0])
    assert scores.shape[-1] == 9 + 5
    out = OLD.na2d_av(scores.softmax(-1), v, 3, additional_values=far[1])
    assert torch.allclose(out.permute(0, 2, 3, 1, 4).flatten(1, 2), expected, atol=1e-6)


def test_merged_attentions_are_attention_over_both_sets_of_keys() -> None:
    query = drawn(1, 6, 2, 4, seed=0)
    parts = [(drawn(1, n, 2, 4, seed=n), drawn(1, n, 2, 4, seed=n + 9)) for n in (3, 5, 4)]
    pairs = [NEW.attention(query, key, value, return_lse=True) for key, value in parts]
    merged, _ = NEW.merge_attentions([out for out, _ in pairs], [lse for _, lse in pairs])
    whole = NEW.attention(query, *(torch.cat(tensors, 1) for tensors in zip(*parts, strict=True)))
    assert torch.allclose(merged, whole, atol=1e-6)


def test_fewer_heads_of_keys_and_values_of_another_width() -> None:
    query, key, value = (
        drawn(1, 5, 6, 4, 4, seed=0),
        drawn(1, 5, 6, 2, 4, seed=1),
        drawn(1, 5, 6, 2, 7, seed=2),
    )
    found = NEW.na2d(query, key, value, 3)
    assert found.shape == (1, 5, 6, 4, 7)
    for head, column in itertools.product(range(4), range(7)):
        alone = value[..., head // 2, column].reshape(1, 5, 6, 1, 1).expand(-1, -1, -1, 1, 4)
        expected = NEW.na2d(query[..., [head], :], key[..., [head // 2], :], alone, 3)
        assert torch.allclose(found[..., head, column], expected[..., 0, 0])


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_of_scores_and_sums_are_right(causal: bool) -> None:
    query, key, value = (drawn(1, 2, 6, 5, 3, seed=seed).requires_grad_() for seed in range(3))
    rpb = None if causal else drawn(2, 5, 5, seed=3).requires_grad_()
    axes = {"dilation": (2, 1), "is_causal": (causal, False)}

    def attend(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *bias: torch.Tensor
    ) -> torch.Tensor:
        scores = OLD.na2d_qk(q, k, 3, **axes, rpb=bias[0] if bias else None)
        return OLD.na2d_av(scores.softmax(-1), v, 3, **axes)

    inputs = (query, key, value) if rpb is None else (query, key, value, rpb)
    assert torch.autograd.gradcheck(attend, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(attend, inputs, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_scores_and_sums_only_once(dtype: torch.dtype) -> None:
    query, key, value = (drawn(1, 2, 6, 7, 8, seed=seed).to(dtype) for seed in range(3))
    scores = OLD.na2d_qk(query, key, 3)
    assert torch.equal(scores, OLD.na2d_qk(query.float(), key.float(), 3).to(dtype))
    out = OLD.na2d_av(scores, value, 3)
    assert torch.equal(out, OLD.na2d_av(scores.float(), value.float(), 3).to(dtype))


def test_functions_compile_as_one_graph() -> None:
    def both(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        weights = OLD.natten2dqkrpb(q, k, None, 3, 2).softmax(-1)
        unfused = OLD.natten2dav(weights, v, 3, 2)
        last = [tensor.movedim(1, -2) for tensor in (q, k, v)]
        return unfused + NEW.na2d(*last, 3, dilation=2, scale=1.0).movedim(-2, 1)

    inputs = [drawn(1, 2, 6, 7, 4, seed=seed).requires_grad_() for seed in range(3)]
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")(*inputs)
    eager = both(*inputs)
    assert torch.allclose(compiled, eager)
    for left, right in zip(
        torch.autograd.grad(compiled.sum(), inputs),
        torch.autograd.grad(eager.sum(), inputs),
        strict=True,
    ):
        assert torch.allclose(left, right)


def test_what_is_not_defined_is_refused() -> None:
    last = torch.zeros(1, 6, 6, 1, 4)
    head = torch.zeros(1, 1, 6, 6, 4)
    for refused in (
        lambda: NEW.na2d(last, last, last, 7),
        lambda: NEW.na2d(last, last, last, 3, stride=4),
        lambda: NEW.na1d(last, last, last, 3),
        lambda: NEW.na2d(last, last, last, 3, additional_keys=torch.zeros(1, 2, 1, 4)),
        lambda: OLD.na2d(last, last, last, 3, is_causal=True, rpb=torch.zeros(1, 5, 5)),
        lambda: OLD.na2d_qk(head, head, 4),
        lambda: OLD.na2d_qk(head, head, 3, 3),
        lambda: OLD.na2d_qk(head, head[..., :2], 3),
        lambda: OLD.na2d_qk(head, head, 3, rpb=torch.zeros(1, 3, 3)),
        lambda: OLD.na2d_av(torch.zeros(1, 1, 6, 6, 8), head, 3),
        lambda: OLD.natten2dqkrpb(head[:, :, 0], head[:, :, 0], None, 3, 1),
        lambda: NEW.attention(last[0], last[0], last[0], seqlens_Q=torch.ones(1)),
    ):
        with pytest.raises(OperatorError):
            refused()
    with pytest.raises(TypeError, match="tile"):
        NEW.na2d(last, last, last, 3, tile=5)
