"""What trainings say of layer orders and kernel sizes, and how sure that is.

Two things make the accuracy of a training uncertain: its seed, and which scans happen to be judged.
A difference between two kinds of model is taken seed by seed, and scan by scan:

* ``d_s``, the difference of the accuracies of seed s (means over what is not asked about),
* ``d_i``, the difference of the shares of seeds that give scan i its class.

The standard error of the mean difference is ``sqrt(var(d_s) / seeds + var(d_i) / scans)``, and the
interval is that times the quantile of Student's t for as many seeds. The second term contains some
of the first, so that the interval is rather too wide than too narrow. Each comparison has 95 %: of
twenty between equal models, one shows a difference by chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from dinat_deploy.choosing.ablation_records import Training
from dinat_deploy.choosing.ablation_task import ORDERS

# Student's t, 97.5 %, for 1, 2, ... degrees of freedom.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093,
)  # fmt: skip
MOST_SEEDS = len(_T) + 1

Factor = Literal["order", "kernel size"]
_BASES: dict[Factor, str] = {"order": "NA-NA", "kernel size": "7"}
_OF: dict[Factor, Callable[[Training], str]] = {
    "order": lambda training: training.order,
    "kernel size": lambda training: str(training.kernel_size),
}


@dataclass(frozen=True)
class Cell:
    """All trainings of one model.

    Attributes:
        accuracies: of each seed, in percent.
        spread: standard deviation over the seeds, in points; None of a single seed.
    """

    order: str
    kernel_size: int
    dilations: tuple[tuple[int, ...], ...]
    accuracies: tuple[float, ...]
    seconds: float

    @property
    def mean(self) -> float:
        return sum(self.accuracies) / len(self.accuracies)

    @property
    def spread(self) -> float | None:
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else None


@dataclass(frozen=True)
class Effect:
    """How much more accurate one kind of model is than the base, in points of accuracy.

    Attributes:
        factor: what differs; everything else that was trained is averaged over.
        low, high: 95 % interval; None with a single seed.
    """

    factor: Factor
    value: str
    base: str
    difference: float
    low: float | None
    high: float | None

    @property
    def name(self) -> str:
        """What is compared, such as ``kernel size 3 against 7``."""
        kind = f"{self.factor} " if self.factor != "order" else ""
        return f"{kind}{self.value} against {self.base}"

    @property
    def verdict(self) -> Literal["better", "worse", "within the noise", "one seed says nothing"]:
        if self.low is None or self.high is None:
            return "one seed says nothing"
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "within the noise"


def cells(trainings: Sequence[Training], judged: int) -> list[Cell]:
    """One for each model, in the order in which they first appear.

    Args:
        judged: how many scans every training was judged on.
    """
    grouped: dict[tuple[str, int], list[Training]] = {}
    for training in trainings:
        grouped.setdefault((training.order, training.kernel_size), []).append(training)
    return [
        Cell(
            order,
            kernel,
            found[0].config.dilations,
            tuple(100 * (1 - len(each.wrong) / judged) for each in found),
            sum(each.seconds for each in found),
        )
        for (order, kernel), found in grouped.items()
    ]


def effects(trainings: Sequence[Training], judged: int) -> list[Effect]:
    """Each order against NA-NA and each kernel size against 7, or against what is nearest to that:
    the order with the fewest dilated layers, the largest kernel.

    Args:
        trainings: the same seeds of every model.
        judged: as of :func:`cells`.
    """
    found: list[Effect] = []
    for factor, of in _OF.items():
        values = list(dict.fromkeys(map(of, trainings)))
        base = _base(factor, values)
        right = {value: _right(trainings, judged, factor, value) for value in values}
        for value in values:
            if value != base:
                found.append(_effect(factor, value, base, right[value] - right[base]))
    return found


def _base(factor: Factor, values: Sequence[str]) -> str:
    """What others are compared with, in whatever order they were asked for."""
    if _BASES[factor] in values:
        return _BASES[factor]
    return max(values, key=int) if factor == "kernel size" else min(values, key=list(ORDERS).index)


def _right(
    trainings: Sequence[Training], judged: int, factor: Factor, value: str
) -> npt.NDArray[np.float64]:
    """Share of the models of a kind that give a scan its class, ``[seeds, scans]``."""
    chosen = [training for training in trainings if _OF[factor](training) == value]
    seeds = sorted({training.seed for training in chosen})
    right = np.zeros((len(seeds), judged))
    for row, seed in enumerate(seeds):
        own = [training for training in chosen if training.seed == seed]
        for training in own:
            correct = np.ones(judged)
            correct[training.wrong] = 0
            right[row] += correct / len(own)
    return right


def _effect(factor: Factor, value: str, base: str, points: npt.NDArray[np.float64]) -> Effect:
    difference = 100 * float(points.mean())
    seeds, scans = points.shape
    if seeds < 2 or scans < 2:
        return Effect(factor, value, base, difference, None, None)
    of_seeds = float(points.mean(axis=1).var(ddof=1)) / seeds
    of_scans = float(points.mean(axis=0).var(ddof=1)) / scans
    reach = 100 * _T[seeds - 2] * math.sqrt(of_seeds + of_scans)
    return Effect(factor, value, base, difference, difference - reach, difference + reach)
