"""Kernel times that a builder measured, kept for the next build.

TensorRT times every candidate kernel on the GPU; with the times of an earlier build at hand it
measures only what is new. A cache fits one TensorRT on one kind of GPU under one driver, so each of
these has a file of its own. Builders that run at the same time share it: what one of them stores is
merged with what another stored meanwhile, under a lock, and the file is replaced whole.

Nothing here can fail a build: a cache that is damaged or cannot be written is a note.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from dinat_deploy.engine.builder import Gpu
from dinat_deploy.native import cache_directory
from dinat_deploy.session.tensorrt_api import Flavor

# Merging takes milliseconds; whoever holds the lock for longer is stuck.
LOCK_SECONDS = 30.0


def default_path(flavor: Flavor, version: str, gpu: Gpu) -> Path:
    """The cache of one TensorRT on one kind of GPU under one driver."""
    parts = (flavor, version, gpu.name, f"sm{gpu.capability}", f"cuda{gpu.driver or ''}")
    name = "-".join(re.sub(r"[^\w.]+", "_", part).strip("_") for part in parts)
    return cache_directory() / "timing" / f"{name}.cache"


def load(path: Path) -> bytes:
    """Content of a cache; empty if there is none yet, or none that can be read.

    No lock is needed: a cache is only ever replaced whole.
    """
    try:
        return path.read_bytes()
    except OSError:
        return b""


def store(
    path: Path,
    data: bytes,
    merge: Callable[[bytes, bytes], bytes],
    *,
    lock_seconds: float = LOCK_SECONDS,
) -> list[str]:
    """Add what a build measured to a cache.

    Args:
        data: the builder's cache after the build, with all that it had loaded.
        merge: called with the content of the file and ``data`` if another builder may have written
            the file; gives both in one, or raises ValueError if the first is no cache of this
            TensorRT.

    Returns:
        Notes for the user: a damaged cache was set aside, or nothing could be stored.
    """
    notes: list[str] = []
    if not data:
        return notes
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(_lock_place(path), timeout=lock_seconds):
            there = load(path)
            if there and there != data:
                try:
                    data = merge(there, data)
                except ValueError as error:
                    notes.append(set_aside(path, str(error)))
            if data != there:
                _replace(path, data)
    except Timeout:
        notes.append(
            f"The timing cache {path} was not updated: another process has held its lock for "
            f"{lock_seconds:.0f} s."
        )
    except OSError as error:
        notes.append(f"The timing cache {path} was not updated: {error.strerror or error}.")
    return notes


def set_aside(path: Path, reason: str) -> str:
    """Move a damaged cache out of the way.

    Args:
        reason: what is wrong with it, without a full stop.

    Returns:
        A note that says so.
    """
    place = path.with_name(f"{path.name}.damaged")
    with suppress(OSError):  # gone already: another builder saw it too
        path.replace(place)
    return (
        f"The timing cache {path} cannot be used ({reason}); it was moved to {place.name} and a "
        "new one is made."
    )


def _lock_place(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _replace(path: Path, data: bytes) -> None:
    """Only called under the lock: nobody else writes the partial file, and the next one who stores
    takes over what a killed process left of it."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
