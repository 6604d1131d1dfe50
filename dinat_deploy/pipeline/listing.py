"""``models``: the table of known variants."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dinat_deploy.models.complexity import cost
from dinat_deploy.models.presets import PUBLISHED, Published
from dinat_deploy.models.zoo import VARIANTS, format_dilations

__all__ = ["ModelRow", "Published", "list_models"]


@dataclass(frozen=True)
class ModelRow:
    """One variant.

    Attributes:
        parameters: counted, exact.
        macs: multiply-accumulates of one image at ``image_size``, counted.
        top1: published ImageNet-1k accuracy in %, None for ImageNet-22k heads.
        published: results of segmenters and detectors on it.
        dilations: of every layer, as ``--dilations`` takes them.
        schedules: further published dilation schedules.
        pretrained: whether ``--pretrained`` finds weights.
        checkpoint: file name of the original weights.
    """

    name: str
    parameters: int
    macs: int
    top1: float | None
    image_size: tuple[int, int]
    kernel_size: int
    num_classes: int
    dilations: str
    schedules: dict[str, str]
    pretrained: bool
    checkpoint: str
    published: list[Published]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def list_models() -> list[ModelRow]:
    """All variants in the order of the papers."""
    rows = []
    for variant in VARIANTS.values():
        config = variant.config
        counted = cost(config)
        rows.append(
            ModelRow(
                name=variant.name,
                parameters=counted.parameters,
                macs=counted.macs,
                top1=variant.published.top1,
                image_size=config.image_size,
                kernel_size=config.kernel_size,
                num_classes=config.num_classes,
                dilations=format_dilations(config.dilations),
                schedules={
                    name: format_dilations(dilations)
                    for name, dilations in variant.schedules.items()
                },
                pretrained=variant.hub is not None,
                checkpoint=variant.checkpoint,
                published=[entry for entry in PUBLISHED if entry.variant == variant.name],
            )
        )
    return rows
