"""The models themselves: one class, built from a :class:`ModelConfig`."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.layers import (
    Block,
    ConvDownsampler,
    ConvTokenizer,
    Level,
    NeighborhoodAttention,
    PatchMerging,
    PatchTokenizer,
)


class DinatModel(nn.Module):
    """Classifier or multi-scale backbone of any NAT / DiNAT / DiNAT_s / isotropic variant.

    The names in ``state_dict()`` are those of the original repository's checkpoints.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = _tokenizer(config)
        levels = _levels(config)
        # The published names of the stack: hierarchical DiNAT says levels, the others layers;
        # the isotropic models number their blocks without a level in between.
        self._stack = "levels" if config.architecture == "dinat" else "layers"
        flat = config.architecture == "isotropic"
        self.add_module(self._stack, levels[0].blocks if flat else nn.ModuleList(levels))
        if config.is_backbone:
            for level in config.out_levels:
                self.add_module(f"norm{level}", nn.LayerNorm(config.dim(level)))
        else:
            last = config.dim(len(config.depths) - 1)
            self.norm = nn.LayerNorm(last)
            classes = config.num_classes
            self.head = nn.Linear(last, classes) if classes else nn.Identity()
        self.apply(_initialise)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Classify or extract features.

        Args:
            image: normalised pixels ``[B, in_channels, H, W]``.

        Returns:
            Classifier: logits ``[B, num_classes]`` (pooled features ``[B, dim]`` with
            ``num_classes=0``). Backbone: one ``[B, dim, h, w]`` per level in ``out_levels``.
        """
        if self.config.global_attention:
            self.config.check_image_size((image.shape[2], image.shape[3]))
        x = self.patch_embed(image)
        features: list[Tensor] = []
        for level, (blocks, downsample) in enumerate(self._levels()):
            for block in blocks:
                x = block(x)
            if level in self.config.out_levels:
                norm = self.get_submodule(f"norm{level}")
                features.append(norm(x).permute(0, 3, 1, 2).contiguous())
            if downsample is not None:
                x = downsample(x)
        if self.config.is_backbone:
            return tuple(features)
        return self.head(self.norm(x).mean(dim=(1, 2)))

    def _levels(self) -> list[tuple[nn.ModuleList, nn.Module | None]]:
        stack = self.get_submodule(self._stack)
        if self.config.architecture == "isotropic":
            return [(cast(nn.ModuleList, stack), None)]
        levels = [level for level in stack.children() if isinstance(level, Level)]
        return [(level.blocks, level.downsample) for level in levels]

    def block_names(self) -> list[str]:
        """Module paths of the tokenizer and of every layer, in the order they run."""
        names = [name for name, module in self.named_modules() if isinstance(module, Block)]
        return ["patch_embed", *names]


def _tokenizer(config: ModelConfig) -> nn.Module:
    channels, dim = config.in_channels, config.embed_dim
    if config.architecture == "dinat":
        return ConvTokenizer(channels, dim)
    if config.architecture == "dinat_s":
        return PatchTokenizer(channels, dim, patch=4, pad=True)
    return PatchTokenizer(channels, dim, patch=16, pad=False)


def _levels(config: ModelConfig) -> list[Level]:
    total = sum(config.depths)
    blocks: list[list[Block]] = [[] for _ in config.depths]
    for number, layer in enumerate(config.layers()):
        blocks[layer.level].append(
            Block(
                layer.dim,
                layer.heads,
                config.kernel_size,
                layer.dilation,
                config.hidden_dim(layer.level),
                config.layer_scale,
                # Stochastic depth grows linearly from 0 over all layers.
                config.drop_path_rate * number / max(1, total - 1),
            )
        )
    downsampler = ConvDownsampler if config.architecture == "dinat" else PatchMerging
    last = len(config.depths) - 1
    return [
        Level(made, None if level == last else downsampler(config.dim(level)))
        for level, made in enumerate(blocks)
    ]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, NeighborhoodAttention):
        nn.init.trunc_normal_(module.rpb, std=0.02)
