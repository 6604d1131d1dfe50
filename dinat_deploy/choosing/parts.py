"""A forward pass as the kernels that a good engine runs: their products and what they move.

GELU, bias, layer scale and residual additions are part of the product before them; LayerNorm is a
kernel of its own; neighborhood attention is one kernel that reads q, k and v once and writes its
output once. Weights are read once a pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from dinat_deploy.models.config import Layer, ModelConfig

Kind = Literal["convolution", "linear", "attention", "rest"]


@dataclass(frozen=True)
class Part:
    """One kernel.

    Attributes:
        stage: ``tokenizer``, ``level 1`` .. or ``head``.
        name: such as ``qkv``.
        macs: multiply-accumulates of the batch.
        read, written: values of maps (without weights).
        weights: values.
        wide: how many of the values read and written are the model's inputs and outputs, which
            are float32 whatever the precision.
        residual: how many of the values read are added to the products, and not multiplied.
    """

    stage: str
    kind: Kind
    name: str
    macs: int
    read: int
    written: int
    weights: int = 0
    wide: int = 0
    residual: int = 0


def parts(config: ModelConfig, batch: int = 1) -> list[Part]:
    """All kernels of a classifier or backbone in order.

    Args:
        config: its image size counts; it has no decoder.

    Raises:
        ConfigError: the image is too small for the model.
    """
    return [*_tokenizer(config, batch), *_levels(config, batch), *_head(config, batch)]


def _tokenizer(config: ModelConfig, batch: int) -> Iterator[Part]:
    height, width = config.image_size
    rows, columns = config.feature_sizes()[0]
    dim, channels = config.embed_dim, config.in_channels
    pixels, tokens = batch * channels * height * width, batch * rows * columns
    if config.architecture == "dinat":
        half = batch * -(-height // 2) * -(-width // 2)
        between = dim // 2
        yield _convolution(
            "tokenizer", "convolution 1", half, 9 * channels, between, pixels, wide=True
        )
        read = half * between
        yield _convolution("tokenizer", "convolution 2", tokens, 9 * between, dim, read)
    else:
        patch = 16 if config.architecture == "isotropic" else 4
        inputs = patch * patch * channels
        yield _convolution("tokenizer", "patches", tokens, inputs, dim, pixels, wide=True)
    yield _copy("tokenizer", "norm", tokens * dim)


def _levels(config: ModelConfig, batch: int) -> Iterator[Part]:
    sizes = config.feature_sizes()
    last = len(sizes) - 1
    for layer in config.layers():
        stage = f"level {layer.level + 1}"
        yield from _layer(config, layer, stage, batch, sizes[layer.level])
        if layer.index < config.depths[layer.level] - 1:
            continue
        dim, (rows, columns) = layer.dim, sizes[layer.level]
        if layer.level in config.out_levels:
            written = batch * rows * columns * dim
            yield Part(stage, "rest", "output", 0, written, written, wide=written)
        if layer.level < last:
            tokens = batch * sizes[layer.level + 1][0] * sizes[layer.level + 1][1]
            read = batch * rows * columns * dim
            if config.architecture == "dinat":
                yield _convolution(stage, "downsampler", tokens, 9 * dim, 2 * dim, read)
                yield _copy(stage, "downsampler norm", tokens * 2 * dim)
            else:
                yield _copy(stage, "downsampler norm", tokens * 4 * dim)
                yield _convolution(stage, "downsampler", tokens, 4 * dim, 2 * dim, tokens * 4 * dim)


def _layer(
    config: ModelConfig, layer: Layer, stage: str, batch: int, size: tuple[int, int]
) -> Iterator[Part]:
    rows, columns = size
    dim, hidden = layer.dim, config.hidden_dim(layer.level)
    span = config.kernel_size * layer.dilation
    tokens = batch * rows * columns
    # A map smaller than the window is padded before the projection to q, k and v.
    padded = batch * max(rows, span) * max(columns, span)
    table = layer.heads * (2 * config.kernel_size - 1) ** 2
    yield _copy(stage, "norm 1", tokens * dim)
    if padded > tokens:
        yield Part(stage, "rest", "padding", 0, tokens * dim, padded * dim)
    yield _linear(stage, "qkv", padded, dim, 3 * dim)
    products = 2 * padded * config.kernel_size**2 * dim
    yield Part(stage, "attention", "attention", products, 3 * padded * dim, padded * dim, table)
    yield _linear(stage, "proj", tokens, dim, dim, residual=True)
    yield _copy(stage, "norm 2", tokens * dim)
    yield _linear(stage, "fc1", tokens, dim, hidden)
    yield _linear(stage, "fc2", tokens, hidden, dim, residual=True)


def _head(config: ModelConfig, batch: int) -> Iterator[Part]:
    if config.is_backbone:
        return
    last = len(config.depths) - 1
    rows, columns = config.feature_sizes()[last]
    dim = config.dim(last)
    yield _copy("head", "norm", batch * rows * columns * dim)
    yield Part("head", "rest", "mean", 0, batch * rows * columns * dim, batch * dim)
    if config.num_classes:
        part = _linear("head", "classifier", batch, dim, config.num_classes)
        yield replace(part, wide=part.written)


def _copy(stage: str, name: str, values: int) -> Part:
    return Part(stage, "rest", name, 0, values, values)


def _linear(
    stage: str, name: str, tokens: int, inputs: int, outputs: int, *, residual: bool = False
) -> Part:
    added = tokens * outputs if residual else 0
    return Part(
        stage,
        "linear",
        name,
        tokens * inputs * outputs,
        tokens * inputs + added,
        tokens * outputs,
        inputs * outputs,
        residual=added,
    )


def _convolution(
    stage: str,
    name: str,
    places: int,
    inputs: int,
    outputs: int,
    read: int,
    *,
    wide: bool = False,
) -> Part:
    """A convolution that multiplies ``inputs`` values for each of its outputs."""
    products = places * inputs * outputs
    written = places * outputs
    return Part(
        stage, "convolution", name, products, read, written, inputs * outputs, read if wide else 0
    )
