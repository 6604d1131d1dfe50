"""The modules of every NATTEN: constructors, parameters, padding, dropout."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import nn

from dinat_deploy.errors import OperatorError
from dinat_deploy.models.layers import NeighborhoodAttention
from dinat_deploy.natten import substitute
from dinat_deploy.ops.functional import neighborhood_attention


def stand_in(version: str) -> ModuleType:
    with substitute(version) as natten:
        return natten


EARLY, PADDED, RPB, STRIDE = (stand_in(version) for version in ("0.14.4", "0.15", "0.17", "0.21"))


def seeded(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.eval()


def by_hand(module: nn.Module, x: torch.Tensor, **window: object) -> torch.Tensor:
    query, key, value = module.qkv(x).unflatten(-1, (3, module.num_heads, -1)).unbind(-3)
    rpb = getattr(module, "rpb", None)
    out = neighborhood_attention(query, key, value, rpb, **window)
    return module.proj(out.flatten(-2))


def test_each_generation_has_its_parameters_in_its_order() -> None:
    early = EARLY.NeighborhoodAttention2D(24, 3, 2, True, None, 0.0, 0.0, 2)
    assert (early.kernel_size, early.num_heads, early.dilation) == (3, 2, 2)
    padded = PADDED.NeighborhoodAttention2D(24, 2, 3, 2, bias=False)
    assert (padded.kernel_size, padded.window_size, padded.rpb) == (3, 6, None)
    deep = PADDED.NeighborhoodAttention3D(24, 2, 3, kernel_size_d=5, dilation=2)
    assert deep.rpb.shape == (2, 9, 5, 5)
    assert (deep.window_size, deep.window_size_d) == (6, 10)
    rpb = RPB.NeighborhoodAttention2D(24, 2, (3, 5), 2, False, True)
    assert (rpb.kernel_size, rpb.dilation) == ((3, 5), (2, 2))
    assert set(rpb.state_dict()) == {"qkv.weight", "qkv.bias", "rpb", "proj.weight", "proj.bias"}
    assert RPB.NeighborhoodAttention1D(24, 2, 3).rpb is None
    new = STRIDE.NeighborhoodAttention2D(24, 2, 4, 2, 3, qkv_bias=False)
    assert (new.stride, new.dilation) == ((2, 2), (3, 3))
    assert set(new.state_dict()) == {"qkv.weight", "proj.weight", "proj.bias"}


@pytest.mark.parametrize("size", [(8, 9), (12, 5), (5, 13), (4, 4)])
def test_old_modules_pad_small_maps_as_the_published_models_need(size: tuple[int, int]) -> None:
    module = seeded(PADDED.NeighborhoodAttention2D(16, 2, 3, 3))
    ours = NeighborhoodAttention(16, 2, 3, 3).eval()
    ours.load_state_dict(module.state_dict())
    early = EARLY.NeighborhoodAttention2D(16, 3, 2, dilation=3).eval()
    early.load_state_dict(module.state_dict())
    x = torch.randn(2, *size, 16, generator=torch.Generator().manual_seed(1))
    assert torch.equal(module(x), ours(x))
    assert torch.equal(early(x), ours(x))


def test_new_modules_refuse_small_maps() -> None:
    for module in (
        RPB.NeighborhoodAttention2D(16, 2, 3, 3),
        STRIDE.NeighborhoodAttention2D(16, 2, 3, 1, 3),
    ):
        with pytest.raises(OperatorError, match="exceeds axis 1 of the map, which has 8 tokens"):
            module(torch.zeros(1, 9, 8, 16))


def test_a_dilation_in_words_is_the_largest_that_fits() -> None:
    module = seeded(EARLY.NeighborhoodAttention2D(16, 3, 2, dilation="max"))
    x = torch.randn(1, 7, 10, 16)
    assert torch.allclose(module(x), by_hand(module, x, kernel_size=3, dilation=2), atol=1e-6)


@pytest.mark.parametrize(
    ("module", "sizes", "window"),
    [
        (RPB.NeighborhoodAttention1D(16, 2, 3, 2, rel_pos_bias=True), (9,), {"dilation": 2}),
        (RPB.NeighborhoodAttention2D(16, 2, 3, is_causal=(True, False)), (6, 5), {"is_causal": (True, False)}),
        (RPB.NeighborhoodAttention3D(16, 2, 3, rel_pos_bias=True), (4, 3, 5), {}),
        (PADDED.NeighborhoodAttention1D(16, 2, 3, 2), (9,), {"dilation": 2}),
        (PADDED.NeighborhoodAttention3D(16, 2, 3, dilation_d=2), (6, 3, 5), {"dilation": (2, 1, 1)}),
        (STRIDE.NeighborhoodAttention1D(16, 2, 3, 2, is_causal=True), (9,), {"stride": 2, "is_causal": True}),
        (STRIDE.NeighborhoodAttention2D(16, 2, 3, 2, (1, 2)), (6, 7), {"stride": 2, "dilation": (1, 2)}),
        (STRIDE.NeighborhoodAttention3D(16, 2, 3), (4, 3, 5), {}),
    ],
)  # fmt: skip
def test_modules_are_projection_attention_projection(
    module: nn.Module, sizes: tuple[int, ...], window: dict[str, object]
) -> None:
    seeded(module)
    x = torch.randn(2, *sizes, 16)
    assert torch.allclose(module(x), by_hand(module, x, kernel_size=3, **window), atol=1e-6)


def test_weights_are_dropped_while_training_only() -> None:
    module = seeded(RPB.NeighborhoodAttention2D(16, 2, 3, rel_pos_bias=True, attn_drop=0.5))
    x = torch.randn(1, 6, 6, 16)
    evaluated = module(x)
    module.attn_drop.p = 0.0
    assert torch.equal(evaluated, module(x))
    module.attn_drop.p = 0.5
    module.train()
    torch.manual_seed(1)
    mean = torch.stack([module(x) for _ in range(300)]).mean(0)
    assert not torch.allclose(module(x), evaluated, atol=1e-3)
    assert (mean - evaluated).abs().mean() < 0.15 * evaluated.abs().mean()


def test_shapes_that_do_not_fit_are_refused() -> None:
    for refused in (
        lambda: STRIDE.NeighborhoodAttention2D(16, 3, 3),
        lambda: RPB.NeighborhoodAttention2D(16, 2, (3, 3, 3)),
        lambda: RPB.NeighborhoodAttention2D(16, 2, 3, is_causal=True, rel_pos_bias=True),
        lambda: PADDED.NeighborhoodAttention2D(16, 2, 4),
        lambda: RPB.NeighborhoodAttention2D(16, 2, 3)(torch.zeros(1, 9, 16)),
        lambda: STRIDE.NeighborhoodAttention1D(16, 2, 3)(torch.zeros(1, 9, 8)),
    ):
        with pytest.raises(OperatorError):
            refused()
