"""What a checkpoint of mmsegmentation holds beside its backbone.

Names: ``decode_head.`` and, for training, ``auxiliary_head.``; class names under ``meta``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dinat_deploy.errors import CheckpointError
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.decoders import DecoderTask, UPerNet

if TYPE_CHECKING:
    from torch import Tensor

HEADS = ("decode_head.", "auxiliary_head.")
_CLASSIFIER = "decode_head.conv_seg.weight"
_PUBLISHED_SCALES: tuple[int, ...] = UPerNet().pool_scales


def labels_of(content: Any) -> list[str] | None:
    """Class names that a checkpoint file brings along.

    mmsegmentation 0.x: ``meta["CLASSES"]``; 1.x: ``meta["dataset_meta"]["classes"]``.
    """
    meta = content.get("meta") if isinstance(content, dict) else None
    if not isinstance(meta, dict):
        return None
    later = meta.get("dataset_meta")
    found = later.get("classes") if isinstance(later, dict) else meta.get("CLASSES")
    if not isinstance(found, list | tuple) or not all(isinstance(name, str) for name in found):
        return None
    return list(found)


def num_classes_of(heads: Mapping[str, Tensor]) -> int | None:
    """Classes that a decode head tells apart, None if there is no classifier of pixels."""
    weight = heads.get(_CLASSIFIER)
    return int(weight.shape[0]) if weight is not None and weight.dim() == 4 else None


def settings_of(heads: Mapping[str, Tensor], task: DecoderTask = "semantic") -> UPerNet | None:
    """The settings of a UPerNet head as far as they show in its weights, None if it is no UPerNet.

    Raises:
        CheckpointError: its pool scales are not the published ones; which they are does not show.
    """
    fusion, bottleneck, laterals = (
        [tensor for name, tensor in sorted(heads.items()) if re.fullmatch(pattern, name)]
        for pattern in (
            r"decode_head\.fpn_bottleneck\.conv\.weight",
            r"decode_head\.bottleneck\.conv\.weight",
            r"decode_head\.lateral_convs\.\d+\.conv\.weight",
        )
    )
    pools = {
        found[1] for name in heads if (found := re.match(r"decode_head\.psp_modules\.(\d+)", name))
    }
    if not (len(fusion) == len(bottleneck) == 1 and laterals and pools):
        return None
    if any(tensor.dim() != 4 for tensor in (*fusion, *bottleneck, *laterals)):
        return None
    if len(pools) != len(_PUBLISHED_SCALES):
        raise CheckpointError(
            f"The decode head pools to {len(pools)} grids, and the published ones to "
            f"{len(_PUBLISHED_SCALES)} ({', '.join(map(str, _PUBLISHED_SCALES))}); the sizes of "
            "grids leave no trace in weights.",
            "Give them with --config, as pool_scales of the decoder.",
        )
    channels = int(fusion[0].shape[0])
    last = int(bottleneck[0].shape[1]) - len(pools) * channels
    inputs = [*(int(tensor.shape[1]) for tensor in laterals), last]
    return UPerNet(
        channels=channels,
        folded="decode_head.fpn_bottleneck.conv.bias" in heads,
        **_auxiliary(heads, inputs),
    )


def _auxiliary(heads: Mapping[str, Tensor], inputs: list[int]) -> dict[str, Any]:
    """Settings of the auxiliary head; ``inputs`` are the channels of the levels."""
    weights = {
        int(found[1]): tensor
        for name, tensor in heads.items()
        if (found := re.fullmatch(r"auxiliary_head\.convs\.(\d+)\.conv\.weight", name))
    }
    first = weights.get(0)
    if first is None or first.dim() != 4 or int(first.shape[1]) not in inputs:
        return {"auxiliary_channels": None}
    return {
        "auxiliary_channels": int(first.shape[0]),
        "auxiliary_level": inputs.index(int(first.shape[1])),
        "auxiliary_convs": len(weights),
    }


def cure(heads: Mapping[str, Tensor], config: ModelConfig) -> str | None:
    """What to do if a checkpoint's backbone fits a model with a decoder and its heads do not; None
    if the settings that show in them are the model's."""
    decoder = config.decoder
    assert isinstance(decoder, UPerNet)
    if not heads:
        return (
            "The file has no decode head: use --task classification or --task backbone, or a "
            "checkpoint of a segmenter."
        )
    found = settings_of(heads)
    if found is None:
        return "The file has no complete decode head of UPerNet, which is the only one known."
    if found.channels != decoder.channels:
        return (
            f"Its decode head has {found.channels} channels and the model's {decoder.channels}: "
            "correct the decoder in --config, or leave it out and use --task semantic."
        )
    if found.auxiliary_channels != decoder.auxiliary_channels:
        return (
            f"Its auxiliary_channels are {found.auxiliary_channels} and the model's "
            f"{decoder.auxiliary_channels} (None: no auxiliary head): correct the decoder in "
            "--config, or leave it out and use --task semantic."
        )
    return None
