"""Reading the structure of protobuf messages without the package protobuf.

A message is a sequence of fields, each a key (field number and wire type) and a value. Values are
views into the file that is read: nothing is copied, and what is skipped is not even read from disk.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Value = int | memoryview


def fields(view: memoryview) -> Iterator[tuple[int, Value]]:
    """Numbers and values of a message's fields; strings, bytes and messages stay views.

    Raises:
        ValueError, IndexError: it is no message, or cut off.
    """
    for number, value, _, _ in spans(view):
        yield number, value


def spans(view: memoryview) -> Iterator[tuple[int, Value, int, int]]:
    """The fields of a message as :func:`fields` gives them, with where each begins and ends."""
    position = 0
    while position < len(view):
        start = position
        key, position = varint(view, position)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, position = varint(view, position)
            yield number, value, start, position
            continue
        if kind == _BYTES:
            size, position = varint(view, position)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"unknown wire type {kind}")
        if number == 0 or position + size > len(view):
            raise ValueError("it ends in the middle of a field")
        yield number, view[position : position + size], start, position + size
        position += size


def varint(view: memoryview, position: int) -> tuple[int, int]:
    """A number of variable length, and the position behind it."""
    result = shift = 0
    while True:
        byte = view[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")


def messages(view: memoryview, wanted: int) -> Iterator[memoryview]:
    """The messages (or strings) of one field."""
    for number, value in fields(view):
        if number == wanted and isinstance(value, memoryview):
            yield value


def text(value: Value) -> str:
    return bytes(value).decode() if isinstance(value, memoryview) else ""
