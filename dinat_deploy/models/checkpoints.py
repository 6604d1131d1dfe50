"""Read checkpoint files safely, whatever they were saved by.

Formats: the original repository's ``.pth``, mm-style and timm-style files (nested, prefixed, with
an exponential moving average), safetensors, and directories of Hugging Face or of this project.
Nothing is ever unpickled that could run code.
"""

from __future__ import annotations

import argparse
import pickle
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from dinat_deploy.errors import CheckpointError
from dinat_deploy.models import (
    families,
    huggingface,
    huggingface_directory,
    segmentation_checkpoints,
)
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.decoders import Task
from dinat_deploy.models.json_file import read_json
from dinat_deploy.models.model_card import MODEL_CARD, ModelCard
from dinat_deploy.models.pickled_arrays import read_pickled_arrays
from dinat_deploy.models.preprocessing import Preprocessing

_EMA_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
_PLAIN_KEYS = ("state_dict", "model", "model_state_dict", "net", "module")
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
# What a pickle and a zip archive of pickles begin with.
_PICKLE_MAGIC = (b"\x80", b"P")
# The first object in a file of torch.save before PyTorch 1.6 (torch.serialization.MAGIC_NUMBER).
_LEGACY_MAGIC = torch.serialization.MAGIC_NUMBER
_STEMS = ("patch_embed.proj.0.weight", "patch_embed.proj.weight")


@dataclass
class Checkpoint:
    """What a checkpoint holds, in the original repository's names.

    Attributes:
        path: where it was read.
        tensors: weights of the encoder (and head) by original name, on the CPU.
        heads: weights of the head of a segmenter or detector, by the names of the code base that
            trained it (:mod:`dinat_deploy.models.families`).
        ignored: names in the file that belong to neither.
        notes: choices made while reading, for the user to know.
        config, labels, things, preprocessing: what a directory says beside the weights; things are
            the numbers of the classes whose instances are counted.
    """

    path: Path
    tensors: dict[str, Tensor]
    heads: dict[str, Tensor] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    config: ModelConfig | None = None
    labels: list[str] | None = None
    things: list[int] | None = None
    preprocessing: Preprocessing | None = None


def read_checkpoint(
    path: str | Path,
    *,
    prefer_ema: bool = True,
    task: Task | None = None,
    image_size: tuple[int, int] | None = None,
) -> Checkpoint:
    """Read a checkpoint file or directory.

    Args:
        prefer_ema: take the exponential moving average where the file has both.
        task: what the model of a directory of transformers is wanted for; None for what it is.
        image_size: (height, width) of its input; None for what the directory says.

    Raises:
        CheckpointError: missing, truncated, unsafe, or of another kind of model.
    """
    path = Path(path)
    if path.is_dir():
        return _read_directory(path, task, image_size)
    content = _load_file(path)
    notes: list[str] = []
    checkpoint = Checkpoint(path, {}, notes=notes)
    checkpoint.labels = segmentation_checkpoints.labels_of(content)
    _take(checkpoint, _unnest(content, path, prefer_ema, notes))
    return checkpoint


def read_hugging_face(
    path: str | Path, *, task: Task | None = None, image_size: tuple[int, int] | None = None
) -> Checkpoint:
    """:func:`read_checkpoint` for what must be a directory of transformers.

    Raises:
        CheckpointError: it is none, or of a model that is not supported; or as
            :func:`read_checkpoint`.
    """
    path = Path(path)
    if not path.is_dir():
        what = "a file" if path.exists() else "not there"
        raise CheckpointError(
            f"--hf takes a directory that transformers saved, and {path} is {what}.",
            "Pass one with config.json in it; files of weights go to --checkpoint.",
        )
    data = _read_card(path)
    if ModelCard.is_card(data):
        raise CheckpointError(
            f"{path} was saved by dinat_deploy, not by transformers.", "Use --checkpoint."
        )
    return _read_transformers(path, data, task, image_size)


