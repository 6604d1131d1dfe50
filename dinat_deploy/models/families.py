"""The code bases that segmenters and detectors were trained with: how each names a head's tensors.

A checkpoint of any of them has the backbone's tensors under ``backbone.`` and the head's under
prefixes of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dinat_deploy.models import (
    detectron2_checkpoints,
    mmdetection_checkpoints,
    segmentation_checkpoints,
)
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.decoders import Decoder, DecoderTask

if TYPE_CHECKING:
    from torch import Tensor

    Heads = Mapping[str, Tensor]

BACKBONE = "backbone."


def _unchanged(heads: Heads, decoder: Decoder) -> dict[str, Tensor]:
    return dict(heads)


@dataclass(frozen=True)
class Family:
    """Checkpoints of one kind of head.

    Attributes:
        decoder: type of the decoder's settings.
        task: what it was trained for, if nobody says.
        title: what users call it.
        prefixes: of its tensors' names, of upstream files and of directories by ``save_model``.
        settings_of: (tensors, task) -> settings as far as they show in the weights, or None if
            it is no such head. Raises CheckpointError if what must be known does not show.
        num_classes_of: classes that a head tells apart, or None if it has no classifier.
        cure: (tensors, configuration) -> what to do if the backbone fits and the head does not,
            although it tells as many classes apart; or None if the settings that show in the head
            are the model's.
        to_model: (tensors, settings) -> the tensors under the names of our model.
    """

    decoder: str
    task: DecoderTask
    title: str
    prefixes: tuple[str, ...]
    settings_of: Callable[[Heads, DecoderTask], Decoder | None]
    num_classes_of: Callable[[Heads], int | None]
    cure: Callable[[Heads, ModelConfig], str | None]
    to_model: Callable[[Heads, Decoder], dict[str, Tensor]] = _unchanged


FAMILIES: dict[str, Family] = {
    family.decoder: family
    for family in (
        Family(
            "upernet",
            "semantic",
            "UPerNet decode head (decode_head.psp_modules, decode_head.lateral_convs, ...)",
            segmentation_checkpoints.HEADS,
            segmentation_checkpoints.settings_of,
            segmentation_checkpoints.num_classes_of,
            segmentation_checkpoints.cure,
        ),
        Family(
            "mask2former",
            "panoptic",
            "Mask2Former head (sem_seg_head.pixel_decoder, sem_seg_head.predictor)",
            detectron2_checkpoints.MASK2FORMER_HEADS,
            detectron2_checkpoints.mask2former_settings,
            detectron2_checkpoints.num_mask2former_classes,
            detectron2_checkpoints.cure,
            detectron2_checkpoints.mask2former_to_model,
        ),
        Family(
            "oneformer",
            "panoptic",
            "OneFormer head (pixel_decoder, transformer_module, task_encoder)",
            detectron2_checkpoints.ONEFORMER_HEADS,
            detectron2_checkpoints.oneformer_settings,
            detectron2_checkpoints.num_oneformer_classes,
            detectron2_checkpoints.cure,
        ),
        Family(
            "mask_rcnn",
            "instance",
            "Mask R-CNN (neck, rpn_head, roi_head)",
            mmdetection_checkpoints.HEADS,
            mmdetection_checkpoints.settings_of,
            mmdetection_checkpoints.num_classes_of,
            mmdetection_checkpoints.cure,
        ),
    )
}


def heads_of(tensors: Heads, prefix: str) -> dict[str, Tensor]:
    """The tensors of heads, without what stands before their names.

    Args:
        prefix: of the encoder's names, such as ``module.backbone.``.
    """
    if not prefix.endswith(BACKBONE):
        return {}
    outer = prefix.removesuffix(BACKBONE)
    known = tuple(outer + head for family in FAMILIES.values() for head in family.prefixes)
    return {
        name.removeprefix(outer): tensor
        for name, tensor in tensors.items()
        if name.startswith(known)
    }


def family_of(heads: Heads) -> Family | None:
    """The code base that heads come from, as far as the names tell."""
    found = {
        kind: sum(name.startswith(family.prefixes) for name in heads)
        for kind, family in FAMILIES.items()
    }
    best = max(found, key=lambda kind: found[kind])
    return FAMILIES[best] if found[best] else None
