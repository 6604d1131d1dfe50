"""Mask R-CNN and Cascade Mask R-CNN: boxes and masks of the things in a picture.

A backbone, a feature pyramid (:mod:`~dinat_deploy.models.fpn`), proposals
(:mod:`~dinat_deploy.models.rpn`) and heads on each (:mod:`~dinat_deploy.models.roi_heads`), as
mmdetection 2.x tests them. The sizes of all tensors are fixed, so that the whole can be exported:
detections that are lacking are filled up with ones of score 0. Boxes are clipped to the input;
where a picture does not fill it, they still have to be clipped to the picture.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dinat_deploy.errors import ConfigError
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.convolutions import folded_state
from dinat_deploy.models.decoders import MaskRCNN
from dinat_deploy.models.fpn import FeaturePyramid
from dinat_deploy.models.headed import HeadedModel
from dinat_deploy.models.roi_features import Atlas
from dinat_deploy.models.roi_heads import RoiHead
from dinat_deploy.models.rpn import RegionProposals

_STRIDES = (4, 8, 16, 32, 64)


class MaskRcnnModel(HeadedModel):
    """A backbone with Mask R-CNN's heads. For inference: nothing of the heads can be trained."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        settings = self.settings
        inputs = [config.dim(level) for level in range(len(config.depths))]
        self.neck = FeaturePyramid(inputs, settings.channels)
        self.rpn_head = RegionProposals(settings, _STRIDES)
        self.roi_head = RoiHead(config.num_classes, settings)

    @property
    def settings(self) -> MaskRCNN:
        assert isinstance(self.config.decoder, MaskRCNN)
        return self.config.decoder

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Normalised pixels ``[1, in_channels, H, W]`` of one image -> boxes ``[n, 4]`` (left, top,
        right, bottom in pixels), scores ``[n]``, classes ``[n]`` (int64) and masks ``[n, 28, 28]``
        (probabilities) of n ``detections``, best first; scores are 0 where there are fewer.

        Raises:
            ConfigError: there is more than one image.
        """
        if image.shape[0] != 1:
            raise ConfigError(
                f"Mask R-CNN takes one image at a time, not {image.shape[0]}.",
                "Run them one after the other.",
            )
        size = int(image.shape[2]), int(image.shape[3])
        maps = self.neck(self.backbone(image))
        proposals, found = self.rpn_head(maps, size)
        return self.roi_head(Atlas.of(maps[:-1], _STRIDES[:-1]), proposals, found, size)

    def head_names(self) -> list[str]:
        """The convolutions of the pyramid: from the proposals on rows may change places."""
        levels = range(len(self.neck.lateral_convs))
        return [
            f"neck.{kind}.{level}" for kind in ("lateral_convs", "fpn_convs") for level in levels
        ]

    def for_inference(self) -> MaskRcnnModel:
        return folded(self)


def folded(model: MaskRcnnModel) -> MaskRcnnModel:
    """The same function with every batch normalization as part of the convolution before it.

    Returns:
        A new model in evaluation mode, whose configuration says ``folded``; the model itself if it
        has no normalization.
    """
    settings = model.settings
    if settings.folded or not settings.box_convs:
        return model
    config = model.config.replace(decoder=settings.model_copy(update={"folded": True}))
    with torch.device("meta"):
        made = MaskRcnnModel(config)
    made.load_state_dict(folded_state(model), strict=True, assign=True)
    return made.eval().requires_grad_(False)
