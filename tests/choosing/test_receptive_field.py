"""Receptive fields: formula, exact sets, and the gradients of the models' own code."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinat_deploy.choosing.fields import field_masks, layer_fields
from dinat_deploy.choosing.formulas import attention_extent, growths
from dinat_deploy.choosing.geometry import AxisStep, Token, axis_steps, trace
from dinat_deploy.choosing.gradient import LinearModel
from dinat_deploy.choosing.schedules import maximum
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.zoo import VARIANTS
from tests.bruteforce import axis_keys

SIDE = 224


@cache
def compared(config: ModelConfig, token: Token) -> list[tuple[bool, bool]]:
    """Of every layer: whether gradients are where the sets, and where the formula has them."""
    found = []
    model = LinearModel(config)
    for field, measured in zip(layer_fields(config, token), model.measure(token), strict=True):
        assert (field.level, field.layer) == (measured.level, measured.layer)
        tokens, pixels = field_masks(config, token, field.level, field.layer)
        sets = np.array_equal(tokens, measured.tokens) and np.array_equal(pixels, measured.pixels)
        spans = _span(measured.tokens), _span(measured.pixels)
        found.append((sets, spans == (field.tokens.formula, field.pixels.formula)))
    return found


def _span(mask: np.ndarray) -> tuple[int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)


def geometry(name: str, *, plain: bool = False) -> ModelConfig:
    """The variant at 224 pixels without what does not change who sees whom."""
    config = VARIANTS[name].config
    if config.global_attention:
        dilations = config.dilations
    else:
        bare = config.replace(image_size=(SIDE, SIDE))
        dilations = tuple((1,) * depth for depth in bare.depths) if plain else maximum(bare)
    return ModelConfig(
        architecture=config.architecture,
        embed_dim=2,
        depths=config.depths,
        num_heads=(1,) * len(config.depths),
        kernel_size=config.kernel_size,
        dilations=dilations,
        global_attention=config.global_attention,
        image_size=(SIDE, SIDE),
    )


@pytest.mark.parametrize("plain", [True, False], ids=["NA-NA", "maximum dilation"])
@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_of_all_variants_at_224_are_where_the_formula_says(
    name: str, plain: bool
) -> None:
    found = compared(geometry(name, plain=plain), "centre")
    assert len(found) == sum(VARIANTS[name].config.depths)
    assert all(sets and formula for sets, formula in found)


@pytest.mark.parametrize("name", ["nat_mini", "dinat_mini", "dinat_s_tiny", "nat_isotropic_small"])
def test_gradients_of_a_corner_are_where_windows_shifted_inward_are(name: str) -> None:
    found = compared(geometry(name, plain=name.startswith("nat_")), "corner")
    assert all(sets for sets, _ in found)
    assert not all(formula for _, formula in found)  # it is for tokens far from borders


# Windows larger than the map, odd sizes, an even kernel, gaps, both architectures and one level.
UNUSUAL = [
    ModelConfig(
        embed_dim=2, depths=(2, 2, 1), num_heads=(1, 1, 1), kernel_size=3,
        dilations=((1, 9), (4, 4), (5,)), image_size=(101, 67),
    ),
    ModelConfig(
        architecture="dinat_s", embed_dim=2, depths=(2, 2), num_heads=(1, 1), kernel_size=4,
        dilations=((1, 5), (2, 3)), image_size=(70, 93),
    ),
    ModelConfig(
        architecture="isotropic", embed_dim=2, depths=(3,), num_heads=(1,), kernel_size=3,
        dilations=((2, 1, 2),), image_size=(115, 90),
    ),
]  # fmt: skip


@pytest.mark.parametrize("config", UNUSUAL, ids=lambda config: config.architecture)
def test_gradients_are_where_the_sets_say_whatever_the_shape(config: ModelConfig) -> None:
    for token in ("centre", "corner"):
        assert all(sets for sets, _ in compared(config, token))


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 20))
@settings(max_examples=60)
def test_one_layer_sees_the_keys_of_the_definition(kernel: int, dilation: int, more: int) -> None:
    length = kernel * dilation + more
    step = AxisStep("attention", 0, 0, length, length, kernel, dilation)
    for place, keys in enumerate(axis_keys(length, kernel, dilation)):
        assert list(np.flatnonzero(trace([step], place))) == keys


@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(1, 3))
@settings(max_examples=60)
def test_the_formula_holds_far_from_borders(dilations: list[int], half: int) -> None:
    kernel = 2 * half + 1
    length = 4 * kernel * sum(dilations) + 1
    steps = [
        AxisStep("attention", 0, i, length, length, kernel, d) for i, d in enumerate(dilations)
    ]
    seen = np.flatnonzero(trace(steps, length // 2))
    assert seen[-1] - seen[0] + 1 == attention_extent(kernel, dilations, length)


def test_repeated_dilation_never_leaves_its_group() -> None:
    """Why NA and DiNA alternate: with 8 in every layer a token sees one in 64 others for ever."""
    config = geometry("dinat_mini").replace(dilations=((8, 8, 8), (4, 4, 4, 4), (2,) * 6, (1,) * 5))
    first = [field for field in layer_fields(config, "centre") if field.level == 0]
    assert [field.tokens.seen for field in first] == [49, 49, 49]
    assert first[0].tokens.of == (56, 56)
    mixed = [field for field in layer_fields(geometry("dinat_mini"), "centre") if field.level == 0]
    assert [field.tokens.seen for field in mixed] == [49, 49**2, 56**2]


def test_pixels_of_the_overlapping_tokenizer_overlap() -> None:
    overlapping, patches = geometry("nat_mini"), geometry("dinat_s_tiny")
    assert layer_fields(overlapping, "centre")[0].pixels.lengths == (4 * 7 + 3, 4 * 7 + 3)
    assert layer_fields(patches, "centre")[0].pixels.lengths == (4 * 7, 4 * 7)
    before = [step for step in axis_steps(overlapping, 0) if step.layer is None and not step.level]
    assert list(np.flatnonzero(trace(before, 0))) == [0, 1, 2, 3]  # of -3..3
    assert list(np.flatnonzero(trace(before, 5))) == list(range(17, 24))


def test_methods_grow_as_in_the_papers_table() -> None:
    found = {growth.formula: growth.extents for growth in growths(7, [1, 8, 1, 8], 56)}
    assert found["l(k-1)+1"] == (7, 13, 19, 25)
    assert found["k"] == (7, 7, 7, 7)
    assert found["l*k"] == (7, 14, 21, 28)
    assert found["1+(k-1)*sum(d)"] == (7, 55, 56, 56)
    assert found["k^l"] == (7, 49, 56, 56)
    assert found["n"] == (56, 56, 56, 56)
    powers = growths(3, [1, 3, 9], 1000)
    assert {g.formula: g.extents for g in powers}["1+(k-1)*sum(d)"] == (3, 9, 27)  # the upper bound
