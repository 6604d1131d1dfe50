"""What does not fit is reported with the likely reason and the cure."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dinat_deploy.errors import CheckpointError
from dinat_deploy.models.checkpoints import Checkpoint
from dinat_deploy.models.fitting import detect, fit, resize_bias
from dinat_deploy.models.model import DinatModel
from dinat_deploy.models.zoo import VARIANTS, get_variant
from tests.models import upstream

TINY_LEVELS = {"depths": (3, 4, 18, 5), "heads": (2, 4, 8, 16)}


def checkpoint(weights: dict[str, torch.Tensor]) -> Checkpoint:
    return Checkpoint(Path("file.pth"), weights)


def mini(**changes: object) -> dict[str, torch.Tensor]:
    arguments: dict[str, object] = {"classes": 1000} | changes
    return upstream.drawn(upstream.original_shapes(64, (3, 4, 6, 5), (2, 4, 8, 16), **arguments))


def refusal(weights: dict[str, torch.Tensor], model: str, **changes: object) -> CheckpointError:
    config = get_variant(model).config
    with pytest.raises(CheckpointError) as caught:
        fit(checkpoint(weights), config.replace(**changes) if changes else config)
    return caught.value


def test_another_variant_is_recognised() -> None:
    error = refusal(mini(), "dinat_tiny")
    assert "depths (3, 4, 6, 5)" in error.cause
    assert "depths (3, 4, 18, 5)" in error.cause
    assert "like nat_mini or dinat_mini" in error.cause
    assert error.cure == "The model is another one: use --model nat_mini or dinat_mini."


def test_an_unknown_architecture_asks_for_its_configuration() -> None:
    weights = upstream.drawn(upstream.original_shapes(32, (2, 2), (2, 4)))
    assert refusal(weights, "dinat_tiny").cure == (
        "The model is another one: give its architecture with --config."
    )


def test_layer_scale_tells_small_from_small() -> None:
    weights = upstream.drawn(
        upstream.original_shapes(96, (3, 4, 18, 5), (3, 6, 12, 24), ratio=2.0, layer_scale=True)
    )
    error = refusal(weights, "dinat_small")
    assert "not in the model (60)" in error.cause
    assert error.cure == "Layer scale differs: use --model nat_small."


def test_another_kernel_size_hints_at_the_resize() -> None:
    error = refusal(mini(kernel=11), "dinat_mini")
    assert (
        "levels.0.blocks.0.attn.rpb: [2, 21, 21] in the file, [2, 13, 13] in the model"
        in error.cause
    )
    assert "--kernel-size 11, or --resize-rpb" in error.cure


def test_bias_tables_are_resized_on_request() -> None:
    weights = mini()
    config = get_variant("dinat_mini").config.replace(kernel_size=11)
    fitted = fit(checkpoint(weights), config, resize_rpb=True)
    assert fitted.state["levels.0.blocks.0.attn.rpb"].shape == (2, 21, 21)
    assert fitted.notes == ["resized 18 positional bias tables to 21x21 (bicubic)"]


def test_resizing_keeps_constants_and_the_middle_and_symmetry() -> None:
    constant = torch.full((3, 13, 13), 0.7)
    assert torch.allclose(
        resize_bias(constant, torch.Size((3, 21, 21))), torch.full((3, 21, 21), 0.7)
    )
    ramp = torch.linspace(-1, 1, 13).expand(2, 13, 13)
    resized = resize_bias(ramp, torch.Size((2, 21, 21)))
    assert resized[0, 10, 10].item() == pytest.approx(0, abs=1e-6)
    assert torch.allclose(resized, -resized.flip(-1), atol=1e-6)


def test_the_22k_head_is_recognised() -> None:
    weights = upstream.drawn(
        upstream.original_shapes(192, (1, 1, 1, 1), (6, 12, 24, 48), ratio=2.0, classes=21841)
    )
    config = get_variant("dinat_large").config.replace(depths=(1, 1, 1, 1))
    with pytest.raises(CheckpointError) as caught:
        fit(checkpoint(weights), config)
    assert caught.value.cure == "Use --num-classes 21841, the ImageNet-22k head."


def test_missing_bias_points_at_newer_natten() -> None:
    weights = {name: value for name, value in mini().items() if not name.endswith("rpb")}
    error = refusal(weights, "dinat_mini")
    assert "missing in the file (18)" in error.cause
    assert "NATTEN >= 0.20" in error.cure


def test_backbones_and_classifiers_are_told_apart() -> None:
    backbone = mini(classes=None, norms=True)
    assert "--task backbone" in refusal(backbone, "dinat_mini").cure
    error = refusal(mini(), "dinat_mini", out_levels=(0, 1, 2, 3))
    assert "lacks the norms of a backbone" in error.cure


def test_incomplete_and_foreign_files() -> None:
    weights = mini()
    del weights["levels.2.blocks.3.mlp.fc1.bias"]
    assert refusal(weights, "dinat_mini").cure.startswith("The file is incomplete")
    weights = mini() | {"levels.0.blocks.0.attn.extra": torch.zeros(1)}
    assert refusal(weights, "dinat_mini").cure == "Check that the file belongs to this model."
    assert (
        "no complete NAT or DiNAT"
        in refusal({"patch_embed.proj.0.weight": torch.zeros(1)}, "dinat_mini").cure
    )


def test_integer_weights_are_refused_and_half_precision_is_widened() -> None:
    weights = mini() | {"head.bias": torch.zeros(1000, dtype=torch.int32)}
    assert "head.bias: type torch.int32 in the file" in refusal(weights, "dinat_mini").cause
    half = {name: value.half() for name, value in mini().items()}
    state = fit(checkpoint(half), get_variant("dinat_mini").config).state
    assert all(value.dtype == torch.float32 for value in state.values())


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_detected_from_its_own_shapes(name: str) -> None:
    config = VARIANTS[name].config
    with torch.device("meta"):
        found = detect(DinatModel(config).state_dict())
    assert found is not None
    assert found.architecture == config.architecture
    assert found.depths == config.depths
    assert found.num_heads == config.num_heads
    assert found.kernel_size == config.kernel_size
    assert found.num_classes == config.num_classes
    assert found.layer_scale == (config.layer_scale is not None)


def test_values_that_are_not_finite_are_refused() -> None:
    weights = mini()
    weights["head.bias"][3] = float("nan")
    weights["norm.weight"][0] = float("inf")
    error = refusal(weights, "dinat_mini")
    assert "not finite, in 2 tensors (norm.weight, head.bias)" in error.cause
