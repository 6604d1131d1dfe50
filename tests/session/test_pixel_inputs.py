"""Inputs that take pixels: whole numbers from 0 to 255 whatever the array's type, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from dinat_deploy.errors import EngineError
from dinat_deploy.session.base import RunOptions
from dinat_deploy.session.element_types import encode
from dinat_deploy.session.onnxruntime_session import OnnxRuntimeSession
from dinat_deploy.session.tensorrt_session import TensorRTSession
from tests.session.onnx_models import save
from tests.session.simulator.machine import SimulatedMachine, simulated_gpu

__all__ = ["simulated_gpu"]  # a fixture, used by name

PIXELS = np.array([[0, 7, 128], [200, 254, 255]], np.uint8)
WRONG = {
    "scaled": (np.array([[0.0, 0.25, 1.0]] * 2, np.float32), "was given 0.25 among .* 0 to 1"),
    "normalised": (np.array([[-2.1, 0.0, 2.0]] * 2, np.float32), "-2.1 among .* -2.1 to 2"),
    "too large": (np.array([[0, 1, 256]] * 2, np.int64), "was given 256 among values from 0 to"),
    "no number": (np.array([[0, 1, np.nan]] * 2, np.float32), "was given nan among"),
}


def cast_model(path: Path) -> Path:
    """y = 2 x in float32, of pixels x."""
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Add", ["f", "f"], ["y"], name="add"),
    ]
    shape = ["rows", 3]
    return save(path, nodes, [("x", TensorProto.UINT8, shape)], [("y", TensorProto.FLOAT, shape)])


Session = OnnxRuntimeSession | TensorRTSession
OpenSession = Callable[[], Session]


@pytest.fixture(params=["onnxruntime", "tensorrt"])
def session(
    request: pytest.FixtureRequest, tmp_path: Path, simulated_gpu: SimulatedMachine
) -> Session:
    model = cast_model(tmp_path / "pixels.onnx")
    if request.param == "onnxruntime":
        return OnnxRuntimeSession(model, custom_op=False)
    profile = {"x": ([1, 3], [2, 3], [4, 3])}
    engine = simulated_gpu.engine(model, tmp_path / "engine", profiles=[profile])
    opened = TensorRTSession(engine / "model.plan", flavor="tensorrt")
    request.addfinalizer(opened.close)
    return opened


@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.int64])
def test_pixels_of_any_type_are_taken(session: Session, kind: type) -> None:
    found = session.run({"x": PIXELS.astype(kind)})["y"]
    assert found.dtype == np.float32
    assert np.array_equal(found, 2.0 * PIXELS)
    prepared = session.prepare({"x": PIXELS.astype(kind)}, RunOptions())
    assert len(prepared.block(0, 2).timings) >= 2
    prepared.close()


@pytest.mark.parametrize("case", WRONG)
def test_other_numbers_are_refused_and_the_cure_is_named(session: Session, case: str) -> None:
    array, said = WRONG[case]
    for call in (session.run, lambda feeds: session.prepare(feeds, RunOptions())):
        with pytest.raises(EngineError, match=said) as caught:
            call({"x": array})
        assert "The input x takes pixels, whole numbers from 0 to 255 (uint8)" in caught.value.cause
        assert "neither scaled nor normalised" in caught.value.cure


def test_other_integer_types_say_which_they_are() -> None:
    with pytest.raises(EngineError, match=r"input x has the value 0\.5, and the model takes int64"):
        encode(np.float32([0.5]), "int64", "x")
