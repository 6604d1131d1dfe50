"""The paper's ablations of layer order and kernel size, as it prints them.

Dilated Neighborhood Attention Transformer (arXiv 2209.15001v3): Tiny models, ImageNet-1k top-1 in
percent, COCO box and mask AP (Mask R-CNN, 3x schedule), ADE20K mean IoU (UPerNet).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SOURCE = "Dilated Neighborhood Attention Transformer (arXiv 2209.15001v3), ablation tables"


@dataclass(frozen=True)
class PublishedAblation:
    """A model's published results; None where there is none.

    Attributes:
        factor: what the table that it is from varies.
        value: the order, or the kernel size.
    """

    factor: Literal["order", "kernel size"]
    value: str
    model: str
    top1: float
    box_ap: float | None = None
    mask_ap: float | None = None
    miou: float | None = None


PUBLISHED_ABLATIONS: tuple[PublishedAblation, ...] = (
    PublishedAblation("order", "NA-NA", "DiNAT-T", 83.2, 47.7, 42.6, 48.4),
    PublishedAblation("order", "NA-DiNA", "DiNAT-T", 82.7, 48.3, 43.4, 48.5),
    PublishedAblation("order", "DiNA-NA", "DiNAT-T", 82.6, 48.5, 43.5, 47.9),
    PublishedAblation("order", "DiNA-DiNA", "DiNAT-T", 82.2, 44.9, 40.5, 45.8),
    PublishedAblation("order", "NA-NA", "DiNAT_s-T", 81.8, 46.1, 41.5, 46.2),
    PublishedAblation("order", "NA-DiNA", "DiNAT_s-T", 81.8, 46.4, 41.8, 47.1),
    PublishedAblation("order", "DiNA-NA", "DiNAT_s-T", 81.5, 46.5, 41.8, 46.9),
    PublishedAblation("order", "DiNA-DiNA", "DiNAT_s-T", 79.7, 39.8, 36.8, 40.7),
    PublishedAblation("order", "NA-NA", "isotropic Small", 80.0),
    PublishedAblation("order", "NA-DiNA", "isotropic Small", 80.8),
    PublishedAblation("order", "DiNA-NA", "isotropic Small", 80.6),
    PublishedAblation("order", "DiNA-DiNA", "isotropic Small", 77.9),
    PublishedAblation("kernel size", "5", "NAT-T", 81.6, 46.8, 42.0, 46.3),
    PublishedAblation("kernel size", "7", "NAT-T", 83.2, 47.7, 42.6, 48.4),
    PublishedAblation("kernel size", "9", "NAT-T", 83.1, 48.5, 43.3, 48.1),
    PublishedAblation("kernel size", "5", "DiNAT-T", 81.3, 47.6, 42.7, 46.4),
    PublishedAblation("kernel size", "7", "DiNAT-T", 82.7, 48.3, 43.4, 48.5),
    PublishedAblation("kernel size", "9", "DiNAT-T", 83.1, 48.8, 43.5, 48.4),
)