def _read_card(path: Path) -> dict[str, Any]:
    return read_json(
        path / MODEL_CARD, missing="A model directory holds config.json beside its weights."
    )


def _read_directory(
    path: Path, task: Task | None, image_size: tuple[int, int] | None
) -> Checkpoint:
    data = _read_card(path)
    if not ModelCard.is_card(data):
        return _read_transformers(path, data, task, image_size)
    own = ModelCard.parse(data, str(path / MODEL_CARD))
    checkpoint = Checkpoint(path, {}, config=own.config, labels=own.labels)
    checkpoint.preprocessing = own.preprocessing
    _take(checkpoint, _load_shards(path))
    return checkpoint


def _read_transformers(
    path: Path, data: dict[str, Any], task: Task | None, image_size: tuple[int, int] | None
) -> Checkpoint:
    if not huggingface_directory.is_config(data):
        raise CheckpointError(
            f"{path / MODEL_CARD} is of model type {data.get('model_type')!r}; expected "
            "dinat or nat, or upernet, mask2former or oneformer on one.",
            "Pass the directory of such a model, as save_pretrained of transformers writes it.",
        )
    found = huggingface_directory.describe(path, data, task, image_size)
    tensors = _load_shards(path)
    encoder, heads, ignored = huggingface_directory.sort(tensors, data, found.config)
    checkpoint = Checkpoint(path, encoder, heads, ignored, found.notes)
    checkpoint.labels, checkpoint.things = found.labels, found.things
    checkpoint.preprocessing = found.preprocessing
    # transformers leaves the number of labels out of config.json when it is the default.
    classes = _classes_in(checkpoint, found.config)
    checkpoint.config = (
        found.config if classes is None else found.config.replace(num_classes=classes)
    )
    return checkpoint


def _classes_in(checkpoint: Checkpoint, config: ModelConfig) -> int | None:
    """Classes that the weights tell apart, None if they do not say."""
    if config.decoder is not None:
        return families.FAMILIES[config.decoder.type].num_classes_of(checkpoint.heads)
    weight = checkpoint.tensors.get("head.weight")
    return int(weight.shape[0]) if weight is not None and config.is_classifier else None


def _load_shards(directory: Path) -> dict[str, Tensor]:
    for name in _WEIGHT_FILES:
        if (directory / name).exists():
            return _as_tensors(_load_file(directory / name), directory / name)
    for name in _WEIGHT_FILES:
        index = directory / f"{name}.index.json"
        if not index.exists():
            continue
        table = read_json(index).get("weight_map")
        if not isinstance(table, dict):
            raise CheckpointError(f"{index} has no weight_map.", "Download the model again.")
        tensors: dict[str, Tensor] = {}
        for shard in sorted({str(shard) for shard in table.values()}):
            if Path(shard).name != shard:
                raise CheckpointError(f"{index} names a shard outside its directory: {shard!r}.")
            tensors |= _as_tensors(_load_file(directory / shard), directory / shard)
        return tensors
    raise CheckpointError(
        f"{directory} holds no weights.", f"Expected {' or '.join(_WEIGHT_FILES)} in it."
    )


def _load_file(path: Path) -> Any:
    if not path.exists():
        raise CheckpointError(f"There is no checkpoint {path}.", "Check the path.")
    if path.suffix == ".pkl" and path.is_file() and not _is_of_pytorch(path):
        return read_pickled_arrays(path)  # of detectron2
    damaged = "The file is damaged or incomplete; compare its size with the source and copy again."
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        # argparse settings often lie beside the weights; they are plain data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        with path.open("rb") as stream:
            is_pickle = stream.read(1) in _PICKLE_MAGIC
        complaint = str(error).lower()
        if is_pickle and ("weights_only" in complaint or "unsupported" in complaint):
            raise CheckpointError(
                f"{path} holds Python objects, not only tensors; loading them could run code.",
                "Save the weights alone: torch.save(model.state_dict(), path), or safetensors.",
            ) from None
        raise CheckpointError(f"{path} is not a PyTorch checkpoint.", damaged) from None
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a directory.", "Name a file.") from None
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is not valid safetensors: {error}.", damaged) from None
    except Exception as error:  # readers of foreign formats raise anything on damaged input
        text = next(iter(str(error).splitlines()), "") or type(error).__name__
        reason = text.partition(". ")[0].rstrip(".")
        raise CheckpointError(f"{path} cannot be read: {reason}.", damaged) from None


