"""CUDA tensors of PyTorch on a simulated GPU, with a PyTorch that was built without CUDA."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from tests.session.simulator.gpu import Operation, SimulatedGpu, Span


class SimulatedTensor:
    """As much of a CUDA tensor as is asked of it."""

    is_cuda = True

    def __init__(
        self,
        gpu: SimulatedGpu,
        stream: int,
        shape: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._stream = stream
        self._gpu, self.shape, self.dtype, self.device = gpu, tuple(shape), dtype, device
        self.offset = 0
        self.contiguous = True
        self._size = int(np.prod(self.shape)) * dtype.itemsize
        self._address = gpu.allocate(self._size) if self._size else 0

    def __del__(self) -> None:
        # PyTorch gives the memory to what is queued later on the same stream: no waiting, but
        # other streams must be done with it by then.
        gpu, address = self._gpu, self._address
        if address:
            spans = (Span(address, self._size, written=True),)
            gpu.enqueue(self._stream, Operation(lambda: gpu.device.pop(address), 0.0, spans))

    def data_ptr(self) -> int:
        return self._address + self.offset

    def is_contiguous(self) -> bool:
        return self.contiguous

    def queue_values(self, array: np.ndarray, stream: SimulatedStreamObject) -> None:
        """Let a kernel on the stream write values."""
        data = np.ascontiguousarray(array).view(np.uint8).reshape(-1)

        def run() -> None:
            self._gpu.view(self._address, self._size)[:] = data

        span = Span(self._address, self._size, written=True)
        self._gpu.enqueue(stream.cuda_stream, Operation(run, 1.0, (span,)))

    def queue_read(self, stream: SimulatedStreamObject) -> Iterator[np.ndarray]:
        """Let a kernel on the stream read; the values are there once the stream was waited for."""
        found: list[np.ndarray] = []

        def run() -> None:
            found.append(self._gpu.view(self._address, self._size).copy())

        span = Span(self._address, self._size, written=False)
        self._gpu.enqueue(stream.cuda_stream, Operation(run, 1.0, (span,)))
        self._gpu.synchronize(stream.cuda_stream)
        yield found[0].view(np.float32).reshape(self.shape)


class SimulatedStreamObject:
    """A stream as PyTorch holds it."""

    def __init__(self, gpu: SimulatedGpu, handle: int) -> None:
        self._gpu, self.cuda_stream = gpu, handle

    def wait_stream(self, stream: SimulatedStreamObject) -> None:
        self._gpu.wait_for_stream(self.cuda_stream, stream.cuda_stream)


class SimulatedTorch:
    """Puts the stand-ins into PyTorch for one test.

    Attributes:
        current: PyTorch's current stream.
    """

    def __init__(self, gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
        self._gpu = gpu
        self.current = SimulatedStreamObject(gpu, gpu.create_stream())
        real_empty = torch.empty

        def empty(*size: Any, dtype: Any = None, device: Any = None, **options: Any) -> Any:
            if device is not None and torch.device(device).type == "cuda":
                return SimulatedTensor(
                    gpu, self.current.cuda_stream, size[0], dtype, torch.device(device)
                )
            return real_empty(*size, dtype=dtype, device=device, **options)

        def external(stream_ptr: int, device: Any = None) -> SimulatedStreamObject:
            return SimulatedStreamObject(gpu, stream_ptr)

        monkeypatch.setattr(torch, "empty", empty)
        monkeypatch.setattr(torch.cuda, "ExternalStream", external)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: self.current)

    def tensor(self, array: np.ndarray) -> SimulatedTensor:
        """A tensor of float32 values that a kernel on the current stream is still to write."""
        stream, device = self.current.cuda_stream, torch.device("cuda", 0)
        made = SimulatedTensor(self._gpu, stream, array.shape, torch.float32, device)
        if array.size:
            made.queue_values(array, self.current)
        return made

    def read(self, tensor: SimulatedTensor) -> np.ndarray:
        """What a kernel on the current stream finds in a tensor."""
        return next(tensor.queue_read(self.current))

    def close(self) -> None:
        self._gpu.synchronize(self.current.cuda_stream)
        self._gpu.destroy_stream(self.current.cuda_stream)
