"""``config.pbtxt``: the part of Triton's model configuration that this package writes and checks.

Field names are those of ``ModelConfig`` in Triton's ``model_config.proto``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

CONFIG = "config.pbtxt"
ENSEMBLE = "ensemble"
DYNAMIC = -1  # a dimension of any size

Kind = Literal["KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"]

# Element types, as ONNX files and engine.json call them.
DATA_TYPES: Mapping[str, str] = {
    "float": "TYPE_FP32",
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "bfloat16": "TYPE_BF16",
    "double": "TYPE_FP64",
    "bool": "TYPE_BOOL",
    "string": "TYPE_STRING",
    **{f"{sign}int{bits}": f"TYPE_{sign.upper()}INT{bits}"
       for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """An input or output.

    Attributes:
        data_type: such as ``TYPE_FP32``.
        dims: without the batch where the model has one (``max_batch_size`` > 0); -1 is dynamic.
        label_file: names of the classes, beside ``config.pbtxt``.
        reshape: dimensions that the model itself has, if they are others.
    """

    name: str
    data_type: str
    dims: tuple[int, ...]
    label_file: str = ""
    reshape: tuple[int, ...] | None = None

    @property
    def model_dims(self) -> tuple[int, ...]:
        """As the model's file should have them."""
        return self.dims if self.reshape is None else self.reshape


@dataclass(frozen=True)
class Instances:
    """Copies of a model that run side by side.

    Attributes:
        count: for each GPU, or for the CPU; 0 leaves the choice to Triton.
        gpus: numbers of the GPUs; empty for all.
        profiles: optimisation profiles of an engine.
    """

    kind: Kind
    count: int = 1
    gpus: tuple[int, ...] = ()
    profiles: tuple[str, ...] = ()


@dataclass(frozen=True)
class DynamicBatching:
    """How requests are put together to batches; times in microseconds, 0 stands for none.

    Attributes:
        preferred: sizes that a batch is closed at.
        queue_delay: that a request may wait for others.
        priority_levels: of requests; 1 is the highest, and the lowest is the default.
        max_queue_size: further requests are refused.
        timeout: in the queue, after which a request is refused.
    """

    preferred: tuple[int, ...] = ()
    queue_delay: int = 0
    priority_levels: int = 0
    default_priority: int = 0
    max_queue_size: int = 0
    timeout: int = 0