def _is_of_pytorch(path: Path) -> bool:
    """Whether ``torch.save`` wrote a file: a zip archive, or before PyTorch 1.6 several pickles."""
    with path.open("rb") as stream:
        begin = stream.read(32)
    number = _LEGACY_MAGIC.to_bytes(10, "little")
    return zipfile.is_zipfile(path) or number in begin


def _is_weights(content: Any) -> bool:
    return isinstance(content, dict) and any(isinstance(v, Tensor) for v in content.values())


def _unnest(content: Any, path: Path, prefer_ema: bool, notes: list[str]) -> dict[str, Tensor]:
    """Find the weights in a training checkpoint, which has them under one of several keys."""
    for _ in range(4):
        if not isinstance(content, dict):
            break
        ema = next((key for key in _EMA_KEYS if _holds_weights(content, key)), None)
        plain = next((key for key in _PLAIN_KEYS if _holds_weights(content, key)), None)
        if ema and (prefer_ema or not plain):
            notes.append(f"took the exponential moving average {ema!r} of the weights")
            content = content[ema]
        elif plain:
            content = content[plain]
        elif _is_weights(content):
            return _as_tensors(content, path)
        else:
            break
    held = ", ".join(map(str, list(content)[:5])) if isinstance(content, dict) else ""
    raise CheckpointError(
        f"{path} holds no weights ({type(content).__name__}{' of ' + held if held else ''}).",
        "Pass a state dict, or a training checkpoint with one under 'state_dict' or 'model'.",
    )


def _holds_weights(content: dict[str, Any], key: str) -> bool:
    value = content.get(key)
    if not isinstance(value, dict):
        return False
    return _is_weights(value) or any(_is_weights(inner) for inner in value.values())


def _as_tensors(content: Any, path: Path) -> dict[str, Tensor]:
    if not _is_weights(content):
        raise CheckpointError(f"{path} holds no tensors.", "Pass a file of model weights.")
    found = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    for name, tensor in found.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            kind = "no" if tensor.is_meta else "sparse or quantized"
            raise CheckpointError(
                f"{path}: {name} holds {kind} values.", "Save the weights as plain tensors."
            )
    return found


def _take(checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> None:
    """Sort the tensors of a file into a checkpoint, under the names of the original code."""
    if huggingface.prefix_of(tensors) is not None:
        checkpoint.tensors, _, checkpoint.ignored = huggingface_directory.sort_encoder(tensors)
        return
    prefixes = [name[: -len(stem)] for name in tensors for stem in _STEMS if name.endswith(stem)]
    if not prefixes:
        names = ", ".join(list(tensors)[:4])
        raise CheckpointError(
            f"{checkpoint.path} is not a NAT or DiNAT checkpoint: no tensor patch_embed.proj in it "
            f"(it has {names} ...).",
            "Pass weights of the original repository or of Hugging Face Dinat / Nat.",
        )
    prefix = min(prefixes, key=len)
    checkpoint.tensors = {
        name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)
    }
    checkpoint.heads = families.heads_of(tensors, prefix)
    outer = prefix.removesuffix(families.BACKBONE)
    checkpoint.ignored = [
        name
        for name in tensors
        if not name.startswith(prefix) and name.removeprefix(outer) not in checkpoint.heads
    ]
