"""Reads ``config.pbtxt`` by Triton's own protobuf definitions, which ``tritonclient`` brings."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from dinat_deploy.errors import MissingDependencyError
from dinat_deploy.serving.problems import PackageError
from dinat_deploy.serving.triton_config import (
    DynamicBatching,
    Instances,
    ModelConfig,
    Step,
    Tensor,
    WarmUp,
)

_MODULE = "dinat_deploy_triton_model_config_pb2"


@cache
def definitions() -> Any:
    """The module ``model_config_pb2`` of tritonclient.

    It is loaded by its file: the package around it demands gRPC, which nothing here needs.

    Raises:
        MissingDependencyError: tritonclient or protobuf is not installed.
    """
    cure = "pip install 'dinat-deploy[serving]'"
    package = importlib.util.find_spec("tritonclient")
    places = package.submodule_search_locations if package else None
    files = [Path(place) / "grpc" / "model_config_pb2.py" for place in places or ()]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise MissingDependencyError(
            "Checking a model repository needs Triton's definitions of its configuration, which "
            "come with tritonclient, and that is not installed.",
            cure,
        )
    spec = importlib.util.spec_from_file_location(_MODULE, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"Triton's definitions of its configuration cannot be loaded: {error}.", cure
        ) from None
    sys.modules[_MODULE] = module
    return module


def definitions_are_here() -> bool:
    """Whether :func:`definitions` would find them."""
    try:
        definitions()
    except MissingDependencyError:
        return False
    return True


def parse(text: str) -> Any:
    """A ``ModelConfig`` message.

    Raises:
        PackageError: Triton would not read the text.
        MissingDependencyError: as of :func:`definitions`.
    """
    from google.protobuf import text_format

    try:
        return text_format.Parse(text, definitions().ModelConfig())
    except (text_format.ParseError, UnicodeError, RecursionError) as error:
        raise PackageError(
            f"Triton does not read this configuration: {error}.", "Package the model again."
        ) from None


def read(text: str) -> ModelConfig:
    """What :meth:`ModelConfig.to_text` wrote, or somebody else; fields not known here are left out.

    Raises:
        PackageError, MissingDependencyError: as of :func:`parse`.
    """
    message = parse(text)
    types = definitions().DataType.Name
    scheduling = message.WhichOneof("scheduling_choice")
    return ModelConfig(
        name=message.name,
        platform=message.platform,
        backend=message.backend,
        max_batch_size=message.max_batch_size,
        inputs=tuple(_tensor(tensor, types) for tensor in message.input),
        outputs=tuple(_tensor(tensor, types) for tensor in message.output),
        instances=tuple(_instances(group) for group in message.instance_group),
        batching=_batching(message.dynamic_batching) if scheduling == "dynamic_batching" else None,
        warm_up=tuple(_warm_up(sample, types) for sample in message.model_warmup),
        steps=tuple(
            Step(step.model_name, dict(step.input_map), dict(step.output_map))
            for step in message.ensemble_scheduling.step
        ),
        operator_libraries=tuple(message.model_operations.op_library_filename),
        parameters=_parameters(message.parameters),
        model_file=message.default_model_filename,
    )


def _tensor(tensor: Any, types: Any) -> Tensor:
    label_file = getattr(tensor, "label_filename", "")  # outputs have one
    reshape = tuple(tensor.reshape.shape) if tensor.HasField("reshape") else None
    return Tensor(tensor.name, types(tensor.data_type), tuple(tensor.dims), label_file, reshape)


def _instances(group: Any) -> Instances:
    return Instances(
        kind=group.Kind.Name(group.kind),
        count=group.count,
        gpus=tuple(group.gpus),
        profiles=tuple(group.profile),
    )


def _batching(message: Any) -> DynamicBatching:
    return DynamicBatching(
        preferred=tuple(message.preferred_batch_size),
        queue_delay=message.max_queue_delay_microseconds,
        priority_levels=message.priority_levels,
        default_priority=message.default_priority_level,
        max_queue_size=message.default_queue_policy.max_queue_size,
        timeout=message.default_queue_policy.default_timeout_microseconds,
    )


def _warm_up(sample: Any, types: Any) -> WarmUp:
    # A map of protobuf has no order; the names give it one.
    inputs = sorted(sample.inputs.items())
    return WarmUp(
        sample.name,
        sample.batch_size,
        tuple(Tensor(name, types(one.data_type), tuple(one.dims)) for name, one in inputs),
    )


def _parameters(entries: Mapping[str, Any]) -> dict[str, str]:
    return {name: entry.string_value for name, entry in sorted(entries.items())}
