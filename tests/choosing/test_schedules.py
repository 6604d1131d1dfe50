"""Bounds on dilations, published schedules against image sizes, and suggestions."""

from __future__ import annotations

import pytest

from dinat_deploy.choosing.schedules import fit, gradual, level_bounds, maximum, published
from dinat_deploy.errors import ConfigError
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.zoo import VARIANTS, with_schedule
from dinat_deploy.pipeline.dilation_choice import choose_dilations

DILATED = [name for name in VARIANTS if name.startswith("dinat_")]


def at(name: str, height: int, width: int) -> ModelConfig:
    return VARIANTS[name].config.replace(image_size=(height, width))


def test_the_shorter_axis_bounds_the_dilation() -> None:
    found = level_bounds(at("dinat_tiny", 512, 1024))
    assert [each.size for each in found] == [(128, 256), (64, 128), (32, 64), (16, 32)]
    assert [each.by_axis for each in found] == [(18, 36), (9, 18), (4, 9), (2, 4)]
    assert [each.bound for each in found] == [18, 9, 4, 2]


@pytest.mark.parametrize("name", DILATED)
def test_maximum_is_what_classifiers_were_published_with(name: str) -> None:
    config = VARIANTS[name].config
    assert maximum(config) == config.dilations


@pytest.mark.parametrize(
    "name", [name for name in DILATED if "detection" in VARIANTS[name].schedules]
)
def test_gradual_is_what_detectors_were_published_with(name: str) -> None:
    config = at(name, 800, 1333).replace(kernel_size=7)
    assert gradual(config) == with_schedule(VARIANTS[name], "detection").dilations


def test_gradual_rises_as_in_the_papers_example() -> None:
    config = ModelConfig(
        architecture="isotropic", embed_dim=32, depths=(8,), num_heads=(1,), image_size=(896, 1000)
    )
    assert gradual(config) == ((1, 2, 1, 4, 1, 6, 1, 8),)


@pytest.mark.parametrize(
    "size", [(32, 32), (65, 200), (224, 224), (300, 301), (512, 1024), (1500, 700)]
)
@pytest.mark.parametrize("pattern", [maximum, gradual])
def test_suggestions_fit_wherever_a_window_fits(pattern, size: tuple[int, int]) -> None:
    for name in ("dinat_mini", "dinat_s_small", "dinat_isotropic_small"):
        config = at(name, *size)
        bounds = level_bounds(config)
        found = fit("", pattern(config), config)
        assert [level for level, _, _ in found.padded] == [e.level for e in bounds if not e.bound]
        for values, each in zip(found.dilations, bounds, strict=True):
            assert set(values[::2]) == {1}
            assert max(values) == max(1, each.bound)


def test_published_schedules_that_need_padding_are_found() -> None:
    by_name = {f.name: f for f in published(VARIANTS["dinat_large"], at("dinat_large", 512, 1024))}
    assert by_name["classification"].fits
    # The three levels that the published 512-pixel crops pad.
    assert by_name["ade20k"].padded == ((0, 140, 128), (1, 70, 64), (2, 35, 32))
    assert by_name["mask2former"].kernel_size == 11
    assert by_name["mask2former"].padded == ((0, 154, 128), (1, 77, 64), (2, 33, 32))


@pytest.mark.parametrize(
    ("name", "schedule", "side"),
    [
        ("dinat_tiny", "detection", 784),
        ("dinat_s_base", "ade20k", 512),
        ("dinat_large", "ade20k", 640),
    ],
)
def test_published_schedules_fit_the_sizes_they_were_made_for(
    name: str, schedule: str, side: int
) -> None:
    config = with_schedule(VARIANTS[name], schedule)
    assert fit("", config.dilations, config.replace(image_size=(side, side))).fits
    smaller = config.replace(image_size=(side - 224, side))
    assert not fit("", config.dilations, smaller).fits


def test_other_depths_have_no_published_schedules() -> None:
    choice = choose_dilations(architecture="dinat_s", depths=(2, 2, 4, 2), image_size=(448, 448))
    assert not choice.published
    assert choice.suggested[0].dilations == ((1, 16), (1, 8), (1, 4, 1, 4), (1, 2))
    assert "not published with these depths" in " ".join(choice.notes)


def test_a_map_smaller_than_the_window_is_named() -> None:
    choice = choose_dilations(model="dinat_mini", image_size=(96, 400))
    assert "Level 3 has 6x25 tokens, fewer than the 7 of the window" in " ".join(choice.notes)
    assert choice.levels[2].bound == 0


def test_questions_without_an_answer_are_refused() -> None:
    with pytest.raises(ConfigError, match="nothing to dilate"):
        choose_dilations(model="vitrpb_base", image_size=(512, 512))
    with pytest.raises(ConfigError, match="--model and --architecture"):
        choose_dilations(model="dinat_mini", architecture="dinat")
    with pytest.raises(ConfigError, match="lists 2 levels and the model has 4"):
        choose_dilations(model="dinat_mini", depths=(2, 2))
