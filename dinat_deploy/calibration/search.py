"""Which units to leave unquantized so that an accuracy budget holds: a greedy search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from dinat_deploy.calibration.sensitivity import Unit

M = TypeVar("M")
Measure = Callable[[Sequence[Unit]], M]


@dataclass(frozen=True)
class Step(Generic[M]):
    """One measurement of the search.

    Attributes:
        action: what was tried, in words.
        excluded: names of the units that were not quantized.
        measured: what that gave.
        within: whether that is within the budget.
    """

    action: str
    excluded: tuple[str, ...]
    measured: M
    within: bool


@dataclass(frozen=True)
class Found(Generic[M]):
    """The end of a search.

    Attributes:
        excluded: units that are left unquantized, in the order in which they were given.
        measured: what the others give; None if there are no others.
        steps: all measurements, in order.
    """

    excluded: list[Unit]
    measured: M | None
    steps: list[Step[M]] = field(default_factory=list)


def search(
    ordered: Sequence[Unit],
    measure: Measure[M],
    within: Callable[[M], bool],
    *,
    heard: Callable[[Step[M]], None] | None = None,
) -> Found[M]:
    """Find a set of units that may be quantized.

    First everything is quantized. If that is over the budget, the first 1, 2, 4, ... units of the
    order are left out until the budget holds, and then fewer by bisection. Then every unit that was
    left out is put back if the budget still holds, those with the most multiply-accumulates first,
    until none can be.

    With a measure that never improves when more is quantized, the bisection finds the smallest
    number of units, and every unit is tried once. With any other measure, too, the result has been
    measured to hold the budget, and no single unit can be put back.

    Args:
        ordered: the units that are to be left out first come first.
        measure: measures the model with these units quantized.
        within: whether a measurement is within the budget. The float32 model always is.
        heard: is told of every step.
    """
    run = _Run(ordered, measure, within, heard)
    left_out = _fewest(run)
    improved = True
    while improved:
        improved = False
        for unit in sorted(left_out, key=lambda unit: (-unit.macs, -ordered.index(unit))):
            fewer = [other for other in left_out if other is not unit]
            if run.holds(fewer, f"put {unit.name} back"):
                left_out, improved = fewer, True
    return Found(left_out, run.measured(left_out), run.steps)


def _fewest(run: _Run[M]) -> list[Unit]:
    """The first units of the order, as few as hold the budget."""
    ordered = run.ordered
    if run.holds([], "quantize everything"):
        return []
    over, holding = 0, min(1, len(ordered))
    while not run.holds(ordered[:holding], _left_out(holding)):
        over, holding = holding, min(2 * holding, len(ordered))
    while holding - over > 1:
        middle = (over + holding) // 2
        if run.holds(ordered[:middle], _left_out(middle)):
            holding = middle
        else:
            over = middle
    return list(ordered[:holding])


def _left_out(count: int) -> str:
    return f"leave out the {count} most harmful" if count > 1 else "leave out the most harmful"


class _Run(Generic[M]):
    """Measures every set once."""

    def __init__(
        self,
        ordered: Sequence[Unit],
        measure: Measure[M],
        within: Callable[[M], bool],
        heard: Callable[[Step[M]], None] | None,
    ) -> None:
        self.ordered = list(ordered)
        self.steps: list[Step[M]] = []
        self._measure, self._within, self._heard = measure, within, heard
        self._known: dict[frozenset[str], Step[M]] = {}

    def holds(self, excluded: Sequence[Unit], action: str) -> bool:
        """Whether the budget holds without these units."""
        if len(excluded) == len(self.ordered):
            return True  # it is the float32 model
        key = frozenset(unit.name for unit in excluded)
        if key not in self._known:
            found = self._measure([unit for unit in self.ordered if unit.name not in key])
            names = tuple(unit.name for unit in excluded)
            self._known[key] = Step(action, names, found, self._within(found))
            self.steps.append(self._known[key])
            if self._heard is not None:
                self._heard(self._known[key])
        return self._known[key].within

    def measured(self, excluded: Sequence[Unit]) -> M | None:
        found = self._known.get(frozenset(unit.name for unit in excluded))
        return found.measured if found is not None else None
