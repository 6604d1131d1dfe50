"""Mask2Former and OneFormer on DiNAT as transformers saves them: configuration, weights, tasks.

Only :func:`task_tokens` needs transformers itself, for OneFormer's text tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from dinat_deploy.errors import CheckpointError, MissingDependencyError
from dinat_deploy.models import huggingface
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.decoders import Decoder, DecoderTask, Mask2Former, OneFormer
from dinat_deploy.models.json_file import read_json

if TYPE_CHECKING:
    from torch import Tensor

MODEL_TYPES = ("mask2former", "oneformer")

_ENCODER = "model.pixel_level_module.encoder."
_HEADS = {
    "model.pixel_level_module.decoder.": "pixel_decoder.",
    "model.transformer_module.": "transformer_module.",
    "model.task_encoder.": "task_encoder.",
}
# Losses, and OneFormer's text encoder, which training compares queries with.
_TRAINING = ("criterion.", "matcher.", "model.text_mapper.")
_STAGES = [f"stage{number}" for number in range(1, 5)]
_TOKENIZERS = (("vocab.json", "merges.txt"), ("tokenizer.json",))
_DEFAULT_CLASSES = 2  # of transformers, when config.json names none

# Settings of transformers that the published models, and ours, have fixed; and the names in
# Mask2Former's configuration of what is ours.
_FIXED: dict[str, dict[str, Any]] = {
    "mask2former": {
        "pre_norm": False,
        "enforce_input_projection": False,
        "activation_function": "relu",
        "common_stride": 4,
        "feature_strides": [4, 8, 16, 32],
    },
    "oneformer": {
        "pre_norm": False,
        "enforce_input_proj": False,
        "layer_norm_eps": 1e-5,
        "common_stride": 4,
        "strides": [4, 8, 16, 32],
    },
}
_WIDTHS = {
    "mask2former": ("feature_size", "mask_feature_size"),
    "oneformer": ("conv_dim", "mask_dim"),
}


def parse_config(data: Mapping[str, Any]) -> ModelConfig:
    """A ``config.json`` of transformers as our configuration, for panoptic segmentation.

    The input size is not part of it. OneFormer's still lacks its sentences, see
    :func:`with_task_tokens`.

    Raises:
        CheckpointError: the backbone is no Dinat, or a setting is none that is supported.
        ConfigError: its values contradict each other.
    """
    kind = data.get("model_type")
    assert kind in MODEL_TYPES, kind
    backbone = data.get("backbone_config")
    found = backbone.get("model_type") if isinstance(backbone, Mapping) else data.get("backbone")
    if not isinstance(backbone, Mapping) or found not in ("dinat", "nat"):
        raise CheckpointError(
            f"config.json is of a {kind} on the backbone {found!r}; expected dinat or nat.",
            "Pass the directory of a model on a DiNAT, such as "
            "shi-labs/oneformer_ade20k_dinat_large.",
        )
    stages = list(backbone.get("out_features") or _STAGES)
    for name, fixed, asked in (
        *((name, fixed, data.get(name, fixed)) for name, fixed in _FIXED[kind].items()),
        ("backbone_config.out_features", _STAGES, stages),
    ):
        if (list(asked) if isinstance(asked, tuple) else asked) != fixed:
            raise CheckpointError(
                f"config.json asks for {name} {asked}; only {fixed} is supported.",
                f"No published {kind} has another one.",
            )
    labels = data.get("id2label") or ()
    return huggingface.parse_config(backbone).replace(
        decoder=_settings(kind, data),
        num_classes=len(labels) or data.get("num_labels", _DEFAULT_CLASSES),
        out_levels=(),
    )


def _settings(kind: str, data: Mapping[str, Any]) -> Decoder:
    width, masks = _WIDTHS[kind]
    hidden = data.get("hidden_dim", 256)
    if data.get(width, 256) != hidden:
        raise CheckpointError(
            f"config.json asks for {width} {data.get(width, 256)} and hidden_dim {hidden}; only "
            "equal ones are supported.",
            f"No published {kind} has different ones.",
        )
    fields: dict[str, Any] = {
        "hidden_dim": hidden,
        "mask_dim": data.get(masks, 256),
        "num_heads": data.get("num_attention_heads", 8),
        "encoder_layers": data.get("encoder_layers", 6),
        "encoder_ffn": data.get("encoder_feedforward_dim", 1024),
        # There the prediction from the first queries counts as a layer.
        "decoder_layers": data.get("decoder_layers", 10) - 1,
        "decoder_ffn": data.get("dim_feedforward", 2048),
    }
    if kind == "mask2former":
        return Mask2Former(num_queries=data.get("num_queries", 100), **fields)
    return OneFormer(
        num_queries=data.get("num_queries", 150),
        query_layers=data.get("query_dec_layers", 2),
        task_norm=data.get("use_task_norm", True),
        **fields,
    )


def to_checkpoint(
    tensors: Mapping[str, Tensor], config: ModelConfig
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Sort a directory's tensors: the backbone's under the original repository's names, and the
    head's under the names of our model.

    What only training needs is left out; names that belong to nothing stay with the head, where
    they will not fit.
    """
    encoder = {name: tensor for name, tensor in tensors.items() if name.startswith(_ENCODER)}
    heads = {
        _renamed(name): tensor
        for name, tensor in tensors.items()
        if name not in encoder and not name.startswith(_TRAINING)
    }
    return huggingface.to_original_names(encoder, _ENCODER), heads


