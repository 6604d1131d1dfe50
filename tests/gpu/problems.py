"""Inputs on the GPU, the operator in float64, and the accuracy that is asked of the kernels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dinat_deploy.ops.functional import neighborhood_attention_2d
from tests.gpu.binding import HEURISTIC, Kernels, problem_of

# Largest difference from float64 on the same (rounded) inputs, relative to the largest output.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
DTYPES = tuple(TOLERANCE)


@dataclass(frozen=True)
class Setting:
    """A problem by its numbers; ``size`` in tokens, pairs are (rows, columns)."""

    batch: int
    size: tuple[int, int]
    heads: int
    dim: int
    kernel: tuple[int, int]
    dilation: tuple[int, int]

    @property
    def name(self) -> str:
        pairs = (f"{a}x{b}" for a, b in (self.size, self.kernel, self.dilation))
        size, kernel, dilation = pairs
        return f"b{self.batch}-{size}-h{self.heads}-d{self.dim}-k{kernel}-dil{dilation}"

    @property
    def window(self) -> dict[str, tuple[int, int]]:
        return {"kernel_size": self.kernel, "dilation": self.dilation}


def square(
    size: int, heads: int, kernel: int, dilation: int, dim: int = 32, batch: int = 1
) -> Setting:
    return Setting(batch, (size, size), heads, dim, (kernel, kernel), (dilation, dilation))


STAGES = (
    *(
        square(size, heads, 7, dilation)
        for size, heads, largest in ((56, 2, 8), (28, 4, 4), (14, 8, 2), (96, 2, 13), (128, 2, 18))
        for dilation in (1, largest)
    ),
    square(7, 16, 7, 1, batch=3),
    square(56, 6, 7, 8, batch=2),
    square(96, 6, 11, 1),
    square(96, 6, 11, 8),
    Setting(1, (200, 334), 2, 32, (7, 7), (28, 28)),
    Setting(1, (50, 84), 8, 32, (7, 7), (7, 7)),
    Setting(2, (25, 42), 16, 32, (7, 7), (1, 1)),
)
"""Layers of DiNAT at 224, 384, 512 and 800x1333 pixels."""

RAGGED = (
    *(Setting(1, (29, 31), 2, 32, (k, k), (2, 2)) for k in (3, 5, 7, 9, 11, 13)),
    *(Setting(1, (27, 40), 1, dim, (7, 7), (3, 2)) for dim in (8, 16, 24, 64, 128)),
    Setting(3, (8, 65), 3, 32, (7, 7), (1, 9)),
    Setting(1, (15, 17), 5, 32, (7, 7), (2, 1)),
    Setting(1, (11, 19), 2, 32, (5, 3), (2, 6)),
    Setting(1, (12, 13), 2, 32, (4, 6), (3, 2)),
    Setting(1, (1, 9), 1, 32, (1, 7), (1, 1)),
)
"""Groups of several sizes, tiles that overhang, windows that are not square, odd and even."""


@dataclass(frozen=True)
class Inputs:
    """Heads-last tensors ``[B, H, W, heads, dim]`` of one type, and the bias."""

    query: Tensor
    key: Tensor
    value: Tensor
    rpb: Tensor | None

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.query, self.key, self.value

    def expected(self, window: dict[str, Any], scale: float | None = None) -> Tensor:
        """The operator in float64 on the very values that the kernels read."""
        query, key, value = (tensor.double() for tensor in self.tensors)
        rpb = None if self.rpb is None else self.rpb.double()
        return neighborhood_attention_2d(query, key, value, rpb, scale=scale, **window)


def poisoned(like: Tensor) -> Tensor:
    """A contiguous output of the same shape in which every value is NaN."""
    return torch.full(like.shape, torch.nan, dtype=like.dtype, device=like.device)


def laid_out(query: Tensor, key: Tensor, value: Tensor, packed: bool) -> tuple[Tensor, ...]:
    """The same values as views of one packed tensor, or as three tensors."""
    if packed:
        return torch.stack([query, key, value], dim=3).unbind(3)
    return tuple(tensor.contiguous() for tensor in (query, key, value))


def random_inputs(
    setting: Setting,
    dtype: torch.dtype,
    *,
    packed: bool = True,
    rpb: bool = True,
    seed: int = 0,
    device: str = "cuda",
) -> Inputs:
    generator = torch.Generator(device).manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device).to(dtype)

    shape = (setting.batch, *setting.size, setting.heads, setting.dim)
    parts = laid_out(random(*shape), random(*shape), random(*shape), packed)
    kh, kw = setting.kernel
    table = random(setting.heads, 2 * kh - 1, 2 * kw - 1) if rpb else None
    return Inputs(parts[0], parts[1], parts[2], table)


def from_numpy(
    arrays: tuple[np.ndarray, ...], rpb: np.ndarray | None, dtype: torch.dtype, packed: bool
) -> Inputs:
    query, key, value = (torch.from_numpy(array.copy()).cuda().to(dtype) for array in arrays)
    parts = laid_out(query, key, value, packed)
    table = None if rpb is None else torch.from_numpy(rpb).cuda().to(dtype)
    return Inputs(parts[0], parts[1], parts[2], table)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected value; NaN if any value is NaN."""
    difference = (found.double() - expected).abs().max() / expected.abs().max()
    return float(difference)


def each_tactic(
    kernels: Kernels, inputs: Inputs, window: dict[str, Any], scale: float | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Outputs of the heuristic and of every tactic that can compute a problem."""
    problem = problem_of(inputs.query, poisoned(inputs.query), **window, scale=scale)
    tactics = kernels.tactics(problem)
    assert tactics, "a valid problem has no tactic"
    assert HEURISTIC not in tactics
    for tactic in (HEURISTIC, *tactics):
        out = poisoned(inputs.query)
        kernels.attention(*inputs.tensors, inputs.rpb, out, **window, scale=scale, tactic=tactic)
        yield kernels.tactic_name(tactic), out


def check_tactics(
    kernels: Kernels,
    inputs: Inputs,
    window: dict[str, Any],
    expected: Tensor,
    scale: float | None = None,
) -> None:
    """Every tactic writes every value, and each is right."""
    for name, out in each_tactic(kernels, inputs, window, scale):
        error = relative_error(out, expected)
        assert error <= TOLERANCE[out.dtype], f"tactic {name}: relative error {error:.2e}"
