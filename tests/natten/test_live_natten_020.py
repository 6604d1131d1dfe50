"""The stand-in against a live NATTEN of 0.21, which runs on the CPU through PyTorch's FlexAttention.

Not part of the normal run: ``pip install --no-build-isolation natten==0.21.6`` (no CUDA needed).
"""

from __future__ import annotations

from importlib import metadata, util
from types import ModuleType

import numpy as np
import pytest
import torch

from dinat_deploy.natten import substitute

if util.find_spec("natten") is None or not metadata.version("natten").startswith("0.21."):
    pytest.skip("NATTEN 0.21 is not installed", allow_module_level=True)

pytestmark = pytest.mark.natten


@pytest.fixture(scope="module")
def real() -> ModuleType:
    import natten

    return natten


@pytest.fixture(scope="module")
def ours() -> ModuleType:
    with substitute("0.21") as natten:
        return natten


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(60))
def test_fused_functions(seed: int, real: ModuleType, ours: ModuleType) -> None:
    """Random windows: even kernels, stride, dilation, causality, shared heads, more tokens."""
    rng = np.random.default_rng(seed)
    rank = int(rng.integers(1, 4))
    kernel = [int(n) for n in rng.integers(2, 6, rank)]
    dilation = [int(n) for n in rng.integers(1, 4, rank)]
    stride = [int(rng.integers(1, size + 1)) for size in kernel]
    causal = [bool(draw < 0.4) for draw in rng.random(rank)]
    sizes = [k * d + int(rng.integers(0, 3)) for k, d in zip(kernel, dilation, strict=True)]
    if rank == 1 and kernel == sizes and any(causal):
        sizes = [
            sizes[0] + 1
        ]  # NATTEN calls plain attention here, which Flex has no causal mask for
    heads, shared = 4, int(rng.choice([2, 4]))
    query = drawn(1, *sizes, heads, 16, seed=seed)
    key, value = (drawn(1, *sizes, shared, 16, seed=seed + n) for n in (1, 2))
    options = {}
    if seed % 3 == 0:
        options = {
            "additional_keys": drawn(1, 6, shared, 16, seed=seed + 3),
            "additional_values": drawn(1, 6, shared, 16, seed=seed + 4),
            "attention_kwargs": {"backend": "flex-fmha"},
        }
    window = (tuple(kernel), tuple(stride), tuple(dilation), tuple(causal))
    name = f"na{rank}d"
    expected, expected_sums = getattr(real, name)(
        query, key, value, *window, backend="flex-fna", return_lse=True, **options
    )
    found = getattr(ours, name)(query, key, value, *window, backend="flex-fna", **options)
    assert (expected - found).abs().max() <= 1e-5
    found, sums = getattr(ours, name)(query, key, value, *window, return_lse=True, **options)
    assert (expected - found).abs().max() <= 1e-5
    assert (expected_sums - sums).abs().max() <= 1e-5


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_modules(rank: int, real: ModuleType, ours: ModuleType) -> None:
    name = f"NeighborhoodAttention{rank}D"
    window = [values[:rank] for values in ((4, 3, 2), (2, 3, 1), (1, 2, 2), (False, True, False))]
    expected, found = getattr(real, name)(32, 2, *window), getattr(ours, name)(32, 2, *window)
    found.load_state_dict(expected.state_dict())
    with torch.no_grad():
        x = drawn(2, *(7, 8, 6)[:rank], 32, seed=0)
        assert (expected(x) - found(x)).abs().max() <= 1e-5
