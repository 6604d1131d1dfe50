"""Engines of y = x * x + x on the simulated GPU, for tests of sessions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinat_deploy.session.tensorrt_session import TensorRTSession
from tests.session.onnx_models import square_model
from tests.session.simulator import SimulatedMachine
from tests.session.simulator.gpu import GpuError

ANY_BATCH = {"x": ([1, 4], [2, 4], [64, 4])}


def open_engine(engine: Path, **options: Any) -> TensorRTSession:
    return TensorRTSession(engine / "model.plan", flavor="tensorrt", **options)


@pytest.fixture
def square(simulated_gpu: SimulatedMachine, tmp_path: Path) -> Iterator[TensorRTSession]:
    """A session for batches of 1 to 64."""
    model = square_model(tmp_path / "square.onnx")
    engine = simulated_gpu.engine(model, tmp_path / "engine", profiles=[ANY_BATCH])
    with open_engine(engine) as session:
        yield session


def batch(size: int, first: float = 0.0) -> np.ndarray:
    """An input [size, 4] that counts from ``first``."""
    return (first + np.arange(4 * size, dtype=np.float32)).reshape(size, 4)


def squared(x: np.ndarray) -> np.ndarray:
    return x * x + x


def refuse(status: str) -> Any:
    """What can take the place of a function of the simulated GPU, to let it fail."""

    def fail(*arguments: object, **options: object) -> None:
        raise GpuError(status)

    return fail
