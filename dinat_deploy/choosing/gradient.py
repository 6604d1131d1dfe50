"""The receptive field measured: where the gradient of one output token is not zero.

What runs is the model's own code with the operator, padding, tokenizer and downsamplers that
exports and training use, made linear and positive so that no path can cancel another and none is
lost: few channels, LayerNorms and MLPs taken out (they look at one token at a time), all taps of a
convolution equal, queries and keys 0, so that every window is a mean. Gradients go back one module
at a time, and only where they are not zero is carried on: through thirty means, what reaches the
rim of a field would be smaller than float32 can hold. It also means that what one module does with
one set of positions has to be found out only once, which makes this a matter of a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dinat_deploy.choosing.geometry import BoolArray, Token, position
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.layers import Block, ConvDownsampler, NeighborhoodAttention, PatchMerging
from dinat_deploy.models.model import DinatModel

# Outputs with a gradient, as bytes -> inputs with one.
_Known = dict[bytes, Tensor]


@dataclass(frozen=True)
class MeasuredField:
    """What one token of a layer's output depends on.

    Attributes:
        tokens: of the level's first map, bool ``[rows, columns]``.
        pixels: of the image, bool ``[height, width]``.
    """

    level: int
    layer: int
    tokens: BoolArray
    pixels: BoolArray


class LinearModel:
    """A model's geometry as a linear positive function, run once on an image of ones.

    Args:
        config: its image size counts.

    Raises:
        ConfigError: the image is too small, or not what a model with global attention takes.
    """

    def __init__(self, config: ModelConfig) -> None:
        config.check_image_size(config.image_size)
        levels = len(config.depths)
        model = DinatModel(
            config.replace(
                embed_dim=2,
                num_heads=(1,) * levels,
                mlp_ratio=1.0,
                layer_scale=None,
                num_classes=0,
                in_channels=1,
                decoder=None,
                out_levels=tuple(range(levels)),
            )
        ).eval()
        _make_linear(model)
        self._tokenizer = _Step(model.patch_embed, channels=0)
        self._downsamplers: list[_Step] = []
        self._levels: list[list[_Step]] = [[]]
        # Layers of a level with the same window are the same function once they are linear.
        known: dict[tuple[int, int, int], _Known] = {}
        for module in model.modules():
            if isinstance(module, Block):
                window = module.attn.kernel_size, module.attn.dilation
                shared = known.setdefault((len(self._levels), *window), {})
                self._levels[-1].append(_Step(module, known=shared))
            elif isinstance(module, ConvDownsampler | PatchMerging):
                self._downsamplers.append(_Step(module))
                self._levels.append([])
        model(torch.ones(1, 1, *config.image_size))

    def measure(self, token: Token, *, levels: int | None = None) -> Iterator[MeasuredField]:
        """The fields of a token of every layer in order.

        Args:
            levels: only the first so many.
        """
        for level, steps in enumerate(self._levels[:levels]):
            for layer, step in enumerate(steps):
                seen = torch.zeros(step.output.shape[1:3], dtype=torch.bool)
                seen[position(token, seen.shape[0]), position(token, seen.shape[1])] = True
                for below in reversed(steps[: layer + 1]):
                    seen = below.sources(seen)
                tokens = seen
                for number in range(level - 1, -1, -1):
                    seen = self._downsamplers[number].sources(seen)
                    for below in reversed(self._levels[number]):
                        seen = below.sources(seen)
                pixels = self._tokenizer.sources(seen)
                yield MeasuredField(level, layer, tokens.numpy(), pixels.numpy())


class _Step:
    """One module of a model, with its gradient from outputs to inputs as sets of positions.

    Args:
        channels: axis of the input's channels, without the batch: 0 of an image, -1 of a map.
        known: what was found out of it before, and is to be kept.
    """

    def __init__(self, module: nn.Module, channels: int = -1, known: _Known | None = None) -> None:
        self._channels = channels
        self._known = {} if known is None else known
        module.register_forward_pre_hook(self._cut)
        module.register_forward_hook(self._record)

    def _cut(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self.input = inputs[0].detach().requires_grad_()
        return (self.input,)

    def _record(self, _: nn.Module, __: object, output: Tensor) -> None:
        self.output = output

    def sources(self, wanted: Tensor) -> Tensor:
        """Which inputs have a gradient if these outputs, bool ``[rows, columns]``, have one."""
        key = wanted.numpy().tobytes()
        if key not in self._known:
            outside = wanted[None, :, :, None].expand_as(self.output).to(self.output.dtype)
            (found,) = torch.autograd.grad(self.output, self.input, outside, retain_graph=True)
            self._known[key] = (found[0] > 0).any(dim=self._channels)
        return self._known[key]


class _Nothing(nn.Module):
    """In place of an MLP."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


@torch.no_grad()
def _make_linear(model: DinatModel) -> None:
    for name, module in list(model.named_modules()):
        parent, _, own = name.rpartition(".")
        if isinstance(module, nn.LayerNorm):
            setattr(model.get_submodule(parent), own, nn.Identity())
        elif isinstance(module, Block):
            module.mlp = _Nothing()  # type: ignore[assignment]
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            # A mean, so that values stay near 1 however many layers there are.
            module.weight.fill_(1 / module.weight[0].numel())
            if module.bias is not None:
                module.bias.zero_()
    for module in model.modules():
        if isinstance(module, NeighborhoodAttention):
            module.rpb.zero_()
            module.qkv.weight[: -len(module.proj.weight)] = 0  # rows: queries, keys, values
