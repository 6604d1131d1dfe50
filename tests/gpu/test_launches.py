"""Streams, CUDA graphs and refused launches."""

from __future__ import annotations

import ctypes

import pytest
import torch

from tests.gpu.binding import INVALID_VALUE, KernelError, Kernels, problem_of
from tests.gpu.problems import (
    TOLERANCE,
    Inputs,
    Setting,
    check_tactics,
    poisoned,
    random_inputs,
    relative_error,
    square,
)
from tests.plugins.abi import Operands, Problem

SETTINGS = (square(28, 4, 7, 1), square(28, 4, 7, 4))


def tactics_of(kernels: Kernels, inputs: Inputs, setting: Setting) -> list[int]:
    problem = problem_of(inputs.query, poisoned(inputs.query), **setting.window)
    return [0, *kernels.tactics(problem)]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_captured_launch_reads_new_inputs_at_every_replay(
    kernels: Kernels, setting: Setting, dtype: torch.dtype
) -> None:
    inputs = random_inputs(setting, dtype, packed=False)
    for tactic in tactics_of(kernels, inputs, setting):
        out = poisoned(inputs.query)

        def launch(out: torch.Tensor = out, tactic: int = tactic) -> None:
            kernels.attention(*inputs.tensors, inputs.rpb, out, **setting.window, tactic=tactic)

        launch()  # loads the kernel, which a capture must not do
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            launch()
        for seed in (1, 2):
            fresh = random_inputs(setting, dtype, packed=False, seed=seed)
            for held, new in zip(inputs.tensors, fresh.tensors, strict=True):
                held.copy_(new)
            assert inputs.rpb is not None and fresh.rpb is not None
            inputs.rpb.copy_(fresh.rpb)
            out.fill_(torch.nan)
            graph.replay()
            error = relative_error(out, fresh.expected(setting.window))
            assert error <= TOLERANCE[dtype], f"{kernels.tactic_name(tactic)}: {error:.1e}"


def test_a_chain_of_launches_in_one_graph(kernels: Kernels) -> None:
    """Thirty layers, each reading what the one before wrote, as a model's graph has them."""
    setting = square(14, 8, 7, 1)
    start = random_inputs(setting, torch.float16, packed=False)

    def chain(query: torch.Tensor) -> torch.Tensor:
        for _ in range(30):
            out = torch.empty_like(query)
            kernels.attention(query, start.key, start.value, start.rpb, out, **setting.window)
            query = out
        return query

    eager = chain(start.query).clone()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = chain(start.query)
    graph.replay()
    assert torch.equal(captured, eager)


def test_work_is_ordered_by_the_stream_it_was_given(kernels: Kernels) -> None:
    """A launch waits for earlier work of its own stream, not for that of others."""
    setting = square(56, 2, 7, 8, batch=4)
    inputs = random_inputs(setting, torch.float16, packed=False)
    expected = inputs.expected(setting.window)
    late = torch.zeros_like(inputs.query)
    out = poisoned(inputs.query)
    # Loading a kernel waits for the whole device, so it must not happen below.
    kernels.attention(late, inputs.key, inputs.value, inputs.rpb, out, **setting.window)
    out.fill_(torch.nan)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
        late.copy_(inputs.query)
        kernels.attention(late, inputs.key, inputs.value, inputs.rpb, out, **setting.window)
    # Its own stream still sleeps, so nothing can have been written.
    assert bool(out.isnan().all())
    stream.synchronize()
    assert relative_error(out, expected) <= TOLERANCE[torch.float16]


def test_an_empty_batch_launches_nothing(kernels: Kernels) -> None:
    setting = square(14, 2, 7, 1)
    inputs = random_inputs(setting, torch.float16)
    out = poisoned(inputs.query)
    problem = problem_of(inputs.query, out, **setting.window)
    problem.batch = 0
    kernels.launch(problem, _operands(inputs, out))
    torch.cuda.synchronize()
    assert bool(out.isnan().all())


def _operands(inputs: Inputs, out: torch.Tensor) -> Operands:
    addresses = [tensor.data_ptr() for tensor in inputs.tensors]
    rpb = None if inputs.rpb is None else inputs.rpb.data_ptr()
    return Operands(*addresses, rpb, out.data_ptr())


def _set(problem: Problem, name: str, value: int | tuple[int, int]) -> None:
    if isinstance(value, tuple):
        value = (ctypes.c_int32 * 2)(*value)  # type: ignore[assignment]
    setattr(problem, name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dilation", (3, 1)),
        ("dilation", (0, 1)),
        ("kernel_size", (15, 7)),
        ("kernel_size", (0, 7)),
        ("heads", 0),
        ("head_dim", 0),
        ("batch", -1),
        ("size", (0, 14)),
    ],
)
def test_a_faulty_problem_is_refused_and_the_device_lives_on(
    kernels: Kernels, name: str, value: int | tuple[int, int]
) -> None:
    setting = square(14, 2, 7, 1)
    inputs = random_inputs(setting, torch.float16)
    out = poisoned(inputs.query)
    problem = problem_of(inputs.query, out, **setting.window)
    _set(problem, name, value)
    assert kernels.tactics(problem) == []
    for tactic in range(6):
        with pytest.raises(KernelError) as refusal:
            kernels.launch(problem, _operands(inputs, out), tactic)
        assert refusal.value.code == INVALID_VALUE
    torch.cuda.synchronize()
    assert bool(out.isnan().all())
    check_tactics(kernels, inputs, setting.window, inputs.expected(setting.window))


def test_a_tactic_that_cannot_compute_a_problem_is_refused(kernels: Kernels) -> None:
    setting = square(14, 2, 7, 1)
    inputs = random_inputs(setting, torch.float32)
    out = poisoned(inputs.query)
    problem = problem_of(inputs.query, out, **setting.window)
    offered = kernels.tactics(problem)
    for tactic in (-1, 99, *(t for t in range(1, 6) if t not in offered)):
        with pytest.raises(KernelError) as refusal:
            kernels.launch(problem, _operands(inputs, out), tactic)
        assert refusal.value.code == INVALID_VALUE
    assert bool(out.isnan().all())
