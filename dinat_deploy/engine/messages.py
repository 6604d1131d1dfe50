"""What a worker tells its parent, one JSON object per line.

{"kind": "stage", "name": ...}                       a new stage begins
{"kind": "share", "done": 0.37, "phase": ...}        how far the stage is
{"kind": "failed", "cause": ..., "cure": ...}        the last message of a failure
{"kind": "done", "outcome": {...}}                   the last message of a success
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from dinat_deploy.progress import Progress

# Builders report thousands of steps a second; people see some twenty changes.
_SECONDS_BETWEEN_SHARES = 0.05


class Channel:
    """The worker's end. Builders call back from several threads."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def send(self, kind: str, **content: Any) -> None:
        line = json.dumps({"kind": kind, **content}).encode() + b"\n"
        with self._lock:
            while line:
                line = line[os.write(self._descriptor, line) :]


class Phases:
    """Turns the nested phases of a builder into one share that only grows.

    A phase of n steps is one step of its parent, so a finished step is worth 1/n of it.

    Args:
        report: called with the share (0 to 1) and the name of the innermost phase.
    """

    def __init__(self, report: Callable[[float, str], None]) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._open: dict[str, tuple[str | None, int, int]] = {}  # parent, steps, steps done
        self._share = 0.0
        self._reported = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        with self._lock:
            self._open[name] = (parent, max(1, steps), 0)
            self._update(name)

    def step(self, name: str, number: int) -> None:
        with self._lock:
            if name in self._open:
                parent, steps, _ = self._open[name]
                self._open[name] = (parent, steps, min(steps, number + 1))
                self._update(name)

    def finish(self, name: str) -> None:
        with self._lock:
            self._open.pop(name, None)

    def _update(self, name: str) -> None:
        share = 0.0
        current: str | None = name
        visited = set()
        while current in self._open and current not in visited:
            visited.add(current)
            parent, steps, done = self._open[current]
            share = min(1.0, (done + share) / steps)
            current = parent
        self._share = max(self._share, share)
        now = time.monotonic()
        if now - self._reported >= _SECONDS_BETWEEN_SHARES:
            self._reported = now
            self._report(self._share, name)


class ProgressReceiver:
    """The parent's end: shows stages and shares on a :class:`Progress`."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stage = ExitStack()
        self._advance: Callable[[float, str], None] | None = None

    def __enter__(self) -> ProgressReceiver:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stage.__exit__(*error)

    def receive(self, message: dict[str, Any]) -> None:
        if message["kind"] == "stage":
            self._stage.close()
            self._advance = self._stage.enter_context(self._progress.portion(message["name"]))
        elif message["kind"] == "share" and self._advance is not None:
            self._advance(float(message["done"]), str(message["phase"]))
