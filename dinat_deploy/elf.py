"""Reads a shared library's own tables without loading it, so also one for another processor."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

_MACHINES = {62: "x86_64", 183: "aarch64"}
_DYNSYM, _VERNEED = 11, 0x6FFFFFFE
_EXPORTED_BINDINGS = (1, 2, 10)  # global, weak, unique
_FATBINARY = 0xBA55ED50
_PTX, _CUBIN = 1, 2
# Damaged tables may name all of the file again and again; those of mangled C++ names are shorter.
_LONGEST_NAME = 1 << 14


class NotElf(ValueError):  # noqa: N818
    """The file is no 64-bit little-endian ELF file."""


@dataclass(frozen=True)
class _Section:
    name: str
    kind: int
    offset: int
    size: int
    link: int


def machine(path: Path) -> str | None:
    """Processor that an ELF file is for, as ``platform.machine()`` writes it; None if no ELF."""
    with path.open("rb") as stream:
        head = stream.read(20)
    if len(head) < 20 or head[:6] != b"\x7fELF\x02\x01":
        return None
    number = struct.unpack_from("<H", head, 18)[0]
    return _MACHINES.get(number, f"ELF machine {number}")


class SharedLibrary:
    """The tables of one file.

    Raises:
        NotElf: at construction or when a table is read, if the file is something else or cut off.
    """

    def __init__(self, path: Path) -> None:
        found = machine(path)
        if found is None:
            raise NotElf(str(path))
        self.machine = found
        self.data = path.read_bytes()

    @cached_property
    def _sections(self) -> list[_Section]:
        try:
            (start,) = struct.unpack_from("<Q", self.data, 40)
            size, count, names = struct.unpack_from("<3H", self.data, 58)
            raw = [
                struct.unpack_from("<IIQQQQI", self.data, start + i * size) for i in range(count)
            ]
            strings = raw[names][4] if raw else 0
            return [
                _Section(self._string(strings + name), kind, offset, length, link)
                for name, kind, _, _, offset, length, link in raw
            ]
        except (struct.error, IndexError, OverflowError, ValueError):
            raise NotElf("the section table is cut off") from None

    def _string(self, offset: int) -> str:
        end = self.data.index(b"\0", offset, offset + _LONGEST_NAME)
        return self.data[offset:end].decode(errors="replace")

    def exported_symbols(self) -> list[str]:
        """Names that other code can link with or look up, sorted."""
        names = set()
        for table in (s for s in self._sections if s.kind == _DYNSYM):
            strings = self._sections[table.link].offset
            for offset in range(table.offset, table.offset + table.size, 24):
                name, info, other, section = struct.unpack_from("<IBBH", self.data, offset)
                hidden = other & 3 in (1, 2)
                if section and info >> 4 in _EXPORTED_BINDINGS and not hidden:
                    names.add(self._string(strings + name))
        return sorted(names)

    def needed_versions(self) -> list[str]:
        """Symbol versions that the system's libraries must have, such as ``GLIBC_2.34``."""
        versions = set()
        left = len(self.data) // 16  # the size of an entry: no file has more of them
        for table in (s for s in self._sections if s.kind == _VERNEED):
            strings = self._sections[table.link].offset
            entry = table.offset
            while True:
                _, count, _, aux, following = struct.unpack_from("<HHIII", self.data, entry)
                at = entry + aux
                left -= count + 1
                if left < 0:
                    raise NotElf("the table of versions goes round in circles")
                for _ in range(count):
                    _, _, _, name, step = struct.unpack_from("<IHHII", self.data, at)
                    versions.add(self._string(strings + name))
                    at += step
                if not following:
                    break
                entry += following
        return sorted(versions, key=_by_number)

    def cuda_code(self) -> list[str]:
        """GPU code inside: ``sm_87`` and so on (machine code), then ``compute_87`` (PTX)."""
        found: set[str] = set()
        for section in self._sections:
            if section.name == ".nv_fatbin":
                found.update(_entries(self.data[section.offset : section.offset + section.size]))
        return sorted(found, key=lambda code: (not code.startswith("sm"), _by_number(code)))


def _entries(data: bytes) -> Iterator[str]:
    """Kinds and architectures in a sequence of CUDA fat binaries."""
    at = 0
    while at + 16 <= len(data):
        magic, _, head, size = struct.unpack_from("<IHHQ", data, at)
        if magic != _FATBINARY:
            at += 8  # padding between fat binaries
            continue
        at += max(head, 8)  # a damaged file may say 0, and must not hold us here
        end = at + size
        while at + 32 <= min(end, len(data)):
            kind, _, head, size = struct.unpack_from("<HHIQ", data, at)
            (architecture,) = struct.unpack_from("<I", data, at + 28)
            if kind in (_PTX, _CUBIN):
                yield f"{'sm' if kind == _CUBIN else 'compute'}_{architecture}"
            at += max(head + size, 8)
        at = end


def _by_number(name: str) -> tuple[str, list[int]]:
    """Sort key: GLIBC_2.4 before GLIBC_2.34, sm_87 before sm_110."""
    word, _, number = name.rpartition("_")
    return word, [int(part) for part in number.split(".") if part.isdigit()]
