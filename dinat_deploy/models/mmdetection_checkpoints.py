"""What a Mask R-CNN checkpoint of mmdetection holds beside its backbone.

Names: ``neck.``, ``rpn_head.`` and ``roi_head.``, as in our model; class names under ``meta``, as
mmsegmentation has them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dinat_deploy.errors import CheckpointError
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.decoders import DecoderTask, MaskRCNN

if TYPE_CHECKING:
    from torch import Tensor

HEADS = ("neck.", "rpn_head.", "roi_head.")
_ANCHORS = len(MaskRCNN().anchor_ratios)


def _first(heads: Mapping[str, Tensor], part: str, name: str, rank: int) -> Tensor | None:
    """A tensor of ``bbox_head`` or ``mask_head``: the only one, or that of the first stage."""
    for stage in ("", "0."):
        found = heads.get(f"roi_head.{part}.{stage}{name}")
        if found is not None and found.dim() == rank:
            return found
    return None


def _count(heads: Mapping[str, Tensor], pattern: str) -> int:
    """How many numbers there are in place of a pattern's group."""
    found = {match[1] for name in heads if (match := re.match(pattern, name))}
    return len(found)


def num_classes_of(heads: Mapping[str, Tensor]) -> int | None:
    """Classes of things, None if there is no classifier of boxes."""
    weight = _first(heads, "bbox_head", "fc_cls.weight", 2)
    return int(weight.shape[0]) - 1 if weight is not None else None


def settings_of(heads: Mapping[str, Tensor], task: DecoderTask = "instance") -> MaskRCNN | None:
    """The settings of a Mask R-CNN or its cascade as far as they show in the weights, None if it
    is neither.

    Raises:
        CheckpointError: it has other than three anchors at a place, or neither one nor three
            stages; what else is different about it does not show.
    """
    proposals, classes, boxes, hidden, masks = (
        heads.get("rpn_head.rpn_cls.weight"),
        _first(heads, "bbox_head", "fc_cls.weight", 2),
        _first(heads, "bbox_head", "fc_reg.weight", 2),
        _first(heads, "bbox_head", "shared_fcs.0.weight", 2),
        _first(heads, "mask_head", "conv_logits.weight", 4),
    )
    if proposals is None or classes is None or boxes is None or hidden is None or masks is None:
        return None
    stages = _count(heads, r"roi_head\.bbox_head\.(\d+)\.fc_cls\.weight")
    if stages not in (0, 1, 3):
        raise CheckpointError(
            f"The detector has {stages} stages of box heads, and the known ones 1 or 3.",
            "Get the file again from its source if it should have 3.",
        )
    if int(proposals.shape[0]) != _ANCHORS:
        raise CheckpointError(
            f"The detector has {int(proposals.shape[0])} anchors at each place, and the published "
            f"ones {_ANCHORS}; the shapes of anchors leave no trace in weights.",
            "Give them with --config, as anchor_ratios of the decoder.",
        )
    at = r"roi_head\.bbox_head\." + (r"0\." if stages else "")
    return MaskRCNN(
        channels=int(proposals.shape[1]),
        stages=3 if stages == 3 else 1,
        box_convs=_count(heads, at + r"shared_convs\.(\d+)\.conv\.weight"),
        box_linears=_count(heads, at + r"shared_fcs\.(\d+)\.weight"),
        box_dim=int(hidden.shape[0]),
        class_agnostic=int(boxes.shape[0]) == 4 and int(classes.shape[0]) > 2,
        mask_convs=_count(
            heads, r"roi_head\.mask_head\." + (r"0\." if stages else "") + r"convs\.(\d+)\."
        ),
        folded=_first(heads, "bbox_head", "shared_convs.0.conv.bias", 1) is not None,
    )


def cure(heads: Mapping[str, Tensor], config: ModelConfig) -> str | None:
    """What to do if a checkpoint's backbone fits a model with a decoder and its heads do not; None
    if the settings that show in them are the model's."""
    decoder = config.decoder
    assert isinstance(decoder, MaskRCNN)
    if not heads:
        return (
            "The file has no detector: use --task classification or --task backbone, or a "
            "checkpoint of a detector."
        )
    found = settings_of(heads)
    if found is None:
        return "The file has no complete Mask R-CNN, which is the only detector known."
    if found.stages != decoder.stages:
        kinds = {1: "Mask R-CNN", 3: "a cascade"}
        return (
            f"The file is {kinds[found.stages]} and the model {kinds[decoder.stages]}: leave the "
            "decoder out of --config and use --task instance."
        )
    shown = ("channels", "box_convs", "box_linears", "box_dim", "class_agnostic", "mask_convs")
    for name in shown:
        theirs, ours = getattr(found, name), getattr(decoder, name)
        if theirs != ours:
            return (
                f"Its head has {name} {theirs} and the model's {ours}: correct the decoder in "
                "--config, or leave it out and use --task instance."
            )
    return None
