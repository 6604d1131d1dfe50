"""transformers' UperNet on Dinat or Nat: configuration and weight names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dinat_deploy.errors import CheckpointError
from dinat_deploy.models import huggingface
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.decoders import UPerNet

if TYPE_CHECKING:
    from torch import Tensor

MODEL_TYPES = ("upernet",)
_BACKBONE = "backbone."
# Part of a name in transformers -> in mmsegmentation, which is ours.
_RENAMES = ((".batch_norm.", ".bn."), ("_head.classifier.", "_head.conv_seg."))


def parse_config(data: Mapping[str, Any]) -> ModelConfig:
    """A ``config.json`` of ``UperNetForSemanticSegmentation`` as our configuration.

    The input size is not part of it. transformers resizes the logits to the size of the image,
    which is ``full_size`` here and left to the user.

    Raises:
        CheckpointError: the backbone is no Dinat or Nat, or does not give the features of all
            levels.
        ConfigError: values that contradict each other.
    """
    inner = huggingface.backbone_of(data)
    backbone = huggingface.parse_config(inner)
    levels, every = huggingface.levels_of(inner), tuple(range(len(backbone.depths)))
    if levels != every:
        names = [", ".join(f"stage{level + 1}" for level in each) for each in (levels, every)]
        raise CheckpointError(
            f"config.json gives the decode head the features {names[0]} of the backbone; ours "
            f"reads all, {names[1]}.",
            "Only such models are supported.",
        )
    auxiliary = _auxiliary(data)
    settings = {
        "type": "upernet",
        "channels": data.get("hidden_size", 512),
        "pool_scales": data.get("pool_scales", (1, 2, 3, 6)),
        **auxiliary,
    }
    classes = len(data.get("id2label") or ()) or data.get("num_labels", 2)
    return backbone.replace(out_levels=(), decoder=settings, num_classes=classes)


def _auxiliary(data: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the auxiliary head, which transformers has on the third level."""
    convs = data.get("auxiliary_num_convs", 1)
    ours = convs >= 1 and not data.get("auxiliary_concat_input", False)
    if not data.get("use_auxiliary_head", True) or not ours:
        return {"auxiliary_channels": None}
    return {
        "auxiliary_channels": data.get("auxiliary_channels", 256),
        "auxiliary_level": 2,
        "auxiliary_convs": convs,
    }


def to_checkpoint(
    tensors: Mapping[str, Tensor], config: ModelConfig
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The backbone's tensors under the original repository's names, and the heads' under
    mmsegmentation's; an auxiliary head that ``config`` does not have is left out.

    Raises:
        CheckpointError: a projection of the backbone is incomplete.
    """
    assert isinstance(config.decoder, UPerNet)
    encoder: dict[str, Tensor] = {}
    heads: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith(_BACKBONE):
            encoder[name] = tensor
        elif config.decoder.auxiliary_channels is not None or not name.startswith("auxiliary_"):
            for theirs, ours in _RENAMES:
                name = name.replace(theirs, ours)
            heads[name] = tensor
    return huggingface.to_original_names(encoder, _BACKBONE), heads
