"""The CPU kernel against NATTEN's results and the definition, for every instruction set at hand."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.bruteforce import attention
from tests.golden import OpCase, op_case, op_case_names
from tests.plugins import abi
from tests.plugins.conftest import TargetBuilder
from tests.plugins.cpu import CpuKernel, Isa, random_call

# Largest error relative to the largest output.
TOLERANCE = {
    abi.DataType.FLOAT32: 2e-5,
    abi.DataType.FLOAT16: 2e-3,
    abi.DataType.BFLOAT16: 1e-2,
}
KINDS = list(abi.DataType)


@pytest.fixture(scope="module")
def kernel(native_target: TargetBuilder) -> CpuKernel:
    return CpuKernel(native_target("dinat_cpu"))


def golden_call(case: OpCase, kind: abi.DataType, packed: bool) -> abi.Call:
    return abi.call(
        case.query,
        case.key,
        case.value,
        case.rpb,
        kernel_size=case.kernel_size,
        dilation=case.dilation,
        scale=case.scale,
        kind=kind,
        packed=packed,
    )


@pytest.mark.parametrize("name", op_case_names())
def test_golden_cases_on_every_instruction_set(name: str, kernel: CpuKernel) -> None:
    case = op_case(name)
    for isa in kernel.isas:
        for packed in (True, False):
            found = kernel.run(golden_call(case, abi.DataType.FLOAT32, packed), isa)
            assert np.abs(found - case.output).max() <= 2e-5, (isa, packed)


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("name", op_case_names()[::3])
def test_golden_cases_in_16_bits(name: str, kind: abi.DataType, kernel: CpuKernel) -> None:
    case = op_case(name)
    # The rounding of the inputs is not the kernel's error.
    exact = kernel.reference(golden_call(case, kind, packed=True))
    for isa in kernel.isas:
        for packed in (True, False):
            found = kernel.run(golden_call(case, kind, packed), isa)
            assert np.abs(found - exact).max() <= TOLERANCE[kind] * np.abs(exact).max()


@st.composite
def problems(draw: st.DrawFn) -> dict[str, object]:
    kernel_size = [draw(st.integers(1, 14)), draw(st.integers(1, 18))]
    dilation = [draw(st.integers(1, 4)) for _ in range(2)]
    extra = [draw(st.integers(0, 9)) for _ in range(2)]
    size = [k * d + more for k, d, more in zip(kernel_size, dilation, extra, strict=True)]
    return {
        "shape": (
            draw(st.integers(1, 2)),
            *size,
            draw(st.integers(1, 3)),
            draw(st.integers(1, 40)),
        ),
        "kernel_size": kernel_size,
        "dilation": dilation,
        "rpb": draw(st.booleans()),
        "packed": draw(st.booleans()),
        "kind": draw(st.sampled_from(KINDS)),
        "seed": draw(st.integers(0, 99)),
    }


@given(problem=problems())
@settings(max_examples=60)
def test_any_problem_agrees_with_the_reference(
    problem: dict[str, object], kernel: CpuKernel
) -> None:
    call = random_call(**problem)  # type: ignore[arg-type]
    exact = kernel.reference(call)
    limit = TOLERANCE[problem["kind"]] * max(1.0, np.abs(exact).max())  # type: ignore[index]
    for isa in kernel.isas:
        assert np.abs(kernel.run(call, isa) - exact).max() <= limit, isa


@given(
    kernel_size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    extra=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
@settings(max_examples=15)
def test_the_reference_agrees_with_plain_loops(
    kernel_size: tuple[int, int],
    dilation: tuple[int, int],
    extra: tuple[int, int],
    kernel: CpuKernel,
) -> None:
    size = [k * d + more for k, d, more in zip(kernel_size, dilation, extra, strict=True)]
    shape = (1, *size, 2, 5)
    call = random_call(shape, kernel_size=kernel_size, dilation=dilation, packed=False)
    query, key, value, rpb = call.inputs
    expected = attention(query, key, value, rpb, kernel_size, dilation, 5**-0.5)
    assert np.abs(kernel.reference(call) - expected).max() < 1e-6


@pytest.mark.parametrize("kernel_size", [(7, 7), (11, 11)])
def test_results_do_not_depend_on_threads_or_run(
    kernel_size: tuple[int, int], kernel: CpuKernel
) -> None:
    call = random_call((2, 40, 33, 3, 32), kernel_size=kernel_size, dilation=(2, 1))
    for isa in kernel.isas:
        first = kernel.run(call, isa, threads=1)
        for threads in (1, 2, 5):
            assert np.array_equal(first, kernel.run(call, isa, threads)), (isa, threads)


def test_sharp_distributions_stay_exact(kernel: CpuKernel) -> None:
    """Weights far below the smallest float become zero; large scores do not overflow."""
    call = random_call((1, 9, 9, 1, 16), kernel_size=(3, 3), dilation=(1, 1))
    call.problem.scale = 400.0
    exact = kernel.reference(call)
    for isa in kernel.isas:
        assert np.abs(kernel.run(call, isa) - exact).max() < 1e-3


def test_a_nan_reaches_its_own_neighbours_and_stays_out_of_other_heads(kernel: CpuKernel) -> None:
    call = random_call((1, 20, 20, 2, 16), kernel_size=(3, 3), dilation=(1, 1), packed=False)
    call.inputs[1][0, 10, 10, 0] = np.nan  # one key
    for isa in kernel.isas:
        found = kernel.run(call, isa)
        assert np.isnan(found[0, 9:12, 9:12, 0]).all()
        assert not np.isnan(found[..., 1, :]).any()
        # Keys outside the window are masked whatever they hold.
        assert np.isnan(found).sum() == 9 * 16


def test_an_empty_batch_writes_nothing(kernel: CpuKernel) -> None:
    call = random_call((0, 7, 7, 2, 32), kernel_size=(7, 7), dilation=(1, 1))
    for isa in kernel.isas:
        assert kernel.run(call, isa).shape == (0, 7, 7, 2, 32)


def test_problems_that_are_not_defined_are_refused(kernel: CpuKernel) -> None:
    call = random_call((1, 9, 9, 1, 16), kernel_size=(3, 3), dilation=(3, 3))
    call.problem.dilation[1] = 4
    with pytest.raises(
        ValueError, match=r"kernel_size 3 \* dilation 4 = 12 exceeds the map's width"
    ):
        kernel.run(call, Isa.SCALAR)


def test_kernels_share_no_code_between_instruction_sets(
    native_build: Path, kernel: CpuKernel
) -> None:
    """A function that two of them define would run on CPUs that lack its instructions."""
    objects = list(native_build.rglob("kernel_*.cpp.o"))
    assert len(objects) >= 2
    for path in objects:
        if path.name == "kernel_scalar.cpp.o":
            continue
        symbols = subprocess.run(
            ["nm", "--defined-only", "--extern-only", path],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        assert len(symbols) == 1, symbols
        assert "Kernel" in symbols[0]
