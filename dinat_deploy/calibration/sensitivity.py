"""Units of a model that are quantized or not as a whole, and how much each of them harms."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Grouping = Literal["site", "block", "level", "kind"]
GROUPINGS: tuple[str, ...] = get_args(Grouping)
# What float64 sums can still tell from no noise at all.
LARGEST_SQNR = 300.0

_BLOCK = re.compile(r"(?:^|.*?\.)levels\.\d+\.(?:blocks\.\d+|[^./]+)")
_LEVEL = re.compile(r"(?:^|.*?\.)levels\.\d+")
# Models of other makes: everything up to the last number that parts of the model follow.
_NUMBERED = re.compile(r"(.*[./]\d+)[./][^/]*[^\d./][^./]*")


@dataclass(frozen=True)
class Unit:
    """What is quantized together or not at all.

    Attributes:
        name: of the node, block, level or kind.
        sites: names of its nodes, in the order of the graph.
        macs: multiply-accumulates of them for one image.
    """

    name: str
    sites: tuple[str, ...]
    macs: int


def group(sites: Iterable[str], macs: Mapping[str, int], by: Grouping) -> list[Unit]:
    """Units in the order of their first site.

    Args:
        macs: node -> multiply-accumulates; nodes that are not there have none.
        by: ``site`` (each alone), ``block`` (``levels.0.blocks.1``), ``level`` (``levels.0``), or
            ``kind`` (``qkv``, ``proj``, ``fc1``, ``fc2``, ``conv``).
    """
    found: dict[str, list[str]] = {}
    for site in sites:
        found.setdefault(group_of(site, by), []).append(site)
    return [
        Unit(name, tuple(members), sum(macs.get(site, 0) for site in members))
        for name, members in found.items()
    ]


def group_of(node: str, by: Grouping) -> str:
    """The unit that a node belongs to, by its name (``levels.0.blocks.1.attn.qkv/MatMul``)."""
    module, _, operator = node.rpartition("/")
    if by == "site" or not module:
        return node
    if by == "kind":
        last = re.split(r"[./]", module)[-1]
        if operator.startswith("Conv"):
            return "conv"
        return re.sub(r"_\d+$", "", operator).lower() if last.isdigit() else last
    for pattern in (_BLOCK, _LEVEL) if by == "block" else (_LEVEL,):
        if match := pattern.match(module):
            return match[0]
    if by == "block" and (match := _NUMBERED.match(module)):
        return match[1]
    return module.lstrip("/").partition(".")[0].partition("/")[0]


def sqnr_db(noise: float | None) -> float | None:
    """Signal-to-quantization-noise ratio in dB, :data:`LARGEST_SQNR` at most.

    Args:
        noise: energy of the change over that of the exact outputs; None if they are not finite.
    """
    if noise is None:
        return None
    if noise <= 0:
        return LARGEST_SQNR
    return min(-10 * math.log10(noise), LARGEST_SQNR)


class Noise:
    """Energies of outputs and of their changes, summed over batches.

    Every output counts the same, however large its numbers are.
    """

    def __init__(self) -> None:
        self._energies: dict[str, tuple[float, float]] = {}

    def add(self, output: str, signal: float, noise: float) -> None:
        """Add the sums of squares of an output's exact values, and of their changes."""
        before = self._energies.get(output, (0.0, 0.0))
        self._energies[output] = (before[0] + signal, before[1] + noise)

    @property
    def share(self) -> float | None:
        """Noise energy over signal energy, the mean over the outputs; None if it is not finite."""
        shares = []
        for signal, noise in self._energies.values():
            if not math.isfinite(signal) or not math.isfinite(noise) or (noise and not signal):
                return None
            shares.append(noise / signal if noise else 0.0)
        return sum(shares) / max(len(shares), 1)


def total(shares: Iterable[float | None]) -> float | None:
    """Noise of all units together, to first order: their errors have nothing to do with each other,
    so that energies add up."""
    found = list(shares)
    if any(share is None for share in found):
        return None
    return math.fsum(share for share in found if share is not None)


def by_harm(units: Iterable[Unit], noise: Mapping[str, float | None]) -> list[Unit]:
    """Units by the noise that leaving them out saves, for the work that this makes slower: the most
    first.

    Work is multiply-accumulates, and a thousandth of those of all units on top: a sum or a small
    product in higher precision costs its memory traffic and conversions.

    Args:
        noise: unit -> its noise when it alone is lowered in precision; None is the worst.
    """
    listed = list(units)
    least = sum(unit.macs for unit in listed) / 1000 or 1.0

    def harm(unit: Unit) -> tuple[float, float]:
        found = noise[unit.name]
        energy = math.inf if found is None else found
        return energy / (unit.macs + least), energy

    return sorted(listed, key=harm, reverse=True)
