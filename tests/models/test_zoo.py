"""The variants against the published tables."""

from __future__ import annotations

import pytest
import torch

from dinat_deploy.errors import ConfigError, UnknownModelError
from dinat_deploy.models.complexity import cost, parameter_count
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.model import DinatModel
from dinat_deploy.models.zoo import (
    SCHEDULES,
    VARIANTS,
    canonical_name,
    format_dilations,
    get_variant,
    parse_dilations,
    with_schedule,
)

# name: (parameters, entries of the original state dict, 10^9 MACs), as published or counted on the
# original code. ViT+ files hold 12 more entries, index buffers that are not parameters.
PUBLISHED = {
    "nat_mini": (19_984_174, 253, 2.697),
    "nat_tiny": (27_901_582, 409, 4.298),
    "nat_small": (50_743_297, 469, 7.777),
    "nat_base": (89_769_652, 469, 13.683),
    "dinat_mini": (19_984_174, 253, 2.697),
    "dinat_tiny": (27_901_582, 409, 4.298),
    "dinat_small": (50_719_681, 409, 7.777),
    "dinat_base": (89_769_652, 469, 13.683),
    "dinat_large": (200_943_514, 409, 30.467),
    "dinat_large_384": (200_943_514, 409, 89.53),
    "dinat_large_384_11x11": (201_144_250, 409, 92.15),
    "dinat_large_21k": (232_976_131, 409, 30.50),
    "dinat_s_tiny": (28_288_354, 173, 4.493),
    "dinat_s_small": (49_606_258, 329, 8.744),
    "dinat_s_base": (87_768_224, 329, 15.436),
    "dinat_s_large": (196_532_476, 329, 34.483),
    "dinat_s_large_384": (196_532_476, 329, 101.335),
    "nat_isotropic_small": (21_999_736, 164, 4.310),
    "nat_isotropic_base": (86_465_800, 164, 16.943),
    "dinat_isotropic_small": (21_999_736, 164, 4.310),
    "dinat_isotropic_base": (86_465_800, 164, 16.943),
    "vitrpb_small": (22_080_376, 164, 4.574),
    "vitrpb_base": (86_627_080, 164, 17.472),
}


def test_every_variant_is_in_the_table() -> None:
    # The 22k head of DiNAT_s-L has no published count; it differs from DiNAT_s-L by its head.
    assert set(VARIANTS) == {*PUBLISHED, "dinat_s_large_21k"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_state_dict_entries_are_those_published(name: str) -> None:
    config = VARIANTS[name].config
    with torch.device("meta"):
        model = DinatModel(config)
    parameters, entries, _ = PUBLISHED[name]
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert parameter_count(config) == parameters
    assert len(model.state_dict()) == entries


@pytest.mark.parametrize("name", PUBLISHED)
def test_macs_are_those_counted_on_the_original_code(name: str) -> None:
    # The original count adds the positional bias (0.1 %); ours has products only.
    assert cost(VARIANTS[name].config).macs / 1e9 == pytest.approx(PUBLISHED[name][2], rel=2e-3)


@pytest.mark.parametrize("name", [n for n, v in VARIANTS.items() if v.published.macs_g])
def test_published_figures_agree_with_the_counts(name: str) -> None:
    variant = VARIANTS[name]
    counted = cost(variant.config)
    assert counted.parameters / 1e6 == pytest.approx(variant.published.parameters_m, rel=0.012)
    assert counted.macs / 1e9 == pytest.approx(variant.published.macs_g, rel=0.012)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_list_every_layer(name: str, schedule: str) -> None:
    variant = VARIANTS[name]
    plain = name.startswith(("nat_", "vitrpb_"))
    if schedule not in ("classification", *variant.schedules) and not plain:
        with pytest.raises(ConfigError, match=f"No published '{schedule}' dilations for {name}"):
            with_schedule(variant, schedule)
        return
    config = with_schedule(variant, schedule)
    assert tuple(len(level) for level in config.dilations) == config.depths
    if plain:
        assert all(value == 1 for level in config.dilations for value in level)


def test_maximum_dilations_fill_the_maps_they_were_made_for() -> None:
    """The largest kernel * dilation per level, against the table of the original settings."""
    expected = {
        ("dinat_tiny", "classification", (224, 224)): [56, 28, 14, 7],
        ("dinat_large_384", "classification", (384, 384)): [91, 42, 21, 7],
        ("dinat_large_384_11x11", "classification", (384, 384)): [88, 44, 22, 11],
        ("dinat_tiny", "detection", (800, 800)): [196, 98, 49, 21],
        ("dinat_base", "ade20k", (512, 512)): [112, 56, 28, 14],
        ("dinat_large", "ade20k", (640, 640)): [140, 70, 35, 14],
        ("dinat_large_384_11x11", "mask2former", (640, 640)): [154, 77, 33, 11],
    }
    for (name, schedule, size), spans in expected.items():
        config = with_schedule(VARIANTS[name], schedule)
        found = [max(level) * config.kernel_size for level in config.dilations]
        assert found == spans
        assert all(
            span <= min(extent)
            for span, extent in zip(found, config.feature_sizes(size), strict=True)
        )


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("dinat_l", "dinat_large"),
        ("DiNAT-L", "dinat_large"),
        ("dinat-large-224", "dinat_large"),
        ("dinat_s_t", "dinat_s_tiny"),
        ("nat_isotropic_s", "nat_isotropic_small"),
        ("dinat_l_384", "dinat_large_384"),
        ("dinat_large_in22k", "dinat_large_21k"),
        ("VitRPB_base", "vitrpb_base"),
    ],
)
def test_names_are_found_however_they_are_written(written: str, name: str) -> None:
    assert canonical_name(written) == name


@pytest.mark.parametrize("name", VARIANTS)
def test_every_name_is_its_own_canonical_name(name: str) -> None:
    assert canonical_name(name) == name


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownModelError, match="Did you mean dinat_tiny"):
        get_variant("dinat_tyni")
    with pytest.raises(UnknownModelError, match="none of the variants"):
        get_variant("resnet50")


@pytest.mark.parametrize("name", VARIANTS)
def test_dilations_are_written_and_read_back(name: str) -> None:
    dilations = VARIANTS[name].config.dilations
    assert parse_dilations(format_dilations(dilations)) == dilations


def test_dilations_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="are not numbers separated by"):
        parse_dilations("1,x/2")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depths": (1, 2)}, "num_heads lists 1 levels and depths lists 2"),
        (
            {"dilations": ((1, 1),)},
            r"dilations lists \(2,\) layers per level and depths says \(1,\)",
        ),
        ({"num_heads": (3,)}, "16 channels of level 0 do not split into 3 heads"),
        ({"dilations": ((0,),)}, "dilations must be at least 1"),
        ({"out_levels": (1,)}, r"out_levels \(1,\) must lie in 0..0"),
        ({"architecture": "isotropic", "depths": (1, 1), "num_heads": (1, 1)}, "has one level"),
        ({"kernel_size": 0}, "kernel_size"),
        ({"width": 3}, "width"),
    ],
)
def test_configurations_that_contradict_themselves_are_refused(
    changes: dict[str, object], message: str
) -> None:
    fields = {"embed_dim": 16, "depths": (1,), "num_heads": (1,)} | changes
    with pytest.raises(ConfigError, match=message):
        ModelConfig.parse(fields)
