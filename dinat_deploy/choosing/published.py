"""Published results of the models that ``compare`` puts side by side.

All are of ImageNet-1k at 224 pixels. Accuracy and throughput (forward passes of 256 images on an
A100, precision not stated) are those that the DiNAT paper prints for all five families, so that
they were measured alike: Dilated Neighborhood Attention Transformer, arXiv 2209.15001v3. So are
parameters and multiply-accumulates, except those of ConvNeXt-T, -S and -B, which are in its own
paper: A ConvNet for the 2020s, arXiv 2201.03545. Large models were pretrained on ImageNet-22k.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dinat_deploy.models.zoo import VARIANTS

Family = Literal["NAT", "DiNAT", "DiNAT_s", "Swin", "ConvNeXt"]
FAMILIES: tuple[Family, ...] = ("NAT", "DiNAT", "DiNAT_s", "Swin", "ConvNeXt")
DINAT_PAPER = "arXiv 2209.15001"
CONVNEXT_PAPER = "arXiv 2201.03545"
IMAGE_SIZE = (224, 224)


@dataclass(frozen=True)
class PublishedResult:
    """What is printed for a model.

    Attributes:
        top1: ImageNet-1k accuracy in percent.
        parameters_m: in millions; ``macs_g`` multiply-accumulates in billions.
        images_per_second: on an A100.
        pretrained: whether it saw ImageNet-22k first.
        sources: of top-1 and throughput, and of parameters and work where it is another.
    """

    top1: float
    parameters_m: float
    macs_g: float
    images_per_second: int
    pretrained: bool = False
    sources: tuple[str, ...] = (DINAT_PAPER,)


_BOTH = (DINAT_PAPER, CONVNEXT_PAPER)
_THROUGHPUTS = {
    "nat_mini": 2132, "nat_tiny": 1537, "nat_small": 1049, "nat_base": 781,
    "dinat_mini": 2080, "dinat_tiny": 1500, "dinat_small": 1058, "dinat_base": 764,
    "dinat_large": 474,
    "dinat_s_tiny": 1954, "dinat_s_small": 1203, "dinat_s_base": 877, "dinat_s_large": 528,
}  # fmt: skip
_RIVALS = {
    "swin_tiny": PublishedResult(81.3, 28, 4.5, 1724),
    "swin_small": PublishedResult(83.0, 50, 8.7, 1056),
    "swin_base": PublishedResult(83.5, 88, 15.4, 774),
    "swin_large": PublishedResult(86.3, 197, 34.5, 478, pretrained=True),
    "convnext_tiny": PublishedResult(82.1, 29, 4.5, 2491, sources=_BOTH),
    "convnext_small": PublishedResult(83.1, 50, 8.7, 1549, sources=_BOTH),
    "convnext_base": PublishedResult(83.8, 89, 15.4, 1107, sources=_BOTH),
    "convnext_large": PublishedResult(86.6, 198, 34.4, 643, pretrained=True),
}


def published_results() -> dict[str, PublishedResult]:
    """Name of the model -> what is printed for it."""
    ours = {}
    for name, images in _THROUGHPUTS.items():
        printed = VARIANTS[name].published
        assert printed.top1 is not None
        assert printed.parameters_m is not None and printed.macs_g is not None
        ours[name] = PublishedResult(
            printed.top1, printed.parameters_m, printed.macs_g, images, name.endswith("large")
        )
    return ours | _RIVALS
