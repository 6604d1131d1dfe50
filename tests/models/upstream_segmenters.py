"""Segmenter checkpoints as mmsegmentation writes them, made from their published tensor names.

The names are spelled out here, independently of the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from tests.models import upstream
from tests.models.upstream import Weights


def _conv_module(at: str, inputs: int, outputs: int, kernel: int) -> dict[str, list[int]]:
    """mmcv's ConvModule: a convolution without bias and a (synchronised) batch normalization."""
    return {
        f"{at}.conv.weight": [outputs, inputs, kernel, kernel],
        f"{at}.bn.weight": [outputs],
        f"{at}.bn.bias": [outputs],
        f"{at}.bn.running_mean": [outputs],
        f"{at}.bn.running_var": [outputs],
        f"{at}.bn.num_batches_tracked": [],
    }


def upernet_shapes(
    inputs: Sequence[int], classes: int, *, channels: int = 512, auxiliary: int = 256
) -> dict[str, list[int]]:
    """``UPerHead`` with four pool scales, and ``FCNHead`` of one convolution on the third level."""
    shapes: dict[str, list[int]] = {}
    for scale in range(4):
        at = f"decode_head.psp_modules.{scale}.1"
        shapes |= _conv_module(at, inputs[-1], channels, 1)
    shapes |= _conv_module("decode_head.bottleneck", inputs[-1] + 4 * channels, channels, 3)
    for level in range(len(inputs) - 1):
        shapes |= _conv_module(f"decode_head.lateral_convs.{level}", inputs[level], channels, 1)
        shapes |= _conv_module(f"decode_head.fpn_convs.{level}", channels, channels, 3)
    shapes |= _conv_module("decode_head.fpn_bottleneck", len(inputs) * channels, channels, 3)
    shapes |= _conv_module("auxiliary_head.convs.0", inputs[2], auxiliary, 3)
    for head, width in (("decode_head", channels), ("auxiliary_head", auxiliary)):
        shapes[f"{head}.conv_seg.weight"] = [classes, width, 1, 1]
        shapes[f"{head}.conv_seg.bias"] = [classes]
    return shapes


def segmenter_weights(
    dim: int,
    depths: Sequence[int],
    heads: Sequence[int],
    classes: int,
    *,
    kernel: int = 7,
    ratio: float = 3.0,
    channels: int = 512,
    auxiliary: int = 256,
) -> Weights:
    """The state dict of a DiNAT with UPerNet, random."""
    backbone = upstream.original_shapes(
        dim, depths, heads, kernel=kernel, ratio=ratio, classes=None, norms=True
    )
    inputs = [dim * 2**level for level in range(len(depths))]
    shapes = {f"backbone.{name}": shape for name, shape in backbone.items()}
    shapes |= upernet_shapes(inputs, classes, channels=channels, auxiliary=auxiliary)
    weights = upstream.drawn(shapes)
    for name in weights:
        if name.endswith("running_var"):
            weights[name] = 0.5 + 10 * weights[name].abs()
        elif name.endswith("bn.weight"):
            weights[name] = 1 + weights[name]
        elif name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(160000)
    return weights


def write(path: Path, weights: Weights, classes: Sequence[str], *, later: bool = False) -> Path:
    """The file, as of mmsegmentation 0.x or, with ``later``, of 1.x."""
    names = {"dataset_meta": {"classes": tuple(classes), "palette": [[0, 0, 0]] * len(classes)}}
    meta = names if later else {"CLASSES": tuple(classes), "PALETTE": [[0, 0, 0]] * len(classes)}
    torch.save(
        {"meta": {"mmcv_version": "1.7.0", "iter": 160000, **meta}, "state_dict": weights}, path
    )
    return path
