"""From a configuration to the module that it describes."""

from __future__ import annotations

from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.model import DinatModel
from dinat_deploy.models.upernet import SegmentationModel, folded

Model = DinatModel | SegmentationModel


def build(config: ModelConfig) -> Model:
    """A classifier, backbone or segmenter with fresh weights."""
    return DinatModel(config) if config.decoder is None else SegmentationModel(config)


def for_inference(model: Model) -> Model:
    """The same function without the parts that only training needs."""
    return folded(model) if isinstance(model, SegmentationModel) else model
