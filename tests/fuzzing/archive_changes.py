"""Changes to zip archives of arrays: NumPy's ``.npz`` and PyTorch's ``.pth``."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from collections.abc import Callable
from random import Random

import numpy as np

from tests.fuzzing.byte_changes import mutate_bytes
from tests.fuzzing.values import OUTSIDE, PLACES, mutate_json

_BOMB = 400 << 20
_DESCRIPTIONS = (
    "<f4", "<f8", ">f4", "|u1", "|O", "<U8", "|S4", "|V8", "<i8", "<c8", "<M8[s]", "f4", "", "x",
    "<f999999999",
)  # fmt: skip
Members = dict[str, bytes]


def _read(content: bytes) -> Members:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def _write(members: list[tuple[str, bytes]], kind: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", kind) as archive:
        warnings.simplefilter("ignore")  # names that are there twice are meant
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, kind)
    return stream.getvalue()


def _bomb() -> bytes:
    """Much of nothing, as an array that inflates to far more than the file."""
    compressor_input = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        compressor_input,
        {"descr": "|u1", "fortran_order": False, "shape": (_BOMB // (64 * 64 * 3), 64, 64, 3)},
    )
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("images.npy", "w", force_zip64=True) as member,
    ):
        member.write(compressor_input.getvalue())
        for _ in range(_BOMB >> 20):
            member.write(bytes(1 << 20))
    return stream.getvalue()


def mutate_zip(rng: Random, content: bytes) -> tuple[bytes, str]:
    """Members with other names, twice, missing, or with other content."""
    members = list(_read(content).items())
    at = rng.randrange(len(members))
    name, data = members[at]
    folder = name.rpartition("/")[0]
    choices: tuple[tuple[str, Callable[[], object]], ...] = (
        ("renamed", lambda: members.__setitem__(at, (rng.choice(PLACES), data))),
        ("renamed", lambda: members.__setitem__(at, (f"{folder}/../{OUTSIDE}.bin", data))),
        ("removed", lambda: members.pop(at)),
        ("twice", lambda: members.append((name, data[: len(data) // 2]))),
        ("empty", lambda: members.__setitem__(at, (name, b""))),
        ("other content", lambda: members.__setitem__(at, (name, mutate_bytes(rng, data)[0]))),
        ("other content", lambda: members.__setitem__(at, (name, mutate_bytes(rng, data)[0]))),
        ("another's content", lambda: members.__setitem__(at, (name, rng.choice(members)[1]))),
        ("a directory", lambda: members.append((f"{name}/", b""))),
        ("more", lambda: members.append((rng.choice(PLACES), b"x"))),
    )
    said, change = rng.choice(choices)
    change()
    kind = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    return _write(members, kind), f"archive: {name} {said}"


def mutate_npz(rng: Random, content: bytes) -> tuple[bytes, str]:
    """Arrays whose header says something else than their data, or other arrays."""
    if rng.random() < 0.3:
        return mutate_zip(rng, content)
    if rng.random() < 0.01:
        return _bomb(), "archive: inflates without end"
    members = _read(content)
    name = rng.choice(sorted(members))
    data = members[name]
    if name == "header.npy" and rng.random() < 0.7:
        text, said = mutate_json(rng, np.load(io.BytesIO(data)).tobytes())
        members[name] = _saved(np.frombuffer(text, np.uint8))
    elif rng.random() < 0.5:
        members[name], said = _other_header(rng, data)
    else:
        members[name], said = _other_array(rng, np.load(io.BytesIO(data)))
    return _write(list(members.items())), f"{name}: {said}"


def _saved(array: object) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)  # type: ignore[arg-type]
    return stream.getvalue()


def _other_header(rng: Random, data: bytes) -> tuple[bytes, str]:
    (size,) = struct.unpack_from("<H", data, 8)
    array = np.load(io.BytesIO(data))
    sizes = list(array.shape)
    if sizes:
        at = rng.randrange(len(sizes))
        sizes[at] = rng.choice((-1, 0, sizes[at] + 1, sizes[at] * 1000, 1 << 40, 1 << 62, 10**30))
    shape = rng.choice(
        (tuple(sizes), (), (1 << 31, 1 << 31, 4), ("a",), (1.5,), tuple(array.shape))
    )
    header = {
        "descr": rng.choice((array.dtype.str, rng.choice(_DESCRIPTIONS))),
        "fortran_order": rng.choice((False, False, True, 1, None)),
        "shape": shape,
    }
    if rng.random() < 0.1:
        header[rng.choice(("more", ""))] = 1
    text = repr(header).encode()
    if rng.random() < 0.05:
        text = b"(" * 5000 + text
    version = rng.choice((b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\4\0"))
    length = struct.pack("<H" if version == b"\1\0" else "<I", len(text) + 1)
    return b"\x93NUMPY" + version + length + text + b"\n" + data[10 + size :], f"header {header}"


def _other_array(rng: Random, array: np.ndarray) -> tuple[bytes, str]:
    number = np.array(array)
    choices: tuple[tuple[str, Callable[[], object]], ...] = (
        ("empty", lambda: number[:0]),
        ("shorter", lambda: number[:-1] if number.ndim else number),
        ("flat", lambda: number.reshape(-1)),
        ("more dimensions", lambda: number[None, None]),
        ("a single number", lambda: np.array(7)),
        ("float64", lambda: number.astype(np.float64) if number.dtype.kind in "iuf" else number),
        ("float16", lambda: number.astype(np.float16) if number.dtype.kind in "iuf" else number),
        ("negative", lambda: -number.astype(np.int64) - 1 if number.dtype.kind in "iuf" else 0),
        ("huge", lambda: np.full(number.shape, 2**62, np.int64)),
        ("not finite", lambda: np.full(number.shape, np.nan, np.float32)),
        ("text", lambda: np.full(number.shape, "text")),
        ("objects", lambda: np.array([{"a": 1}], object)),
        ("complex", lambda: number.astype(np.complex64) if number.dtype.kind in "iuf" else number),
        ("bool", lambda: number.astype(bool) if number.dtype.kind in "iuf" else number),
        ("fortran", lambda: np.asfortranarray(number)),
        ("thin", lambda: np.zeros((2, 1, 3000, 3), np.uint8)),
        ("records", lambda: np.zeros(4, [("a", "<f4")])),
    )
    said, make = rng.choice(choices)
    with np.errstate(all="ignore"):
        return _saved(make()), said
