"""Every kernel and tactic against float64 on the GPU."""

from __future__ import annotations

import pytest
import torch

from tests import bruteforce, golden
from tests.gpu.binding import INVALID_VALUE, KernelError, Kernels, problem_of
from tests.gpu.problems import (
    DTYPES,
    RAGGED,
    STAGES,
    TOLERANCE,
    Inputs,
    Setting,
    check_tactics,
    each_tactic,
    from_numpy,
    poisoned,
    random_inputs,
    relative_error,
    square,
)

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).split(".")[-1])
layouts = pytest.mark.parametrize("packed", [True, False], ids=["packed", "split"])


@pytest.mark.parametrize("name", golden.op_case_names())
@dtypes
@layouts
def test_golden_cases(kernels: Kernels, name: str, dtype: torch.dtype, packed: bool) -> None:
    case = golden.op_case(name)
    inputs = from_numpy((case.query, case.key, case.value), case.rpb, dtype, packed)
    window = {"kernel_size": case.kernel_size, "dilation": case.dilation}
    # The stored output belongs to float32 inputs; rounded inputs have an output of their own.
    if dtype is torch.float32:
        expected = torch.from_numpy(case.output.copy()).cuda().double()
    else:
        expected = inputs.expected(window, case.scale)
    check_tactics(kernels, inputs, window, expected, case.scale)


@pytest.mark.parametrize("setting", [*STAGES, *RAGGED], ids=lambda setting: setting.name)
@dtypes
@pytest.mark.parametrize("rpb", [True, False], ids=["rpb", "norpb"])
def test_shapes_of_models(
    kernels: Kernels, setting: Setting, dtype: torch.dtype, rpb: bool
) -> None:
    for packed in (True, False):
        inputs = random_inputs(setting, dtype, packed=packed, rpb=rpb)
        check_tactics(kernels, inputs, setting.window, inputs.expected(setting.window))


def test_a_second_opinion_by_plain_loops(kernels: Kernels) -> None:
    setting = Setting(2, (9, 13), 2, 32, (3, 5), (3, 2))
    inputs = random_inputs(setting, torch.float32)
    arrays = [tensor.double().cpu().numpy() for tensor in inputs.tensors]
    assert inputs.rpb is not None
    rpb = inputs.rpb.double().cpu().numpy()
    loops = bruteforce.attention(*arrays, rpb, setting.kernel, setting.dilation, setting.dim**-0.5)
    check_tactics(kernels, inputs, setting.window, torch.from_numpy(loops).cuda())


def test_tensor_core_tactics_are_offered_where_they_should_be(kernels: Kernels) -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("tensor-core kernels need compute capability 8.0")

    def names(setting: Setting, dtype: torch.dtype) -> set[str]:
        inputs = random_inputs(setting, dtype)
        problem = problem_of(inputs.query, poisoned(inputs.query), **setting.window)
        return {kernels.tactic_name(tactic) for tactic in kernels.tactics(problem)}

    half = names(square(56, 2, 7, 1), torch.float16)
    assert len(half) > 1
    assert half == names(square(56, 2, 7, 1), torch.bfloat16)
    assert len(names(square(56, 2, 7, 1), torch.float32)) == 1
    # Where the dilation group fits a tile there is one more way.
    assert len(names(square(56, 2, 7, 8), torch.float16)) > len(half)


@dtypes
def test_scale_is_applied_before_the_bias(kernels: Kernels, dtype: torch.dtype) -> None:
    setting = square(14, 2, 7, 1)
    inputs = random_inputs(setting, dtype)
    check_tactics(kernels, inputs, setting.window, inputs.expected(setting.window, 0.5), 0.5)


