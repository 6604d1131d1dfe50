"""Optimisation profiles: their syntax, what they are compared with, their defaults."""

from __future__ import annotations

import pytest

from dinat_deploy.engine.onnx_file import GraphTensor
from dinat_deploy.engine.profiles import (
    Range,
    check_profile,
    default_profile,
    describe_profile,
    parse_profile,
)
from dinat_deploy.errors import EngineError

BATCH = GraphTensor("image", "float", ("batch", 3, 224, 224))
SIZE = GraphTensor("image", "float", ("batch", 3, "height", "width"))
FIXED = GraphTensor("scale", "float", (1,))


def test_three_shapes_or_one() -> None:
    assert parse_profile("image=1x3x224x224:4x3x224x224:8x3x224x224") == {
        "image": Range(min=(1, 3, 224, 224), opt=(4, 3, 224, 224), max=(8, 3, 224, 224))
    }
    one = parse_profile("image=2x3x224x224")["image"]
    assert one.min == one.opt == one.max == (2, 3, 224, 224)


def test_several_inputs_by_comma_and_names_with_odd_characters() -> None:
    profile = parse_profile("a=1:2:3, model/b=x.0=4x5")
    assert list(profile) == ["a", "model/b=x.0"]
    assert profile["a"].max == (3,)
    assert describe_profile(profile) == "a=1:2:3,model/b=x.0=4x5:4x5:4x5"
    assert parse_profile(describe_profile(profile)) == profile


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not a profile"),
        ("1x3x224x224", "is not a profile"),
        ("=1x3", "is not a profile"),
        ("image=", "'' in the profile 'image=' is not a shape"),
        ("image=1x3:2x3", "has 2 shapes for image, not 3"),
        ("image=1:2:3:4", "has 4 shapes for image, not 3"),
        ("image=1xNx3", "'1xNx3' in the profile"),
        ("image=-1x3", "'-1x3' in the profile"),
        ("image=1x3,image=2x3", "gives shapes of image twice"),
    ],
)
def test_other_texts_are_refused(text: str, message: str) -> None:
    with pytest.raises(EngineError, match=message) as caught:
        parse_profile(text)
    assert "image=1x3x224x224:4x3x224x224:8x3x224x224" in caught.value.cure


def test_a_fitting_profile_keeps_dynamic_inputs_only() -> None:
    given = parse_profile("scale=1,image=1x3x224x224:4x3x224x224:8x3x224x224")
    assert list(check_profile(given, [BATCH, FIXED])) == ["image"]
    assert check_profile(parse_profile("scale=1"), [FIXED]) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "imag=1x3x224x224",
            r"an input imag; the model has image \[batch x 3 x 224 x 224\], scale",
        ),
        ("scale=1", r"no shapes for the dynamic input image \[batch x 3"),
        ("image=3x224x224", r"3x224x224 has 3 dimensions; the input image \[.*\] has 4"),
        (
            "image=1x3x256x256",
            r"1x3x256x256 has 256 at dimension 2; the input image \[.*\] is fixed to 224 there",
        ),
        ("image=0x3x224x224", "0x3x224x224 is empty"),
        (
            "image=4x3x224x224:2x3x224x224:8x3x224x224",
            "not in order: 4x3x224x224 exceeds 2x3x224x224",
        ),
        (
            "image=1x3x224x224:9x3x224x224:8x3x224x224",
            "not in order: 9x3x224x224 exceeds 8x3x224x224",
        ),
    ],
)
def test_profiles_that_do_not_fit_name_both_sides(text: str, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        check_profile(parse_profile(text), [BATCH, FIXED])


@pytest.mark.parametrize("shape", ["1x3x223x300", "1x3x300x513"])
def test_sizes_outside_of_the_export_are_refused(shape: str) -> None:
    with pytest.raises(EngineError, match="was exported for 224 to 512 pixels"):
        check_profile(parse_profile(f"image={shape}"), [SIZE], (224, 512))
    fitting = parse_profile("image=1x3x224x512")
    assert check_profile(fitting, [SIZE], (224, 512)) == fitting


def test_a_static_model_has_no_default_profile() -> None:
    assert default_profile([FIXED], None, None) == {}


def test_defaults_come_from_the_export() -> None:
    batch = default_profile([BATCH, FIXED], (224, 224), None)
    assert describe_profile(batch) == "image=1x3x224x224:4x3x224x224:8x3x224x224"
    both = default_profile([SIZE], (384, 256), (224, 640))
    assert describe_profile(both) == "image=1x3x224x224:4x3x384x256:8x3x640x640"


@pytest.mark.parametrize(
    ("own", "bounds", "sizes"),
    [
        (224, (221, 4096), (221, 224, 1024)),  # a range without end stops at 1024 pixels
        (2048, (221, 4096), (221, 2048, 2048)),  # ... but not below the model's own size
        (224, (1500, 4096), (1500, 1500, 1500)),  # ... nor below the smallest
        (800, (64, 512), (64, 512, 512)),
    ],
)
def test_default_sizes(own: int, bounds: tuple[int, int], sizes: tuple[int, int, int]) -> None:
    entry = default_profile([SIZE], (own, own), bounds)["image"]
    assert (entry.min[2], entry.opt[2], entry.max[2]) == sizes
    check_profile({"image": entry}, [SIZE], bounds)


def test_a_dynamic_input_of_unknown_meaning_asks_for_a_profile() -> None:
    with pytest.raises(EngineError, match="nothing says which shapes are wanted") as caught:
        default_profile([BATCH], None, None)
    assert "Add --profile image=MIN:OPT:MAX, each a shape like 1x3x224x224." in str(caught.value)
