"""The models against the original code's logits, and their behaviour at every size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinat_deploy.errors import ConfigError
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.layers import DropPath, NeighborhoodAttention
from dinat_deploy.models.model import DinatModel
from dinat_deploy.models.seeding import seeded_image, seeded_weights
from dinat_deploy.models.weights import digest, seeded_model
from tests.conftest import TINY
from tests.golden import MODEL_NAMES, input_shape, model_case


def golden_inputs() -> Iterator[tuple[str, str]]:
    for name in MODEL_NAMES:
        for key in model_case(name).logits["orig"]:
            yield name, key


@pytest.fixture(scope="module")
def golden_models() -> dict[str, DinatModel]:
    models = {}
    for name in MODEL_NAMES:
        case = model_case(name)
        model = DinatModel(ModelConfig(**case.kwargs)).eval()
        weights = seeded_weights(case.shapes, case.seed)
        model.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
        models[name] = model
    return models


@pytest.mark.parametrize(("name", "key"), list(golden_inputs()))
def test_logits_equal_the_original_code(
    name: str, key: str, golden_models: dict[str, DinatModel]
) -> None:
    case = model_case(name)
    image = torch.from_numpy(seeded_image(input_shape(key), case.seed))
    with torch.inference_mode():
        found = golden_models[name](image).numpy()
    assert np.abs(found - case.logits["orig"][key]).max() <= 2e-4


def test_parameter_names_and_shapes_equal_the_original_code() -> None:
    for name in MODEL_NAMES:
        case = model_case(name)
        with torch.device("meta"):
            state = DinatModel(ModelConfig(**case.kwargs)).state_dict()
        assert {key: list(value.shape) for key, value in state.items()} == case.shapes


def test_padding_is_before_the_projection_and_unmasked() -> None:
    """A map smaller than the window equals the padded map whose new tokens hold the qkv bias."""
    torch.manual_seed(0)
    module = NeighborhoodAttention(8, 2, kernel_size=3, dilation=3).eval()
    torch.nn.init.normal_(module.rpb)
    torch.nn.init.normal_(module.qkv.bias)
    small = torch.randn(1, 7, 8, 8)
    padded = torch.zeros(1, 9, 9, 8)
    padded[:, :7, :8] = small
    with torch.inference_mode():
        assert torch.allclose(module(small), module(padded)[:, :7, :8], atol=1e-6)


ARCHITECTURES = {
    "dinat": TINY,
    "dinat_s": TINY.replace(architecture="dinat_s"),
    "isotropic": ModelConfig(
        architecture="isotropic", embed_dim=16, depths=(2,), num_heads=(2,), kernel_size=3,
        dilations=((1, 2),), num_classes=10,
    ),
}  # fmt: skip


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@given(height=st.integers(17, 90), width=st.integers(17, 90))
@settings(max_examples=15)
def test_any_image_size_gives_logits_and_features_of_the_stated_size(
    architecture: str, height: int, width: int
) -> None:
    config = ARCHITECTURES[architecture]
    image = torch.zeros(1, 3, height, width)
    with torch.inference_mode():
        assert DinatModel(config).eval()(image).shape == (1, 10)
        levels = tuple(range(len(config.depths)))
        features = DinatModel(config.replace(out_levels=levels)).eval()(image)
    sizes = config.feature_sizes((height, width))
    assert [tuple(f.shape) for f in features] == [
        (1, config.dim(level), *size) for level, size in enumerate(sizes)
    ]


def test_backbone_features_are_the_normalised_levels_before_downsampling() -> None:
    model = seeded_model(TINY.replace(out_levels=(0, 1)), 3)
    image = torch.from_numpy(seeded_image((1, 3, 64, 64), 3))
    seen: list[torch.Tensor] = []
    last = model.get_submodule("levels.0.blocks.1")
    last.register_forward_hook(lambda *arguments: seen.append(arguments[-1]))
    with torch.inference_mode():
        first, _ = model(image)
        expected = model.get_submodule("norm0")(seen[0]).permute(0, 3, 1, 2)
    assert torch.equal(first, expected)
    names = set(model.state_dict())
    assert {"norm0.weight", "norm1.bias"} <= names
    assert not {"norm.weight", "head.weight"} & names


def test_global_attention_equals_plain_attention_with_relative_bias() -> None:
    """ViT+: the operator with a window as large as the map, against attention written out."""
    torch.manual_seed(0)
    module = NeighborhoodAttention(16, 2, kernel_size=6, dilation=1).eval()
    torch.nn.init.normal_(module.rpb)
    x = torch.randn(2, 6, 6, 16)
    with torch.inference_mode():
        query, key, value = module.qkv(x).view(2, 36, 3, 2, 8).permute(2, 0, 3, 1, 4)
        steps = torch.arange(6)[None, :] - torch.arange(6)[:, None] + 5  # key - query
        bias = module.rpb[:, steps[:, None, :, None], steps[None, :, None, :]]
        scores = query @ key.transpose(-2, -1) * 8**-0.5 + bias.reshape(2, 36, 36)
        dense = (scores.softmax(-1) @ value).transpose(1, 2).reshape(2, 6, 6, 16)
        assert torch.allclose(module(x), module.proj(dense), atol=1e-5)


def test_global_attention_refuses_another_grid() -> None:
    config = ModelConfig(
        architecture="isotropic", embed_dim=16, depths=(1,), num_heads=(2,), kernel_size=4,
        global_attention=True, image_size=(64, 64),
    )  # fmt: skip
    model = DinatModel(config)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
    with pytest.raises(
        ConfigError, match="attends over a 4x4 token grid, and 96x64 pixels give 6x4"
    ):
        model(torch.zeros(1, 3, 96, 64))


def test_images_below_one_patch_are_refused() -> None:
    with pytest.raises(ConfigError, match="no 16x16 patch"):
        ARCHITECTURES["isotropic"].feature_sizes((15, 40))


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    dropped = DropPath(0.25).train()(torch.ones(4000, 1, 1, 3))
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert (dropped[:, 0, 0, 0] == dropped[:, 0, 0, 2]).all()
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(DropPath(0.25).eval()(torch.ones(8, 1, 1, 3)), torch.ones(8, 1, 1, 3))


def test_a_training_step_reaches_every_parameter() -> None:
    model = DinatModel(TINY.replace(drop_path_rate=0.1)).train()
    model(torch.randn(4, 3, 64, 64)).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_seeded_weights_depend_on_seed_and_name_only() -> None:
    first, again, other = (seeded_model(TINY, seed) for seed in (0, 0, 1))

    def total(model: DinatModel) -> str:
        return digest({name: value.numpy() for name, value in model.state_dict().items()})

    assert total(first) == total(again) != total(other)
    # One number of the recipe, so that a change of it cannot go unnoticed.
    assert first.state_dict()["levels.0.blocks.0.gamma1"].mean().item() == pytest.approx(
        0.5, abs=0.15
    )


def test_every_weight_matters_in_seeded_models() -> None:
    """Parity checks with made-up weights would be blind to a tensor without effect."""
    model = seeded_model(TINY, 0)
    image = torch.from_numpy(seeded_image((1, 3, 64, 64), 0))
    with torch.inference_mode():
        before = model(image)
        for name, parameter in model.named_parameters():
            kept = parameter.detach().clone()
            parameter.zero_()
            assert (model(image) - before).abs().max() > 1e-3, name
            parameter.copy_(kept)
