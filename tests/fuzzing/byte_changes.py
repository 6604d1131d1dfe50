"""Changes to files that know nothing of what is in them."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.fuzzing.values import nested

_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def _flip(rng: Random, data: bytearray) -> None:
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        data[_position(rng, data)] ^= 1 << rng.randrange(8)


def _set(rng: Random, data: bytearray) -> None:
    for _ in range(rng.choice((1, 2, 8))):
        data[_position(rng, data)] = rng.choice((0, 1, 0x20, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _number(rng: Random, data: bytearray) -> None:
    """A field of two, four or eight bytes with an extreme number in it."""
    form = rng.choice(("<H", "<I", "<Q", ">H", ">I", ">Q"))
    size = struct.calcsize(form)
    if len(data) < size:
        return
    at = min(_position(rng, data), len(data) - size)
    value = rng.choice(
        (*_EXTREMES, len(data), len(data) - 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
    )
    data[at : at + size] = struct.pack(form, value & ((1 << 8 * size) - 1))


def _cut(rng: Random, data: bytearray) -> None:
    del data[_position(rng, data) :]


def _remove(rng: Random, data: bytearray) -> None:
    at = _position(rng, data)
    del data[at : at + rng.choice((1, 2, 4, 16, 1000))]


def _repeat(rng: Random, data: bytearray) -> None:
    at = _position(rng, data)
    piece = data[at : at + rng.choice((1, 4, 32, 500))]
    data[at:at] = piece * rng.choice((1, 2, 50))


def _insert(rng: Random, data: bytearray) -> None:
    at = _position(rng, data)
    data[at:at] = rng.randbytes(rng.choice((1, 3, 4, 8, 100)))


def _splice(rng: Random, data: bytearray) -> None:
    """One part of the file over another."""
    source, target = _position(rng, data), _position(rng, data)
    size = rng.choice((4, 16, 64, 512))
    data[target : target + size] = data[source : source + size]


def _blank(rng: Random, data: bytearray) -> None:
    at = _position(rng, data)
    size = min(rng.choice((4, 64, 4096)), len(data) - at)
    data[at : at + size] = bytes([rng.choice((0, 0xFF, 0x41))]) * size


def _position(rng: Random, data: bytearray) -> int:
    """Where headers are, more often than anywhere else."""
    near = (16, 64, 256, 1024)
    limit = len(data)
    if rng.random() < 0.6:
        limit = min(limit, rng.choice(near))
    if rng.random() < 0.15:  # an archive's directory is at the end
        return max(0, len(data) - 1 - rng.randrange(min(len(data), 200)))
    return rng.randrange(max(limit, 1))


_CHANGES: tuple[Callable[[Random, bytearray], None], ...] = (
    _flip, _flip, _set, _number, _number, _cut, _remove, _repeat, _insert, _splice, _blank,
)  # fmt: skip


def mutate_bytes(rng: Random, content: bytes) -> tuple[bytes, str]:
    """One or several changes.

    Returns:
        The changed content, and what was done.
    """
    data = bytearray(content)
    said = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        if not data:
            break
        change = rng.choice(_CHANGES)
        change(rng, data)
        said.append(change.__name__.strip("_"))
    return bytes(data), "bytes: " + ", ".join(said)


def mutate_text(rng: Random, content: bytes) -> tuple[bytes, str]:
    """Lines changed, as of lists and caches."""
    lines = content.decode(errors="replace").split("\n")
    at = rng.randrange(len(lines))
    deep = str(nested(50))
    choices: tuple[tuple[str, Callable[[], object]], ...] = (
        ("line removed", lambda: lines.pop(at)),
        ("line twice", lambda: lines.insert(at, lines[at])),
        ("line cut", lambda: lines.__setitem__(at, lines[at][: len(lines[at]) // 2])),
        ("long line", lambda: lines.__setitem__(at, lines[at] + "x" * 100_000)),
        ("strange line", lambda: lines.insert(at, rng.choice(_LINES))),
        ("strange end", lambda: lines.__setitem__(at, lines[at] + rng.choice(_LINES))),
        ("other separators", lambda: lines.__setitem__(at, lines[at].replace(" ", "\t"))),
        ("number replaced", lambda: lines.__setitem__(at, f"{lines[at][:-1]}{rng.choice(_LINES)}")),
        ("many lines", lambda: lines.extend(lines * 50)),
        ("deep line", lambda: lines.insert(at, deep)),
        ("nothing left", lines.clear),
    )
    name, change = rng.choice(choices)
    change()
    return "\n".join(lines).encode(errors="surrogatepass"), f"text: {name}"


_LINES = (
    "", " ", "\t", "#", "\0", "\ufeff", "\u2028", "\x85", "-1", "99999999999999999999", "\u0661",
    "\u00b2", "nan", "../../outside.png", "/etc/hostname", "a b c", "\ud800", "\x1b[2J", "{}", ":",
    "%s", "*", "[", "[!", "**/**", "ffffffff", "7f800000", "-3c",
)  # fmt: skip


def mutate_place(rng: Random, path: Path) -> str:
    """Change what stands at a path: nothing, an empty file, a directory, a link."""
    what = rng.choice(("empty", "missing", "directory", "link to itself", "dangling link", "link"))
    content = path.read_bytes()
    path.unlink()
    if what == "empty":
        path.touch()
    elif what == "directory":
        path.mkdir()
        (path / "inner.json").write_text("{}")
    elif what == "link to itself":
        path.symlink_to(path)
    elif what == "dangling link":
        path.symlink_to(path.with_name("nowhere"))
    elif what == "link":
        other = path.with_name(f"linked{path.suffix}")
        other.write_bytes(content)
        path.symlink_to(other.name)
    return what


def remove(path: Path) -> None:
    """Whatever stands at a path."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
