"""Detector checkpoints as mmdetection writes them, made from their published tensor names.

The names are spelled out here, independently of the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from tests.models import upstream
from tests.models.upstream import Weights

Shapes = dict[str, list[int]]


def _layer(at: str, *shape: int) -> Shapes:
    return {f"{at}.weight": list(shape), f"{at}.bias": [shape[0]]}


def pyramid_and_proposals(inputs: Sequence[int], channels: int) -> Shapes:
    """``FPN`` of four levels, and ``RPNHead`` with three anchors at each place."""
    shapes: Shapes = {}
    for level, width in enumerate(inputs):
        shapes |= _layer(f"neck.lateral_convs.{level}.conv", channels, width, 1, 1)
        shapes |= _layer(f"neck.fpn_convs.{level}.conv", channels, channels, 3, 3)
    shapes |= _layer("rpn_head.rpn_conv", channels, channels, 3, 3)
    shapes |= _layer("rpn_head.rpn_cls", 3, channels, 1, 1)
    return shapes | _layer("rpn_head.rpn_reg", 12, channels, 1, 1)


def _box_outputs(at: str, dim: int, classes: int) -> Shapes:
    return _layer(f"{at}.fc_cls", classes + 1, dim) | _layer(f"{at}.fc_reg", 4 * classes, dim)


def _mask_head(at: str, channels: int, classes: int) -> Shapes:
    """``FCNMaskHead`` of four convolutions."""
    shapes: Shapes = {}
    for number in range(4):
        shapes |= _layer(f"{at}.convs.{number}.conv", channels, channels, 3, 3)
    shapes |= _layer(f"{at}.upsample", channels, channels, 2, 2)
    return shapes | _layer(f"{at}.conv_logits", classes, channels, 1, 1)


def mask_rcnn(channels: int, dim: int, classes: int) -> Shapes:
    """``StandardRoIHead`` with a ``Shared2FCBBoxHead``."""
    at = "roi_head.bbox_head"
    shapes = _layer(f"{at}.shared_fcs.0", dim, channels * 49)
    shapes |= _layer(f"{at}.shared_fcs.1", dim, dim) | _box_outputs(at, dim, classes)
    return shapes | _mask_head("roi_head.mask_head", channels, classes)


def cascade(channels: int, dim: int, classes: int) -> Shapes:
    """``CascadeRoIHead`` with three ``ConvFCBBoxHead`` of four convolutions with normalization and
    one linear layer."""
    shapes: Shapes = {}
    for stage in range(3):
        at = f"roi_head.bbox_head.{stage}"
        for number in range(4):
            conv = f"{at}.shared_convs.{number}"
            shapes[f"{conv}.conv.weight"] = [channels, channels, 3, 3]
            for name in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{conv}.bn.{name}"] = [channels]
            shapes[f"{conv}.bn.num_batches_tracked"] = []
        shapes |= _layer(f"{at}.shared_fcs.0", dim, channels * 49) | _box_outputs(at, dim, classes)
        shapes |= _mask_head(f"roi_head.mask_head.{stage}", channels, classes)
    return shapes


def detector_weights(
    dim: int,
    depths: Sequence[int],
    heads: Sequence[int],
    classes: int,
    *,
    stages: int = 1,
    kernel: int = 7,
    ratio: float = 3.0,
    channels: int = 256,
    box_dim: int = 1024,
) -> Weights:
    """The state dict of a DiNAT with Mask R-CNN or, of three stages, its cascade, random."""
    backbone = upstream.original_shapes(
        dim, depths, heads, kernel=kernel, ratio=ratio, classes=None, norms=True
    )
    shapes = {f"backbone.{name}": shape for name, shape in backbone.items()}
    shapes |= pyramid_and_proposals([dim * 2**level for level in range(4)], channels)
    shapes |= (mask_rcnn if stages == 1 else cascade)(channels, box_dim, classes)
    weights = upstream.drawn(shapes)
    for name in weights:
        if name.endswith("running_var"):
            weights[name] = 0.5 + 10 * weights[name].abs()
        elif name.endswith("bn.weight"):
            weights[name] = 1 + weights[name]
        elif name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(7330 * 36)
    return weights


def write(path: Path, weights: Weights, classes: Sequence[str]) -> Path:
    """The file, as of mmdetection 2.x."""
    meta = {"mmdet_version": "2.26.0", "epoch": 36, "CLASSES": tuple(classes)}
    torch.save({"meta": meta, "state_dict": weights}, path)
    return path
