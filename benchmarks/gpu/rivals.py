"""What the kernels are compared with: other ways to compute the operator in PyTorch.

A contestant maps a packed qkv ``[B, H, W, 3*heads*dim]`` to ``[B, H, W, heads*dim]``, permutes and
all. Everything that depends on the shape and the bias alone is prepared beforehand and not timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dinat_deploy.ops.functional import neighborhood_attention_qkv_2d
from dinat_deploy.ops.windows import AxisWindow, axis_members
from gpu.shapes import Row

DENSE_TOKENS = 4096
MASK_BYTES = 4 << 30
GATHERED_BYTES = 8 << 30
# SDPA's kernels copy a mask whose rows do not start at multiples of 16 elements.
MASK_ALIGNMENT = 16


class UnavailableError(Exception):
    """A contestant that a row rules out; the text says why."""


def _same(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Contestant:
    """One way to compute a row.

    Attributes:
        run: what is timed: (input, buffer to write the output to if it can) -> output.
        feed: makes its input from the packed qkv, untimed.
        restore: makes ``[B, H, W, C]`` from its output, untimed.
        complete: whether it starts from the packed qkv and ends with the packed output, as a model
            needs it; only then it counts as a rival.
        capturable: whether a CUDA graph can hold it; if not, it is timed launch by launch.
        notes: what it took to prepare it.
    """

    name: str
    run: Callable[[Any, Tensor], Tensor]
    feed: Callable[[Tensor], Any] = _same
    restore: Callable[[Tensor], Tensor] = _same
    complete: bool = True
    capturable: bool = True
    notes: dict[str, float | str] = field(default_factory=dict)


Maker = Callable[[Row, Tensor], Contestant]


def split_heads(qkv: Tensor, row: Row) -> tuple[Tensor, Tensor, Tensor]:
    """Views ``[B, heads, tokens, dim]`` of query, key and value."""
    parts = qkv.view(qkv.shape[0], -1, 3, row.heads, row.head_dim).permute(2, 0, 3, 1, 4)
    query, key, value = parts.unbind(0)
    return query, key, value


def merge_heads(attended: Tensor, row: Row) -> Tensor:
    """``[B, heads, tokens, dim]`` -> ``[B, H, W, heads*dim]``."""
    return attended.transpose(1, 2).reshape(attended.shape[0], *row.size, row.channels)


def axis_pairs(length: int, kernel: int, dilation: int) -> np.ndarray:
    """Bias index of every query-key pair of an axis, -1 where the query does not see the key."""
    axis = axis_members(length, AxisWindow(kernel, dilation))
    query, key = np.arange(length)[:, None], np.arange(length)[None]
    place = axis.place[key]
    seen = (axis.group[query] == axis.group[key]) & (axis.start[query] <= place)
    seen &= place < axis.stop[query]
    return np.where(seen, place - axis.place[query] + kernel - 1, -1)


def pair_bias(rows: np.ndarray, columns: np.ndarray, rpb: Tensor) -> Tensor:
    """Additive bias ``[heads, queries, keys]`` of a map from the pairs of its axes; -inf masks."""
    device = rpb.device
    y, x = (torch.from_numpy(pairs).to(device) for pairs in (rows, columns))
    y, x = y[:, None, :, None], x[None, :, None, :]
    queries, keys = y.shape[0] * x.shape[1], y.shape[2] * x.shape[3]
    bias = rpb[:, y.clamp(min=0), x.clamp(min=0)]
    bias.masked_fill_(((y < 0) | (x < 0))[None], -torch.inf)
    return aligned(bias.reshape(rpb.shape[0], queries, keys))


def aligned(mask: Tensor) -> Tensor:
    """The same mask in memory whose rows start at multiples of ``MASK_ALIGNMENT``."""
    keys = mask.shape[-1]
    padded = F.pad(mask, (0, -keys % MASK_ALIGNMENT))
    return padded[..., :keys]


def torch_reference(row: Row, rpb: Tensor) -> Contestant:
    """This project's PyTorch operator. It copies its index tables to the device in every call."""

    def run(qkv: Tensor, _: Tensor) -> Tensor:
        return neighborhood_attention_qkv_2d(
            qkv, rpb, num_heads=row.heads, kernel_size=row.kernel, dilation=row.dilation
        )

    return Contestant("torch tiles", run, capturable=False)


def dense(row: Row, rpb: Tensor) -> Contestant:
    """``scaled_dot_product_attention`` over the whole map with the bias as a mask."""
    tokens = row.size[0] * row.size[1]
    if tokens > DENSE_TOKENS:
        raise UnavailableError(f"{tokens} tokens, more than {DENSE_TOKENS}")
    bias = pair_bias(*(axis_pairs(size, row.kernel, row.dilation) for size in row.size), rpb)[None]

    def run(qkv: Tensor, _: Tensor) -> Tensor:
        query, key, value = split_heads(qkv, row)
        return merge_heads(F.scaled_dot_product_attention(query, key, value, bias), row)

    return Contestant("dense SDPA", run)


def to_groups(qkv: Tensor, row: Row) -> Tensor:
    """Dilation groups as a batch: ``[3, B*d*d, heads, tokens of a group, dim]``, zero-padded."""
    d = row.dilation
    (height, width), batch = row.group, qkv.shape[0]
    short = (0, 0, 0, width * d - row.size[1], 0, height * d - row.size[0])
    if any(short):
        qkv = F.pad(qkv, short)
    parts = qkv.view(batch, height, d, width, d, 3, row.heads, row.head_dim)
    parts = parts.permute(5, 0, 2, 4, 6, 1, 3, 7)
    return parts.reshape(3, batch * d * d, row.heads, height * width, row.head_dim)


