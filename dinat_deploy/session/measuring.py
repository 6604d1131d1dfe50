"""What prepared runs of several runtimes share."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dinat_deploy.session.base import Block, Timing


def repeat(once: Callable[[], Timing], seconds: float, least: int) -> Block:
    """Run back to back until both the time and the number of inferences are reached."""
    timings: list[Timing] = []
    started = time.perf_counter()
    while True:
        timings.append(once())
        elapsed = time.perf_counter() - started
        if elapsed >= seconds and len(timings) >= least:
            return Block(timings, elapsed)


def resident_memory() -> int | None:
    """Resident memory of this process in bytes; None where the system does not tell."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


class MemoryGain:
    """Adds up by how much the process grew while it was watched, in bytes.

    Attributes:
        bytes: so far; None where the system does not tell.
    """

    def __init__(self) -> None:
        self.bytes: int | None = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Count what is gained inside of the context."""
        before = resident_memory()
        yield
        after = resident_memory()
        if before is not None and after is not None:
            # What an earlier session gave back to the allocator is used again without growth.
            self.bytes = (self.bytes or 0) + max(0, after - before)
