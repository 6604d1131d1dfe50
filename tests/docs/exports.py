"""Exports that pages repeat: the same line, but for ``--output``, is run once for all test processes.

What it wrote and printed is kept, and copied for the others.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

_OUTPUT = re.compile(r" --output (\S+)")
_BEGIN = "dinat-deploy export "


class Exports:
    """The exports of one run of the tests."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        base = factory.getbasetemp()
        self._kept = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "exports"
        self._kept.mkdir(exist_ok=True)

    def run(self, line: str, place: Path, execute: Callable[[str], str]) -> str:
        """Run a line by ``execute`` in ``place``, or what was kept of it; returns what it printed."""
        if not line.startswith(_BEGIN) or "--json" in line:
            return execute(line)
        key = hashlib.sha256(_OUTPUT.sub("", line).encode()).hexdigest()[:16]
        kept, words = self._kept / key, self._kept / f"{key}.txt"
        with FileLock(self._kept / f"{key}.lock"):
            if not words.exists():
                printed = execute(line)
                shutil.copytree(place / _bundle(line, printed), kept)
                words.write_text(printed)
                return printed
        printed = words.read_text()
        first = printed.partition(":")[0]
        output = _bundle(line, printed)
        shutil.rmtree(place / output, ignore_errors=True)  # as export does with an older one
        shutil.copytree(kept, place / output)
        return printed.replace(f"{first}:", f"{output}:", 1)


def _bundle(line: str, printed: str) -> str:
    """Where the bundle is: as the line says, or as the command told."""
    found = _OUTPUT.search(line)
    return found[1] if found else printed.partition(":")[0]
