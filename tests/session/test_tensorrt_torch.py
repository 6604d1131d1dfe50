"""TensorRTSession.run_torch, with CUDA tensors on a simulated GPU."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dinat_deploy.errors import EngineError
from dinat_deploy.session.tensorrt_session import TensorRTSession
from tests.session.engines import batch, squared
from tests.session.onnx_models import nonzero_model, shift_model, square_model
from tests.session.simulator import SimulatedMachine, simulated_gpu
from tests.session.simulator.torch_cuda import SimulatedTorch

__all__ = ["simulated_gpu"]

PROFILE = {"x": ([0, 4], [2, 4], [64, 4])}


@pytest.fixture
def cuda(
    simulated_gpu: SimulatedMachine, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SimulatedTorch]:
    made = SimulatedTorch(simulated_gpu.gpu, monkeypatch)
    yield made
    made.close()


@pytest.fixture
def square(
    simulated_gpu: SimulatedMachine, cuda: SimulatedTorch, tmp_path: Path
) -> Iterator[TensorRTSession]:
    model = square_model(tmp_path / "square.onnx")
    engine = simulated_gpu.engine(model, tmp_path / "engine", profiles=[PROFILE])
    with TensorRTSession(engine / "model.plan", flavor="tensorrt") as session:
        yield session


def run(session: TensorRTSession, x: Any) -> Any:
    return session.run_torch({"x": x})["y"]


def test_tensors_are_used_in_place_and_nobody_waits(
    square: TensorRTSession, cuda: SimulatedTorch, simulated_gpu: SimulatedMachine
) -> None:
    run(square, cuda.tensor(batch(2)))
    simulated_gpu.gpu.calls.clear()
    x = cuda.tensor(batch(2, first=3))
    y = run(square, x)
    assert y.dtype == torch.float32 and y.shape == (2, 4)
    assert simulated_gpu.gpu.calls == ["execute_async_v3"]  # no copy, no synchronisation
    assert np.array_equal(cuda.read(y), squared(batch(2, first=3)))


def test_runs_are_ordered_with_the_current_stream(
    square: TensorRTSession, cuda: SimulatedTorch
) -> None:
    # Every input is the output of the one before, which has not run yet.
    x, expected = cuda.tensor(batch(3) / 8), batch(3) / 8
    for _ in range(3):
        x, expected = run(square, x), squared(expected)
    cuda_result = cuda.read(x)
    assert np.array_equal(cuda_result, expected)


def test_a_tensor_may_be_overwritten_right_after(
    square: TensorRTSession, cuda: SimulatedTorch
) -> None:
    x = cuda.tensor(batch(2))
    y = run(square, x)
    x.queue_values(batch(2, first=50), cuda.current)
    assert np.array_equal(cuda.read(y), squared(batch(2)))


def test_arrays_and_tensors_take_turns(square: TensorRTSession, cuda: SimulatedTorch) -> None:
    for size in [2, 2, 2, 5, 5, 2, 64, 2, 2, 5]:
        y = run(square, cuda.tensor(batch(size, first=1)))
        found = square.run({"x": batch(size)})["y"]
        assert np.array_equal(found, squared(batch(size)))
        assert np.array_equal(cuda.read(y), squared(batch(size, first=1)))


def test_memory_in_use_is_not_freed_when_larger_shapes_come(
    square: TensorRTSession, cuda: SimulatedTorch
) -> None:
    small, larger = run(square, cuda.tensor(batch(2))), run(square, cuda.tensor(batch(9)))
    largest = square.run({"x": batch(64)})["y"]
    assert np.array_equal(cuda.read(small), squared(batch(2)))
    assert np.array_equal(cuda.read(larger), squared(batch(9)))
    assert np.array_equal(largest, squared(batch(64)))
    pending = run(square, cuda.tensor(batch(63)))
    square.run({"x": batch(1)})
    assert np.array_equal(cuda.read(pending), squared(batch(63)))


def test_contexts_in_use_are_not_given_up(square: TensorRTSession, cuda: SimulatedTorch) -> None:
    # From large to small: nothing else makes the session wait.
    sizes = range(12, 0, -1)
    results = [run(square, cuda.tensor(batch(size))) for size in sizes]
    for size, result in zip(sizes, results, strict=True):
        assert np.array_equal(cuda.read(result), squared(batch(size)))


def test_empty_tensors_have_no_address_and_are_run(
    square: TensorRTSession, cuda: SimulatedTorch
) -> None:
    assert run(square, cuda.tensor(batch(0))).shape == (0, 4)


def test_tensors_that_cannot_be_used_in_place_are_refused(
    square: TensorRTSession, cuda: SimulatedTorch
) -> None:
    with pytest.raises(EngineError, match="input x is on cpu, and the engine is on cuda:0"):
        run(square, torch.zeros(2, 4))
    there = cuda.tensor(batch(2))
    there.device = torch.device("cuda", 1)
    with pytest.raises(EngineError, match="input x is on cuda:1, and the engine is on cuda:0"):
        run(square, there)
    half = cuda.tensor(batch(2))
    half.dtype = torch.float16
    with pytest.raises(EngineError, match=r"type float16, and the engine takes float32.*float32\)"):
        run(square, half)
    strided = cuda.tensor(batch(2))
    strided.contiguous = False
    with pytest.raises(EngineError, match=r"not contiguous.*\.contiguous\(\)"):
        run(square, strided)
    view = cuda.tensor(batch(2))
    view.offset = 16
    with pytest.raises(EngineError, match=r"TensorRT wants multiples of 256 bytes.*\.clone\(\)"):
        run(square, view)
    with pytest.raises(EngineError, match="does not take x=65x4"):
        run(square, cuda.tensor(batch(65)))
    with pytest.raises(EngineError, match="input x is missing"):
        square.run_torch({})


def test_engines_that_need_the_host_take_arrays_only(
    simulated_gpu: SimulatedMachine, cuda: SimulatedTorch, tmp_path: Path
) -> None:
    dependent = simulated_gpu.engine(
        nonzero_model(tmp_path / "nonzero.onnx"),
        tmp_path / "nonzero",
        profiles=[{"x": ([1], [2], [9])}],
        data_dependent=["positions"],
    )
    with (
        TensorRTSession(dependent / "model.plan", flavor="tensorrt") as session,
        pytest.raises(EngineError, match="shape of the output positions depends on values"),
    ):
        session.run_torch({"x": cuda.tensor(np.ones(3, np.float32))})
    shift = simulated_gpu.engine(
        shift_model(tmp_path / "shift.onnx"),
        tmp_path / "shift",
        profiles=[{"x": ([1, 2], [2, 2], [9, 2])}],
        host=["shift"],
    )
    x = cuda.tensor(np.ones((1, 2), np.float32))
    with (
        TensorRTSession(shift / "model.plan", flavor="tensorrt") as session,
        pytest.raises(EngineError, match="TensorRT wants shift in host memory"),
    ):
        session.run_torch({"x": x, "shift": x})


def test_the_stand_ins_are_called_as_pytorch_is() -> None:
    external = inspect.signature(torch.cuda.ExternalStream.__new__).parameters
    assert list(external)[1:3] == ["stream_ptr", "device"]
    assert list(inspect.signature(torch.cuda.current_stream).parameters) == ["device"]
    assert list(inspect.signature(torch.cuda.Stream.wait_stream).parameters) == ["self", "stream"]
