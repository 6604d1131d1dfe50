"""What the GPU benchmark compares with computes the operator: every rival, on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from gpu import flex, rivals
from gpu.floors import cpu_copy, mixed
from gpu.rivals import Contestant, UnavailableError
from gpu.shapes import Row

from dinat_deploy.ops.functional import neighborhood_attention_qkv_2d
from tests import golden

# Compiling takes longer than these small problems.
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")

# The eager form of flex_attention holds every pair of tokens several times.
FLEX_TOKENS = 400


def row_of(case: golden.OpCase) -> Row:
    batch, height, width, heads, dim = case.query.shape
    assert case.scale == pytest.approx(dim**-0.5)
    (kernel, _), (dilation, _) = case.kernel_size, case.dilation
    return Row(
        "golden", 1, (height, width), heads, kernel, dilation, batch, "float32", head_dim=dim
    )


def square_cases() -> list[str]:
    cases = map(golden.op_case, golden.op_case_names())
    return [
        case.name
        for case in cases
        if len(set(case.kernel_size)) == 1 and len(set(case.dilation)) == 1
    ]


def bias_of(case: golden.OpCase, row: Row) -> torch.Tensor:
    if case.rpb is not None:
        return torch.from_numpy(case.rpb)
    return torch.zeros(row.heads, 2 * row.kernel - 1, 2 * row.kernel - 1)


def result_of(contestant: Contestant, qkv: torch.Tensor) -> torch.Tensor:
    out = torch.full((*qkv.shape[:3], qkv.shape[3] // 3), torch.nan)
    return contestant.restore(contestant.run(contestant.feed(qkv), out))


@pytest.mark.parametrize("name", square_cases())
def test_rivals_equal_the_golden_cases(name: str) -> None:
    case = golden.op_case(name)
    row = row_of(case)
    qkv, rpb = torch.from_numpy(case.qkv), bias_of(case, row)
    expected = torch.from_numpy(case.packed_output.copy())
    makers: dict[str, rivals.Maker] = dict(rivals.MAKERS)
    if row.divisible and row.group[0] * row.group[1] <= FLEX_TOKENS:
        makers["flex"] = lambda row, rpb: flex.make_flex(row, rpb, tiled=False, compiled=False)
    if row.dilation == 1:
        del makers["grouped SDPA"], makers["grouped SDPA, no permute"]
    for maker in makers.values():
        contestant = maker(row, rpb)
        found = result_of(contestant, qkv)
        assert found.shape == expected.shape
        error = float((found - expected).abs().max())
        assert error <= 1e-5, f"{contestant.name}: {error:.1e}"


@pytest.mark.parametrize("dilation", [1, 2])
def test_flex_in_tiles_equals_the_operator(dilation: int) -> None:
    row = Row("tiles", 1, (16 * dilation, 32 * dilation), 2, 7, dilation, 1, "float32", head_dim=16)
    torch.manual_seed(0)
    qkv = torch.randn(row.batch, *row.size, 3 * row.channels)
    rpb = torch.randn(row.heads, 13, 13)
    contestant = flex.make_flex(row, rpb, tiled=True, compiled=False)
    expected = neighborhood_attention_qkv_2d(
        qkv, rpb, num_heads=2, kernel_size=7, dilation=dilation
    )
    assert float((result_of(contestant, qkv) - expected).abs().max()) <= 1e-5


@pytest.mark.parametrize(
    ("make", "row", "reason"),
    [
        (rivals.grouped, Row("x", 1, (14, 14), 2, 7, 1, 1), "one group"),
        (rivals.dense, Row("x", 1, (100, 100), 2, 7, 1, 1), "10000 tokens"),
        (rivals.unfold, Row("x", 1, (256, 256), 2, 7, 1, 64), "GiB"),
        (rivals.grouped, Row("x", 1, (190, 190), 16, 7, 3, 64, "float32"), "mask takes"),
        (
            lambda row, rpb: flex.make_flex(row, rpb, tiled=False, compiled=False),
            Row("x", 1, (15, 15), 2, 7, 2, 1),
            "several sizes",
        ),
        (
            lambda row, rpb: flex.make_flex(row, rpb, tiled=True, compiled=False),
            Row("x", 1, (20, 20), 2, 7, 1, 1),
            "8x16",
        ),
    ],
)
def test_a_rival_says_why_it_leaves_a_row_out(
    make: Callable[[Row, torch.Tensor], Contestant], row: Row, reason: str
) -> None:
    rpb = torch.zeros(row.heads, 2 * row.kernel - 1, 2 * row.kernel - 1)
    with pytest.raises(UnavailableError, match=reason):
        make(row, rpb)


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16"])
def test_the_copy_floor_reads_every_part(dtype: str) -> None:
    row = Row("x", 1, (3, 5), 2, 3, 1, 2, dtype, head_dim=8)
    qkv = torch.randn(2, 3, 5, 3 * 16).to(getattr(torch, dtype))
    out = torch.empty(2, 3, 5, 16, dtype=qkv.dtype)
    found = cpu_copy(row).run(qkv, out).clone()
    integer = torch.int32 if dtype == "float32" else torch.int16
    assert torch.equal(found.view(integer), mixed(qkv).view(integer))
    for part in range(3):
        changed = qkv.clone()
        changed[..., part * 16] += 1
        assert not torch.equal(cpu_copy(row).run(changed, out).view(integer), found.view(integer))