@dataclass(frozen=True)
class WarmUp:
    """A request that Triton makes itself before a model counts as ready.

    Its inputs are zeros. Triton's random data are random bytes, and as floating-point numbers some
    of them are NaN or enormous, which a detector turns into indices.
    """

    name: str
    batch_size: int
    inputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class Step:
    """A model of an ensemble: name of its tensor -> name of the ensemble's tensor."""

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class ModelConfig:
    """One model of a repository.

    Attributes:
        platform, backend: what runs it; an ensemble has the former only.
        max_batch_size: 0 for a model whose tensors have exactly the ``dims``.
        model_file: in the directory of the version, if it has another name than usual.
        operator_libraries: of ONNX Runtime; relative to the server's working directory.
    """

    name: str
    platform: str = ""
    backend: str = ""
    max_batch_size: int = 0
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    instances: tuple[Instances, ...] = ()
    batching: DynamicBatching | None = None
    warm_up: tuple[WarmUp, ...] = ()
    steps: tuple[Step, ...] = ()
    operator_libraries: tuple[str, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    model_file: str = ""

    def to_text(self) -> str:
        """In protobuf's text format."""
        return "\n".join(_lines(_fields(self))) + "\n"


class _Word(str):
    """Written without quotation marks: the name of an enumeration's value."""


# A message: fields in order. A list repeats the field, a tuple is a list of numbers or strings.
_Value = object
_Message = Sequence[tuple[str, _Value]]


def _fields(config: ModelConfig) -> _Message:
    found: list[tuple[str, _Value]] = [
        ("name", config.name),
        ("platform", config.platform),
        ("backend", config.backend),
        ("max_batch_size", config.max_batch_size),
        ("default_model_filename", config.model_file),
        ("input", [_tensor(tensor) for tensor in config.inputs]),
        ("output", [_tensor(tensor) for tensor in config.outputs]),
        ("instance_group", [_instances(group) for group in config.instances]),
    ]
    if config.batching is not None:
        found.append(("dynamic_batching", [_batching(config.batching)]))
    if config.operator_libraries:
        libraries = ("op_library_filename", config.operator_libraries)
        found.append(("model_operations", [[libraries]]))
    found.append(("parameters", _map(config.parameters, lambda value: [("string_value", value)])))
    found.append(("model_warmup", [_warm_up(sample) for sample in config.warm_up]))
    if config.steps:
        steps = ("step", [_step(step) for step in config.steps])
        found.append(("ensemble_scheduling", [[steps]]))
    # Zeros and empty strings are what protobuf assumes anyway; 0 says something of batches.
    return [(name, value) for name, value in found if name == "max_batch_size" or value]


def _tensor(tensor: Tensor) -> _Message:
    found: list[tuple[str, _Value]] = [
        ("name", tensor.name), ("data_type", _Word(tensor.data_type)), ("dims", tensor.dims)
    ]  # fmt: skip
    if tensor.reshape is not None:
        found.append(("reshape", [[("shape", tensor.reshape)]]))
    return [*found, ("label_filename", tensor.label_file)] if tensor.label_file else found


def _instances(group: Instances) -> _Message:
    found: list[tuple[str, _Value]] = [("kind", _Word(group.kind)), ("count", group.count)]
    found += [("gpus", group.gpus), ("profile", group.profiles)]
    return [entry for entry in found if entry[1]]


def _batching(batching: DynamicBatching) -> _Message:
    policy: list[tuple[str, _Value]] = [
        ("default_timeout_microseconds", batching.timeout),
        ("max_queue_size", batching.max_queue_size),
    ]
    set_policy = [entry for entry in policy if entry[1]]
    found: list[tuple[str, _Value]] = [
        ("preferred_batch_size", batching.preferred),
        ("max_queue_delay_microseconds", batching.queue_delay),
        ("priority_levels", batching.priority_levels),
        ("default_priority_level", batching.default_priority),
        ("default_queue_policy", [set_policy] if set_policy else []),
    ]
    return [entry for entry in found if entry[1]]


def _warm_up(sample: WarmUp) -> _Message:
    inputs: list[_Message] = [
        [
            ("key", tensor.name),
            (
                "value",
                [[
                    ("data_type", _Word(tensor.data_type)),
                    ("dims", tensor.dims),
                    ("zero_data", _Word("true")),
                ]],
            ),
        ]
        for tensor in sample.inputs
    ]  # fmt: skip
    return [("name", sample.name), ("batch_size", sample.batch_size), ("inputs", inputs)]


def _step(step: Step) -> _Message:
    return [
        ("model_name", step.model),
        ("model_version", DYNAMIC),  # -1: the newest
        ("input_map", _map(step.inputs)),
        ("output_map", _map(step.outputs)),
    ]


def _map(entries: Mapping[str, str], wrap: object = None) -> list[_Message]:
    return [
        [("key", key), ("value", [wrap(value)] if callable(wrap) else value)]
        for key, value in sorted(entries.items())
    ]


def _lines(message: _Message, indent: str = "") -> Iterator[str]:
    for name, value in message:
        if isinstance(value, list):
            for nested in value:
                yield f"{indent}{name} {{"
                yield from _lines(nested, indent + "  ")
                yield f"{indent}}}"
        elif isinstance(value, tuple):
            yield f"{indent}{name}: [{', '.join(_scalar(entry) for entry in value)}]"
        else:
            yield f"{indent}{name}: {_scalar(value)}"


def _scalar(value: _Value) -> str:
    if isinstance(value, str) and not isinstance(value, _Word):
        # JSON's escapes are among those of protobuf; other letters stand as they are, in UTF-8.
        return json.dumps(value, ensure_ascii=False)
    return str(value)
