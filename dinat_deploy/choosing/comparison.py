"""Models of several families side by side: published, counted and measured figures."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from dinat_deploy.choosing.published import (
    FAMILIES,
    IMAGE_SIZE,
    Family,
    PublishedResult,
    published_results,
)
from dinat_deploy.errors import ConfigError, UnknownModelError
from dinat_deploy.measurement.records import ArtefactResult, BenchOptions
from dinat_deploy.measurement.tables import Table, significant, time_ratio

Size = Literal["mini", "tiny", "small", "base", "large"]
SIZES: tuple[Size, ...] = ("mini", "tiny", "small", "base", "large")
_PREFIXES: dict[Family, str] = {
    "NAT": "nat_",
    "DiNAT": "dinat_",
    "DiNAT_s": "dinat_s_",
    "Swin": "swin_",
    "ConvNeXt": "convnext_",
}
_LETTERS = {size[0]: size for size in SIZES}
# Printed figures are rounded, and the DiNAT paper's seem to count LayerNorms.
_CLOSE = 0.01


@dataclass(frozen=True)
class ComparedModel:
    """One model.

    Attributes:
        parameters: counted; ``macs``: multiply-accumulates of one image, counted.
        counted_from: ``onnx`` (the graph that ran), ``config`` or ``operations`` (of PyTorch).
        result: what was measured; None if nothing was.
    """

    name: str
    family: Family
    published: PublishedResult
    parameters: int
    macs: int
    counted_from: Literal["onnx", "config", "operations"]
    result: ArtefactResult | None = None

    @property
    def ms_per_gmac(self) -> float | None:
        """Milliseconds of an image over the billions of multiply-accumulates that it takes."""
        if self.result is None:
            return None
        return self.result.latency.median / self.result.batch / self.macs * 1e9

    def disagreements(self) -> list[str]:
        """Where the counts are not the published ones, at the size that those are for."""
        printed, found = self.published, []
        for what, counted, told, digit in (
            ("M parameters", self.parameters / 1e6, printed.parameters_m, 1.0),
            ("GMAC", self.macs / 1e9, printed.macs_g, 0.1),
        ):
            if abs(counted - told) > digit / 2 + _CLOSE * told:
                found.append(f"{self.name}: {counted:.3g} {what} counted, {told:g} published.")
        return found


@dataclass(frozen=True)
class ComparisonReport:
    """Several models.

    Attributes:
        models: in the order in which they were asked for.
        base: name of the one that times are compared with.
        runtime: as it was asked for; ``machine``: what it ran on.
        notes: what is to be known of the figures; ``warnings``: what makes them doubtful.
        interrupted: whether measuring ended early.
    """

    models: list[ComparedModel]
    base: str
    runtime: str
    batch: int
    image_size: tuple[int, int]
    options: BenchOptions
    machine: dict[str, str]
    started: str
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    interrupted: bool = False

    @property
    def measured(self) -> bool:
        return all(model.result is not None for model in self.models)

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": "comparison",
            "base": self.base,
            "runtime": self.runtime,
            "batch": self.batch,
            "image_size": self.image_size,
            "options": self.options.model_dump(mode="json"),
            "machine": self.machine,
            "started": self.started,
            "interrupted": self.interrupted,
            "models": [_as_dict(model) for model in self.models],
            "notes": self.notes,
            "warnings": self.warnings,
        }


def _as_dict(model: ComparedModel) -> dict[str, Any]:
    printed = model.published
    return {
        "name": model.name,
        "family": model.family,
        "parameters": model.parameters,
        "macs": model.macs,
        "counted_from": model.counted_from,
        "published": {
            "top1": printed.top1,
            "parameters_m": printed.parameters_m,
            "macs_g": printed.macs_g,
            "images_per_second_a100": printed.images_per_second,
            "imagenet_22k": printed.pretrained,
            "sources": printed.sources,
        },
        "ms_per_gmac": model.ms_per_gmac,
        "measured": None if model.result is None else model.result.model_dump(mode="json"),
    }


def family_of(name: str) -> Family:
    """The family of a compared model."""
    # DiNAT_s begins like DiNAT: the longest beginning counts.
    fitting = [family for family in FAMILIES if name.startswith(_PREFIXES[family])]
    return max(fitting, key=lambda family: len(_PREFIXES[family]))


def compared_name(text: str) -> str:
    """The name of a model in any spelling: ``Swin-T``, ``dinat_s_b``, ``convnext tiny``.

    Raises:
        UnknownModelError: it is none of those that can be compared.
    """
    known = published_results()
    plain = re.sub(r"[-.\s]+", "_", text.strip().lower())
    head, _, last = plain.rpartition("_")
    long = f"{head}_{_LETTERS.get(last, last)}"
    for name in (plain, long):
        # DiNAT-S is the small model, and DiNAT_s a family: dinat_s alone means the former.
        if name in known:
            return name
    raise UnknownModelError(
        f"{text!r} is not among the models that can be compared.", f"These are {', '.join(known)}."
    )


def models_of_size(size: str) -> list[str]:
    """All models of a size, family by family.

    Raises:
        ConfigError: there is no such size.
    """
    if size not in SIZES:
        raise ConfigError(f"{size!r} is no size.", f"There are {', '.join(SIZES)}.")
    known = published_results()
    return [name for family in FAMILIES if (name := f"{_PREFIXES[family]}{size}") in known]


def comparison_table(report: ComparisonReport) -> Table:
    """One row for each model; columns of what was not measured are left out."""
    heads = ["model", "top-1 %", "M parameters", "published", "GMAC", "published"]
    if report.measured:
        heads += ["median ms", "images/s", f"times {report.base}", "ms/GMAC"]
    heads.append("A100 images/s")
    rows = []
    for model in report.models:
        printed = model.published
        row = [
            model.name,
            f"{printed.top1:.1f}{'*' if printed.pretrained else ''}",
            f"{model.parameters / 1e6:.1f}",
            f"{printed.parameters_m:g}",
            f"{model.macs / 1e9:.2f}",
            f"{printed.macs_g:g}",
        ]
        if report.measured and model.result is not None and model.ms_per_gmac is not None:
            row += [
                significant(model.result.latency.median),
                significant(model.result.throughput),
                "1" if model.result.ratio is None else time_ratio(model.result),
                significant(model.ms_per_gmac),
            ]
        rows.append([*row, str(printed.images_per_second)])
    return Table(heads, [False, *[True] * (len(heads) - 1)], rows)


def reading(report: ComparisonReport) -> list[str]:
    """What has to be known to read the table."""
    sources = sorted({source for model in report.models for source in model.published.sources})
    found = [
        f"Top-1 on ImageNet-1k, parameters, GMAC and A100 throughput as published: "
        f"{', '.join(sources)}. The other figures were counted"
        + (" and measured here, with random weights." if report.measured else ".")
    ]
    if any(model.published.pretrained for model in report.models):
        found.append("* pretrained on ImageNet-22k.")
    if report.image_size != IMAGE_SIZE:
        height, width = report.image_size
        found.append(
            f"Published figures are for 224x224 pixels, the others for {height}x{width}: top-1 is "
            "not that of this size."
        )
    return found
