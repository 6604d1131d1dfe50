"""TensorRTSession on a simulated GPU, which is as strict as CUDA and TensorRT may be."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto

from dinat_deploy.errors import EngineError
from dinat_deploy.models.seeding import seeded_image
from dinat_deploy.session.cuda import CudaError
from dinat_deploy.session.onnxruntime_session import OnnxRuntimeSession
from dinat_deploy.session.tensorrt_lane import MOST_CONTEXTS
from dinat_deploy.session.tensorrt_session import TensorRTSession
from tests.session.engines import ANY_BATCH, batch, open_engine, square, squared
from tests.session.onnx_models import (
    identity_model,
    nonzero_model,
    shift_model,
    square_model,
    sum_model,
)
from tests.session.simulator import SimulatedMachine, simulated_gpu, simulated_rtx

__all__ = ["simulated_gpu", "simulated_rtx", "square"]


# Results ------------------------------------------------------------------------------------------


def test_a_bundles_engine_gives_what_onnx_runtime_gives(
    simulated_gpu: SimulatedMachine, tiny_bundle: Path, tmp_path: Path
) -> None:
    reference = OnnxRuntimeSession(tiny_bundle / "model.onnx", custom_op=False)
    with open_engine(simulated_gpu.engine(tiny_bundle, tmp_path / "engine")) as session:
        for seed in range(4):  # queued, recorded, replayed
            feeds = {"image": seeded_image((1, 3, 64, 64), seed)}
            found, expected = session.run(feeds), reference.run(feeds)
            assert found.keys() == expected.keys()
            for name, array in expected.items():
                assert found[name].dtype == np.float32
                assert np.abs(found[name] - array).max() < 1e-5
        assert session.name == "TensorRT 10.13.3.9"
        assert session.device == "NVIDIA Simulated 4090"
        assert session.notes == []


def test_the_second_run_of_a_shape_is_recorded_and_later_ones_are_replayed(
    square: TensorRTSession, simulated_gpu: SimulatedMachine
) -> None:
    used = []
    for run in range(4):
        simulated_gpu.gpu.calls.clear()
        x = batch(2, first=run)
        assert np.array_equal(square.run({"x": x})["y"], squared(x))
        calls = simulated_gpu.gpu.calls
        used.append(("execute_async_v3" in calls, "cudaGraphLaunch" in calls))
    assert used == [(True, False), (True, True), (False, True), (False, True)]


def test_recording_can_be_forbidden(simulated_gpu: SimulatedMachine, tmp_path: Path) -> None:
    model = square_model(tmp_path / "square.onnx", [2, 4])
    with open_engine(simulated_gpu.engine(model, tmp_path / "e"), cuda_graph=False) as session:
        for _ in range(3):
            session.run({"x": batch(2)})
    assert "cudaStreamBeginCapture" not in simulated_gpu.gpu.calls


def test_shapes_may_change_from_run_to_run(
    square: TensorRTSession, simulated_gpu: SimulatedMachine
) -> None:
    # Buffers grow in between, which makes what was recorded before useless.
    for size in [2, 2, 2, 1, 1, 1, 2, 2, 9, 9, 9, 1, 2, 2, 2, 64, 2, 2, 2, 64, 64]:
        x = batch(size, first=size)
        assert np.array_equal(square.run({"x": x})["y"], squared(x))
    assert square.notes == []


def test_only_a_few_contexts_are_kept(
    square: TensorRTSession, simulated_gpu: SimulatedMachine
) -> None:
    for size in [*range(1, 12), *range(11, 0, -1)]:
        for _ in range(3):
            x = batch(size, first=size)
            assert np.array_equal(square.run({"x": x})["y"], squared(x))
        assert simulated_gpu.trt.world.alive["contexts"] <= MOST_CONTEXTS


def test_results_are_the_callers_own(square: TensorRTSession) -> None:
    first = square.run({"x": batch(2)})["y"]
    square.run({"x": batch(2, first=100)})
    assert np.array_equal(first, squared(batch(2)))


def test_inputs_need_not_be_contiguous_or_float32(square: TensorRTSession) -> None:
    x = np.arange(16, dtype=np.float64).reshape(4, 4)
    assert np.array_equal(square.run({"x": x.T})["y"], squared(x.T))  # type: ignore[dict-item]
    assert np.array_equal(square.run({"x": x[::2]})["y"], squared(x[::2]))  # type: ignore[dict-item]


def test_empty_batches_are_run_too(simulated_gpu: SimulatedMachine, tmp_path: Path) -> None:
    model = square_model(tmp_path / "square.onnx")
    profile = {"x": ([0, 4], [2, 4], [4, 4])}
    with open_engine(simulated_gpu.engine(model, tmp_path / "e", profiles=[profile])) as session:
        assert session.run({"x": batch(0)})["y"].shape == (0, 4)
        assert np.array_equal(session.run({"x": batch(3)})["y"], squared(batch(3)))


# Types --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("element", "given", "expected"),
    [
        (TensorProto.FLOAT, [0.1, -1e30, 1e-40], np.float32([0.1, -1e30, 1e-40])),
        (TensorProto.FLOAT16, [0.1, 1e6, -70000], np.float32(np.float16([0.1, np.inf, -np.inf]))),
        (TensorProto.INT8, [-128, 127, 3], [-128, 127, 3]),
        (TensorProto.UINT8, [0, 255, 3], [0, 255, 3]),
        (TensorProto.INT32, [-(2**24), 2**24, 3], [-(2**24), 2**24, 3]),
        (TensorProto.INT64, [-(2**40), 2**40, 3], [-(2**40), 2**40, 3]),
        (TensorProto.BOOL, [0, 1, 1], [0, 1, 1]),
    ],
)
def test_every_type_goes_in_and_comes_out(
    simulated_gpu: SimulatedMachine, tmp_path: Path, element: int, given: Any, expected: Any
) -> None:
    model = identity_model(tmp_path / "same.onnx", element, [3])
    with open_engine(simulated_gpu.engine(model, tmp_path / "engine")) as session:
        found = session.run({"x": np.float32(given)})["y"]
        assert found.dtype == np.float32
        assert np.array_equal(found, np.float32(expected))


def test_bfloat16_rounds_as_ml_dtypes_does(simulated_gpu: SimulatedMachine, tmp_path: Path) -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 4096, np.uint64).astype(np.uint32)
    ties = (np.arange(256, dtype=np.uint32) << 16 | 0x8000) + np.uint32(0x3F800000)
    special = np.float32([0, -0.0, np.inf, -np.inf, np.nan, 3.4e38, 1e-45]).view(np.uint32)
    nans = np.uint32([0x7F800001, 0xFF80FFFF, 0x7FFFFFFF])
    x = np.concatenate([bits, ties, special, nans]).view(np.float32)
    model = identity_model(tmp_path / "same.onnx", TensorProto.FLOAT, [len(x)])
    engine = simulated_gpu.engine(model, tmp_path / "e", types={"x": "BF16", "y": "BF16"})
    with open_engine(engine) as session:
        found = session.run({"x": x})["y"]
    with np.errstate(all="ignore"):
        expected = x.astype(ml_dtypes.bfloat16).astype(np.float32)
    assert np.array_equal(found, expected, equal_nan=True)
    assert np.array_equal(np.isnan(found), np.isnan(x))


@pytest.mark.parametrize(
    ("element", "value"),
    [
        (TensorProto.INT8, 128),
        (TensorProto.INT32, 0.5),
        (TensorProto.BOOL, 2),
    ],
)
def test_values_that_a_type_does_not_have_are_refused(
    simulated_gpu: SimulatedMachine, tmp_path: Path, element: int, value: float
) -> None:
    model = identity_model(tmp_path / "same.onnx", element, [1])
    with (
        open_engine(simulated_gpu.engine(model, tmp_path / "engine")) as session,
        pytest.raises(EngineError, match=f"input x has the value {value}.* takes "),
    ):
        session.run({"x": np.float32([value])})


def test_types_and_layouts_that_cannot_be_given_are_named(
    simulated_gpu: SimulatedMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = simulated_gpu.trt
    model = square_model(tmp_path / "square.onnx", [2, 4])
    engine = simulated_gpu.engine(model, tmp_path / "engine")
    with monkeypatch.context() as patch:
        patch.setattr(trt.ICudaEngine, "get_tensor_dtype", lambda self, name: trt.DataType.FP8)
        with pytest.raises(EngineError, match="x is of type fp8; .*float32, float16, bfloat16"):
            open_engine(engine)
        # At once, not only when the error and its traceback are forgotten.
        with pytest.raises(EngineError) as caught:
            open_engine(engine)
        assert caught.tb is not None and not any(trt.world.alive.values())
    monkeypatch.setattr(
        trt.ICudaEngine, "get_tensor_format", lambda self, name: trt.TensorFormat.HWC8
    )
    with pytest.raises(EngineError, match="x is laid out as HWC8, and only linear"):
        open_engine(engine)


# Shapes that depend on values, values that determine shapes ---------------------------------------


def test_outputs_whose_shape_depends_on_values(
    simulated_gpu: SimulatedMachine, tmp_path: Path
) -> None:
    model = nonzero_model(tmp_path / "nonzero.onnx")
    engine = simulated_gpu.engine(
        model,
        tmp_path / "engine",
        profiles=[{"x": ([1], [100], [1000])}],
        data_dependent=["positions"],
    )
    with open_engine(engine) as session:
        for count in [0, 1, 40, 900, 3, 3, 0, 1000]:
            x = np.zeros(max(count, 1), np.float32)
            x[: min(count, len(x))] = 2
            found = session.run({"x": x})
            assert np.array_equal(found["positions"], [np.flatnonzero(x)])
            assert np.array_equal(found["twice"], 2 * x)
            # The former positions' memory is gone: x, positions, twice and scratch memory are left.
            assert len(simulated_gpu.gpu.device) == 4
        assert session.notes == ["No CUDA graph: shapes of outputs depend on their values."]


def test_memory_of_such_outputs_lives_until_what_is_queued_has_read_it(
    simulated_gpu: SimulatedMachine, tmp_path: Path
) -> None:
    engine = simulated_gpu.engine(
        nonzero_model(tmp_path / "nonzero.onnx"),
        tmp_path / "engine",
        profiles=[{"x": ([1], [100], [1000])}],
        data_dependent=["positions"],
    )
    gpu = simulated_gpu.gpu
    with open_engine(engine) as session:
        session.run({"x": np.ones(1, np.float32)})
        lane = session._loaded()[1]
        memory = lane.buffers.staging("positions", 8)
        gpu.copy_to_host(memory.ctypes.data, lane.buffers.device("positions", 8), 8, lane.stream)
        larger = lane._allocator.reallocate_output_async("positions", 0, 4096, 256, lane.stream)
        assert larger == lane.buffers.device("positions", 4096)
        assert len(gpu.device) == 5
        lane.synchronize()
        assert memory.view(np.int64).tolist() == [0]
        assert len(gpu.device) == 4


def test_memory_for_such_outputs_that_cannot_be_had_is_an_error(
    simulated_gpu: SimulatedMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nonzero_model(tmp_path / "nonzero.onnx")
    profile = {"x": ([1], [100], [100_000])}
    engine = simulated_gpu.engine(
        model, tmp_path / "e", profiles=[profile], data_dependent=["positions"]
    )
    x = np.ones(100_000, np.float32)
    with open_engine(engine) as session:
        session.run({"x": x[:1]})
        # Enough for all but the positions, which are twice as large as the input.
        monkeypatch.setattr(simulated_gpu.gpu, "total_bytes", 2_200_000)
        with pytest.raises(CudaError, match=r"cudaMalloc of 0\.8 MiB failed: .*MemoryAllocation"):
            session.run({"x": x})
        monkeypatch.undo()
        assert session.run({"x": x})["positions"].shape == (1, 100_000)


def test_inputs_in_host_memory(simulated_gpu: SimulatedMachine, tmp_path: Path) -> None:
    profile = {"x": ([1, 2], [2, 2], [9, 2])}
    engine = simulated_gpu.engine(
        shift_model(tmp_path / "shift.onnx"), tmp_path / "e", profiles=[profile], host=["shift"]
    )
    with open_engine(engine) as session:
        for size, shift in [(1, [5, 6]), (1, [5, 6]), (1, [7, 8]), (3, [5, 6]), (1, [5, 6])]:
            x = np.arange(2 * size, dtype=np.float32).reshape(size, 2)
            found = session.run({"x": x, "shift": np.float32(shift)})
            assert np.array_equal(found["y"], x + np.float32(shift))


# Profiles -----------------------------------------------------------------------------------------


def test_the_profile_that_holds_the_shape_is_chosen(
    simulated_gpu: SimulatedMachine, tmp_path: Path
) -> None:
    model = square_model(tmp_path / "square.onnx")
    profiles = [{"x": ([1, 4], [1, 4], [2, 4])}, {"x": ([8, 4], [8, 4], [16, 4])}]
    engine = simulated_gpu.engine(model, tmp_path / "engine", profiles=profiles)
    with open_engine(engine) as session:
        for size in [1, 8, 2, 16, 16, 16, 1, 1]:
            x = batch(size)
            assert np.array_equal(session.run({"x": x})["y"], squared(x))
        with pytest.raises(EngineError) as caught:
            session.run({"x": batch(5)})
    assert str(caught.value) == (
        f"The engine {engine} does not take x=5x4; it was built for x=1x4:1x4:2x4; "
        "x=8x4:8x4:16x4. Use shapes within a profile, or build again with another --profile."
    )
    with open_engine(engine, profile_index=1) as session:
        session.run({"x": batch(8)})
        with pytest.raises(EngineError, match="not take x=1x4; it was built for x=8x4:8x4:16x4"):
            session.run({"x": batch(1)})
    with (
        open_engine(engine, profile_index=2) as session,
        pytest.raises(EngineError, match="has no profile 2; it has 2"),
    ):
        session.run({"x": batch(1)})


def test_a_profile_must_hold_the_shapes_of_all_inputs(
    simulated_gpu: SimulatedMachine, tmp_path: Path
) -> None:
    profiles = [
        {"a": ([1, 4], [1, 4], [1, 4]), "b": ([1, 4], [1, 4], [8, 4])},
        {"a": ([1, 4], [1, 4], [8, 4]), "b": ([1, 4], [1, 4], [1, 4])},
    ]
    engine = simulated_gpu.engine(
        sum_model(tmp_path / "sum.onnx"), tmp_path / "e", profiles=profiles
    )
    with open_engine(engine) as session:
        for sizes in [(1, 8), (8, 1), (1, 1), (1, 8)]:
            a, b = batch(sizes[0]), batch(sizes[1])
            assert np.array_equal(session.run({"a": a, "b": b})["y"], a + b)
        with pytest.raises(EngineError, match="not take a=8x4, b=8x4; it was built for a=1x4,b="):
            session.run({"a": batch(8), "b": batch(8)})


def test_fixed_shapes_are_demanded(simulated_gpu: SimulatedMachine, tmp_path: Path) -> None:
    model = square_model(tmp_path / "square.onnx", [2, 4])
    with open_engine(simulated_gpu.engine(model, tmp_path / "engine")) as session:
        with pytest.raises(EngineError, match="does not take x=3x4; it was built for x=2x4. Use"):
            session.run({"x": batch(3)})
        with pytest.raises(EngineError, match="does not take x=8; it was built for x=2x4"):
            session.run({"x": batch(2).reshape(8)})
        with pytest.raises(EngineError, match="input x is missing; the engine takes x, and z was"):
            session.run({"z": batch(2)})


# Several at once ----------------------------------------------------------------------------------


def test_sessions_do_not_disturb_each_other(
    simulated_gpu: SimulatedMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = square_model(tmp_path / "square.onnx")
    engine = simulated_gpu.engine(model, tmp_path / "engine", profiles=[ANY_BATCH])
    first, second = open_engine(engine), open_engine(engine)
    for size in (2, 3, 3, 3):
        first.run({"x": batch(size)})
        second.run({"x": batch(size + 1)})
    # TensorRT logs to the first logger for as long as anything lives: it must outlive its session.
    first.close()
    with monkeypatch.context() as patch:
        patch.setattr(simulated_gpu.trt.IExecutionContext, "_obstacle", lambda self, stream: "busy")
        with pytest.raises(EngineError, match="cannot run the engine.\n.*busy"):
            second.run({"x": batch(7)})
    assert np.array_equal(second.run({"x": batch(3)})["y"], squared(batch(3)))
    (tmp_path / "bad.plan").write_bytes(b"?")
    with pytest.raises(EngineError, match="Serialization assertion"):
        TensorRTSession(tmp_path / "bad.plan", flavor="tensorrt")
    second.close()


def test_threads_take_turns(square: TensorRTSession) -> None:
    def run(first: int) -> bool:
        x = batch(1 + first % 3, first=first)
        return bool(np.array_equal(square.run({"x": x})["y"], squared(x)))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(40)))


# Differences between versions ---------------------------------------------------------------------


def test_tensorrt_rtx_compiles_once_and_before_it_is_recorded(
    simulated_rtx: SimulatedMachine, tmp_path: Path
) -> None:
    model = square_model(tmp_path / "square.onnx")
    engine = simulated_rtx.engine(model, tmp_path / "engine", profiles=[ANY_BATCH])
    with TensorRTSession(engine / "model.plan", flavor="tensorrt-rtx") as session:
        assert session.name == "TensorRT-RTX 1.7.1.116"
        for size in [1, 2, 2, 2, 1, 1]:
            x = batch(size, first=size)
            assert np.array_equal(session.run({"x": x})["y"], squared(x))
        assert session.notes == []
    assert simulated_rtx.gpu.calls.count("cudaStreamBeginCapture") == 2
    configurations = simulated_rtx.trt.world.configurations
    assert len(configurations) == 2 and configurations[0] is configurations[1]
    assert configurations[0]._cache is not None
    strategies = simulated_rtx.trt.DynamicShapesKernelSpecializationStrategy
    chosen = configurations[0].dynamic_shapes_kernel_specialization_strategy
    assert chosen == strategies.EAGER


def test_tensorrt_rtx_is_asked_whether_it_can_be_recorded(
    simulated_rtx: SimulatedMachine, tmp_path: Path
) -> None:
    model = square_model(tmp_path / "square.onnx", [2, 4])
    engine = simulated_rtx.engine(model, tmp_path / "engine", capturable=False)
    with TensorRTSession(engine / "model.plan", flavor="tensorrt-rtx") as session:
        for _ in range(3):
            session.run({"x": batch(2)})
        (note,) = session.notes
    assert note.startswith("No CUDA graph: TensorRT-RTX says")
    assert "cudaStreamBeginCapture" not in simulated_rtx.gpu.calls


def test_scratch_memory_is_given_as_10_0_wants_it(
    square: TensorRTSession, simulated_gpu: SimulatedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = simulated_gpu.trt.IExecutionContext
    give = context.set_device_memory
    monkeypatch.delattr(context, "set_device_memory")
    # It trusts that there is enough.
    old = property(
        None, lambda self, memory: give(self, memory, self.update_device_memory_size_for_shapes())
    )
    monkeypatch.setattr(context, "device_memory", old, raising=False)
    for size in (2, 2, 3, 3):
        assert np.array_equal(square.run({"x": batch(size)})["y"], squared(batch(size)))
