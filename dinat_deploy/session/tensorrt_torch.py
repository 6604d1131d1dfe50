"""Running an engine on PyTorch's CUDA tensors, in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dinat_deploy.errors import EngineError
from dinat_deploy.session.tensorrt_engine import EngineTensor
from dinat_deploy.session.tensorrt_lane import Lane

if TYPE_CHECKING:
    from torch import Tensor

_ALIGNMENT = 256
_FIRST_GPU = 0
_WITH_ARRAYS = "Use run(), which takes and gives arrays."


def run_on_tensors(lane: Lane, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Queue an inference as if on PyTorch's current stream, and return without waiting for it.

    The inference runs on the lane's stream, because TensorRT synchronises needlessly on the default
    stream. It starts after what is queued on the current stream, and what is queued there next
    starts after it; so PyTorch may reuse the memory of the tensors as if it had run there.

    Args:
        tensors: the inputs, of the engine's types, contiguous, on the GPU.

    Returns:
        Output name -> tensor.

    Raises:
        EngineError: a tensor cannot be used as it is, or the engine fails.
    """
    import torch

    engine = lane.engine
    for tensor in (*engine.inputs.values(), *engine.outputs.values()):
        if tensor.on_host:
            raise EngineError(f"TensorRT wants {tensor.name} in host memory.", _WITH_ARRAYS)
    for name, wanted in engine.inputs.items():
        _check(wanted, tensors[name])
    bound = lane.select_for({name: tuple(tensors[name].shape) for name in engine.inputs})
    gpu = torch.device("cuda", _FIRST_GPU)
    outputs: dict[str, Tensor] = {}
    for name, shape in bound.outputs.items():
        if shape is None:
            raise EngineError(f"The shape of the output {name} depends on values.", _WITH_ARRAYS)
        dtype = getattr(torch, engine.outputs[name].dtype)
        outputs[name] = torch.empty(shape, dtype=dtype, device=gpu)
    for name, held in {**{name: tensors[name] for name in engine.inputs}, **outputs}.items():
        # An empty tensor has no address, and TensorRT wants one in any case.
        address = held.data_ptr() or lane.buffers.device(f"(empty {name})", 1)
        engine.call(f"use {name}", bound.context.set_tensor_address, name, address)
    current = torch.cuda.current_stream(gpu)
    ours: Any = torch.cuda.ExternalStream(lane.stream, device=gpu)  # type: ignore[no-untyped-call]
    ours.wait_stream(current)
    try:
        lane.enqueue(bound)
    finally:
        current.wait_stream(ours)
    return outputs


def _check(wanted: EngineTensor, tensor: Tensor) -> None:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if not tensor.is_cuda or tensor.device.index not in (None, _FIRST_GPU):
        raise EngineError(
            f"The input {wanted.name} is on {tensor.device}, and the engine is on "
            f"cuda:{_FIRST_GPU}.",
            f"Move it with .to('cuda:{_FIRST_GPU}').",
        )
    if dtype != wanted.dtype:
        raise EngineError(
            f"The input {wanted.name} is of type {dtype}, and the engine takes {wanted.dtype}.",
            f"Convert it with .to(torch.{wanted.dtype}).",
        )
    if not tensor.is_contiguous():
        raise EngineError(
            f"The input {wanted.name} is not contiguous, and TensorRT reads it as if it were.",
            "Make a copy with .contiguous().",
        )
    if tensor.data_ptr() % _ALIGNMENT:
        raise EngineError(
            f"The input {wanted.name} starts at {tensor.data_ptr():#x}, and TensorRT wants "
            f"multiples of {_ALIGNMENT} bytes.",
            "Make a copy with .clone().",
        )
