"""Rails as the service of jetson-stats tells them, twice a second: the last choice on a Jetson."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any

from dinat_deploy.measurement.power.rails import total_of
from dinat_deploy.measurement.power.source import (
    Observation,
    Reading,
    ReadingFailed,
    Scope,
    SourceMissing,
)

_INTERVAL = 0.5


class JtopSource:
    """A client of the service.

    Raises:
        SourceMissing: the package is not installed, the service does not run, or knows no rails.
    """

    name = "jtop"
    interval = _INTERVAL
    scope: Scope = "device"

    def __init__(self) -> None:
        try:
            client = import_module("jtop").jtop
        except (ImportError, AttributeError):
            raise SourceMissing("jetson-stats is not installed") from None
        # The package raises exceptions of its own, which are not worth an import each.
        try:
            self._client: Any = client(interval=_INTERVAL)
            self._client.start()
        except Exception as error:
            raise SourceMissing(
                f"its service does not answer ({error})",
                "Start it: `sudo systemctl start jtop`.",
                present=True,
            ) from None
        try:
            self.rails = tuple(self.read().watts)
        except ReadingFailed as error:
            self.close()
            raise SourceMissing(f"its service tells no power ({error})", present=True) from None
        self.total = total_of(self.rails)
        self.notes: list[str] = []

    def read(self) -> Reading:
        """Its rails, and its total under the name of the rail that this is."""
        try:
            power = self._client.power
            watts = {name: rail["power"] / 1e3 for name, rail in power["rail"].items()}
            whole = power.get("tot", {})
            # A total without a rail's name is a sum of all, whether one contains another or not.
            if isinstance(whole, Mapping) and whole.get("name") not in (None, "", "ALL"):
                watts[whole["name"]] = whole["power"] / 1e3
        except Exception as error:
            raise ReadingFailed(f"{type(error).__name__}: {error}") from None
        if not watts:
            raise ReadingFailed("it names no rails")
        return Reading(watts)

    def observe(self) -> Observation:
        return Observation()

    def close(self) -> None:
        with suppress(Exception):
            self._client.close()
