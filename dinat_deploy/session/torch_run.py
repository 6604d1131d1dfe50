"""Measure a PyTorch module: inputs in place, times of its layers."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dinat_deploy.errors import ConfigError, DinatDeployError
from dinat_deploy.models.layers import NeighborhoodAttention
from dinat_deploy.session.base import (
    Block,
    Feeds,
    LayerTime,
    MemoryUse,
    PreparedRun,
    RunOptions,
    Timing,
)
from dinat_deploy.session.measuring import repeat
from dinat_deploy.session.torch_session import TorchSession, exact

_WARM_UP = 3
# PyTorch's threads go on spinning after a run, for 4 to 10 ms where this was measured.
_SPIN_SECONDS = 0.02


def prepare(session: TorchSession, feeds: Feeds, options: RunOptions) -> PreparedRun:
    """Inputs of one shape in place for a session; see :class:`PreparedRun`.

    Raises:
        ConfigError: several streams are asked for.
    """
    if options.streams != 1:
        raise ConfigError(
            f"PyTorch runs one inference at a time here, not {options.streams}.",
            "Measure several streams with a TensorRT engine.",
        )
    if session.torch_device.type == "cpu":
        return CpuRun(session, feeds, exclusive=options.exclusive)
    return GpuRun(session, feeds, options)


class _Run(ABC):
    """What runs on both devices share."""

    kind: Literal["cpu", "gpu"]

    def __init__(self, session: TorchSession, feeds: Feeds) -> None:
        self._session = session
        self._inputs = session.tensors(feeds)
        self._results: tuple[Tensor, ...] = ()
        self.notes: list[str] = []

    def _warm_up(self) -> None:
        with self._session.memory_gain.watched(), exact():
            for _ in range(_WARM_UP):
                self._results = self._session.call(self._inputs)

    def profile(self, iterations: int) -> list[LayerTime]:
        if self._session.compiled:
            raise DinatDeployError(
                "A model that went through torch.compile tells no times of layers: its kernels "
                "span them.",
                "Profile it with the runtime torch or torch-cuda.",
            )
        layers = _Layers(self._session.module, self._clock())
        with layers, exact():
            for _ in range(iterations):
                self._session.call(self._inputs)
        return layers.times(iterations)

    @abstractmethod
    def _clock(self) -> Callable[[], Any]:
        """What layers are timed with; see :class:`_Layers`."""

    def memory(self) -> MemoryUse:
        tensors = [*self._session.module.parameters(), *self._session.module.buffers()]
        return MemoryUse(
            weights=sum(_bytes(tensor) for tensor in tensors),
            inputs_outputs=sum(_bytes(tensor) for tensor in (*self._inputs, *self._results)),
            process=self._session.memory_gain.bytes,
        )

    def close(self) -> None:
        self._inputs, self._results = [], ()


class CpuRun(_Run):
    """On the CPU, in as many threads as PyTorch was told to use.

    Args:
        exclusive: False makes every block wait until the threads have stopped to spin.
    """

    kind: Literal["cpu", "gpu"] = "cpu"

    def __init__(self, session: TorchSession, feeds: Feeds, *, exclusive: bool) -> None:
        super().__init__(session, feeds)
        self._exclusive = exclusive
        self._warm_up()

    def block(self, seconds: float, least: int) -> Block:
        def once() -> Timing:
            started = time.perf_counter()
            self._session.call(self._inputs)
            elapsed = 1e3 * (time.perf_counter() - started)
            return Timing(latency=elapsed, compute=elapsed)

        with exact():
            block = repeat(once, seconds, least)
        if not self._exclusive:
            time.sleep(_SPIN_SECONDS)
        return block

    def _clock(self) -> Callable[[], Any]:
        return time.perf_counter


class GpuRun(_Run):
    """On a GPU, timed by its own events, with or without a CUDA graph."""

    kind: Literal["cpu", "gpu"] = "gpu"

    def __init__(self, session: TorchSession, feeds: Feeds, options: RunOptions) -> None:
        super().__init__(session, feeds)
        self._transfers = options.transfers
        self._host = [tensor.pin_memory() for tensor in session.tensors(feeds, "cpu")]
        self._stream = torch.cuda.Stream(session.torch_device)  # type: ignore[no-untyped-call]
        self._graph: torch.cuda.CUDAGraph | None = None
        blocking = not options.spin_wait
        self._events = [
            torch.cuda.Event(enable_timing=True, blocking=blocking)  # type: ignore[no-untyped-call]
            for _ in range(4)
        ]
        self._stream.wait_stream(torch.cuda.current_stream(session.torch_device))
        with torch.cuda.stream(self._stream):
            self._warm_up()
        self._stream.synchronize()
        if options.cuda_graph:
            self._record()
        self._landing = [
            torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
            for result in self._results
        ]

    def _record(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with exact(), torch.cuda.graph(graph, stream=self._stream):
                self._results = self._session.call(self._inputs)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            self.notes.append(f"PyTorch could not record a CUDA graph: {reason}")
            return
        self._graph = graph

    def block(self, seconds: float, least: int) -> Block:
        with exact(), torch.cuda.stream(self._stream):
            return repeat(self._once, seconds, least)

    def _once(self) -> Timing:
        begin, copied, computed, end = self._events
        begin.record(self._stream)
        if self._transfers:
            for place, value in zip(self._inputs, self._host, strict=True):
                place.copy_(value, non_blocking=True)
        copied.record(self._stream)
        started = time.perf_counter()
        if self._graph is not None:
            self._graph.replay()
        else:
            self._results = self._session.call(self._inputs)
        enqueue = 1e3 * (time.perf_counter() - started)
        computed.record(self._stream)
        if self._transfers:
            for place, value in zip(self._landing, self._results, strict=True):
                place.copy_(value, non_blocking=True)
        end.record(self._stream)
        end.synchronize()
        return Timing(
            latency=begin.elapsed_time(end),
            compute=copied.elapsed_time(computed),
            host_to_device=begin.elapsed_time(copied) if self._transfers else 0.0,
            device_to_host=computed.elapsed_time(end) if self._transfers else 0.0,
            enqueue=enqueue,
        )

    def _clock(self) -> Callable[[], Any]:
        def mark() -> float:
            # Waiting makes the sum longer than an ordinary run, and the parts of it right.
            torch.cuda.synchronize(self._session.torch_device)
            return time.perf_counter()

        return mark

    def close(self) -> None:
        self._graph = None
        super().close()


class _Layers:
    """Times every module by hooks, without what its submodules take.

    Args:
        clock: gives seconds; on a GPU after what was launched before is done.
    """

    def __init__(self, module: nn.Module, clock: Callable[[], float]) -> None:
        self._root = module
        self._clock = clock
        self._own: dict[str, float] = {}
        self._kinds: dict[str, nn.Module] = {}
        self._inside: list[float] = []  # seconds in submodules, of every module that is running
        self._started: list[float] = []
        self._handles: list[Any] = []

    def __enter__(self) -> _Layers:
        for name, module in self._root.named_modules():
            self._handles.append(module.register_forward_pre_hook(self._begin))
            self._handles.append(
                module.register_forward_hook(
                    lambda module, args, output, name=name: self._end(name, module)
                )
            )
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _begin(self, module: nn.Module, args: object) -> None:
        self._inside.append(0.0)
        self._started.append(self._clock())

    def _end(self, name: str, module: nn.Module) -> None:
        spent = self._clock() - self._started.pop()
        inner = self._inside.pop()
        if self._inside:
            self._inside[-1] += spent
        self._own[name] = self._own.get(name, 0.0) + spent - inner
        self._kinds[name] = module

    def times(self, iterations: int) -> list[LayerTime]:
        """Averages, in the order in which modules ended first.

        An attention module's own time is that of the operator: its projections are modules.
        """
        return [
            LayerTime(
                name=name or "model",
                kind=type(self._kinds[name]).__name__,
                milliseconds=1e3 * seconds / iterations,
                attention=isinstance(self._kinds[name], NeighborhoodAttention),
            )
            for name, seconds in self._own.items()
        ]


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
