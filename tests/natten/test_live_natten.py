"""The stand-in against a live NATTEN 0.17.5; how to install it is in tests/ops/test_natten.py."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata, util
from types import ModuleType

import pytest
import torch
from torch import nn

from dinat_deploy.natten import substitute

if util.find_spec("natten") is None or not metadata.version("natten").startswith("0.17."):
    pytest.skip("NATTEN 0.17 is not installed", allow_module_level=True)

pytestmark = pytest.mark.natten

CASES = [
    # sizes, kernel, dilation, causal
    ((11,), (3,), (2,), (False,)),
    ((14,), (7,), (2,), (True,)),
    ((9, 10), (3, 3), (3, 2), (False, False)),
    ((9, 10), (5, 3), (1, 2), (True, False)),
    ((8, 8), (3, 5), (2, 1), (True, True)),
    ((4, 6, 7), (3, 5, 3), (1, 1, 2), (False, False, False)),
    ((4, 6, 7), (3, 3, 3), (1, 2, 1), (True, False, True)),
]


@pytest.fixture(scope="module")
def real() -> Iterator[ModuleType]:
    # 0.17.5 asks for a GPU's capability while it is imported, and for a name that newer PyTorch
    # has moved.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "_device_t", torch.types.Device, raising=False)
        patch.setattr(torch.cuda, "get_device_capability", lambda *_: (0, 0))
        import natten
        import natten.functional

        yield natten


@pytest.fixture(scope="module")
def ours() -> ModuleType:
    with substitute("0.17.5") as natten:
        return natten


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("sizes", "kernel", "dilation", "causal"), CASES)
@pytest.mark.parametrize("extra", [0, 5])
def test_scores_and_sums(
    sizes: tuple[int, ...],
    kernel: tuple[int, ...],
    dilation: tuple[int, ...],
    causal: tuple[bool, ...],
    extra: int,
    real: ModuleType,
    ours: ModuleType,
) -> None:
    rank = len(sizes)
    query, key, value = (drawn(2, 2, *sizes, 8, seed=seed) for seed in range(3))
    rpb = None if any(causal) else drawn(2, *(2 * size - 1 for size in kernel), seed=3)
    far = [drawn(2, 2, extra, 8, seed=seed) if extra else None for seed in (4, 5)]
    found = []
    for functional in (real.functional, ours.functional):
        inputs = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
        scores = getattr(functional, f"na{rank}d_qk")(
            inputs[0], inputs[1], kernel, dilation, far[0], causal, rpb
        )
        out = getattr(functional, f"na{rank}d_av")(
            scores.softmax(-1), inputs[2], kernel, dilation, far[1], causal
        )
        out.square().sum().backward()
        found.append([scores, out, *(tensor.grad for tensor in inputs)])
    for number, (expected, mine) in enumerate(zip(*found, strict=True)):
        # Gradients of several summed windows are larger than scores.
        limit = 1e-5 if number < 2 else 1e-4
        assert torch.equal(torch.isinf(expected), torch.isinf(mine))
        seen = ~torch.isinf(expected)
        assert (expected[seen] - mine[seen]).abs().max() <= limit


@pytest.mark.parametrize(("sizes", "kernel", "dilation", "causal"), CASES)
def test_modules(
    sizes: tuple[int, ...],
    kernel: tuple[int, ...],
    dilation: tuple[int, ...],
    causal: tuple[bool, ...],
    real: ModuleType,
    ours: ModuleType,
) -> None:
    name = f"NeighborhoodAttention{len(sizes)}D"
    options = {"dilation": dilation, "is_causal": causal, "rel_pos_bias": not any(causal)}
    expected: nn.Module = getattr(real, name)(16, 2, kernel, **options)
    mine: nn.Module = getattr(ours, name)(16, 2, kernel, **options)
    mine.load_state_dict(expected.state_dict())
    assert list(mine.state_dict()) == list(expected.state_dict())
    x = drawn(2, *sizes, 16, seed=9)
    assert (expected(x) - mine(x)).abs().max() <= 1e-5


def test_every_public_name_is_there(real: ModuleType, ours: ModuleType) -> None:
    assert set(real.__all__) <= set(vars(ours))
    unfused = {f"na{rank}d{half}" for rank in (1, 2, 3) for half in ("", "_qk", "_av")}
    assert unfused <= set(vars(ours.functional))
    assert set(real.types.__dict__) >= {"Dimension2DTypeOrDed"} <= set(vars(ours.types))
