"""Run an engine in TensorRT or TensorRT-RTX, behind the session protocol."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Literal, Protocol

from dinat_deploy.bundle import TensorSpec
from dinat_deploy.errors import EngineError
from dinat_deploy.session.base import Feeds, FloatArray, RunOptions
from dinat_deploy.session.cuda import CudaError, open_device
from dinat_deploy.session.element_types import Array, encode
from dinat_deploy.session.measuring import MemoryGain
from dinat_deploy.session.tensorrt_api import Flavor
from dinat_deploy.session.tensorrt_engine import EngineTensor, LoadedEngine
from dinat_deploy.session.tensorrt_lane import Lane
from dinat_deploy.session.tensorrt_prepared import TensorRTPreparedRun
from dinat_deploy.session.tensorrt_torch import run_on_tensors

if TYPE_CHECKING:
    from torch import Tensor


class TapsLike(Protocol):
    """Tensors inside the model that an engine lets out, as ``engine.json`` has them.

    Attributes:
        kind: whether they are further outputs, or a debug listener sees them.
        tensors: path of the PyTorch module -> tensor of the engine.
    """

    @property
    def kind(self) -> Literal["outputs", "debug"]: ...

    @property
    def tensors(self) -> Mapping[str, str]: ...


class TensorRTSession:
    """An engine on the first visible GPU.

    Inputs and outputs are float32 arrays, whatever types the engine has at its ends. Shapes may
    change from run to run within the engine's profiles. From the second run of the same shapes on,
    a recorded CUDA graph is replayed where that is possible.

    The session may be used by several threads, one after the other. Close it, or use it in a
    ``with`` statement: it holds memory of the GPU.

    Args:
        plan: the plan file. It is not checked; see :mod:`dinat_deploy.engine.manifest`.
        content: the plan, if it is open already; ``plan`` is then only its name.
        flavor: the TensorRT that built it.
        plugin_library: loaded before the plan, if it needs one.
        binding: one of :data:`dinat_deploy.session.cuda.BINDINGS`; None takes what is installed.
        profile_index: the only optimisation profile to use; None takes the first that fits.
        taps: tensors inside the engine to return too. Those that are outputs of the engine are
            returned in any case.
        allow_host_code: let TensorRT run code out of the plan (an embedded plugin, a lean runtime):
            only for plans whose origin is known.
        cuda_graph: whether :meth:`run` may replay recorded graphs.
        dla_core: for an engine built for a DLA of a Jetson.
        attention_nodes: names of the ONNX nodes that are neighborhood attention, to mark their
            layers in a profile; most are recognised without.

    Attributes:
        name, device, notes: see :class:`dinat_deploy.session.base.Session`.

    Raises:
        EngineError: there is no GPU, or TensorRT refuses the plan or the plugin.
        MissingDependencyError: TensorRT or a binding of CUDA is not installed.
    """

    def __init__(
        self,
        plan: Path,
        *,
        flavor: Flavor,
        content: BinaryIO | None = None,
        plugin_library: Path | None = None,
        binding: str | None = None,
        profile_index: int | None = None,
        taps: TapsLike | None = None,
        allow_host_code: bool = False,
        cuda_graph: bool = True,
        dla_core: int | None = None,
        attention_nodes: Collection[str] = (),
    ) -> None:
        self._closed = False
        self._lock = threading.RLock()
        self._prepared: list[TensorRTPreparedRun] = []
        self._engine: LoadedEngine | None = None
        self._lane: Lane | None = None
        self._loading = MemoryGain()
        self._profile_index = profile_index
        self._graph = cuda_graph
        self._attention_nodes = tuple(attention_nodes)
        self._device = open_device(binding)
        self._debug = self._debug_names(taps)
        try:
            with self._device.active(), self._loading.watched():
                self._engine = LoadedEngine(
                    plan,
                    content=content,
                    flavor=flavor,
                    plugin_library=plugin_library,
                    allow_host_code=allow_host_code,
                    dla_core=dla_core,
                )
                self._check_taps(self._engine, taps)
                self._lane = Lane(
                    self._engine, self._device, profile=profile_index, debug=self._debug
                )
        except BaseException:
            self.close()
            raise
        self.name = f"{self._engine.title} {self._engine.version}"
        self.device = self._device.properties.name
        self.notes: list[str] = list(self._engine.log.warnings)

    @staticmethod
    def _debug_names(taps: TapsLike | None) -> tuple[str, ...]:
        if taps is None or taps.kind != "debug":
            return ()
        return tuple(dict.fromkeys(taps.tensors.values()))

    @staticmethod
    def _check_taps(engine: LoadedEngine, taps: TapsLike | None) -> None:
        if taps is None:
            return
        there = (
            engine.outputs
            if taps.kind == "outputs"
            else {n for n in taps.tensors.values() if engine.engine.is_debug_tensor(n)}
        )
        missing = [name for name in taps.tensors.values() if name not in there]
        if missing:
            raise EngineError(
                f"The engine {engine.plan.parent} does not let out {missing[0]} "
                f"({len(missing)} of {len(taps.tensors)} tensors are missing).",
                "Build it again, with the layers that are to be compared.",
            )

    @property
    def input_types(self) -> dict[str, str]:
        """Element type of every input, such as ``float16``."""
        return {name: tensor.dtype for name, tensor in self._loaded()[0].inputs.items()}

    @property
    def inputs(self) -> list[TensorSpec]:
        """Inputs of the engine; dynamic dimensions are called ``?``."""
        return [_spec(tensor) for tensor in self._loaded()[0].inputs.values()]

    @property
    def outputs(self) -> list[TensorSpec]:
        """Outputs of the engine, as :attr:`inputs`."""
        return [_spec(tensor) for tensor in self._loaded()[0].outputs.values()]

    def _loaded(self) -> tuple[LoadedEngine, Lane]:
        if self._engine is None or self._lane is None:
            raise EngineError("This session was closed.", "Open the engine again.")
        return self._engine, self._lane

    def _encode(self, feeds: Feeds) -> dict[str, Array]:
        inputs = self._loaded()[0].inputs
        self._check_names(inputs, feeds)
        return {name: encode(feeds[name], tensor.dtype, name) for name, tensor in inputs.items()}

    @staticmethod
    def _check_names(inputs: Sequence[str] | Mapping[str, object], given: Collection[str]) -> None:
        if missing := [name for name in inputs if name not in given]:
            raise EngineError(
                f"The input {missing[0]} is missing; the engine takes {', '.join(inputs)}, and "
                f"{', '.join(given) or 'nothing'} was given."
            )

    def run(self, feeds: Feeds) -> dict[str, FloatArray]:
        with self._lock:
            lane = self._loaded()[1]
            arrays = self._encode(feeds)
            with self._device.active():
                try:
                    bound = lane.select(arrays)
                    lane.stage(arrays)
                    lane.copy_in(bound)
                    lane.launch(bound, graph=self._graph)
                    lane.copy_out(bound)
                    lane.synchronize()
                except BaseException:
                    self._settle(lane)
                    raise
                found = lane.outputs(bound)
            self._take_notes(lane)
            return found | lane.debug_tensors

    def run_torch(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run on CUDA tensors, without a copy and without waiting.

        The inference is ordered as if it were queued on PyTorch's current stream.

        Args:
            tensors: input name -> tensor on the GPU, of the engine's type, contiguous.

        Returns:
            Output name -> tensor on the GPU, of the engine's type; no debug tensors.

        Raises:
            EngineError: a tensor cannot be used as it is, or the engine fails.
        """
        with self._lock:
            engine, lane = self._loaded()
            self._check_names(engine.inputs, tensors)
            with self._device.active():
                return run_on_tensors(lane, tensors)

    def prepare(self, feeds: Feeds, options: RunOptions) -> TensorRTPreparedRun:
        with self._lock:
            engine, _ = self._loaded()
            prepared = TensorRTPreparedRun(
                engine,
                self._device,
                self._encode(feeds),
                options,
                profile=self._profile_index,
                loading=self._loading,
                attention_nodes=self._attention_nodes,
            )
            self._prepared.append(prepared)
            return prepared

    @staticmethod
    def _settle(lane: Lane) -> None:
        """After a failure: nothing may still be reading the buffers when the next run begins."""
        try:
            lane.synchronize()
        except CudaError:
            return  # the failure is already on its way

    def _take_notes(self, lane: Lane) -> None:
        self.notes += [note for note in lane.notes if note not in self.notes]

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            with self._device.active():
                for prepared in self._prepared:
                    prepared.close()
                self._prepared.clear()
                if self._lane is not None:
                    self._lane.close()
                if self._engine is not None:
                    self._engine.close()
                self._lane = self._engine = None

    def __enter__(self) -> TensorRTSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _spec(tensor: EngineTensor) -> TensorSpec:
    shape: list[int | str] = [size if size >= 0 else "?" for size in tensor.shape]
    return TensorSpec(name=tensor.name, dtype=tensor.dtype, shape=shape)
