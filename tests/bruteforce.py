"""Neighborhood attention by plain loops in float64: a second opinion, written from the formulas.

Deliberately shares nothing with the package, not even the window arithmetic.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def axis_keys(
    length: int, kernel: int, dilation: int, stride: int = 1, causal: bool = False
) -> list[list[int]]:
    """The tokens that each token of an axis attends to."""
    keys = []
    for token in range(length):
        group = [other for other in range(length) if other % dilation == token % dilation]
        place = group.index(token)
        if causal:
            leader = min(place - place % stride + stride - 1, len(group) - 1)
            window = range(max(leader - kernel + 1, 0), place + 1)
        else:
            leader = min(place - place % stride + stride // 2, len(group) - 1)
            start = min(max(leader - kernel // 2, 0), len(group) - kernel)
            window = range(start, start + kernel)
        keys.append([group[member] for member in window])
    return keys


def attention(
    query: Array,
    key: Array,
    value: Array,
    rpb: Array | None,
    kernel: Sequence[int],
    dilation: Sequence[int],
    scale: float,
    stride: Sequence[int] | None = None,
    causal: Sequence[bool] | None = None,
) -> Array:
    """``[B, *sizes, heads, dim]`` of any rank."""
    sizes = query.shape[1:-2]
    rank = len(sizes)
    stride = stride or [1] * rank
    causal = causal or [False] * rank
    per_axis = [
        axis_keys(*arguments)
        for arguments in zip(sizes, kernel, dilation, stride, causal, strict=True)
    ]
    query, key, value = (np.asarray(array, np.float64) for array in (query, key, value))
    output = np.empty_like(query)
    for token in itertools.product(*(range(size) for size in sizes)):
        keys = list(itertools.product(*(per_axis[axis][token[axis]] for axis in range(rank))))
        index = tuple(np.array([k[axis] for k in keys]) for axis in range(rank))
        near_key, near_value = key[(slice(None), *index)], value[(slice(None), *index)]
        scores = np.einsum("bhd,bnhd->bhn", query[(slice(None), *token)] * scale, near_key)
        if rpb is not None:
            offsets = tuple(
                (index[axis] - token[axis]) // dilation[axis] + kernel[axis] - 1
                for axis in range(rank)
            )
            scores = scores + np.asarray(rpb, np.float64)[(slice(None), *offsets)][None]
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        output[(slice(None), *token)] = np.einsum("bhn,bnhd->bhd", weights, near_value)
    return output