def from_groups(attended: Tensor, row: Row) -> Tensor:
    """The inverse of :func:`to_groups` for one tensor: ``[B, H, W, heads*dim]``."""
    d = row.dilation
    height, width = row.group
    parts = attended.view(-1, d, d, row.heads, height, width, row.head_dim)
    whole = parts.permute(0, 4, 1, 5, 2, 3, 6).reshape(-1, height * d, width * d, row.channels)
    return whole[:, : row.size[0], : row.size[1]].contiguous()


def _group_pairs(row: Row, axis: int) -> list[np.ndarray]:
    """Pairs of an axis for each dilation group, padded to the largest.

    Padding queries repeat the last member; padding keys are seen by nobody.
    """
    longest, size = row.group[axis], row.size[axis]
    result = []
    for group in range(row.dilation):
        length = -(-(size - group) // row.dilation)
        pairs = axis_pairs(length, row.kernel, 1)
        pairs = np.pad(pairs, ((0, 0), (0, longest - length)), constant_values=-1)
        result.append(np.pad(pairs, ((0, longest - length), (0, 0)), mode="edge"))
    return result


def group_bias(row: Row, rpb: Tensor) -> Tensor:
    """Bias ``[1 or B*d*d, heads, n, n]``; one for all where all groups have the same size."""
    rows, columns = _group_pairs(row, 0), _group_pairs(row, 1)
    copies = 1 if row.divisible else row.batch * row.dilation**2
    tokens = row.group[0] * row.group[1]
    padded = tokens + -tokens % MASK_ALIGNMENT
    size = copies * row.heads * tokens * padded * rpb.element_size()
    if size > MASK_BYTES:
        raise UnavailableError(f"its mask takes {size / 2**30:.1f} GiB")
    if row.divisible:
        return pair_bias(rows[0], columns[0], rpb)[None]
    kinds = torch.stack([pair_bias(y, x, rpb) for y in rows for x in columns])
    return aligned(kinds.repeat(row.batch, 1, 1, 1))


def grouped(row: Row, rpb: Tensor, permuted: bool = False) -> Contestant:
    """SDPA within each dilation group; ``permuted`` leaves the permutes before and after out."""
    if row.dilation == 1:
        raise UnavailableError("dilation 1 has one group: the same as dense SDPA")
    tokens = row.group[0] * row.group[1]
    if tokens > DENSE_TOKENS:
        raise UnavailableError(f"{tokens} tokens in a group, more than {DENSE_TOKENS}")
    bias = group_bias(row, rpb)

    def attend(parts: Tensor) -> Tensor:
        mask = bias.expand(parts.shape[1], -1, -1, -1)
        return F.scaled_dot_product_attention(parts[0], parts[1], parts[2], mask)

    if permuted:
        return Contestant(
            "grouped SDPA, no permute",
            lambda parts, _: attend(parts),
            lambda qkv: to_groups(qkv, row),
            lambda attended: from_groups(attended, row),
            complete=False,
        )
    return Contestant("grouped SDPA", lambda qkv, _: from_groups(attend(to_groups(qkv, row)), row))


def grouped_without_permute(row: Row, rpb: Tensor) -> Contestant:
    return grouped(row, rpb, permuted=True)


def unfold(row: Row, rpb: Tensor) -> Contestant:
    """Gather of the k*k neighbours of every query, as an export without the operator does it."""
    height, width = row.size
    device, window = rpb.device, row.kernel**2
    gathered = 2 * row.tokens * window * row.channels * rpb.element_size()
    if gathered > GATHERED_BYTES:
        raise UnavailableError(f"keys and values gathered take {gathered / 2**30:.1f} GiB")
    axes = [axis_members(size, AxisWindow(row.kernel, row.dilation)) for size in row.size]
    steps = np.arange(row.kernel)
    tokens, offsets = [], []
    for axis in axes:
        members = axis.start[:, None] + steps
        tokens.append(axis.group[:, None] + members * row.dilation)
        offsets.append(members - axis.place[:, None] + row.kernel - 1)
    index = tokens[0][:, None, :, None] * width + tokens[1][None, :, None, :]
    near = torch.from_numpy(index.reshape(height * width * window)).to(device)
    y, x = (torch.from_numpy(offset).to(device) for offset in offsets)
    bias = rpb[:, y[:, None, :, None], x[None, :, None, :]]
    bias = bias.reshape(row.heads, height * width, 1, window)
    scale = row.head_dim**-0.5

    def run(qkv: Tensor, _: Tensor) -> Tensor:
        query, key, value = split_heads(qkv, row)
        shape = (qkv.shape[0], row.heads, height * width, window, row.head_dim)
        near_key = key.index_select(2, near).view(shape)
        near_value = value.index_select(2, near).view(shape)
        scores = (query * scale).unsqueeze(-2) @ near_key.transpose(-2, -1) + bias
        return merge_heads((scores.softmax(-1) @ near_value).squeeze(-2), row)

    return Contestant("unfold", run)


MAKERS: dict[str, Maker] = {
    "grouped SDPA": grouped,
    "grouped SDPA, no permute": grouped_without_permute,
    "dense SDPA": dense,
    "unfold": unfold,
    "torch tiles": torch_reference,
}
