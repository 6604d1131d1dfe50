"""What checkpoints of Mask2Former and OneFormer hold beside their backbone.

Mask2Former's own code is built on detectron2 and names a head's tensors ``sem_seg_head.`` and so
on; transformers, and so our model, names them otherwise. Checkpoints of both are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dinat_deploy.errors import CheckpointError
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.decoders import (
    ATTENDED_LEVELS,
    POINTS,
    Decoder,
    DecoderTask,
    Mask2Former,
    OneFormer,
)

if TYPE_CHECKING:
    from torch import Tensor

    Heads = Mapping[str, Tensor]

_SHARED = ("pixel_decoder.", "transformer_module.")
MASK2FORMER_HEADS = ("sem_seg_head.", *_SHARED, "class_predictor.")
ONEFORMER_HEADS = (*_SHARED, "task_encoder.")

# (pattern, replacement) from Mask2Former's own names to those of our model.
_RENAMES: tuple[tuple[str, str], ...] = tuple(
    (re.escape(before).replace(r"\#", r"(\d+)"), after)
    for before, after in (
        ("pixel_decoder.input_proj.#.#.", r"pixel_decoder.input_projections.\1.\2."),
        ("pixel_decoder.transformer.level_embed", "pixel_decoder.level_embed"),
        ("pixel_decoder.mask_features.", "pixel_decoder.mask_projection."),
        ("pixel_decoder.adapter_1.norm.", "pixel_decoder.adapter_1.1."),
        ("pixel_decoder.adapter_1.weight", "pixel_decoder.adapter_1.0.weight"),
        ("pixel_decoder.layer_1.norm.", "pixel_decoder.layer_1.1."),
        ("pixel_decoder.layer_1.weight", "pixel_decoder.layer_1.0.weight"),
        *(
            (
                f"pixel_decoder.transformer.encoder.layers.#.{theirs}.",
                rf"pixel_decoder.encoder.layers.\1.{ours}.",
            )
            for theirs, ours in {
                "self_attn": "self_attn",
                "norm1": "self_attn_layer_norm",
                "linear1": "fc1",
                "linear2": "fc2",
                "norm2": "final_layer_norm",
            }.items()
        ),
        ("predictor.query_feat.", "transformer_module.queries_features."),
        # Its name in files of the first version.
        ("predictor.static_query.", "transformer_module.queries_features."),
        ("predictor.query_embed.", "transformer_module.queries_embedder."),
        ("predictor.level_embed.", "transformer_module.level_embed."),
        ("predictor.decoder_norm.", "transformer_module.decoder.layernorm."),
        ("predictor.class_embed.", "class_predictor."),
        (
            "predictor.mask_embed.layers.#.",
            r"transformer_module.decoder.mask_predictor.mask_embedder.\1.0.",
        ),
        *(
            (f"predictor.transformer_{theirs}.", rf"transformer_module.decoder.layers.\1.{ours}.")
            for theirs, ours in {
                "cross_attention_layers.#.multihead_attn": "cross_attn",
                "cross_attention_layers.#.norm": "cross_attn_layer_norm",
                "self_attention_layers.#.self_attn": "self_attn",
                "self_attention_layers.#.norm": "self_attn_layer_norm",
                "ffn_layers.#.linear1": "fc1",
                "ffn_layers.#.linear2": "fc2",
                "ffn_layers.#.norm": "final_layer_norm",
            }.items()
        ),
    )
)
# Query, key and value are one matrix there.
_JOINED = re.compile(
    r"(transformer_module\.decoder\.layers\.\d+\.self_attn\.)in_proj_(weight|bias)"
)


def mask2former_to_model(heads: Heads, decoder: Decoder | None = None) -> dict[str, Tensor]:
    """Tensors of a Mask2Former head under our model's names; unknown names stay as they are."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in heads.items():
        new = _renamed(name)
        if name != new and tensor.dim() and (joined := _JOINED.fullmatch(new)):
            for part, piece in zip("qkv", tensor.chunk(3), strict=False):
                renamed[f"{joined[1]}{part}_proj.{joined[2]}"] = piece
        else:
            renamed[new] = tensor
    return renamed


def _renamed(name: str) -> str:
    inner = name.removeprefix("sem_seg_head.")
    if inner == name:
        return name
    for pattern, replacement in _RENAMES:
        found = re.match(pattern, inner)
        if found:
            return found.expand(replacement) + inner[found.end() :]
    return name


