"""Some samples of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from dinat_deploy.data.dataset import Dataset, Sample, Task


@dataclass(frozen=True)
class Subset:
    """The samples of a dataset that have these numbers."""

    dataset: Dataset
    indices: list[int]

    @property
    def name(self) -> str:
        return self.dataset.name

    @property
    def task(self) -> Task | None:
        return self.dataset.task

    @property
    def classes(self) -> list[str] | None:
        return self.dataset.classes

    @property
    def notes(self) -> list[str]:
        return self.dataset.notes

    def __len__(self) -> int:
        return len(self.indices)

    def name_of(self, index: int) -> str:
        return self.dataset.name_of(self.indices[index])

    def class_of(self, index: int) -> int | None:
        return class_of(self.dataset, self.indices[index])

    def load(self, index: int) -> Sample:
        return self.dataset.load(self.indices[index])


def class_of(dataset: Dataset, index: int) -> int | None:
    """The class of a sample, where the dataset knows it without reading the image."""
    known = getattr(dataset, "class_of", None)
    return None if known is None else known(index)


def limited(dataset: Dataset, limit: int, seed: int) -> Dataset:
    """A part of a dataset in the same order: as many of each class as of any other, where there are
    classes and enough of each, and otherwise spread evenly over the whole.

    Args:
        limit: how many samples at most.
        seed: decides which ones.
    """
    if limit >= len(dataset):
        return dataset
    rng = np.random.default_rng(seed)
    groups: dict[int | None, list[int]] = {}
    for index in range(len(dataset)):
        groups.setdefault(class_of(dataset, index), []).append(index)
    ordered = [groups[key] for key in sorted(groups, key=lambda key: -1 if key is None else key)]
    chosen: list[int] = []
    for group, count in zip(ordered, _shares([len(g) for g in ordered], limit, rng), strict=True):
        chosen += _spread(group, count, rng)
    return Subset(dataset, sorted(chosen))


def _shares(sizes: Sequence[int], limit: int, rng: np.random.Generator) -> list[int]:
    """How many to take from each group: equally many, what a small one lacks from the others."""
    shares = [0] * len(sizes)
    left = limit
    while left:
        open_groups = [i for i, size in enumerate(sizes) if shares[i] < size]
        if len(open_groups) > left:
            open_groups = rng.permutation(open_groups)[:left].tolist()
        each = max(1, left // len(open_groups))
        for group in open_groups:
            taken = min(each, sizes[group] - shares[group])
            shares[group] += taken
            left -= taken
    return shares


def _spread(indices: Sequence[int], count: int, rng: np.random.Generator) -> list[int]:
    """One at random of each of ``count`` equal stretches."""
    bounds = [len(indices) * part // count for part in range(count + 1)] if count else []
    return [indices[int(rng.integers(begin, end))] for begin, end in pairwise(bounds)]
