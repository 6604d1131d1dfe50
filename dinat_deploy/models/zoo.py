"""Every published variant, as data: configurations, dilation schedules, published results.

Sources: the repository SHI-Labs/Neighborhood-Attention-Transformer and the paper Dilated
Neighborhood Attention Transformer (arXiv 2209.15001).
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from dinat_deploy.errors import ConfigError, UnknownModelError
from dinat_deploy.models.config import Architecture, Dilations, ModelConfig

Schedule = Literal["classification", "detection", "ade20k", "mask2former"]
SCHEDULES: tuple[Schedule, ...] = ("classification", "detection", "ade20k", "mask2former")


@dataclass(frozen=True)
class Published:
    """Results printed for a variant: ImageNet-1k top-1 (%), parameters (M), MACs (G)."""

    top1: float | None
    parameters_m: float | None = None
    macs_g: float | None = None


@dataclass(frozen=True)
class Variant:
    """A named model.

    Attributes:
        config: its architecture and the settings of its published checkpoint.
        schedules: dilations that the published downstream models use in place of the
            configuration's own, by task.
        crop_fraction: share of the resized short side that the evaluation crop keeps.
        checkpoint: file name of the original checkpoint.
        hub: Hugging Face repository of the same weights, where one is published.
    """

    name: str
    config: ModelConfig
    published: Published
    checkpoint: str
    crop_fraction: float = 0.875
    hub: str | None = None
    schedules: dict[Schedule, Dilations] = field(default_factory=dict)


def parse_dilations(text: str) -> Dilations:
    """Dilations written as ``1,8,1/1,4,1,4/...``: layers by comma, levels by slash.

    Raises:
        ConfigError: the text is not of that form.
    """
    try:
        return tuple(tuple(int(item) for item in level.split(",")) for level in text.split("/"))
    except ValueError:
        raise ConfigError(
            f"Dilations {text!r} are not numbers separated by , (layers) and / (levels).",
            f"Write them like 1,8,1/1,4,1,4, or name a schedule: {', '.join(SCHEDULES)}.",
        ) from None


def format_dilations(dilations: Dilations) -> str:
    """The inverse of :func:`parse_dilations`."""
    return "/".join(",".join(str(value) for value in level) for level in dilations)


def _repeat(*levels: tuple[tuple[int, ...], int]) -> Dilations:
    return tuple(pattern * times for pattern, times in levels)


_L3_GRADUAL = (1, 2, 1, 3, 1, 4)
_L3_DETECTION = (1, 3, 1, 5, 1, 7)
_L3_LARGE = (1, 2, 1, 3, 1, 4, 1, 5, 1, 2, 1, 3, 1, 4, 1, 5, 1, 5)
_L3_MASK2FORMER = (1, 3, 1, 2) * 4 + (1, 3)
_MINI_CLASSIFICATION = _repeat(((1, 8, 1), 1), ((1, 4), 2), ((1, 2), 3), ((1,), 5))
_CLASSIFICATION = _repeat(((1, 8, 1), 1), ((1, 4), 2), ((1, 2), 9), ((1,), 5))
_CLASSIFICATION_384 = _repeat(((1, 13, 1), 1), ((1, 6), 2), ((1, 3), 9), ((1,), 5))

_DOWNSTREAM_MINI: dict[Schedule, Dilations] = {
    "detection": ((1, 28, 1), (1, 7, 1, 14), _L3_DETECTION, (1, 3, 1, 3, 1)),
    "ade20k": ((1, 16, 1), (1, 4, 1, 8), _L3_GRADUAL, (1, 2, 1, 2, 1)),
}
_DOWNSTREAM: dict[Schedule, Dilations] = {
    "detection": ((1, 28, 1), (1, 7, 1, 14), _L3_DETECTION * 3, (1, 3, 1, 3, 1)),
    "ade20k": ((1, 16, 1), (1, 4, 1, 8), _L3_GRADUAL * 3, (1, 2, 1, 2, 1)),
}
_DOWNSTREAM_LARGE: dict[Schedule, Dilations] = {
    "detection": _DOWNSTREAM["detection"],
    "ade20k": ((1, 20, 1), (1, 5, 1, 10), _L3_LARGE, (1, 2, 1, 2, 1)),
    "mask2former": ((1, 14, 1), (1, 4, 1, 7), _L3_MASK2FORMER, (1, 1, 1, 1, 1)),
}
_S_TINY: dict[Schedule, Dilations] = {
    "detection": ((1, 28), (1, 14), _L3_DETECTION, (1, 3)),
    "ade20k": ((1, 16), (1, 8), _L3_GRADUAL, (1, 2)),
}
_S: dict[Schedule, Dilations] = {
    "detection": ((1, 28), (1, 14), _L3_DETECTION * 3, (1, 3)),
    "ade20k": ((1, 16), (1, 8), _L3_GRADUAL * 3, (1, 2)),
}
_S_LARGE: dict[Schedule, Dilations] = {
    "detection": _S["detection"],
    "ade20k": ((1, 20), (1, 10), _L3_LARGE, (1, 2)),
}


def _hierarchical(
    name: str,
    architecture: Architecture,
    dim: int,
    heads: int,
    depths: tuple[int, ...],
    published: Published,
    checkpoint: str,
    *,
    hub: str | None = None,
    schedules: dict[Schedule, Dilations] | None = None,
    crop_fraction: float = 0.875,
    **settings: Any,
) -> Variant:
    config = ModelConfig(
        architecture=architecture,
        embed_dim=dim,
        depths=depths,
        num_heads=tuple(heads << level for level in range(len(depths))),
        **settings,
    )
    return Variant(
        name,
        config,
        published,
        checkpoint,
        crop_fraction,
        hub,
        schedules or {},
    )


def _isotropic(
    name: str, dim: int, heads: int, top1: float, macs_g: float, **settings: Any
) -> Variant:
    config = ModelConfig(
        architecture="isotropic",
        embed_dim=dim,
        depths=(12,),
        num_heads=(heads,),
        mlp_ratio=4.0,
        drop_path_rate=0.1 if dim == 384 else 0.4,
        **settings,
    )
    published = Published(top1, 22 if dim == 384 else 86, macs_g)
    return Variant(name, config, published, f"{name}_in1k_224.pth")


_MINI, _REST = (3, 4, 6, 5), (3, 4, 18, 5)
_S_SHALLOW, _S_DEEP = (2, 2, 6, 2), (2, 2, 18, 2)
_LARGE: dict[str, Any] = {"mlp_ratio": 2.0, "drop_path_rate": 0.35}
_S_LARGE_384 = _repeat(((1, 13), 1), ((1, 6), 1), ((1, 3), 9), ((1,), 2))
_S_SMALL_DILATIONS = _repeat(((1, 8), 1), ((1, 4), 1), ((1, 2), 3), ((1,), 2))
_S_DILATIONS = _repeat(((1, 8), 1), ((1, 4), 1), ((1, 2), 9), ((1,), 2))
_ISOTROPIC_DILATIONS = ((1, 2) * 6,)


def _variants() -> list[Variant]:
    return [
        _hierarchical(
            "nat_mini", "dinat", 64, 2, _MINI, Published(81.8, 20, 2.7), "nat_mini.pth",
            hub="shi-labs/nat-mini-in1k-224", mlp_ratio=3.0, drop_path_rate=0.2,
        ),
        _hierarchical(
            "nat_tiny", "dinat", 64, 2, _REST, Published(83.2, 28, 4.3), "nat_tiny.pth",
            hub="shi-labs/nat-tiny-in1k-224", mlp_ratio=3.0, drop_path_rate=0.2,
        ),
        _hierarchical(
            "nat_small", "dinat", 96, 3, _REST, Published(83.7, 51, 7.8), "nat_small.pth",
            hub="shi-labs/nat-small-in1k-224",
            mlp_ratio=2.0, drop_path_rate=0.3, layer_scale=1e-5,
        ),
        _hierarchical(
            "nat_base", "dinat", 128, 4, _REST, Published(84.3, 90, 13.7), "nat_base.pth",
            hub="shi-labs/nat-base-in1k-224",
            mlp_ratio=2.0, drop_path_rate=0.5, layer_scale=1e-5,
        ),
        _hierarchical(
            "dinat_mini", "dinat", 64, 2, _MINI, Published(81.8, 20, 2.7),
            "dinat_mini_in1k_224.pth", hub="shi-labs/dinat-mini-in1k-224",
            dilations=_MINI_CLASSIFICATION, schedules=_DOWNSTREAM_MINI,
            mlp_ratio=3.0, drop_path_rate=0.2,
        ),
        _hierarchical(
            "dinat_tiny", "dinat", 64, 2, _REST, Published(82.7, 28, 4.3),
            "dinat_tiny_in1k_224.pth", hub="shi-labs/dinat-tiny-in1k-224",
            dilations=_CLASSIFICATION, schedules=_DOWNSTREAM,
            mlp_ratio=3.0, drop_path_rate=0.2,
        ),
        _hierarchical(
            "dinat_small", "dinat", 96, 3, _REST, Published(83.8, 51, 7.8),
            "dinat_small_in1k_224.pth", hub="shi-labs/dinat-small-in1k-224",
            dilations=_CLASSIFICATION, schedules=_DOWNSTREAM,
            mlp_ratio=2.0, drop_path_rate=0.3,
        ),
        _hierarchical(
            "dinat_base", "dinat", 128, 4, _REST, Published(84.4, 90, 13.7),
            "dinat_base_in1k_224.pth", hub="shi-labs/dinat-base-in1k-224",
            dilations=_CLASSIFICATION, schedules=_DOWNSTREAM,
            mlp_ratio=2.0, drop_path_rate=0.5, layer_scale=1e-5,
        ),
        _hierarchical(
            "dinat_large", "dinat", 192, 6, _REST, Published(86.6, 200, 30.6),
            "dinat_large_in22k_in1k_224.pth", hub="shi-labs/dinat-large-in22k-in1k-224",
            dilations=_CLASSIFICATION, schedules=_DOWNSTREAM_LARGE, **_LARGE,
        ),
        _hierarchical(
            "dinat_large_384", "dinat", 192, 6, _REST, Published(87.4, 200, 89.7),
            "dinat_large_in22k_in1k_384.pth", hub="shi-labs/dinat-large-in22k-in1k-384",
            dilations=_CLASSIFICATION_384, schedules=_DOWNSTREAM_LARGE,
            image_size=(384, 384), crop_fraction=1.0, **_LARGE,
        ),
        _hierarchical(
            "dinat_large_384_11x11", "dinat", 192, 6, _REST, Published(87.5, 200, 92.4),
            "dinat_large_in22k_in1k_384_11x11.pth",
            hub="shi-labs/dinat-large-11x11-in22k-in1k-384",
            dilations=_CLASSIFICATION, schedules=_DOWNSTREAM_LARGE, kernel_size=11,
            image_size=(384, 384), crop_fraction=1.0, **_LARGE,
        ),
        _hierarchical(
            "dinat_large_21k", "dinat", 192, 6, _REST, Published(None),
            "dinat_large_in22k_224.pth", dilations=_CLASSIFICATION,
            schedules=_DOWNSTREAM_LARGE, num_classes=21841, mlp_ratio=2.0, drop_path_rate=0.2,
        ),
        _hierarchical(
            "dinat_s_tiny", "dinat_s", 96, 3, _S_SHALLOW, Published(81.8, 28, 4.5),
            "dinat_s_tiny_in1k_224.pth", dilations=_S_SMALL_DILATIONS, schedules=_S_TINY,
            mlp_ratio=4.0, drop_path_rate=0.2,
        ),
        _hierarchical(
            "dinat_s_small", "dinat_s", 96, 3, _S_DEEP, Published(83.5, 50, 8.7),
            "dinat_s_small_in1k_224.pth", dilations=_S_DILATIONS, schedules=_S,
            mlp_ratio=4.0, drop_path_rate=0.3,
        ),
        _hierarchical(
            "dinat_s_base", "dinat_s", 128, 4, _S_DEEP, Published(83.8, 88, 15.4),
            "dinat_s_base_in1k_224.pth", dilations=_S_DILATIONS, schedules=_S,
            mlp_ratio=4.0, drop_path_rate=0.5,
        ),
        _hierarchical(
            "dinat_s_large", "dinat_s", 192, 6, _S_DEEP, Published(86.5, 197, 34.5),
            "dinat_s_large_in1k_224.pth", dilations=_S_DILATIONS, schedules=_S_LARGE,
            mlp_ratio=4.0, drop_path_rate=0.35,
        ),
        _hierarchical(
            "dinat_s_large_384", "dinat_s", 192, 6, _S_DEEP, Published(87.4, 197, 101.5),
            "dinat_s_large_in1k_384.pth", dilations=_S_LARGE_384, schedules=_S_LARGE,
            image_size=(384, 384), crop_fraction=1.0, mlp_ratio=4.0, drop_path_rate=0.35,
        ),
        _hierarchical(
            "dinat_s_large_21k", "dinat_s", 192, 6, _S_DEEP, Published(None),
            "dinat_s_large_in22k_224.pth", dilations=_S_DILATIONS, schedules=_S_LARGE,
            num_classes=21841, mlp_ratio=4.0, drop_path_rate=0.2,
        ),
        _isotropic("nat_isotropic_small", 384, 12, 80.0, 4.3),
        _isotropic("nat_isotropic_base", 768, 24, 81.6, 16.9),
        _isotropic("dinat_isotropic_small", 384, 12, 80.8, 4.3, dilations=_ISOTROPIC_DILATIONS),
        _isotropic("dinat_isotropic_base", 768, 24, 82.1, 16.9, dilations=_ISOTROPIC_DILATIONS),
        _isotropic(
            "vitrpb_small", 384, 12, 81.2, 4.6, kernel_size=14, global_attention=True
        ),
        _isotropic("vitrpb_base", 768, 24, 82.5, 17.5, kernel_size=14, global_attention=True),
    ]  # fmt: skip


VARIANTS: dict[str, Variant] = {variant.name: variant for variant in _variants()}

_SIZES = {"m": "mini", "t": "tiny", "s": "small", "b": "base", "l": "large"}


def canonical_name(name: str) -> str:
    """The zoo's name for what a user wrote: ``DiNAT-L``, ``dinat_l`` -> ``dinat_large``.

    Raises:
        UnknownModelError: nothing of that name; the message suggests the nearest.
    """
    plain = re.sub(r"[-.\s]+", "_", name.strip().lower())
    plain = plain.replace("in22k", "21k").replace("22k", "21k").removesuffix("_224")
    if plain in VARIANTS:
        return plain
    short = re.fullmatch(r"((?:di)?nat(?:_s)?(?:_isotropic)?|vitrpb)_([mtsbl])((?:_.*)?)", plain)
    if short and (long := f"{short[1]}_{_SIZES[short[2]]}{short[3]}") in VARIANTS:
        return long
    close = difflib.get_close_matches(plain, VARIANTS, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(close)}?" if close else "It is none of the variants."
    raise UnknownModelError(
        f"Unknown model {name!r}.", f"{hint} `dinat-deploy models` lists them all."
    )


def get_variant(name: str) -> Variant:
    """Look a variant up by any spelling of its name (see :func:`canonical_name`)."""
    return VARIANTS[canonical_name(name)]


def with_schedule(variant: Variant, schedule: str) -> ModelConfig:
    """The variant's configuration with the dilations of a published task.

    Args:
        schedule: one of :data:`SCHEDULES`. Models without dilation (NAT, ViT+) have the same
            configuration for every task.

    Raises:
        ConfigError: the variant has no such schedule.
    """
    if schedule == "classification" or variant.name.startswith(("nat_", "vitrpb_")):
        return variant.config
    for known, dilations in variant.schedules.items():
        if known == schedule:
            return variant.config.replace(dilations=dilations)
    have = ", ".join(["classification", *variant.schedules])
    raise ConfigError(
        f"No published {schedule!r} dilations for {variant.name}.",
        f"It has: {have}; or write the dilations out, like 1,8,1/1,4,1,4.",
    )


def named_dilations(text: str, variant: Variant | None) -> Dilations:
    """Dilations by the name of a published schedule, or written out (:func:`parse_dilations`).

    Args:
        variant: whose schedule is meant.

    Raises:
        ConfigError: there is no variant or no such schedule, or the text is not of that form.
    """
    if text not in SCHEDULES:
        return parse_dilations(text)
    if variant is None:
        raise ConfigError(
            f"The dilation schedule {text!r} belongs to a published variant.",
            "Name it with --model, or write the dilations out.",
        )
    return with_schedule(variant, text).dilations
