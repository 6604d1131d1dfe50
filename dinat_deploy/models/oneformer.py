"""OneFormer (Jain et al., One Transformer to Rule Universal Image Segmentation, arXiv 2211.06220)
on a DiNAT: Mask2Former's network, whose queries start from a sentence that names the task."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dinat_deploy.errors import ConfigError
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.decoders import ATTENDED_LEVELS, OneFormer
from dinat_deploy.models.query_heads import QueryModel, sine_positions, transformers_module


class OneFormerModel(QueryModel):
    """A backbone with OneFormer's head for one task; the text encoder of training is left out.

    Raises:
        MissingDependencyError: transformers is not installed.
        ConfigError: the configuration has no sentence for its task.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        settings = config.decoder
        assert isinstance(settings, OneFormer)
        if settings.task not in settings.task_tokens:
            known = ", ".join(settings.task_tokens) or "none"
            raise ConfigError(
                f"The configuration has no task_tokens for {settings.task} (for: {known}).",
                "Read the model from its Hugging Face directory with the tokenizer in it.",
            )
        self.task_tokens = settings.task_tokens[settings.task]
        theirs = transformers_module("oneformer")
        config_class = transformers_module("oneformer", "configuration").OneFormerConfig
        their_config = self.their_config(
            config_class,
            conv_dim=settings.hidden_dim,
            mask_dim=settings.mask_dim,
            query_dec_layers=settings.query_layers,
            use_task_norm=settings.task_norm,
            task_seq_len=len(self.task_tokens),
            num_labels=config.num_classes,
            is_training=False,
        )
        width = settings.hidden_dim
        self.pixel_decoder = theirs.OneFormerPixelDecoder(their_config, self.feature_channels)
        self.transformer_module = theirs.OneFormerTransformerModule(width, their_config)
        self.task_encoder = theirs.OneFormerTaskModel(their_config)
        self.initialize_sampling()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pixels ``[B, in_channels, H, W]`` -> logits of each query's class ``[B,
        num_queries, num_classes + 1]``, the last one for "nothing", and of its mask ``[B,
        num_queries, H/4, W/4]``, both from the last layer."""
        maps, mask_features = self.decoded_pixels(image)
        sizes = [x.shape[-2:] for x in maps]
        module: Any = self.transformer_module
        decoder = module.decoder
        positions = [sine_positions(x).flatten(2).permute(2, 0, 1) for x in maps]
        keys = [
            (x.flatten(2) + module.level_embed.weight[level][None, :, None]).permute(2, 0, 1)
            for level, x in enumerate(maps)
        ]
        query_positions = module.queries_embedder.weight[:, None].expand(-1, image.shape[0], -1)
        queries = self._first_queries(mask_features)
        classes, masks, hidden = decoder.forward_prediction_heads(queries, mask_features, sizes[0])
        # The layers' own forward writes into the mask where a condition holds, which cannot be
        # exported; so their parts are called here.
        for index, layer in enumerate(decoder.layers):
            level = index % ATTENDED_LEVELS
            queries, _ = layer.cross_attn(
                queries,
                keys[level],
                # A query whose mask is empty sees everything.
                memory_mask=hidden & ~hidden.all(-1, keepdim=True),
                pos=positions[level],
                query_pos=query_positions,
            )
            queries, _ = layer.self_attn(queries, query_pos=query_positions)
            queries = layer.ffn(queries)
            classes, masks, hidden = decoder.forward_prediction_heads(
                queries, mask_features, sizes[(index + 1) % ATTENDED_LEVELS]
            )
        return classes, masks

    def _first_queries(self, mask_features: Tensor) -> Tensor:
        """Queries that the task starts as, having read the finest map, and the task itself:
        ``[num_queries, B, hidden_dim]``."""
        module: Any = self.transformer_module
        decoder = module.decoder
        sentence = torch.tensor([self.task_tokens], dtype=mask_features.dtype)
        task: Tensor = self.task_encoder(sentence.to(mask_features.device))
        task = task.expand(mask_features.shape[0], -1)[None]
        if decoder.use_task_norm:
            task = decoder.decoder_norm(task)
        read = decoder.query_transformer(
            sine_positions(mask_features),
            None,
            module.queries_embedder.weight[:-1],
            decoder.query_input_projection(mask_features),
            task if decoder.use_task_norm else None,
        )
        return torch.cat([read[0].transpose(0, 1), task])
