"""Read checkpoint files safely, whatever they were saved by.

Formats: the original repository's ``.pth``, mm-style and timm-style files (nested, prefixed, with
an exponential moving average), safetensors, and directories of Hugging Face or of this project.
Nothing is ever unpickled that could run code.
"""

from __future__ import annotations

import argparse
import json
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from dinat_deploy.errors import CheckpointError
from dinat_deploy.models import huggingface, segmentation_checkpoints
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.model_card import MODEL_CARD, ModelCard
from dinat_deploy.models.preprocessing import Preprocessing

_EMA_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
_PLAIN_KEYS = ("state_dict", "model", "model_state_dict", "net", "module")
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
# What a pickle and a zip archive of pickles begin with.
_PICKLE_MAGIC = (b"\x80", b"P")
_STEMS = ("patch_embed.proj.0.weight", "patch_embed.proj.weight")


@dataclass
class Checkpoint:
    """What a checkpoint holds, in the original repository's names.

    Attributes:
        path: where it was read.
        tensors: weights of the encoder (and head) by original name, on the CPU.
        heads: weights of a segmenter's heads by mmsegmentation's names.
        ignored: names in the file that belong to neither (a detector's head, say).
        notes: choices made while reading, for the user to know.
        config, labels, preprocessing: what a directory says beside the weights.
    """

    path: Path
    tensors: dict[str, Tensor]
    heads: dict[str, Tensor] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    config: ModelConfig | None = None
    labels: list[str] | None = None
    preprocessing: Preprocessing | None = None


def read_checkpoint(path: str | Path, *, prefer_ema: bool = True) -> Checkpoint:
    """Read a checkpoint file or directory.

    Args:
        prefer_ema: take the exponential moving average where the file has both.

    Raises:
        CheckpointError: missing, truncated, unsafe, or of another kind of model.
    """
    path = Path(path)
    if path.is_dir():
        return _read_directory(path)
    content = _load_file(path)
    notes: list[str] = []
    checkpoint = Checkpoint(path, {}, notes=notes)
    checkpoint.labels = segmentation_checkpoints.labels_of(content)
    _take(checkpoint, _unnest(content, path, prefer_ema, notes))
    return checkpoint


def _read_directory(path: Path) -> Checkpoint:
    card = path / MODEL_CARD
    data = _read_json(card, missing="A model directory holds config.json beside its weights.")
    checkpoint = Checkpoint(path, {})
    if ModelCard.is_card(data):
        own = ModelCard.parse(data, str(card))
        checkpoint.config, checkpoint.labels = own.config, own.labels
        checkpoint.preprocessing = own.preprocessing
    elif huggingface.is_config(data):
        checkpoint.config = huggingface.parse_config(data)
        checkpoint.labels = huggingface.labels_of(data)
        preprocessor = path / "preprocessor_config.json"
        if preprocessor.exists():
            found = _read_json(preprocessor)
            checkpoint.preprocessing = huggingface.parse_preprocessor(found)
            size = checkpoint.preprocessing.crop
            checkpoint.config = checkpoint.config.replace(image_size=size)
    else:
        raise CheckpointError(
            f"{card} is of model type {data.get('model_type')!r}; expected dinat or nat.",
            "Pass a directory of a Dinat or Nat classifier or backbone.",
        )
    _take(checkpoint, _load_shards(path))
    head = checkpoint.tensors.get("head.weight")
    if head is not None and checkpoint.config.is_classifier:
        # transformers leaves the number of labels out of config.json when it is the default.
        checkpoint.config = checkpoint.config.replace(num_classes=int(head.shape[0]))
    return checkpoint


def _read_json(path: Path, missing: str = "") -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"There is no {path}.", missing) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}.") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a JSON {type(data).__name__}, expected an object.")
    return data


def _load_shards(directory: Path) -> dict[str, Tensor]:
    for name in _WEIGHT_FILES:
        if (directory / name).exists():
            return _as_tensors(_load_file(directory / name), directory / name)
    for name in _WEIGHT_FILES:
        index = directory / f"{name}.index.json"
        if not index.exists():
            continue
        table = _read_json(index).get("weight_map")
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
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _take(checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> None:
    """Sort the tensors of a file into a checkpoint, under the names of the original code."""
    theirs = huggingface.prefix_of(tensors)
    if theirs is not None:
        renamed = huggingface.to_original_names(tensors, theirs)
        ours = ("patch_embed.", "levels.", "norm", "head.")
        checkpoint.tensors = {n: tensor for n, tensor in renamed.items() if n.startswith(ours)}
        checkpoint.ignored = [name for name in renamed if name not in checkpoint.tensors]
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
    checkpoint.heads = segmentation_checkpoints.heads_of(tensors, prefix)
    outer = prefix.removesuffix(segmentation_checkpoints.BACKBONE)
    checkpoint.ignored = [
        name
        for name in tensors
        if not name.startswith(prefix) and name.removeprefix(outer) not in checkpoint.heads
    ]
