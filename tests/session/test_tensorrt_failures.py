"""What TensorRTSession refuses, how it fails, and tensors inside of engines, on a simulated GPU."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from dinat_deploy.errors import EngineError, MissingDependencyError
from dinat_deploy.models.seeding import seeded_image
from dinat_deploy.session.cuda import CudaError
from dinat_deploy.session.tensorrt_session import TensorRTSession
from tests.session.engines import ANY_BATCH, batch, open_engine, refuse, square, squared
from tests.session.onnx_models import (
    square_model,
)
from tests.session.simulator import SimulatedMachine, simulated_gpu

__all__ = ["simulated_gpu", "square"]


@dataclass(frozen=True)
class Taps:
    kind: Literal["outputs", "debug"]
    tensors: Mapping[str, str]


# Plans that are refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"something else", "cannot load .*model.plan.\n.*Serialization assertion"),
        (b"", "model.plan is empty"),
        (None, "model.plan: No such file"),
    ],
)
def test_what_is_no_plan_is_refused(
    simulated_gpu: SimulatedMachine, tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "model.plan").write_bytes(content)
    with pytest.raises(EngineError, match=message) as caught:
        open_engine(tmp_path)
    assert "dinat-deploy build" in caught.value.cure


def test_the_plan_of_another_version_is_refused_in_tensorrts_words(
    simulated_gpu: SimulatedMachine, tmp_path: Path
) -> None:
    model = square_model(tmp_path / "square.onnx")
    engine = SimulatedMachine("10.3.0").engine(model, tmp_path / "engine", profiles=[ANY_BATCH])
    message = "TensorRT 10.13.3.9 cannot load .*\n.*Serialized Engine Version: 10.3.0"
    with pytest.raises(EngineError, match=message):
        open_engine(engine)


def test_host_code_runs_only_if_allowed(simulated_gpu: SimulatedMachine, tmp_path: Path) -> None:
    model = square_model(tmp_path / "square.onnx", [2, 4])
    engine = simulated_gpu.engine(model, tmp_path / "engine", host_code=True)
    with pytest.raises(EngineError, match="Cannot deserialize engine with host code"):
        open_engine(engine)
    with open_engine(engine, allow_host_code=True) as session:
        session.run({"x": batch(2)})


def test_the_plugin_is_loaded_first(
    simulated_gpu: SimulatedMachine, tiny_bundle: Path, tmp_path: Path
) -> None:
    plugin = simulated_gpu.plugin(tmp_path / "libplugin.so")
    engine = simulated_gpu.engine(tiny_bundle, tmp_path / "engine", plugin=plugin)
    with open_engine(engine, plugin_library=plugin) as session:
        session.run({"image": seeded_image((1, 3, 64, 64), 0)})
    with pytest.raises(EngineError, match="Cannot find plugin: NeighborhoodAttention2D"):
        open_engine(engine)
    with pytest.raises(EngineError, match="plugin .* cannot be loaded.\n.*Unable to load library"):
        open_engine(engine, plugin_library=tmp_path / "missing.so")


# Failures -----------------------------------------------------------------------------------------


def test_engines_that_cannot_be_recorded_run_without(
    simulated_gpu: SimulatedMachine, tmp_path: Path
) -> None:
    model = square_model(tmp_path / "square.onnx", [2, 4])
    engine = simulated_gpu.engine(model, tmp_path / "engine", capturable=False)
    with open_engine(engine) as session:
        for first in range(4):
            x = batch(2, first=first)
            assert np.array_equal(session.run({"x": x})["y"], squared(x))
        (note,) = session.notes
        assert note.startswith("No CUDA graph: ") and "not permitted when stream is captur" in note
    assert simulated_gpu.gpu.calls.count("cudaStreamBeginCapture") == 1


def test_a_recording_that_cuda_does_not_take_is_done_without(
    square: TensorRTSession, simulated_gpu: SimulatedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulated_gpu.gpu, "instantiate", refuse("cudaErrorMemoryAllocation"))
    for first in range(3):
        x = batch(2, first=first)
        assert np.array_equal(square.run({"x": x})["y"], squared(x))
    (note,) = square.notes
    assert note.startswith("No CUDA graph: CUDA failed in cudaGraphInstantiate: cudaErrorMemory")
    assert simulated_gpu.gpu.calls.count("cudaStreamBeginCapture") == 1


def test_a_failed_run_says_what_tensorrt_says_and_the_next_one_works(
    square: TensorRTSession, simulated_gpu: SimulatedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    square.run({"x": batch(2)})
    context = simulated_gpu.trt.IExecutionContext
    with monkeypatch.context() as patch:
        patch.setattr(context, "_obstacle", lambda self, stream: "the GPU is on fire")
        with pytest.raises(EngineError, match="cannot run the engine.\n.*the GPU is on fire"):
            square.run({"x": batch(2)})
    assert np.array_equal(square.run({"x": batch(3)})["y"], squared(batch(3)))


def test_shapes_that_tensorrt_refuses_are_an_error(
    square: TensorRTSession, simulated_gpu: SimulatedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Such as a size that no kernel of the engine was built for, within the profile.
    context = simulated_gpu.trt.IExecutionContext
    monkeypatch.setattr(
        context, "set_input_shape", lambda self, name, shape: self._error("not that one")
    )
    with pytest.raises(EngineError, match="cannot take the shape 2x4 of x.\n.*not that one"):
        square.run({"x": batch(2)})
    monkeypatch.undo()
    monkeypatch.setattr(
        context, "update_device_memory_size_for_shapes", lambda self: int(self._error("no"))
    )
    with pytest.raises(EngineError, match="cannot tell how much memory these shapes need.\n.*no"):
        square.run({"x": batch(2)})


def test_running_out_of_memory_says_of_how_much(
    square: TensorRTSession, simulated_gpu: SimulatedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    square.run({"x": batch(1)})
    with monkeypatch.context() as patch:
        patch.setattr(simulated_gpu.gpu, "total_bytes", simulated_gpu.gpu.used_bytes())
        with pytest.raises(CudaError, match=r"cudaMalloc of 0\.0 MiB failed: cudaErrorMemoryAlloc"):
            square.run({"x": batch(64)})
    for size in (1, 64, 64, 64):
        assert np.array_equal(square.run({"x": batch(size)})["y"], squared(batch(size)))


def test_an_error_of_a_kernel_is_reported_and_closing_still_works(
    square: TensorRTSession, simulated_gpu: SimulatedMachine
) -> None:
    square.run({"x": batch(2)})
    simulated_gpu.gpu.lasting_error = "cudaErrorIllegalAddress"
    with pytest.raises(CudaError, match="CUDA failed in cuda.*: cudaErrorIllegalAddress"):
        square.run({"x": batch(2)})
    square.close()
    # After such an error a GPU frees nothing but with the process.
    simulated_gpu.gpu.lasting_error = None
    simulated_gpu.gpu.device.clear()
    simulated_gpu.gpu.pinned.clear()


@pytest.mark.parametrize("call", ["create_stream", "allocate", "allocate_pinned"])
def test_nothing_is_left_when_something_is_refused_halfway(
    simulated_gpu: SimulatedMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    model = square_model(tmp_path / "square.onnx", [2, 4])
    engine = simulated_gpu.engine(model, tmp_path / "engine")
    monkeypatch.setattr(simulated_gpu.gpu, call, refuse("cudaErrorMemoryAllocation"))
    with (
        pytest.raises(CudaError, match="cudaErrorMemoryAllocation"),
        open_engine(engine) as session,
    ):
        session.run({"x": batch(2)})


def test_a_closed_session_says_so(square: TensorRTSession) -> None:
    square.close()
    square.close()
    with pytest.raises(EngineError, match="session was closed"):
        square.run({"x": batch(2)})


def test_without_tensorrt_its_installation_is_named(
    simulated_gpu: SimulatedMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingDependencyError, match="TensorRT-RTX, tensorrt_rtx") as caught:
        TensorRTSession(tmp_path / "model.plan", flavor="tensorrt-rtx")
    assert "pip install" in caught.value.cure


# Tensors inside -----------------------------------------------------------------------------------


def test_taps_that_are_outputs(simulated_gpu: SimulatedMachine, tmp_path: Path) -> None:
    taps = {"layer": "product"}
    engine = simulated_gpu.engine(
        square_model(tmp_path / "square.onnx", [2, 4]), tmp_path / "engine", taps=taps
    )
    with open_engine(engine, taps=Taps("outputs", taps)) as session:
        found = session.run({"x": batch(2)})
        assert found.keys() == {"y", "product"}
        assert np.array_equal(found["product"], batch(2) ** 2)
    with pytest.raises(EngineError, match=r"not let out inner \(1 of 2 tensors are missing\)"):
        open_engine(engine, taps=Taps("outputs", {**taps, "other": "inner"}))


def test_taps_that_a_debug_listener_sees(simulated_gpu: SimulatedMachine, tmp_path: Path) -> None:
    taps = {"layer": "product"}
    engine = simulated_gpu.engine(
        square_model(tmp_path / "square.onnx"),
        tmp_path / "engine",
        profiles=[ANY_BATCH],
        taps=taps,
        taps_kind="debug",
        types={"product": "HALF"},
    )
    with open_engine(engine, taps=Taps("debug", taps)) as session:
        for size in (2, 3, 3, 3):
            found = session.run({"x": batch(size)})
            assert np.array_equal(found["product"], batch(size) ** 2)
            assert np.array_equal(found["y"], squared(batch(size)))
        assert session.notes == ["No CUDA graph: tensors inside the engine are watched."]
    with open_engine(engine) as session:
        assert session.run({"x": batch(2)}).keys() == {"y"}
    with pytest.raises(EngineError, match="not let out inner"):
        open_engine(engine, taps=Taps("debug", {"layer": "inner"}))


def test_what_the_debug_listener_cannot_read_is_an_error(
    simulated_gpu: SimulatedMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = simulated_gpu.engine(
        square_model(tmp_path / "square.onnx", [2, 4]),
        tmp_path / "engine",
        taps={"layer": "product"},
        taps_kind="debug",
    )
    with open_engine(engine, taps=Taps("debug", {"layer": "product"})) as session:
        monkeypatch.setattr(simulated_gpu.gpu, "read", refuse("cudaErrorIllegalAddress"))
        with pytest.raises(CudaError, match="cudaMemcpy: cudaErrorIllegalAddress"):
            session.run({"x": batch(2)})
