"""Reads the samples of a dataset one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from dinat_deploy.data.dataset import Dataset, OnBad, Sample
from dinat_deploy.errors import DataError


def samples(
    dataset: Dataset,
    *,
    on_bad: OnBad = "refuse",
    skipped: list[str] | None = None,
    note: Callable[[str], None] | None = None,
) -> Iterator[Sample]:
    """All samples in order; only one is in memory at a time.

    Args:
        on_bad: what to do about one that cannot be used: raise, or skip it.
        skipped: receives the names of those that are skipped.
        note: receives the reason of each.

    Raises:
        DataError: a sample cannot be used and bad ones are refused, or none can be used.
    """
    return some_samples(dataset, range(len(dataset)), on_bad=on_bad, skipped=skipped, note=note)


def some_samples(
    dataset: Dataset,
    indices: Iterable[int],
    *,
    on_bad: OnBad = "refuse",
    skipped: list[str] | None = None,
    note: Callable[[str], None] | None = None,
    may_be_empty: bool = False,
) -> Iterator[Sample]:
    """As :func:`samples`, of some samples.

    Args:
        indices: numbers of the samples.
        may_be_empty: do not raise if none of them can be used.
    """
    first: DataError | None = None
    total = good = 0
    for index in indices:
        total += 1
        try:
            sample = dataset.load(index)
        except DataError as error:
            if on_bad == "refuse":
                raise DataError(
                    error.cause, f"{error.cure} Or leave out what cannot be used (--on-bad skip)."
                ) from None
            first = first or error
            if skipped is not None:
                skipped.append(dataset.name_of(index))
            if note is not None:
                note(f"{error.cause} It was skipped.")
            continue
        good += 1
        yield sample
    if not good and not may_be_empty:
        raise none_usable(dataset, total, first)


def none_usable(dataset: Dataset, total: int, first: DataError | None) -> DataError:
    """What to raise if no sample can be used.

    Args:
        first: what is wrong with the first of them.
    """
    reason = f" The first: {first.cause}" if first else ""
    return DataError(
        f"None of the {total} images in {dataset.name} can be used.{reason}",
        first.cure if first else "",
    )
