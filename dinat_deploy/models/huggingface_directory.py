"""A directory that transformers saved: which model is in it, and what lies beside the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinat_deploy.errors import CheckpointError
from dinat_deploy.models import huggingface, huggingface_queries, huggingface_upernet
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.decoders import Task
from dinat_deploy.models.huggingface_preprocessing import (
    Found,
    default_processor,
    find_processor,
    parse_preprocessor,
)
from dinat_deploy.models.json_file import read_json, taken_apart
from dinat_deploy.models.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor

    Tensors = Mapping[str, Tensor]

MODEL_TYPES = (
    *huggingface.MODEL_TYPES,
    *huggingface_upernet.MODEL_TYPES,
    *huggingface_queries.MODEL_TYPES,
)
_ENCODER = ("patch_embed.", "levels.", "norm", "head.")
_QUERY_TASKS: tuple[Task, ...] = ("panoptic", "instance", "semantic")


@dataclass
class Directory:
    """What a directory says beside its weights.

    Attributes:
        config: the architecture; the number of classes may be wrong, the weights have the right
            one.
        labels: names of the classes, unless they are placeholders.
        things: numbers of the classes that are counted, None if nothing says so.
        preprocessing: None for a classifier or backbone without a processor.
        notes: choices that were made, for the user to know.
    """

    config: ModelConfig
    labels: list[str] | None = None
    things: list[int] | None = None
    preprocessing: Preprocessing | None = None
    notes: list[str] = field(default_factory=list)


def is_config(data: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is of a model that :func:`describe` knows."""
    return data.get("model_type") in MODEL_TYPES


def describe(
    path: Path,
    data: Mapping[str, Any],
    task: Task | None = None,
    image_size: tuple[int, int] | None = None,
) -> Directory:
    """Read everything but the weights.

    Args:
        data: content of its ``config.json``, for which :func:`is_config` holds.
        task: what the model is wanted for, None for what it is.
        image_size: (height, width) of the input, None for what the directory says.

    Raises:
        CheckpointError: a file is missing or not valid, the model is on another backbone, or it
            cannot do the task.
        ConfigError: the settings contradict each other.
    """
    with taken_apart(path / "config.json"):
        return _described(path, data, task, image_size)


def _described(
    path: Path,
    data: Mapping[str, Any],
    task: Task | None,
    image_size: tuple[int, int] | None,
) -> Directory:
    config = _config(path, data, task)
    found = Directory(config, huggingface.labels_of(data) if config.num_classes else None)
    if not config.is_backbone and config.decoder is not None:
        found.things = _things(path)
    if config.is_backbone and "stem" in (data.get("out_features") or ()):
        found.notes.append("the output of the tokenizer (stem) is left out, stages only are kept")
    preprocessing = _preprocessing(path, str(data["model_type"]), config.task, image_size)
    if preprocessing is not None:
        found.preprocessing = preprocessing.preprocessing
        found.notes += preprocessing.notes
        image_size = found.preprocessing.crop
    if image_size is not None:
        found.config = config.replace(image_size=image_size)
    return found


def _config(path: Path, data: Mapping[str, Any], task: Task | None) -> ModelConfig:
    kind = data["model_type"]
    if kind in huggingface.MODEL_TYPES:
        config = huggingface.parse_config(data)
        _check_task(path, data, task, (config.task,))
        return config
    # Before anything else: on which backbone.
    data = {**data, "backbone_config": huggingface.backbone_of(data)}
    if kind in huggingface_upernet.MODEL_TYPES:
        _check_task(path, data, task, ("semantic",))
        return huggingface_upernet.parse_config(data)
    _check_task(path, data, task, _QUERY_TASKS)
    config = huggingface_queries.with_task_tokens(huggingface_queries.parse_config(data), path)
    # These files do not say what a model was trained for.
    wanted = task if task in _QUERY_TASKS else "panoptic"
    assert config.decoder is not None
    return config.replace(decoder=config.decoder.model_copy(update={"task": wanted}))


def _check_task(
    path: Path, data: Mapping[str, Any], task: Task | None, can: tuple[Task, ...]
) -> None:
    if data["model_type"] not in huggingface.MODEL_TYPES:
        can = (*can, "backbone")
    if task is None or task in can:
        return
    raise CheckpointError(
        f"{path} holds a {huggingface.architecture_of(data)}, which is for {' or '.join(can)}, not "
        f"{task}.",
        f"Use --task {can[0]}, or the directory of another model.",
    )


def _preprocessing(
    path: Path, model_type: str, task: Task, image_size: tuple[int, int] | None
) -> Found | None:
    processor = find_processor(path)
    if processor is not None:
        return parse_preprocessor(processor, task, image_size)
    usual = default_processor(model_type)
    if usual is None:
        return None
    found = parse_preprocessor(usual, task, image_size)
    said = f"the directory has no preprocessor_config.json; taken is what is usual for {model_type}"
    return Found(found.preprocessing, [said, *found.notes])


def _things(path: Path) -> list[int] | None:
    """Numbers of the classes that are counted, as OneFormer's processor saves them.

    They are under ``metadata``, or ``isthing`` in the file that ``class_info_file`` names.
    """
    processor = find_processor(path) or {}
    metadata = processor.get("metadata")
    if isinstance(metadata, Mapping) and isinstance(metadata.get("thing_ids"), list):
        return sorted(int(number) for number in metadata["thing_ids"])
    name = processor.get("class_info_file")
    if not isinstance(name, str) or Path(name).name != name or not (path / name).exists():
        return None
    try:
        return sorted(int(key) for key, info in read_json(path / name).items() if info["isthing"])
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(
            f'{path / name} is no table of classes; expected {{"0": {{"name": ..., "isthing": 0 or '
            "1}, ...}."
        ) from None


def sort(
    tensors: Tensors, data: Mapping[str, Any], config: ModelConfig
) -> tuple[dict[str, Tensor], dict[str, Tensor], list[str]]:
    """The tensors of the encoder in the original repository's names, those of the head in the names
    of the code that trained it, and the names of the rest.

    Raises:
        CheckpointError: they are of another model.
    """
    if data["model_type"] in huggingface.MODEL_TYPES:
        return sort_encoder(tensors)
    reader = (
        huggingface_upernet
        if data["model_type"] in huggingface_upernet.MODEL_TYPES
        else huggingface_queries
    )
    encoder, heads = reader.to_checkpoint(tensors, config)
    if not encoder:
        raise CheckpointError(
            f"The weights have no backbone for a {huggingface.architecture_of(data)} (they have "
            f"{', '.join(list(tensors)[:4])} ...).",
            "Get the directory again from its source.",
        )
    return encoder, heads, []


def sort_encoder(tensors: Tensors) -> tuple[dict[str, Tensor], dict[str, Tensor], list[str]]:
    """:func:`sort` for the weights of Dinat or Nat alone, or of anything around one."""
    prefix = huggingface.prefix_of(tensors)
    if prefix is None:
        raise CheckpointError(
            "The weights are of no Dinat or Nat of transformers (they have "
            f"{', '.join(list(tensors)[:4])} ...).",
            "Get the directory again from its source.",
        )
    renamed = huggingface.to_original_names(tensors, prefix)
    encoder = {name: tensor for name, tensor in renamed.items() if name.startswith(_ENCODER)}
    return encoder, {}, [name for name in renamed if name not in encoder]
