"""Which keys each query sees: the definition of neighborhood attention, one axis at a time.

This module is the definition that every implementation in the project (PyTorch, ONNX body, CPU
and CUDA kernels) is held to. It knows nothing of PyTorch; multi-dimensional neighborhood
attention is the Cartesian product of what is said here for each axis.

For an axis of length ``L``, kernel size ``k`` and dilation ``d``, token ``i`` belongs to the
dilation group ``g = i mod d`` and is its member number ``p = i div d``. The group has
``n = ceil((L - g) / d)`` members, and token ``i`` attends to the members ``start <= m < stop`` of
its own group, which are the tokens ``g + m*d``:

* ``start = clamp(p - k div 2, 0, n - k)`` and ``stop = start + k`` (Dilated Neighborhood
  Attention Transformer, arXiv 2209.15001, section 3): at a border the window is shifted
  inward, it is never padded, so that every query sees exactly ``k`` keys;
* with a ``stride`` ``s`` (NATTEN >= 0.20), queries share the window of their leader
  ``min((p div s)*s + s div 2, n - 1)``, which takes the place of ``p`` above;
* if causal (NATTEN >= 0.17), the leader is ``min((p div s)*s + s - 1, n - 1)``,
  ``start = max(leader - (k - 1), 0)`` and ``stop = p + 1``: no key lies behind its query.

The relative positional bias of a query-key pair has the index ``m - p + (k - 1)``, which counts
members of the group, not tokens: it does not depend on the dilation.

It follows that ``k*d <= L`` is needed, for then every group has at least ``k`` members.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from dinat_deploy.errors import OperatorError

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AxisWindow:
    """Attention parameters of one axis (all counts in tokens or group members)."""

    kernel_size: int
    dilation: int = 1
    stride: int = 1
    is_causal: bool = False

    def check(self) -> None:
        """Raise :class:`OperatorError` if the parameters mean nothing for any axis length."""
        if self.kernel_size < 1 or self.dilation < 1:
            raise OperatorError(
                f"kernel_size {self.kernel_size} and dilation {self.dilation} must be at least 1."
            )
        if not 1 <= self.stride <= self.kernel_size:
            raise OperatorError(
                f"stride {self.stride} must lie between 1 and the kernel size {self.kernel_size}."
            )

    @property
    def span(self) -> int:
        """The shortest axis, in tokens, that the window fits on: ``kernel_size * dilation``."""
        return self.kernel_size * self.dilation


@dataclass(frozen=True)
class AxisMembers:
    """Where every token of an axis stands, and which members of its group it attends to.

    Every field is an int64 array of shape ``[length]``.
    """

    group: IntArray
    place: IntArray
    members: IntArray
    start: IntArray
    stop: IntArray


def axis_members(length: int, window: AxisWindow) -> AxisMembers:
    """Apply the definition in the module's docstring to an axis of ``length`` tokens.

    Raises:
        OperatorError: the window does not fit, ``kernel_size * dilation > length``.
    """
    window.check()
    if window.span > length:
        raise OperatorError(
            f"kernel_size {window.kernel_size} * dilation {window.dilation} = {window.span} "
            f"exceeds the axis length {length}.",
            "Use a larger input, a smaller kernel or dilation, or zero-pad the map first.",
        )
    kernel, dilation, stride = window.kernel_size, window.dilation, window.stride
    token = np.arange(length, dtype=np.int64)
    group, place = token % dilation, token // dilation
    members = (length - group + dilation - 1) // dilation
    if window.is_causal:
        leader = np.minimum((place // stride) * stride + stride - 1, members - 1)
        start = np.maximum(leader - (kernel - 1), 0)
        stop = place + 1
    else:
        leader = np.minimum((place // stride) * stride + stride // 2, members - 1)
        start = np.clip(leader - kernel // 2, 0, members - kernel)
        stop = start + kernel
    return AxisMembers(group, place, members, start, stop)


@dataclass(frozen=True)
class AxisTiles:
    """An axis cut into tiles of queries, each with the keys that any of its queries needs.

    A tile holds queries of one dilation group. ``count`` tiles of ``size`` queries and ``reach``
    keys; queries and keys that pad a tile repeat a token of the same group and are masked or
    ignored. Few tiles differ in which of their pairs see each other (the first, the last, the ones
    in between), so these patterns are kept once.

    Attributes:
        query: token of each query, int64 ``[count, size]``.
        key: token of each key, int64 ``[count, reach]``.
        pattern: which pattern each tile has, int64 ``[count]``.
        bias: bias index of each pair, int64 ``[patterns, size, reach]``; ``2*kernel_size - 1``,
            one past the table, where the query does not see the key.
        inverse: position of each token in ``query`` read flat, int64 ``[length]``.
    """

    query: IntArray
    key: IntArray
    pattern: IntArray
    bias: IntArray
    inverse: IntArray
    kernel_size: int

    @property
    def count(self) -> int:
        return self.query.shape[0]

    @property
    def size(self) -> int:
        return self.query.shape[1]

    @property
    def reach(self) -> int:
        return self.key.shape[1]

    @property
    def masked(self) -> bool:
        """Whether any query of a tile must not see one of the tile's keys."""
        return bool((self.bias == 2 * self.kernel_size - 1).any())


@lru_cache(maxsize=256)
def axis_tiles(length: int, window: AxisWindow, tile: int) -> AxisTiles:
    """Cut an axis into tiles of (at most) ``tile`` queries of the same dilation group."""
    axis = axis_members(length, window)
    dilation = window.dilation
    longest = -(-length // dilation)
    size = min(tile, longest)
    per_group = -(-longest // size)

    group = np.arange(dilation, dtype=np.int64)[:, None, None]
    members = (length - group + dilation - 1) // dilation
    wanted = np.arange(per_group * size, dtype=np.int64).reshape(1, per_group, size)
    place = np.minimum(wanted, members - 1)
    query = group + place * dilation
    start, stop = axis.start[query], axis.stop[query]

    first, last = start.min(-1), stop.max(-1)
    reach = int((last - first).max())
    base = np.maximum(np.minimum(first, members[..., 0] - reach), 0)
    member = base[..., None] + np.arange(reach, dtype=np.int64)
    key = group + np.minimum(member, members - 1) * dilation

    pair = member[:, :, None, :]
    seen = (pair >= start[..., None]) & (pair < stop[..., None]) & (pair < members[..., None])
    outside = 2 * window.kernel_size - 1
    bias = np.where(seen, pair - place[..., None] + window.kernel_size - 1, outside)

    count = dilation * per_group
    patterns, pattern = np.unique(bias.reshape(count, -1), axis=0, return_inverse=True)
    slot = (axis.group * per_group + axis.place // size) * size + axis.place % size
    return AxisTiles(
        query.reshape(count, size),
        key.reshape(count, reach),
        pattern.reshape(count),
        patterns.reshape(-1, size, reach),
        slot,
        window.kernel_size,
    )
