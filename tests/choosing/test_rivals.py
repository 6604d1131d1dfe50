"""Swin and ConvNeXt from transformers: their published shapes, exported and counted."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from dinat_deploy.choosing.comparison import compared_name, family_of, models_of_size
from dinat_deploy.choosing.published import published_results
from dinat_deploy.choosing.rivals import (
    RIVALS,
    build_rival,
    count_operations,
    export_rival,
    require_transformers,
)
from dinat_deploy.errors import ConfigError, MissingDependencyError, UnknownModelError
from dinat_deploy.measurement.onnx_work import count_onnx

SMALL = {
    "swin_tiny": {"embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
    "convnext_tiny": {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
}


@pytest.mark.parametrize("name", RIVALS)
def test_rivals_have_the_published_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        found = build_rival(name).parameters / 1e6
    assert found == pytest.approx(published_results()[name].parameters_m, abs=0.6)


@pytest.mark.parametrize("name", SMALL)
def test_the_file_computes_and_counts_the_same_as_pytorch(name: str, tmp_path: Path) -> None:
    size, path = (32, 64), tmp_path / "rival.onnx"
    rival = build_rival(name, image_size=size, **SMALL[name])
    export_rival(rival.module, path, size, 2)
    assert count_onnx(path).macs == count_operations(rival.module, size, 2)
    assert count_operations(rival.module, size, 2) == 2 * count_operations(rival.module, size)
    image = np.random.default_rng(0).standard_normal((2, 3, *size), np.float32)
    (logits,) = onnxruntime.InferenceSession(path).run(None, {"image": image})
    expected = rival.module(torch.from_numpy(image))
    assert logits.shape == (2, 1000)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_an_image_smaller_than_the_windows_of_a_swin_is_refused() -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match="at least 224x224 pixels for its"):
        build_rival("swin_tiny", image_size=(192, 256))


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'dinat-deploy\[hf\]'"):
        require_transformers()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Swin-T", "swin_tiny"), ("convnext s", "convnext_small"), ("DiNAT-S", "dinat_small"),
        ("dinat_s", "dinat_small"), ("DiNAT_s-T", "dinat_s_tiny"), ("dinat_s_small", "dinat_s_small"),
        ("NAT.M", "nat_mini"), ("swin_large", "swin_large"),
    ],
)  # fmt: skip
def test_models_are_found_in_any_spelling(text: str, name: str) -> None:
    assert compared_name(text) == name


@pytest.mark.parametrize("text", ["swin_mini", "resnet50", "", "dinat_large_384"])
def test_other_models_are_refused_with_those_that_there_are(text: str) -> None:
    with pytest.raises(UnknownModelError, match="not among the models .* convnext_large"):
        compared_name(text)


def test_a_size_has_one_model_of_every_family_that_has_it() -> None:
    assert models_of_size("tiny") == [
        "nat_tiny",
        "dinat_tiny",
        "dinat_s_tiny",
        "swin_tiny",
        "convnext_tiny",
    ]
    assert models_of_size("mini") == ["nat_mini", "dinat_mini"]
    assert models_of_size("large") == [
        "dinat_large",
        "dinat_s_large",
        "swin_large",
        "convnext_large",
    ]
    assert [family_of(name) for name in models_of_size("tiny")] == [
        "NAT",
        "DiNAT",
        "DiNAT_s",
        "Swin",
        "ConvNeXt",
    ]
    with pytest.raises(ConfigError, match="'huge' is no size"):
        models_of_size("huge")