def _renamed(name: str) -> str:
    for theirs, ours in _HEADS.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def with_task_tokens(config: ModelConfig, directory: str | Path) -> ModelConfig:
    """The configuration with the sentences of all tasks, from the tokenizer in a directory; the
    same if it needs none.

    Raises:
        MissingDependencyError, CheckpointError: see :func:`task_tokens`.
    """
    decoder = config.decoder
    if not isinstance(decoder, OneFormer):
        return config
    tasks: tuple[DecoderTask, ...] = get_args(DecoderTask)
    tokens = {task: task_tokens(directory, task) for task in tasks}
    return config.replace(decoder=decoder.model_copy(update={"task_tokens": tokens}))


def task_tokens(directory: str | Path, task: DecoderTask) -> tuple[int, ...]:
    """The sentence "the task is ..." as OneFormer's processor gives it to the model: numbers of
    the CLIP tokenizer in ``directory``, filled up with zeros to the length that is meant.

    Raises:
        MissingDependencyError: transformers is not installed.
        CheckpointError: there is no tokenizer in the directory.
    """
    try:
        from transformers import CLIPTokenizer
    except ImportError as error:
        raise MissingDependencyError(
            f"OneFormer's task is read with the tokenizer of transformers, which cannot be "
            f"imported: {error}.",
            'Install it with `pip install "dinat-deploy[hf]"`.',
        ) from None
    directory = Path(directory)
    # Numbers in a sentence: the inputs of the linear layer that reads it.
    length = int(read_json(directory / "config.json").get("task_seq_len", 77))
    try:
        # transformers takes a vocabulary of no words if there are no files.
        if not any(all((directory / name).exists() for name in each) for each in _TOKENIZERS):
            raise FileNotFoundError("there is no vocab.json")
        tokenizer = CLIPTokenizer.from_pretrained(str(directory), local_files_only=True)
        found = tokenizer(
            f"the task is {task}", padding="max_length", max_length=length, truncation=True
        )
    except Exception as error:  # whatever a reader of foreign files raises
        first = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise CheckpointError(
            f"{directory} has no CLIP tokenizer that can be read: {first.rstrip('.')}.",
            "Copy vocab.json, merges.txt and tokenizer_config.json of the model there: it is told "
            "its task as a sentence.",
        ) from None
    pairs = zip(found["input_ids"], found["attention_mask"], strict=True)
    return tuple(int(number) * int(counts) for number, counts in pairs)