def mask2former_settings(heads: Heads, task: DecoderTask) -> Mask2Former | None:
    """The settings of a Mask2Former head as far as they show in its weights, None if it is none."""
    heads = mask2former_to_model(heads)
    shared = _shared_settings(heads)
    if shared is None or num_mask2former_classes(heads) is None:
        return None
    return Mask2Former(task=task, **shared)


def oneformer_settings(heads: Heads, task: DecoderTask) -> OneFormer | None:
    """None if a head is no OneFormer's.

    Raises:
        CheckpointError: it is one; the sentences that name tasks do not show in its weights.
    """
    if _shared_settings(heads) is None or num_oneformer_classes(heads) is None:
        return None
    raise CheckpointError(
        "The weights are those of a OneFormer, and the sentences that name its tasks leave no "
        "trace in them.",
        "Pass its Hugging Face directory with the tokenizer in it, or a configuration with "
        "task_tokens with --config.",
    )


def _shared_settings(heads: Heads) -> dict[str, Any] | None:
    encoder, decoder = "pixel_decoder.encoder.layers", "transformer_module.decoder.layers"
    ffn = "fc1" if f"{decoder}.0.fc1.weight" in heads else "ffn.linear1"
    names = {
        "offsets": f"{encoder}.0.self_attn.sampling_offsets.weight",
        "encoder_ffn": f"{encoder}.0.fc1.weight",
        "decoder_ffn": f"{decoder}.0.{ffn}.weight",
        "mask_dim": "pixel_decoder.mask_projection.weight",
        "num_queries": "transformer_module.queries_embedder.weight",
    }
    rows: dict[str, int] = {}
    for key, name in names.items():
        if name not in heads or heads[name].dim() < 2:
            return None
        rows[key] = int(heads[name].shape[0])
    hidden = int(heads[names["num_queries"]].shape[1])
    num_heads, rest = divmod(rows.pop("offsets"), ATTENDED_LEVELS * POINTS * 2)
    if rest or not num_heads or hidden % num_heads or hidden % 32:
        return None
    return {
        **rows,
        "hidden_dim": hidden,
        "num_heads": num_heads,
        "encoder_layers": _layers(heads, encoder),
        "decoder_layers": _layers(heads, decoder),
    }


def _layers(heads: Heads, stack: str) -> int:
    pattern = re.compile(re.escape(stack) + r"\.(\d+)\.")
    return 1 + max(int(found[1]) for name in heads if (found := pattern.match(name)))


def num_mask2former_classes(heads: Heads) -> int | None:
    """Classes that a Mask2Former head tells apart, "nothing" not counted; None if it is none."""
    return _classes(mask2former_to_model(heads), "class_predictor.weight")


def num_oneformer_classes(heads: Heads) -> int | None:
    """Classes that a OneFormer head tells apart, "nothing" not counted; None if it is none."""
    return _classes(heads, "transformer_module.decoder.class_embed.weight")


def _classes(heads: Heads, name: str) -> int | None:
    weight = heads.get(name)
    return int(weight.shape[0]) - 1 if weight is not None and weight.dim() == 2 else None


def cure(heads: Heads, config: ModelConfig) -> str | None:
    """What to do if a checkpoint's backbone fits a model with a decoder and its heads do not; None
    if the settings that show in them are the model's."""
    decoder = config.decoder
    assert isinstance(decoder, Mask2Former | OneFormer)
    ours = {"mask2former": "Mask2Former", "oneformer": "OneFormer"}
    title = ours[decoder.type]
    if not heads:
        return (
            f"The file has no head of {title}: use --task classification or --task backbone, or a "
            "checkpoint of such a model."
        )
    counted = {
        "mask2former": num_mask2former_classes(heads),
        "oneformer": num_oneformer_classes(heads),
    }
    if counted.pop(decoder.type) is None:
        other = next((ours[kind] for kind, count in counted.items() if count), "another model")
        return f"The file has the head of {other}, not of {title}: give its --config."
    found = _shared_settings(mask2former_to_model(heads)) or {}
    for name, value in found.items():
        if value != getattr(decoder, name):
            return (
                f"Its head has {name} {value} and the model's {getattr(decoder, name)}: correct "
                "the decoder in --config."
            )
    return None
