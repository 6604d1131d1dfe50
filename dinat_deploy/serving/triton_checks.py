"""What Triton refuses in one ``config.pbtxt``, told without Triton.

The rules are those of its core (``model_config_utils.cc``): what it says there is an error at the
start of the server.
"""

from __future__ import annotations

from collections.abc import Iterator

from dinat_deploy.serving.problems import Problem
from dinat_deploy.serving.triton_config import (
    DYNAMIC,
    ENSEMBLE,
    DynamicBatching,
    ModelConfig,
    Tensor,
)

# Back ends whose models this package knows, and what their platform must be.
PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "tensorrt": "tensorrt_plan", "python": ""}
_AGAIN = "Package the model again, or correct config.pbtxt."


def check_config(config: ModelConfig, directory: str) -> Iterator[Problem]:
    """What is wrong with a configuration by itself.

    Args:
        directory: name of the one that it lies in.
    """
    where = directory
    if config.name != directory:
        yield Problem(
            where,
            f"config.pbtxt is of a model named {config.name!r}, and Triton wants the name of its "
            "directory.",
            "Rename one of the two.",
        )
    yield from _check_backend(config, where)
    if config.max_batch_size < 0:
        yield Problem(where, f"max_batch_size is {config.max_batch_size}.", _AGAIN)
    for side, tensors in (("input", config.inputs), ("output", config.outputs)):
        if not tensors:
            yield Problem(where, f"It has no {side}s.", _AGAIN)
        yield from _check_tensors(side, tensors, where)
    if config.batching is not None:
        yield from _check_batching(config.batching, config.max_batch_size, where)
    for group in config.instances:
        if group.gpus and group.kind == "KIND_CPU":
            yield Problem(where, "A group of instances on the CPU names GPUs.", "Make it KIND_GPU.")
    yield from _check_warm_up(config, where)


def _check_backend(config: ModelConfig, where: str) -> Iterator[Problem]:
    if config.platform == ENSEMBLE:
        if config.backend:
            yield Problem(
                where,
                f"It is an ensemble with the back end {config.backend}.",
                "Leave backend out.",
            )
        return
    if not config.backend and config.platform not in PLATFORMS.values():
        yield Problem(
            where,
            f"It has no back end, and the platform {config.platform!r} stands for none.",
            f"Name one with backend: {', '.join(PLATFORMS)}.",
        )
        return
    expected = PLATFORMS.get(config.backend)
    if expected is not None and config.platform not in ("", expected):
        yield Problem(
            where,
            f"The back end {config.backend} has the platform {expected or 'none'}, and "
            f"config.pbtxt says {config.platform}.",
            _AGAIN,
        )


def _check_tensors(side: str, tensors: tuple[Tensor, ...], where: str) -> Iterator[Problem]:
    names = [tensor.name for tensor in tensors]
    for name in {name for name in names if names.count(name) > 1}:
        yield Problem(where, f"The {side} {name} is there twice.", _AGAIN)
    for tensor in tensors:
        if not tensor.name:
            yield Problem(where, f"An {side} has no name.", _AGAIN)
        if tensor.data_type == "TYPE_INVALID":
            yield Problem(where, f"The {side} {tensor.name} has no data_type.", _AGAIN)
        if not tensor.dims:
            yield Problem(where, f"The {side} {tensor.name} has no dims.", _AGAIN)
        if any(size < 1 and size != DYNAMIC for size in tensor.dims):
            yield Problem(
                where,
                f"The {side} {tensor.name} has dims {shown(tensor.dims)}; they are 1 or more, or "
                "-1 for any size.",
                _AGAIN,
            )


def _check_batching(batching: DynamicBatching, most: int, where: str) -> Iterator[Problem]:
    if most == 0:
        yield Problem(
            where,
            "It has dynamic_batching, and its max_batch_size is 0: it takes no batches.",
            "Leave one of the two out; a model takes batches if it was exported with --dynamic "
            "batch.",
        )
    for size in batching.preferred:
        if size < 1 or size > most > 0:
            yield Problem(
                where, f"A batch of {size} is preferred, and max_batch_size is {most}.", _AGAIN
            )
    if batching.priority_levels and not 1 <= batching.default_priority <= batching.priority_levels:
        yield Problem(
            where,
            f"The default priority is {batching.default_priority}, of levels 1 to "
            f"{batching.priority_levels}.",
            _AGAIN,
        )


def _check_warm_up(config: ModelConfig, where: str) -> Iterator[Problem]:
    known = {tensor.name: tensor for tensor in config.inputs}
    for sample in config.warm_up:
        if sample.batch_size > max(config.max_batch_size, 1):
            yield Problem(
                where,
                f"The warm-up {sample.name} has a batch of {sample.batch_size}, and max_batch_size "
                f"is {config.max_batch_size}.",
                _AGAIN,
            )
        for name in known.keys() ^ {tensor.name for tensor in sample.inputs}:
            yield Problem(
                where, f"The warm-up {sample.name} and the inputs differ in {name}.", _AGAIN
            )
        for tensor in sample.inputs:
            own = known.get(tensor.name)
            if own is None:
                continue
            if DYNAMIC in tensor.dims or not compatible(own.dims, tensor.dims):
                yield Problem(
                    where,
                    f"The warm-up {sample.name} gives {tensor.name} dims {shown(tensor.dims)}, and "
                    f"the input has {shown(own.dims)}.",
                    _AGAIN,
                )
            if own.data_type != tensor.data_type:
                yield Problem(
                    where,
                    f"The warm-up {sample.name} gives {tensor.name} as {tensor.data_type}, and the "
                    f"input is {own.data_type}.",
                    _AGAIN,
                )


def compatible(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    """Whether dimensions are equal, where -1 fits any."""
    return len(first) == len(second) and all(
        one == other or DYNAMIC in (one, other) for one, other in zip(first, second, strict=True)
    )


def shown(dims: tuple[int, ...]) -> str:
    """``[3, 224, 224]``"""
    return f"[{', '.join(str(size) for size in dims)}]"
