"""Random operator problems for property tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from tests import bruteforce


@dataclass(frozen=True)
class Problem:
    """Shape and parameters of a 2-D neighborhood attention."""

    batch: int
    sizes: tuple[int, int]
    heads: int
    dim: int
    kernel: tuple[int, int]
    dilation: tuple[int, int]
    has_rpb: bool
    seed: int

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        return (self.batch, *self.sizes, self.heads, self.dim)

    @property
    def scale(self) -> float:
        return float(self.dim**-0.5)

    def arrays(self) -> tuple[list[np.ndarray], np.ndarray | None]:
        """float32 query, key, value and the positional bias (or None)."""
        rng = np.random.default_rng(self.seed)
        tensors = [rng.standard_normal(self.shape).astype(np.float32) for _ in range(3)]
        if not self.has_rpb:
            return tensors, None
        table = (self.heads, 2 * self.kernel[0] - 1, 2 * self.kernel[1] - 1)
        return tensors, rng.standard_normal(table).astype(np.float32)


def blinded(
    problem: Problem, tensors: list[np.ndarray], data: st.DataObject, value: float
) -> tuple[list[np.ndarray], np.ndarray]:
    """Copies with ``value`` in the keys and values of one token, and which queries do not see it.

    Returns:
        query, key, value; and a boolean map of the sizes.
    """
    token = tuple(data.draw(st.integers(0, size - 1)) for size in problem.sizes)
    changed = [array.copy() for array in tensors]
    changed[1][:, token[0], token[1]] = value
    changed[2][:, token[0], token[1]] = value
    seen = [
        [token[axis] in keys for keys in bruteforce.axis_keys(size, kernel, dilation)]
        for axis, (size, kernel, dilation) in enumerate(
            zip(problem.sizes, problem.kernel, problem.dilation, strict=True)
        )
    ]
    return changed, ~np.outer(seen[0], seen[1])


@st.composite
def problems(
    draw: st.DrawFn, tight: bool = False, slack: int = 12, square: bool = False
) -> Problem:
    """Problems of up to some hundred tokens.

    Args:
        tight: the window fills the map exactly, kernel * dilation = size on both axes.
        square: one kernel and dilation for both axes.
    """

    def axis() -> tuple[int, int, int]:
        kernel, dilation = draw(st.integers(1, 7)), draw(st.integers(1, 3))
        extra = 0 if tight else draw(st.integers(0, slack))
        return kernel, dilation, kernel * dilation + extra

    first = axis()
    second = axis()
    if square:
        size = first[0] * first[1] + (0 if tight else draw(st.integers(0, slack)))
        second = (first[0], first[1], size)
    return Problem(
        batch=draw(st.integers(1, 2)),
        sizes=(first[2], second[2]),
        heads=draw(st.integers(1, 3)),
        dim=draw(st.sampled_from([1, 4, 8])),
        kernel=(first[0], second[0]),
        dilation=(first[1], second[1]),
        has_rpb=draw(st.booleans()),
        seed=draw(st.integers(0, 2**16)),
    )
