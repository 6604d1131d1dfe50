"""Which plans may run code on this machine's processor.

A plan can hold host code: an embedded plugin library, or the lean runtime of a version-compatible
engine. TensorRT runs it with the rights of whoever loads the plan. ``engine.json`` cannot vouch for
it: whoever forges a plan forges the manifest beside it too. So every user has a record, with one
line of JSON for each such plan that was built or trusted on this machine, and to load a plan with
host code that is not in it takes ``--trust``.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from contextlib import nullcontext, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO, Literal

from filelock import FileLock, Timeout

from dinat_deploy import __version__
from dinat_deploy.errors import OutputError
from dinat_deploy.native import data_directory

_LOCK_SECONDS = 30.0
_ELF = b"\x7fELF"
# e_machine of processors; kernels for the GPU are ELF files too, with a number of their own.
_PROCESSORS = {3: "x86", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}


def record_path() -> Path:
    """The record of this user."""
    return data_directory() / "trusted_plans.jsonl"


def is_known(digest: str) -> bool:
    """Whether a plan with this SHA-256 was built or trusted here."""
    try:
        lines = record_path().read_bytes().splitlines()
    except OSError:
        return False
    return any(_digest(line) == digest for line in lines)


def remember(digest: str, plan: Path, how: Literal["built", "trusted"]) -> None:
    """Add a plan to the record.

    Raises:
        OutputError: the record cannot be written.
    """
    entry = {
        "sha256": digest,
        "how": how,
        "plan": str(plan.absolute()),
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "by": f"dinat-deploy {__version__}",
    }
    record = record_path()
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(record.with_name(f".{record.name}.lock"), timeout=_LOCK_SECONDS):
            _append(record, json.dumps(entry).encode())
    except (OSError, Timeout) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(
            f"{record}, the record of plans that may run code here, cannot be written: {reason}.",
            "Mend its permissions, or set XDG_DATA_HOME to another folder.",
        ) from None


def _append(record: Path, line: bytes) -> None:
    handle = os.open(record, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(handle, "r+b", buffering=0) as stream:
        # A process that was killed while it wrote leaves a line without an end.
        size = stream.seek(0, os.SEEK_END)
        if size and (stream.seek(size - 1), stream.read(1))[1] != b"\n":
            line = b"\n" + line
        stream.write(line + b"\n")


def _digest(line: bytes) -> str | None:
    with suppress(ValueError, RecursionError):
        entry = json.loads(line)
        if isinstance(entry, dict):
            return entry.get("sha256")
    return None


def libraries_inside(plan: Path | BinaryIO) -> list[str]:
    """Processors that libraries inside a plan are for: host code, whatever a manifest says.

    Found by the header of an ELF file, which TensorRT stores as it is.

    Raises:
        OSError: the plan cannot be read.
    """
    found: list[str] = []
    with plan.open("rb") if isinstance(plan, Path) else nullcontext(plan) as stream:
        if not os.fstat(stream.fileno()).st_size:
            return found
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            at = content.find(_ELF)
            while at >= 0:
                header = content[at : at + 20]
                number = struct.unpack_from("<H", header, 18)[0] if len(header) == 20 else None
                if number in _PROCESSORS:
                    found.append(_PROCESSORS[number])
                at = content.find(_ELF, at + 4)
    return found
