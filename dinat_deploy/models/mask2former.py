"""Mask2Former (Cheng et al., Masked-attention Mask Transformer for Universal Image Segmentation,
arXiv 2112.01527) on a DiNAT: the same network for panoptic, instance and semantic segmentation."""

from __future__ import annotations

from torch import Tensor, nn

from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.decoders import Mask2Former
from dinat_deploy.models.query_heads import QueryModel, transformers_module


class Mask2FormerModel(QueryModel):
    """A backbone with Mask2Former's head, whose queries are learned.

    Raises:
        MissingDependencyError: transformers is not installed.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        settings = config.decoder
        assert isinstance(settings, Mask2Former)
        theirs = transformers_module("mask2former")
        config_class = transformers_module("mask2former", "configuration").Mask2FormerConfig
        their_config = self.their_config(
            config_class,
            feature_size=settings.hidden_dim,
            mask_feature_size=settings.mask_dim,
        )
        width = settings.hidden_dim
        self.pixel_decoder = theirs.Mask2FormerPixelDecoder(their_config, self.feature_channels)
        self.transformer_module = theirs.Mask2FormerTransformerModule(width, their_config)
        self.class_predictor = nn.Linear(width, config.num_classes + 1)
        self.initialize_sampling()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pixels ``[B, in_channels, H, W]`` -> logits of each query's class ``[B,
        num_queries, num_classes + 1]``, the last one for "nothing", and of its mask ``[B,
        num_queries, H/4, W/4]``, both from the last layer."""
        maps, mask_features = self.decoded_pixels(image)
        decoded = self.transformer_module(
            maps, mask_features, output_hidden_states=False, output_attentions=False
        )
        queries = decoded.intermediate_hidden_states[-1].transpose(0, 1)
        return self.class_predictor(queries), decoded.masks_queries_logits[-1]
