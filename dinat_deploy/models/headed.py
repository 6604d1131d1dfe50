"""What a segmenter or detector is to the rest of the package."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn

from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.model import DinatModel


class HeadedModel(nn.Module, ABC):
    """A backbone with the head that its configuration's decoder describes.

    ``forward`` takes normalised pixels ``[B, in_channels, H, W]`` and returns what
    ``config.output_names`` lists: one tensor, or a tuple in that order.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = DinatModel(config.backbone)

    @abstractmethod
    def head_names(self) -> list[str]:
        """Module paths in the head, in the order they run, whose outputs are worth comparing."""

    def for_inference(self) -> HeadedModel:
        """The same function without the parts that only training needs; it may be this model."""
        return self

    def block_names(self) -> list[str]:
        """Module paths of the tokenizer, of every layer and of the head, in the order they run."""
        names = [f"backbone.{name}" for name in self.backbone.block_names()]
        return [*names, *self.head_names()]
