"""Parameters and multiply-accumulates of a model, counted from its configuration alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dinat_deploy.errors import ConfigError
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.decoders import Decoder, UPerNet


@dataclass(frozen=True)
class Cost:
    """What one forward pass of one image takes.

    ``macs`` are multiply-accumulates (the papers' "FLOPs") of convolutions, Linears and the two
    attention products; ``attention_macs`` is the share of the attention products.
    """

    parameters: int
    macs: int
    attention_macs: int


@dataclass(frozen=True)
class _Convolution:
    """One of UPerNet: channels, kernel, where it runs (a level's map, or a grid of cells)."""

    inputs: int
    outputs: int
    kernel: int
    level: int | None = None
    cells: int = 0


def _decode_head(config: ModelConfig, head: UPerNet) -> Iterator[_Convolution]:
    """Convolutions with normalization that inference runs."""
    last, width = len(config.depths) - 1, head.channels
    for scale in head.pool_scales:
        yield _Convolution(config.dim(last), width, 1, cells=scale * scale)
    yield _Convolution(config.dim(last) + len(head.pool_scales) * width, width, 3, last)
    for level in range(last):
        yield _Convolution(config.dim(level), width, 1, level)
        yield _Convolution(width, width, 3, level)
    yield _Convolution((last + 1) * width, width, 3, 0)


def _known(decoder: Decoder) -> UPerNet:
    if isinstance(decoder, UPerNet):
        return decoder
    raise ConfigError(
        f"The cost of a decoder of type {decoder.type} is not known from its settings.",
        "Count it from the exported ONNX file, as bench does.",
    )


def _head_parameters(config: ModelConfig, head: UPerNet) -> int:
    convolutions = list(_decode_head(config, head))
    classifiers = [head.channels]
    width = head.auxiliary_channels
    if width is not None:
        inputs = [config.dim(head.auxiliary_level), *[width] * (head.auxiliary_convs - 1)]
        convolutions += [_Convolution(channels, width, 3) for channels in inputs]
        classifiers.append(width)
    # Weight and bias of a normalization; folded, the bias of the convolution.
    extra = 1 if head.folded else 2
    total = sum(each.outputs * (each.inputs * each.kernel**2 + extra) for each in convolutions)
    return total + sum(config.num_classes * (channels + 1) for channels in classifiers)


def _head_macs(config: ModelConfig, head: UPerNet, sizes: list[tuple[int, int]]) -> int:
    """Convolutions only: means over cells and resizing are no products."""
    tokens = [rows * columns for rows, columns in sizes]
    total = config.num_classes * head.channels * tokens[0]
    for each in _decode_head(config, head):
        places = each.cells if each.level is None else tokens[each.level]
        total += places * each.kernel**2 * each.inputs * each.outputs
    return total


def parameter_count(config: ModelConfig) -> int:
    """Learnable parameters of the model.

    Raises:
        ConfigError: as :func:`cost`.
    """
    if config.decoder is not None:
        return parameter_count(config.backbone) + _head_parameters(config, _known(config.decoder))
    dim = config.embed_dim
    table = (2 * config.kernel_size - 1) ** 2
    channels = config.in_channels
    if config.architecture == "dinat":
        total = 9 * channels * (dim // 2) + dim // 2 + 9 * (dim // 2) * dim + dim
    else:
        patch = 16 if config.architecture == "isotropic" else 4
        total = patch * patch * channels * dim + dim
    total += 2 * dim
    for layer in config.layers():
        width, hidden = layer.dim, config.hidden_dim(layer.level)
        total += 4 * width  # two LayerNorms
        total += 3 * width * (width + 1) + width * (width + 1) + layer.heads * table
        total += hidden * (width + 1) + width * (hidden + 1)
        total += 2 * width if config.layer_scale is not None else 0
    for level in range(len(config.depths) - 1):
        width = config.dim(level)
        if config.architecture == "dinat":
            total += 9 * width * 2 * width + 2 * 2 * width
        else:
            total += 2 * 4 * width + 4 * width * 2 * width
    if config.is_backbone:
        return total + sum(2 * config.dim(level) for level in config.out_levels)
    last = config.dim(len(config.depths) - 1)
    return total + 2 * last + (config.num_classes * (last + 1) if config.num_classes else 0)


def cost(config: ModelConfig, image_size: tuple[int, int] | None = None) -> Cost:
    """Count a forward pass of one image of ``image_size`` (height, width) pixels.

    Attention on a map smaller than its window runs on the zero-padded map and is counted so.

    Raises:
        ConfigError: the image is too small, or the decoder is none that is counted here.
    """
    height, width = image_size or config.image_size
    sizes = config.feature_sizes((height, width))
    rows, columns = sizes[0]
    dim, channels = config.embed_dim, config.in_channels
    if config.architecture == "dinat":
        half = -(-height // 2) * -(-width // 2)
        macs = half * 9 * channels * (dim // 2) + rows * columns * 9 * (dim // 2) * dim
    else:
        patch = 16 if config.architecture == "isotropic" else 4
        macs = rows * columns * patch * patch * channels * dim

    attention = 0
    for layer in config.layers():
        rows, columns = sizes[layer.level]
        span = config.kernel_size * layer.dilation
        tokens, padded = rows * columns, max(rows, span) * max(columns, span)
        attention += 2 * padded * config.kernel_size**2 * layer.dim
        macs += padded * 3 * layer.dim**2 + tokens * layer.dim**2
        macs += 2 * tokens * layer.dim * config.hidden_dim(layer.level)
    for level in range(len(config.depths) - 1):
        taps = 9 if config.architecture == "dinat" else 4
        macs += sizes[level + 1][0] * sizes[level + 1][1] * taps * 2 * config.dim(level) ** 2
    if config.decoder is not None:
        macs += _head_macs(config, _known(config.decoder), sizes)
    elif not config.is_backbone:
        macs += config.num_classes * config.dim(len(config.depths) - 1)
    return Cost(parameter_count(config), macs + attention, attention)
