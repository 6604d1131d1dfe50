"""From a configuration to the module that it describes."""

from __future__ import annotations

from collections.abc import Callable

from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.headed import HeadedModel
from dinat_deploy.models.mask2former import Mask2FormerModel
from dinat_deploy.models.mask_rcnn import MaskRcnnModel
from dinat_deploy.models.model import DinatModel
from dinat_deploy.models.oneformer import OneFormerModel
from dinat_deploy.models.upernet import SegmentationModel

Model = DinatModel | HeadedModel

# By type of the decoder.
_HEADED: dict[str, Callable[[ModelConfig], HeadedModel]] = {
    "upernet": SegmentationModel,
    "mask2former": Mask2FormerModel,
    "oneformer": OneFormerModel,
    "mask_rcnn": MaskRcnnModel,
}


def build(config: ModelConfig) -> Model:
    """A classifier, backbone, segmenter or detector with fresh weights."""
    return DinatModel(config) if config.decoder is None else _HEADED[config.decoder.type](config)


def for_inference(model: Model) -> Model:
    """The same function without the parts that only training needs."""
    return model.for_inference() if isinstance(model, HeadedModel) else model