@dtypes
@pytest.mark.parametrize("setting", [square(20, 2, 7, 1), square(21, 2, 5, 3)], ids=["d1", "d3"])
def test_keys_outside_the_window_do_not_matter(
    kernels: Kernels, setting: Setting, dtype: torch.dtype
) -> None:
    """Huge but finite keys and values that a query does not see leave its output as it was."""
    inputs = random_inputs(setting, dtype)
    window = setting.window
    expected = inputs.expected(window)
    rows, columns = (
        bruteforce.axis_keys(size, kernel, dilation)
        for size, kernel, dilation in zip(
            setting.size, setting.kernel, setting.dilation, strict=True
        )
    )
    for token in ((0, 0), (setting.size[0] // 2, 3), (setting.size[0] - 1, setting.size[1] - 1)):
        outside = torch.ones(setting.size, dtype=torch.bool, device="cuda")
        for row in rows[token[0]]:
            outside[row, columns[token[1]]] = False
        huge = [tensor.clone() for tensor in inputs.tensors]
        huge[1][:, outside], huge[2][:, outside] = 3e4, -3e4
        changed = Inputs(huge[0], huge[1], huge[2], inputs.rpb)
        for name, out in each_tactic(kernels, changed, window):
            found, wanted = out[:, token[0], token[1]], expected[:, token[0], token[1]]
            assert relative_error(found, wanted) <= TOLERANCE[dtype], name


@dtypes
def test_large_scores_do_not_overflow(kernels: Kernels, dtype: torch.dtype) -> None:
    """Softmax subtracts the maximum: scores of several thousand give finite, right outputs."""
    setting = square(16, 2, 7, 2)
    inputs = random_inputs(setting, dtype, packed=False)
    big = Inputs(inputs.query * 64, inputs.key * 64, inputs.value, inputs.rpb)
    expected = big.expected(setting.window)
    for name, out in each_tactic(kernels, big, setting.window):
        assert bool(out.isfinite().all()), name
        # One key dominates almost everywhere; where two tie, rounding decides.
        close = (out.double() - expected).abs() <= 0.02 * expected.abs().max()
        assert float(close.double().mean()) > 0.99, name


@dtypes
def test_gaps_between_rows_are_neither_read_nor_written(
    kernels: Kernels, dtype: torch.dtype
) -> None:
    """Strides may skip memory: here it holds NaN, which must not come in nor be overwritten."""
    setting = Setting(2, (15, 18), 2, 32, (7, 7), (2, 2))
    inputs = random_inputs(setting, dtype)
    batch, (height, width), heads, dim = (
        setting.batch,
        setting.size,
        setting.heads,
        setting.dim,
    )
    room = torch.full(
        (batch, height + 1, width + 2, 3, heads + 1, dim), torch.nan, dtype=dtype, device="cuda"
    )
    for which, tensor in enumerate(inputs.tensors):
        room[:, :height, :width, which, :heads] = tensor
    parts = [room[:, :height, :width, which, :heads] for which in range(3)]
    sparse = Inputs(parts[0], parts[1], parts[2], inputs.rpb)
    expected = inputs.expected(setting.window)
    problem = problem_of(sparse.query, sparse.query, **setting.window)
    for tactic in (0, *kernels.tactics(problem)):
        holder = torch.full(
            (batch, height + 1, width + 2, heads + 1, dim), 7.0, dtype=dtype, device="cuda"
        )
        out = holder[:, :height, :width, :heads]
        kernels.attention(*sparse.tensors, sparse.rpb, out, **setting.window, tactic=tactic)
        name = kernels.tactic_name(tactic)
        assert relative_error(out, expected) <= TOLERANCE[dtype], name
        holder[:, :height, :width, :heads] = 7.0
        assert bool((holder == 7.0).all()), f"{name} wrote outside its output"


def test_heads_first_tensors(kernels: Kernels) -> None:
    """``[B, heads, H, W, dim]`` is only other strides."""
    setting = square(21, 3, 7, 3)
    inputs = random_inputs(setting, torch.float16)
    heads_first = [
        tensor.permute(0, 3, 1, 2, 4).contiguous().permute(0, 2, 3, 1, 4)
        for tensor in inputs.tensors
    ]
    same = Inputs(heads_first[0], heads_first[1], heads_first[2], inputs.rpb)
    check_tactics(kernels, same, setting.window, inputs.expected(setting.window))


@dtypes
def test_tensors_that_start_anywhere(kernels: Kernels, dtype: torch.dtype) -> None:
    """One element past a 16-byte boundary: vector copies cannot read that, other kernels can."""
    setting = square(14, 2, 7, 2)
    inputs = random_inputs(setting, dtype, packed=False)
    expected = inputs.expected(setting.window)
    shifted = []
    for tensor in (*inputs.tensors, poisoned(inputs.query)):
        room = torch.empty(tensor.numel() + 1, dtype=dtype, device="cuda")
        view = room[1:].view(tensor.shape)
        shifted.append(view.copy_(tensor))
    query, key, value, out = shifted
    problem = problem_of(query, out, **setting.window)
    for tactic in (0, *kernels.tactics(problem)):
        out.fill_(torch.nan)
        try:
            kernels.attention(query, key, value, inputs.rpb, out, **setting.window, tactic=tactic)
        except KernelError as refusal:
            # Only a tactic that was asked for by name may decline.
            assert tactic != 0 and refusal.code == INVALID_VALUE
            assert bool(out.isnan().all())
            continue
        assert relative_error(out, expected) <= TOLERANCE[dtype], kernels.tactic_name(tactic)


@pytest.mark.parametrize("stride", ["batch", "row"])
def test_offsets_beyond_32_bits(kernels: Kernels, stride: str) -> None:
    """Elements more than 2^31 from the start are found: a wide stride needs no such data."""
    free, _ = torch.cuda.mem_get_info()
    if free < 12 << 30:
        pytest.skip(f"needs 12 GiB of free GPU memory, and {free / 2**30:.1f} GiB is free")
    setting = Setting(2, (14, 14), 1, 32, (7, 7), (2, 2))
    inputs = random_inputs(setting, torch.float16, packed=False)
    far = (1 << 31) + 64 if stride == "batch" else ((1 << 31) // 13 // 8 + 1) * 8
    strides = (far, 14 * 96, 96, 32, 1) if stride == "batch" else (14 * 96, far, 96, 32, 1)
    span = sum((n - 1) * s for n, s in zip(inputs.query.shape, strides, strict=True)) + 96
    assert span > 1 << 31
    room = torch.zeros(span, dtype=torch.float16, device="cuda")
    spread = []
    for which, tensor in enumerate(inputs.tensors):
        view = room.as_strided(tensor.shape, strides, 32 * which)
        view.copy_(tensor)
        spread.append(view)
    wide = Inputs(spread[0], spread[1], spread[2], inputs.rpb)
    expected = inputs.expected(setting.window)
    out_room = torch.full((span,), torch.nan, dtype=torch.float16, device="cuda")
    out = out_room.as_strided(inputs.query.shape, strides)
    problem = problem_of(wide.query, out, **setting.window)
    for tactic in (0, *kernels.tactics(problem)):
        out.fill_(torch.nan)
        kernels.attention(*wide.tensors, wide.rpb, out, **setting.window, tactic=tactic)
        error = relative_error(out, expected)
        assert error <= TOLERANCE[torch.float16], f"{kernels.tactic_name(tactic)}: {error:.1e}"


def test_repeated_runs_agree_bit_for_bit(kernels: Kernels) -> None:
    """A difference between runs would be a race."""
    setting = square(56, 2, 7, 1, batch=4)
    inputs = random_inputs(setting, torch.float16)
    first = dict(each_tactic(kernels, inputs, setting.window))
    for _ in range(5):
        for name, out in each_tactic(kernels, inputs, setting.window):
            assert torch.equal(out, first[name]), name


def test_constant_values_come_back(kernels: Kernels) -> None:
    """The weights of a query sum to one."""
    setting = square(28, 4, 7, 4)
    inputs = random_inputs(setting, torch.float16, packed=False)
    inputs.value.fill_(0.75)
    for name, out in each_tactic(kernels, inputs, setting.window):
        assert float((out - 0.75).abs().max()) <= 1e-3, name
