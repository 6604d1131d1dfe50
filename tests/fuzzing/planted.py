"""Faults that the fuzzer must notice: workers that import this have readers with one each."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from dinat_deploy.errors import ConfigError
from tests.fuzzing.readers import KINDS, Kind, Reader


def _traceback(place: Path, out: Path) -> None:
    raise KeyError("nobody caught this")


def _crash(place: Path, out: Path) -> None:
    os.abort()


def _write(place: Path, out: Path) -> None:
    (out.parent / "beside.txt").write_text("not in the output directory")


def _quiet_write(place: Path, out: Path) -> None:
    """As native code writes: no event tells of it."""
    sys.stdout.flush()
    if (child := os.fork()) == 0:
        os.execv("/bin/sh", ["sh", "-c", f"echo x >> {place / 'bench.json'}"])
    os.waitpid(child, 0)


def _hang(place: Path, out: Path) -> None:
    time.sleep(60)


def _read(place: Path, out: Path) -> None:
    (out / "outside.bin").touch()  # known by its name
    (out / "outside.bin").open("rb").close()


def _start(place: Path, out: Path) -> None:
    subprocess.run(["true"], check=True)


def _flood(place: Path, out: Path) -> None:
    for number in range(1000):
        print(f"warning {number}", file=sys.stderr)


def _memory(place: Path, out: Path) -> None:
    bytearray(1 << 50)


def _silent(place: Path, out: Path) -> None:
    raise SystemExit(2)


def _right(place: Path, out: Path) -> None:
    (out / "made.txt").write_text("in the output directory")


def _refusal(place: Path, out: Path) -> None:
    raise ConfigError("It is wrong.", "Mend it.")


READS = {
    "traceback": _traceback, "crash": _crash, "write": _write, "quiet write": _quiet_write,
    "hang": _hang, "read": _read, "start": _start, "flood": _flood, "memory": _memory,
    "silent": _silent, "right": _right, "refusal": _refusal,
}  # fmt: skip
KINDS["planted"] = Kind(
    0,
    ("bench.json",),
    tuple(Reader(name, read, starts=name == "quiet write") for name, read in READS.items()),
)
