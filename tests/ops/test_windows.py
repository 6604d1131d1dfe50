"""The definition against NATTEN's documented examples, loops, and its invariants."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dinat_deploy.errors import OperatorError
from dinat_deploy.ops.windows import AxisWindow, axis_members, axis_tiles
from tests.bruteforce import axis_keys


def keys_of(length: int, window: AxisWindow) -> list[list[int]]:
    axis = axis_members(length, window)
    return [
        [int(axis.group[i] + m * window.dilation) for m in range(axis.start[i], axis.stop[i])]
        for i in range(length)
    ]


def bias_of(length: int, window: AxisWindow) -> list[list[int]]:
    axis = axis_members(length, window)
    return [
        [
            int(m - axis.place[i] + window.kernel_size - 1)
            for m in range(axis.start[i], axis.stop[i])
        ]
        for i in range(length)
    ]


@pytest.mark.parametrize(
    ("length", "kernel", "dilation", "token", "keys", "bias"),
    [
        (7, 3, 1, 0, [0, 1, 2], [2, 3, 4]),
        (7, 3, 1, 1, [0, 1, 2], [1, 2, 3]),
        (7, 3, 1, 6, [4, 5, 6], [0, 1, 2]),
        (10, 3, 3, 0, [0, 3, 6], [2, 3, 4]),
        (10, 3, 3, 6, [3, 6, 9], [1, 2, 3]),
        (10, 3, 3, 7, [1, 4, 7], [0, 1, 2]),
        (10, 3, 3, 9, [3, 6, 9], [0, 1, 2]),
        (8, 4, 1, 0, [0, 1, 2, 3], [3, 4, 5, 6]),
        (8, 4, 1, 2, [0, 1, 2, 3], [1, 2, 3, 4]),
        (8, 4, 1, 3, [1, 2, 3, 4], [1, 2, 3, 4]),
        (8, 4, 1, 7, [4, 5, 6, 7], [0, 1, 2, 3]),
        (15, 7, 2, 5, [1, 3, 5, 7, 9, 11, 13], [4, 5, 6, 7, 8, 9, 10]),
        (15, 7, 2, 8, [2, 4, 6, 8, 10, 12, 14], [3, 4, 5, 6, 7, 8, 9]),
        (15, 7, 2, 14, [2, 4, 6, 8, 10, 12, 14], [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_windows_and_bias_of_worked_examples(
    length: int, kernel: int, dilation: int, token: int, keys: list[int], bias: list[int]
) -> None:
    window = AxisWindow(kernel, dilation)
    assert keys_of(length, window)[token] == keys
    assert bias_of(length, window)[token] == bias


def test_stride_shares_the_leaders_window() -> None:
    windows = keys_of(8, AxisWindow(4, stride=2))
    assert windows[:2] == [[0, 1, 2, 3]] * 2
    assert windows[2:4] == [[1, 2, 3, 4]] * 2
    assert windows[4:6] == [[3, 4, 5, 6]] * 2
    assert windows[6:] == [[4, 5, 6, 7]] * 2


def test_causal_windows_grow_from_the_start() -> None:
    assert keys_of(6, AxisWindow(3, is_causal=True)) == [
        [0], [0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]
    ]  # fmt: skip
    assert keys_of(6, AxisWindow(3, stride=2, is_causal=True)) == [
        [0], [0, 1], [1, 2], [1, 2, 3], [3, 4], [3, 4, 5]
    ]  # fmt: skip
    assert keys_of(8, AxisWindow(3, dilation=2, is_causal=True)) == [
        [0], [1], [0, 2], [1, 3], [0, 2, 4], [1, 3, 5], [2, 4, 6], [3, 5, 7]
    ]  # fmt: skip


@st.composite
def axes(draw: st.DrawFn) -> tuple[int, AxisWindow]:
    kernel = draw(st.integers(1, 13))
    dilation = draw(st.integers(1, 6))
    stride = draw(st.integers(1, kernel))
    length = draw(st.integers(kernel * dilation, kernel * dilation + 40))
    return length, AxisWindow(kernel, dilation, stride, draw(st.booleans()))


@given(axes())
def test_windows_equal_loops_over_groups(axis: tuple[int, AxisWindow]) -> None:
    length, window = axis
    assert keys_of(length, window) == axis_keys(
        length, window.kernel_size, window.dilation, window.stride, window.is_causal
    )


@given(axes())
def test_every_query_sees_itself_and_kernel_size_keys_of_its_group(
    axis: tuple[int, AxisWindow],
) -> None:
    length, window = axis
    for token, keys in enumerate(keys_of(length, window)):
        assert token in keys
        assert len(set(keys)) == len(keys)
        assert window.is_causal or len(keys) == window.kernel_size
        assert {key % window.dilation for key in keys} == {token % window.dilation}
        assert not window.is_causal or max(keys) == token


@given(axes(), st.integers(1, 20))
def test_tiles_hold_the_same_windows(axis: tuple[int, AxisWindow], tile: int) -> None:
    length, window = axis
    tiles = axis_tiles(length, window, tile)
    keys, bias = keys_of(length, window), bias_of(length, window)
    masked = 2 * window.kernel_size - 1
    for token in range(length):
        number, slot = divmod(int(tiles.inverse[token]), tiles.size)
        assert tiles.query[number, slot] == token
        row = tiles.bias[tiles.pattern[number], slot]
        seen = row != masked
        assert list(tiles.key[number][seen]) == keys[token]
        assert list(row[seen]) == bias[token]


@given(axes())
def test_a_tile_of_a_whole_group_is_unmasked_where_the_group_is_the_window(
    axis: tuple[int, AxisWindow],
) -> None:
    _, window = axis
    assume(not window.is_causal)
    tiles = axis_tiles(window.span, window, window.kernel_size)
    assert not tiles.masked
    assert len(tiles.bias) == 1
    assert np.array_equal(np.sort(tiles.query.ravel()), np.arange(window.span))


@pytest.mark.parametrize(
    ("length", "window", "message"),
    [
        (6, AxisWindow(7), "exceeds the axis length 6"),
        (20, AxisWindow(7, 3), "7 \\* dilation 3 = 21 exceeds the axis length 20"),
        (9, AxisWindow(0), "must be at least 1"),
        (9, AxisWindow(3, 0), "must be at least 1"),
        (9, AxisWindow(3, stride=4), "stride 4 must lie between 1 and the kernel size 3"),
    ],
)
def test_undefined_windows_are_refused(length: int, window: AxisWindow, message: str) -> None:
    with pytest.raises(OperatorError, match=message):
        axis_members(length, window)
