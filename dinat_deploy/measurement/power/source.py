"""What a source of power readings is, whoever it asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from dinat_deploy.errors import DinatDeployError
from dinat_deploy.measurement.power.rails import Total

Scope = Literal["device", "gpu"]


class PowerUnavailableError(DinatDeployError):
    """No source of power readings works on this machine."""


class SourceMissing(Exception):  # noqa: N818 (it is an answer, not a failure)
    """Why one source cannot be used.

    Attributes:
        reason: without a full stop.
        cure: a sentence; empty if nothing can be done.
        present: whether there is such a source here, which only has to be made readable.
    """

    def __init__(self, reason: str, cure: str = "", *, present: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.cure, self.present = reason, cure, present


class ReadingFailed(Exception):  # noqa: N818 (one reading; the next may work)
    """A source that works gave no reading this time."""


@dataclass(frozen=True)
class Reading:
    """Power at one moment.

    Attributes:
        watts: rail -> W.
        joules: of a counter of energy that only grows, where there is one.
    """

    watts: Mapping[str, float]
    joules: float | None = None


@dataclass(frozen=True)
class Observation:
    """How the device is doing at one moment.

    Attributes:
        temperatures: zone -> degrees Celsius.
        clocks: unit -> MHz.
        counters: events that hold clocks down -> how many there were since the device started.
        held: what holds clocks down right now, one sentence each.
    """

    temperatures: Mapping[str, float] = field(default_factory=dict)
    clocks: Mapping[str, float] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    held: tuple[str, ...] = ()

    def __or__(self, other: Observation) -> Observation:
        return Observation(
            {**self.temperatures, **other.temperatures},
            {**self.clocks, **other.clocks},
            {**self.counters, **other.counters},
            tuple(dict.fromkeys([*self.held, *other.held])),
        )


class PowerSource(Protocol):
    """Something that tells the power.

    Attributes:
        name: for reports.
        interval: seconds between two readings that are worth it.
        scope: ``device`` for all of it, ``gpu`` for a graphics card alone.
        rails: names of the rails that it reads.
        total: which of them make the whole.
        notes: rails that are there and cannot be read; one sentence each.
    """

    name: str
    interval: float
    scope: Scope
    rails: tuple[str, ...]
    total: Total
    notes: list[str]

    def read(self) -> Reading:
        """Power right now.

        Raises:
            ReadingFailed: not this time.
        """
        ...

    def observe(self) -> Observation:
        """What it knows of temperatures and clocks besides; files of Linux are read elsewhere."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...
