"""Measure a model in ONNX Runtime: inputs and outputs in place, times of its nodes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dinat_deploy.errors import BundleError, ConfigError, DinatDeployError, MissingDependencyError
from dinat_deploy.files import scratch_directory
from dinat_deploy.session import onnxruntime_model as onnx_model
from dinat_deploy.session.base import Block, Feeds, LayerTime, MemoryUse, RunOptions, Timing
from dinat_deploy.session.measuring import repeat
from dinat_deploy.session.onnxruntime_session import LoadOptions
from dinat_deploy.session.onnxruntime_values import BFLOAT16, converted, to_value

if TYPE_CHECKING:
    from dinat_deploy.session.onnxruntime_session import OnnxRuntimeSession

_WARM_UP = 2
_NODE_TIME = "_kernel_time"
_Event = dict[str, Any]  # as ONNX Runtime writes it: cat, name, ts and dur in microseconds, args


class OnnxRuntimeRun:
    """Inputs and outputs of one shape, bound to a session.

    The session is loaded again if the options need other settings than it has, and stays so.

    Attributes:
        kind: ``cpu`` or ``gpu``.
        notes: what did not work as asked and was done without.

    Raises:
        BundleError: the inputs do not fit the model.
        ConfigError: several streams are asked for.
    """

    kind: Literal["cpu", "gpu"]

    def __init__(
        self, session: OnnxRuntimeSession, runtime: Any, feeds: Feeds, options: RunOptions
    ) -> None:
        if options.streams != 1:
            raise ConfigError(
                f"ONNX Runtime runs one inference at a time here, not {options.streams}.",
                "Measure several streams with a TensorRT engine.",
            )
        session.check_feeds(feeds)
        self._owner = session
        self._runtime = runtime
        self._feeds = dict(feeds)
        self.kind = "cpu" if session.provider == "cpu" else "gpu"
        self.notes: list[str] = []
        self._transfers = options.transfers and self.kind == "gpu"
        graph = options.cuda_graph and self.kind == "gpu"
        session.reload(LoadOptions(spin=options.exclusive, cuda_graph=graph))
        try:
            self._bind()
        except DinatDeployError:
            raise
        except Exception as error:
            if not graph:
                raise session.failure(feeds, error) from None
            self.notes.append(
                f"ONNX Runtime could not record a CUDA graph: {str(error).splitlines()[0]}"
            )
            session.reload(LoadOptions(spin=options.exclusive))
            self._bind()

    def _bind(self) -> None:
        """Place inputs and outputs, and run once to know the outputs' shapes."""
        session = self._owner.session
        self._session = session
        device = ("cuda", self._owner.gpu) if self.kind == "gpu" else ("cpu", 0)
        self._host: dict[str, Any] = {}
        binding = session.io_binding()
        self._values = {}
        for info in session.get_inputs():
            value = to_value(self._runtime, self._feeds[info.name], info.type, info.name)
            if self.kind == "gpu" and info.type == BFLOAT16:
                self.notes.append(f"The bfloat16 input {info.name} is copied in every run.")
            elif self.kind == "gpu":
                given = self._feeds[info.name]
                self._host[info.name] = converted(given, info.type, info.name)
                value = self._runtime.OrtValue.ortvalue_from_numpy(self._host[info.name], *device)
            self._values[info.name] = value
            binding.bind_ortvalue_input(info.name, value)
        with self._owner.memory_gain.watched():
            names = [info.name for info in session.get_outputs()]
            for name in names:
                binding.bind_output(name, *device)
            session.run_with_iobinding(binding)
            self._outputs = dict(zip(names, binding.get_outputs(), strict=True))
            # Into these same buffers from now on: nothing is allocated in a run that is timed.
            binding.clear_binding_outputs()
            for name, value in self._outputs.items():
                binding.bind_ortvalue_output(name, value)
            session.run_with_iobinding(binding)
        self._binding = binding
        self._run_options = self._runtime.RunOptions()
        if self.kind == "gpu":
            # It waits for the GPU below, so that launching can be timed apart.
            self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def block(self, seconds: float, least: int) -> Block:
        return repeat(self._once if self.kind == "cpu" else self._once_on_gpu, seconds, least)

    def _once(self) -> Timing:
        started = time.perf_counter()
        self._session.run_with_iobinding(self._binding, self._run_options)
        elapsed = 1e3 * (time.perf_counter() - started)
        return Timing(latency=elapsed, compute=elapsed)

    def _once_on_gpu(self) -> Timing:
        clock = time.perf_counter
        started = clock()
        if self._transfers:
            for name, array in self._host.items():
                self._values[name].update_inplace(array)
        copied = clock()
        self._session.run_with_iobinding(self._binding, self._run_options)
        launched = clock()
        self._binding.synchronize_outputs()
        computed = clock()
        if self._transfers:
            self._binding.copy_outputs_to_cpu()
        ended = clock()
        compute = 1e3 * (computed - copied)
        copies = (
            (1e3 * (copied - started), 1e3 * (ended - computed)) if self._transfers else (0.0, 0.0)
        )
        return Timing(
            latency=copies[0] + compute + copies[1],
            compute=compute,
            host_to_device=copies[0],
            device_to_host=copies[1],
            enqueue=1e3 * (launched - copied),
        )

    def profile(self, iterations: int) -> list[LayerTime]:
        if self.kind == "gpu":
            raise DinatDeployError(
                f"{self._owner.name} tells no times of layers: its profile holds when a node was "
                "launched, not how long the GPU took.",
                "Profile a TensorRT engine, or ONNX Runtime on the CPU.",
            )
        with scratch_directory() as folder:
            original = self._original()
            optimized = folder / "optimized.onnx" if original is not None else None
            session = self._owner.load(LoadOptions(profile=folder / "nodes", optimized=optimized))
            names = [info.name for info in session.get_outputs()]
            values: Mapping[str, Any] = {
                info.name: to_value(self._runtime, self._feeds[info.name], info.type, info.name)
                for info in session.get_inputs()
            }
            for _ in range(_WARM_UP + iterations):
                session.run_with_ort_values(names, values)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
            runs = _last_runs(events, iterations)
            attention = self._attention(original, optimized, runs[0])
        return [
            LayerTime(
                name=event["name"].removesuffix(_NODE_TIME),
                kind=event["args"]["op_name"],
                milliseconds=sum(run[position]["dur"] for run in runs) / 1e3 / iterations,
                attention=event["args"]["op_name"] in onnx_model.OP_TYPES or position in attention,
            )
            for position, event in enumerate(runs[0])
        ]

    def _original(self) -> Any:
        """The model as it is in the file, if its bodies are to be found again after inlining."""
        if self._owner.library is not None:
            return None
        try:
            return onnx_model.load(self._owner.path, "Finding the attention in a profile")
        except MissingDependencyError:
            self.notes.append(
                "Without the package onnx, the nodes of the operator's body cannot be told from "
                "the others: no layer counts as attention."
            )
            return None

    def _attention(self, original: Any, optimized: Path | None, run: list[_Event]) -> set[int]:
        """Positions in a run of the nodes that the bodies became."""
        if original is None or optimized is None:
            return set()
        model = onnx_model.load(optimized, "Finding the attention in a profile")
        # Both are in the order of execution. Names do not link them: most of these nodes have none.
        if [node.op_type for node in model.graph.node] != [e["args"]["op_name"] for e in run]:
            self.notes.append(
                "ONNX Runtime ran other nodes than the optimized model has: no layer counts as "
                "attention."
            )
            return set()
        positions, lost = onnx_model.body_nodes(original, model)
        if lost:
            self.notes.append(f"{lost} attention nodes were not found again after optimization.")
        return positions

    def memory(self) -> MemoryUse:
        # An ONNX file is its weights but for some hundred kilobytes.
        external = self._owner.path.with_name(self._owner.path.name + ".data")
        files = [file for file in (self._owner.path, external) if file.is_file()]
        buffers = [*self._values.values(), *self._outputs.values()]
        return MemoryUse(
            weights=sum(file.stat().st_size for file in files),
            inputs_outputs=sum(_bytes(value) for value in buffers),
            process=self._owner.memory_gain.bytes,
        )

    def close(self) -> None:
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()
        self._values, self._outputs, self._host = {}, {}, {}


def _bytes(value: Any) -> int:
    return int(value.tensor_size_in_bytes())


def _last_runs(events: list[_Event], count: int) -> list[list[_Event]]:
    """The events of nodes in each of the last runs, in the order of execution.

    Raises:
        BundleError: the profile is not complete: ONNX Runtime drops events beyond a million.
    """
    begins = sorted(event["ts"] for event in events if event["name"] == "model_run")[-count:]
    nodes = sorted(
        (e for e in events if e["cat"] == "Node" and e["name"].endswith(_NODE_TIME)),
        key=lambda event: event["ts"],
    )
    bounds = [*begins[1:], float("inf")]
    runs = [
        [event for event in nodes if begin <= event["ts"] < end]
        for begin, end in zip(begins, bounds, strict=True)
    ]
    if len(runs) < count or any(len(run) != len(runs[0]) for run in runs):
        raise BundleError(
            f"ONNX Runtime's profile holds {len(runs)} whole runs, and {count} are needed.",
            "Give fewer iterations.",
        )
    return runs
