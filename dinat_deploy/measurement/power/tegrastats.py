"""Rails as tegrastats prints them, NVIDIA's tool on every Jetson: a process that runs along."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time

from dinat_deploy.measurement.power.rails import total_of
from dinat_deploy.measurement.power.source import (
    Observation,
    Reading,
    ReadingFailed,
    Scope,
    SourceMissing,
)

# A name, then milliwatts: now/average, on Thor now/average/most; JetPack 4 leaves the unit out.
# Memory is written the same way, but in MB and kB.
_RAIL = re.compile(r"(?<!\S)([A-Z][A-Z0-9_]*) (-?\d+)(?:mW)?(?:/-?\d+(?:mW)?){1,2}(?!\S)")
_INTERVAL = 0.1
_FIRST_LINE, _STALE = 3.0, 1.0


def parse(line: str) -> dict[str, float]:
    """Rails of one line in W; the first figure of each, which is the present one."""
    return {name: int(milliwatts) / 1e3 for name, milliwatts in _RAIL.findall(line)}


class TegrastatsSource:
    """Keeps the newest line of a tegrastats that runs beside.

    Raises:
        SourceMissing: it is not installed, does not start, or prints no rails.
    """

    name = "tegrastats"
    interval = _INTERVAL
    scope: Scope = "device"

    def __init__(self) -> None:
        tool = shutil.which("tegrastats")
        if tool is None:
            raise SourceMissing("it is not on PATH (it comes with JetPack)")
        try:
            self._process = subprocess.Popen(
                [tool, "--interval", str(round(1e3 * _INTERVAL))],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        except OSError as error:
            raise SourceMissing(f"{tool} does not start ({error.strerror or error})") from None
        self._newest: dict[str, float] = {}
        self._when = 0.0
        self._line = threading.Event()
        self._reader = threading.Thread(target=self._follow, daemon=True)
        self._reader.start()
        self._line.wait(_FIRST_LINE)
        self.rails = tuple(self._newest)
        if not self.rails:
            self.close()
            raise SourceMissing(f"{tool} prints no rails", "Try it with sudo.")
        self.total = total_of(self.rails)
        self.notes: list[str] = []

    def read(self) -> Reading:
        if time.monotonic() - self._when > _STALE:
            raise ReadingFailed("tegrastats has stopped printing")
        return Reading(self._newest)

    def observe(self) -> Observation:
        return Observation()

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(timeout=2)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _follow(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            found = parse(line)
            if found:
                self._newest, self._when = found, time.monotonic()
            self._line.set()
        self._line.set()
