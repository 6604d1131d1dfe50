"""Small shared libraries to start from, made without a compiler, and changes to their tables."""

from __future__ import annotations

import json
import struct
from random import Random

from tests.fuzzing.byte_changes import mutate_bytes

_HEADER, _SECTION = 64, 64
_DYNSYM, _VERNEED, _STRTAB, _PROGBITS = 11, 0x6FFFFFFE, 3, 1


def library(version: str = "0.1.0", machine: int = 62) -> bytes:
    """A 64-bit ELF file with exported symbols, needed versions, GPU code and a label."""
    strings = b"\0dinat_op\0another\0libc.so.6\0GLIBC_2.34\0GLIBC_2.4\0"
    symbols = bytes(24)
    for name in (b"dinat_op", b"another"):
        symbols += struct.pack("<IBBHQQ", strings.index(name), 0x12, 0, 1, 0x1000, 16)
    library_at, new, old = (strings.index(n) for n in (b"libc", b"GLIBC_2.34", b"GLIBC_2.4"))
    versions = struct.pack("<HHIII", 1, 2, library_at, 16, 0)
    versions += struct.pack("<IHHII", 0, 0, 2, new, 16) + struct.pack("<IHHII", 0, 0, 3, old, 0)
    codes = b""
    for kind, architecture in ((2, 86), (1, 120)):
        codes += struct.pack("<HHIQ", kind, 1, 32, 64) + bytes(12) + struct.pack("<I", architecture)
        codes += bytes(64)
    fatbin = struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(codes)) + codes
    said = {"name": "dinat_tensorrt", "version": version, "compilers": "g++ 13"}
    label = b"@dinat-library " + json.dumps(said).encode() + b"\0"
    names = b"\0.dynsym\0.dynstr\0.gnu.version_r\0.nv_fatbin\0.rodata\0.shstrtab\0"
    parts = [
        (b".dynsym", _DYNSYM, symbols, 2),
        (b".dynstr", _STRTAB, strings, 0),
        (b".gnu.version_r", _VERNEED, versions, 2),
        (b".nv_fatbin", _PROGBITS, fatbin, 0),
        (b".rodata", _PROGBITS, label, 0),
        (b".shstrtab", _STRTAB, names, 0),
    ]
    body, table = b"", bytes(_SECTION)
    for name, kind, data, link in parts:
        at = _HEADER + len(body)
        table += struct.pack(
            "<IIQQQQIIQQ", names.index(name), kind, 0, 0, at, len(data), link, 0, 8, 0
        )
        body += data + bytes(-len(data) % 8)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 0, _HEADER + len(body), 0, 64, 0, 0,
                          _SECTION, len(parts) + 1, len(parts))  # fmt: skip
    return header + body + table


def mutate_library(rng: Random, content: bytes) -> tuple[bytes, str]:
    """A field of the header or of a table with an extreme number, or other bytes."""
    if rng.random() < 0.4:
        return mutate_bytes(rng, content)
    data = bytearray(content)
    (start,) = struct.unpack_from("<Q", data, 40)
    extremes = (0, 1, 2, 0xFFFF, len(data), len(data) - 1, 1 << 31, 1 << 40, (1 << 64) - 1, start)
    said = []
    for _ in range(rng.choice((1, 1, 2))):
        value = rng.choice(extremes)
        if rng.random() < 0.3:
            at, form = rng.choice(((40, "<Q"), (58, "<H"), (60, "<H"), (62, "<H"), (18, "<H")))
        elif rng.random() < 0.6:
            section = start + _SECTION * rng.randrange(1, 7)
            field, form = rng.choice(((0, "<I"), (4, "<I"), (24, "<Q"), (32, "<Q"), (40, "<I")))
            at = section + field
        else:  # in one of the tables
            at, form = _HEADER + 2 * rng.randrange((start - _HEADER) // 2), rng.choice(("<H", "<I"))
        if at + struct.calcsize(form) <= len(data):
            bits = 8 * struct.calcsize(form)
            struct.pack_into(form, data, at, value & ((1 << bits) - 1))
            said.append(f"{form[1]} at {at} is {value}")
    if rng.random() < 0.05:  # a long table, for readers that take too many turns
        data += bytes(rng.choice((1 << 16, 1 << 20)))
    return bytes(data), "elf: " + "; ".join(said)
