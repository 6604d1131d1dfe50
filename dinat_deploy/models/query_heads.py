"""What Mask2Former and OneFormer share: a query for every answer, a class and a mask from each.

The heads are the modules of `transformers <https://github.com/huggingface/transformers>`_, put
around our backbone; so the names of their parameters are those of its checkpoints. They are loaded
when a model is built, because transformers is an optional package.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import torch
from torch import Tensor, nn

from dinat_deploy.errors import MissingDependencyError
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.decoders import ATTENDED_LEVELS, POINTS, Mask2Former, OneFormer
from dinat_deploy.models.headed import HeadedModel


def transformers_module(kind: str, part: str = "modeling") -> Any:
    """The module of transformers that defines a head, such as ``modeling_mask2former``.

    Raises:
        MissingDependencyError: transformers is not installed.
    """
    try:
        return importlib.import_module(f"transformers.models.{kind}.{part}_{kind}")
    except ImportError as error:
        raise MissingDependencyError(
            f"Mask2Former and OneFormer are built of modules of transformers, which cannot be "
            f"imported: {error}.",
            'Install it with `pip install "dinat-deploy[hf]"`.',
        ) from None


class QueryModel(HeadedModel):
    """A backbone, a pixel decoder that brings its features to one width and lets them attend to one
    another, and a transformer decoder in which queries read them."""

    pixel_decoder: nn.Module
    transformer_module: nn.Module

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.feature_channels = [config.dim(level) for level in range(len(config.depths))]

    def their_config(self, theirs: type[Any], **own: Any) -> Any:
        """Our settings as transformers' configuration of the head.

        Args:
            theirs: its class.
            own: what only this head has.
        """
        settings = self.config.decoder
        assert isinstance(settings, Mask2Former | OneFormer)
        return theirs(
            hidden_dim=settings.hidden_dim,
            num_queries=settings.num_queries,
            num_attention_heads=settings.num_heads,
            encoder_layers=settings.encoder_layers,
            encoder_feedforward_dim=settings.encoder_ffn,
            # There the prediction from the first queries counts as a layer.
            decoder_layers=settings.decoder_layers + 1,
            dim_feedforward=settings.decoder_ffn,
            **own,
        )

    def decoded_pixels(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """Maps for the queries to read, coarsest first, ``[B, hidden_dim, h, w]`` each; and the map
        ``[B, mask_dim, H/4, W/4]`` that a query's product with is its mask."""
        features = list(self.backbone(image))
        decoded = self.pixel_decoder(features, output_attentions=False, output_hidden_states=False)
        return list(decoded.multi_scale_features), decoded.mask_features

    def head_names(self) -> list[str]:
        """The pixel decoder's layers and maps; what follows works on queries."""
        decoder = "pixel_decoder"
        layers = range(len(self.get_submodule(f"{decoder}.encoder.layers")))  # type: ignore[arg-type]
        return [
            *(f"{decoder}.input_projections.{level}" for level in range(ATTENDED_LEVELS)),
            *(f"{decoder}.encoder.layers.{layer}.final_layer_norm" for layer in layers),
            f"{decoder}.layer_1",
            f"{decoder}.mask_projection",
        ]

    @torch.no_grad()
    def initialize_sampling(self) -> None:
        """Fresh values for what PyTorch's own initialisation leaves empty or makes useless: level
        embeddings; and points that attention starts to read at, 1 to 4 pixels away in one direction
        for each head (Deformable DETR, arXiv 2010.04159, appendix A.4)."""
        nn.init.normal_(self.pixel_decoder.level_embed)  # type: ignore[arg-type]
        for name, module in self.pixel_decoder.named_modules():
            if name.rsplit(".", 1)[-1] != "sampling_offsets":
                continue
            assert isinstance(module, nn.Linear)
            heads = module.out_features // (ATTENDED_LEVELS * POINTS * 2)
            angle = torch.arange(heads) * (2 * math.pi / heads)
            direction = torch.stack([angle.cos(), angle.sin()], -1)
            direction = direction / direction.abs().amax(-1, keepdim=True)
            distance = torch.arange(1, POINTS + 1)
            points = direction[:, None, None, :] * distance[None, None, :, None]
            nn.init.zeros_(module.weight)
            module.bias.copy_(points.expand(-1, ATTENDED_LEVELS, -1, -1).flatten())


def sine_positions(x: Tensor) -> Tensor:
    """Where each cell of a map ``[B, C, h, w]`` is, as sines and cosines of many wavelengths, in a
    map of the same shape.

    With n = C / 2, the first n channels are of the row and the others of the column: channel 2i is
    sin(p / 10000^(2i/n)) and 2i + 1 the cosine, for p = 2 pi (row + 1) / h (DETR, arXiv 2005.12872,
    as Mask2Former has it).
    """
    height, width = x.shape[-2:]
    half = x.shape[1] // 2
    exponent = torch.arange(half, device=x.device) // 2 * (2 / half)
    wavelength = 10000**exponent
    parts = []
    for axis, size in (((height, 1), height), ((1, width), width)):
        steps = torch.arange(1, size + 1, dtype=x.dtype, device=x.device)
        angle = (steps / (size + 1e-6) * (2 * math.pi))[:, None] / wavelength
        waves = torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=-1).flatten(1)
        parts.append(waves.T.reshape(half, *axis).expand(half, height, width))
    return torch.cat(parts)[None].expand(x.shape[0], -1, -1, -1)
