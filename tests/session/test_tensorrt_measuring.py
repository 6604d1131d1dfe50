"""Prepared runs of TensorRTSession on a simulated GPU, where every inference takes 2 ms."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dinat_deploy.bundle import open_bundle
from dinat_deploy.errors import EngineError
from dinat_deploy.models.seeding import seeded_image
from dinat_deploy.session import tensorrt_prepared
from dinat_deploy.session.base import PreparedRun, RunOptions
from dinat_deploy.session.cuda import CudaError
from dinat_deploy.session.tensorrt_prepared import DEPTH
from dinat_deploy.session.tensorrt_session import TensorRTSession
from tests.session.onnx_models import nonzero_model, square_model
from tests.session.simulator import SimulatedMachine, simulated_gpu

__all__ = ["simulated_gpu"]

PROFILE = {"x": ([1, 4], [2, 4], [4096, 4])}
X = np.ones((1000, 4), np.float32)
COPY_MS = X.nbytes / 1e7


@pytest.fixture
def session(simulated_gpu: SimulatedMachine, tmp_path: Path) -> Iterator[TensorRTSession]:
    model = square_model(tmp_path / "square.onnx")
    engine = simulated_gpu.engine(model, tmp_path / "engine", profiles=[PROFILE])
    with TensorRTSession(engine / "model.plan", flavor="tensorrt") as opened:
        yield opened


def test_times_without_transfers_are_of_the_model_alone(session: TensorRTSession) -> None:
    run: PreparedRun = session.prepare({"x": X}, RunOptions())
    assert run.kind == "gpu"
    block = run.block(0.0, 7)
    assert len(block.timings) == 7
    assert block.seconds == pytest.approx(7 * 2e-3)
    for timing in block.timings:
        assert timing.latency == timing.compute == pytest.approx(2.0)
        assert timing.host_to_device == timing.device_to_host == 0
        assert timing.enqueue is not None and 0 < timing.enqueue < 1000
    assert run.notes == []


def test_times_with_transfers_are_told_apart(session: TensorRTSession) -> None:
    block = session.prepare({"x": X}, RunOptions(transfers=True)).block(0.0, 5)
    for timing in block.timings:
        assert timing.compute == pytest.approx(2.0)
        assert timing.host_to_device == pytest.approx(COPY_MS)
        assert timing.device_to_host == pytest.approx(COPY_MS)
        assert timing.latency == pytest.approx(2.0 + 2 * COPY_MS)
    assert block.seconds == pytest.approx(5 * (2 + 2 * COPY_MS) / 1e3)


def test_streams_run_at_the_same_time(session: TensorRTSession) -> None:
    run = session.prepare({"x": X}, RunOptions(streams=3, transfers=True))
    block = run.block(0.0, 9)
    assert len(block.timings) == 9
    # The simulated GPU has a clock for every stream: three inferences take as long as one.
    assert block.seconds == pytest.approx(3 * (2 + 2 * COPY_MS) / 1e3)


def test_a_block_lasts_as_long_as_it_should(session: TensorRTSession) -> None:
    run = session.prepare({"x": X}, RunOptions())
    few, many = run.block(0.0, 1), run.block(0.05, 1)
    assert len(few.timings) == 1
    assert len(many.timings) > 10


def test_two_inferences_are_under_way_and_nothing_else_waits(
    session: TensorRTSession, simulated_gpu: SimulatedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = simulated_gpu.gpu
    run = session.prepare({"x": X}, RunOptions())
    depths = []
    launch = gpu.launch

    def watched(graph: int, stream: int) -> None:
        launch(graph, stream)
        depths.append(sum(queued.milliseconds > 0 for queued in gpu.stream(stream).queue))

    monkeypatch.setattr(gpu, "launch", watched)
    gpu.calls.clear()
    run.block(0.0, 10)
    # The queue is never empty when an inference is added, apart from the very first.
    assert depths == [1] + [DEPTH] * (9 + DEPTH)
    assert set(gpu.calls) == {"cudaGraphLaunch", "cudaEventSynchronize"}
    assert gpu.calls.count("cudaGraphLaunch") == 10 + DEPTH


@pytest.mark.parametrize("spin", [False, True])
def test_waiting_sleeps_or_polls(
    session: TensorRTSession, simulated_gpu: SimulatedMachine, spin: bool
) -> None:
    run = session.prepare({"x": X}, RunOptions(spin_wait=spin))
    simulated_gpu.gpu.calls.clear()
    run.block(0.0, 5)
    assert ("cudaEventQuery" in simulated_gpu.gpu.calls) == spin
    assert ("cudaEventSynchronize" in simulated_gpu.gpu.calls) != spin
    assert {event.blocking for event in simulated_gpu.gpu.events.values()} == {not spin}


@pytest.mark.parametrize("graph", [False, True])
def test_the_graph_is_replayed_if_wanted(
    session: TensorRTSession, simulated_gpu: SimulatedMachine, graph: bool
) -> None:
    run = session.prepare({"x": X}, RunOptions(cuda_graph=graph))
    simulated_gpu.gpu.calls.clear()
    run.block(0.0, 5)
    assert ("cudaGraphLaunch" in simulated_gpu.gpu.calls) == graph
    assert ("execute_async_v3" in simulated_gpu.gpu.calls) != graph


def test_without_a_graph_the_reason_is_noted(
    simulated_gpu: SimulatedMachine, tmp_path: Path
) -> None:
    model = square_model(tmp_path / "square.onnx")
    engine = simulated_gpu.engine(model, tmp_path / "e", profiles=[PROFILE], capturable=False)
    with TensorRTSession(engine / "model.plan", flavor="tensorrt") as session:
        run = session.prepare({"x": X}, RunOptions(streams=2))
        assert len(run.block(0.0, 4).timings) == 4
        (note,) = run.notes
        assert note.startswith("No CUDA graph: ")


def test_outputs_whose_shape_depends_on_values_are_measured_too(
    simulated_gpu: SimulatedMachine, tmp_path: Path
) -> None:
    engine = simulated_gpu.engine(
        nonzero_model(tmp_path / "nonzero.onnx"),
        tmp_path / "engine",
        profiles=[{"x": ([1], [2], [99])}],
        data_dependent=["positions"],
    )
    with TensorRTSession(engine / "model.plan", flavor="tensorrt") as session:
        run = session.prepare({"x": np.ones(99, np.float32)}, RunOptions(transfers=True, streams=2))
        assert len(run.block(0.0, 6).timings) == 6
        assert run.notes == ["No CUDA graph: shapes of outputs depend on their values."]


def test_long_blocks_use_their_events_again(
    session: TensorRTSession, simulated_gpu: SimulatedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_prepared, "_MOST_UNREAD", 8)
    run = session.prepare({"x": X}, RunOptions(transfers=True, streams=2))
    block = run.block(0.0, 100)
    assert len(block.timings) == 100
    assert all(timing.compute == pytest.approx(2.0) for timing in block.timings)
    assert block.seconds == pytest.approx(50 * (2 + 2 * COPY_MS) / 1e3)
    created = simulated_gpu.gpu.created["events"]
    assert created <= 4 * (8 + 2 * DEPTH) + 1
    run.block(0.0, 100)
    assert simulated_gpu.gpu.created["events"] == created


def test_measurements_and_runs_take_turns(session: TensorRTSession) -> None:
    small, large = {"x": X[:2]}, {"x": 3 * X}
    first = session.prepare(small, RunOptions())
    second = session.prepare(large, RunOptions(transfers=True, streams=2))
    for _ in range(3):
        assert first.block(0.0, 3).timings[0].compute == pytest.approx(2.0)
        assert second.block(0.0, 3).timings[0].host_to_device == pytest.approx(COPY_MS)
        assert np.array_equal(session.run(large)["y"], 12 * X)
        assert np.array_equal(session.run(small)["y"], 2 * X[:2])
    first.close()
    assert len(second.block(0.0, 3).timings) == 4  # whole rounds of both streams
    second.close()
    assert np.array_equal(session.run(small)["y"], 2 * X[:2])


def test_memory_is_told_by_what_it_is_for(
    session: TensorRTSession, simulated_gpu: SimulatedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = session.prepare({"x": X}, RunOptions()).memory()
    assert memory.activations == 1024 + 8 * X.size  # for this shape, not for the largest one
    assert memory.inputs_outputs is not None
    assert 2 * X.nbytes <= memory.inputs_outputs < 2 * X.nbytes + 512
    assert memory.process is not None and memory.process >= 0
    # The model has no weights of which TensorRT could tell, so it is the size of the plan.
    plan = session._loaded()[0].plan
    assert memory.weights == plan.stat().st_size
    monkeypatch.setattr(simulated_gpu.trt.ICudaEngine, "get_engine_stat", lambda self, stat: 12_345)
    assert session.prepare({"x": X}, RunOptions()).memory().weights == 12_345
    monkeypatch.delattr(simulated_gpu.trt.ICudaEngine, "get_engine_stat")  # before 10.14
    assert session.prepare({"x": X}, RunOptions()).memory().weights == plan.stat().st_size


def test_closing_the_session_closes_its_measurements(session: TensorRTSession) -> None:
    run = session.prepare({"x": X}, RunOptions(streams=2))
    run.block(0.0, 2)
    session.close()
    run.close()
    for act in (lambda: run.block(0.0, 1), run.memory, lambda: run.profile(1)):
        with pytest.raises(EngineError, match="measurement was closed"):
            act()
    with pytest.raises(EngineError, match="session was closed"):
        session.prepare({"x": X}, RunOptions())


def test_what_cannot_be_prepared_is_refused_and_frees_all(
    session: TensorRTSession, simulated_gpu: SimulatedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EngineError, match="0 streams"):
        session.prepare({"x": X}, RunOptions(streams=0))
    with pytest.raises(EngineError, match="does not take x=5000x4"):
        session.prepare({"x": np.ones((5000, 4), np.float32)}, RunOptions())
    before = simulated_gpu.gpu.leaks()
    with monkeypatch.context() as patch:
        # One stream fits, the second does not.
        patch.setattr(simulated_gpu.gpu, "total_bytes", simulated_gpu.gpu.used_bytes() + 100_000)
        with pytest.raises(CudaError, match="cudaMalloc"):
            session.prepare({"x": X}, RunOptions(streams=2))
    assert simulated_gpu.gpu.leaks() == before


# Layers -----------------------------------------------------------------------------------------


def test_layers_are_timed_by_themselves(session: TensorRTSession) -> None:
    run = session.prepare({"x": X}, RunOptions())
    layers = run.profile(4)
    assert [layer.name for layer in layers] == ["mul", "add"]
    assert [layer.milliseconds for layer in layers] == [0.25, 0.5]  # of one inference
    assert not any(layer.attention for layer in layers)
    assert run.block(0.0, 1).timings[0].compute == pytest.approx(2.0)


@pytest.mark.parametrize("verbose", [True, False])
@pytest.mark.parametrize("with_plugin", [True, False])
def test_layers_of_the_attention_are_marked(
    simulated_gpu: SimulatedMachine,
    tiny_bundle: Path,
    tmp_path: Path,
    with_plugin: bool,
    verbose: bool,
) -> None:
    plugin = simulated_gpu.plugin(tmp_path / "libplugin.so") if with_plugin else None
    engine = simulated_gpu.engine(tiny_bundle, tmp_path / "engine", plugin=plugin, verbose=verbose)
    nodes = [f"levels.{level}.blocks.{block}.attn" for level, block in [(0, 0), (0, 1), (1, 0)]]
    with TensorRTSession(
        engine / "model.plan",
        flavor="tensorrt",
        plugin_library=plugin,
        attention_nodes=[] if verbose else _attention_nodes(tiny_bundle),
    ) as session:
        layers = session.prepare({"image": seeded_image((1, 3, 64, 64), 0)}, RunOptions()).profile(
            1
        )
    marked = [layer for layer in layers if layer.attention]
    assert len(marked) == len(nodes) * (1 if with_plugin else 2)
    assert all(any(layer.name.startswith(node) for node in nodes) for layer in marked)
    assert {layer.kind for layer in marked} == {
        "?" if not verbose else "PluginV3" if with_plugin else "gemm"
    }


def _attention_nodes(bundle: Path) -> list[str]:
    import onnx

    graph = onnx.load(open_bundle(bundle).model_path, load_external_data=False).graph
    return [node.name for node in graph.node if node.op_type.startswith("NeighborhoodAttention")]
