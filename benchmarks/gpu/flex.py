"""flex_attention with a block mask and the positional bias as a score modification.

Dilation groups are folded into the batch (with their permute, which is timed), so that the mask is
that of an undilated map. Tokens are in raster order, or in tiles of 8 x 16: a block of 128 tokens
is then compact, and on maps of 256 columns and more needs fewer blocks of keys.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from gpu.rivals import Contestant, UnavailableError, from_groups, to_groups
from gpu.shapes import Row

TILE = (8, 16)
BLOCK = 128
# Above this many tokens the mask is made by a compiled function, not token pair by token pair.
PLAIN_MASK_TOKENS = 8192

Coordinates = Callable[[Any], tuple[Any, Any]]


def _coordinates(size: tuple[int, int], tiled: bool) -> Coordinates:
    """Row and column of a token from its place in the order."""
    width = size[1]
    if not tiled:
        return lambda index: (index // width, index % width)
    (tile_height, tile_width), across = TILE, width // TILE[1]

    def tiles(index: Any) -> tuple[Any, Any]:
        tile, inside = index // (tile_height * tile_width), index % (tile_height * tile_width)
        return (
            tile // across * tile_height + inside // tile_width,
            tile % across * tile_width + inside % tile_width,
        )

    return tiles


def modifications(
    size: tuple[int, int], kernel: int, rpb: Tensor, tiled: bool
) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """``mask_mod`` and ``score_mod`` of an undilated map of ``size`` tokens."""
    height, width = size
    coordinates = _coordinates(size, tiled)

    def start(place: Tensor, length: int) -> Tensor:
        return (place - kernel // 2).clamp(0, length - kernel)

    def mask_mod(_b: Tensor, _h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        (y, x), (key_y, key_x) = coordinates(query), coordinates(key)
        down, right = key_y - start(y, height), key_x - start(x, width)
        return (down >= 0) & (down < kernel) & (right >= 0) & (right < kernel)

    def score_mod(score: Tensor, _b: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        (y, x), (key_y, key_x) = coordinates(query), coordinates(key)
        # Masked pairs pass through here too; their index must stay inside the table.
        down = (key_y - y + kernel - 1).clamp(0, 2 * kernel - 2)
        right = (key_x - x + kernel - 1).clamp(0, 2 * kernel - 2)
        return score + rpb[head, down, right]

    return mask_mod, score_mod


def _to_tiles(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Raster order to tiles on the axis before the last."""
    (height, width), (tall, wide) = size, TILE
    parts = tokens.view(*tokens.shape[:-2], height // tall, tall, width // wide, wide, -1)
    return parts.transpose(-4, -3).reshape(tokens.shape)


def _from_tiles(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    (height, width), (tall, wide) = size, TILE
    parts = tokens.reshape(*tokens.shape[:-2], height // tall, width // wide, tall, wide, -1)
    return parts.transpose(-4, -3).reshape(tokens.shape)


def make_flex(row: Row, rpb: Tensor, *, tiled: bool, compiled: bool) -> Contestant:
    """A contestant whose first call compiles (if ``compiled``).

    ``notes`` hold the milliseconds that the block mask took and the share of blocks it skips.

    Raises:
        UnavailableError: groups of several sizes, or a map that the tiles do not cover evenly.
    """
    if not row.divisible:
        raise UnavailableError("dilation groups of several sizes")
    size = row.group
    if tiled and any(extent % tile for extent, tile in zip(size, TILE, strict=True)):
        raise UnavailableError(f"a group of {size[0]}x{size[1]} is not whole 8x16 tiles")
    tokens = size[0] * size[1]
    mask_mod, score_mod = modifications(size, row.kernel, rpb, tiled)
    device = rpb.device
    started = time.perf_counter()
    mask = create_block_mask(
        mask_mod,
        None,
        None,
        tokens,
        tokens,
        device=str(device),
        BLOCK_SIZE=BLOCK,
        _compile=compiled and tokens > PLAIN_MASK_TOKENS,
    )
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    notes: dict[str, float | str] = {
        "block mask ms": 1e3 * (time.perf_counter() - started),
        "blocks skipped %": max(0.0, float(mask.sparsity())),
    }
    attend = torch.compile(flex_attention, dynamic=False) if compiled else flex_attention
    scale = row.head_dim**-0.5

    def run(qkv: Tensor, _: Tensor) -> Tensor:
        parts = to_groups(qkv, row)
        if tiled:
            parts = _to_tiles(parts, size)
        attended: Any = attend(
            parts[0], parts[1], parts[2], score_mod=score_mod, block_mask=mask, scale=scale
        )
        if tiled:
            attended = _from_tiles(attended, size)
        return from_groups(attended, row)

    return Contestant("flex, tiles" if tiled else "flex", run, notes=notes)
