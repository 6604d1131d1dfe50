"""Which of the model's classes a folder, or a name in a list, stands for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from dinat_deploy.errors import DataError

_SHOWN = 4


@dataclass(frozen=True)
class Matching:
    """Classes of names.

    Attributes:
        indices: name -> class.
        how: in words, where the user should check it; None if the names are the model's own.
    """

    indices: dict[str, int]
    how: str | None = None


def match_classes(
    source: str, names: Sequence[str], labels: Sequence[str] | None, order: Sequence[str] | None
) -> Matching:
    """Find the class of every name.

    By the model's labels (case, ``_`` and ``-`` do not matter, and one of several synonyms will
    do); else by ``order``; else the names are the numbers of the classes; else their alphabetical
    order is that of the classes, as it is for ImageNet's folders.

    Args:
        source: what has these names, for errors.
        names: such as the folders'.
        labels: the model's classes in order; None if it names none.
        order: content of a ``classes.txt``: names in the order of the classes.

    Raises:
        DataError: there is no such way; both sides are named.
    """
    known = _by_label(labels or [])
    found = {name: known[key] for name in names if (key := _plain(name)) in known}
    if len(found) == len(names):
        return _unique(source, Matching(found))
    if order is not None:
        return _in_order(source, names, labels, order)
    if found:
        missing = [name for name in names if name not in found]
        raise DataError(
            f"{source} has the class {_some(missing)}, which is not exactly one of the model's "
            f"{len(labels or [])} classes {_some(labels or [])}.",
            f"Rename it, or list the {len(names)} names in the model's order in classes.txt.",
        )
    if all(name.isdecimal() for name in names):
        return _numbered(source, names, labels)
    if labels is not None and len(names) != len(labels):
        raise DataError(
            f"{source} has {len(names)} classes ({_some(sorted(names))}) and the model "
            f"{len(labels)} ({_some(labels)}), and their names have nothing in common.",
            "Name them as the model does, or list them in the model's order in classes.txt.",
        )
    ordered = {name: index for index, name in enumerate(sorted(names))}
    how = None if labels is None else f"The classes of {source} were taken in alphabetical order."
    return Matching(ordered, how)


def _by_label(labels: Sequence[str]) -> dict[str, int]:
    """Plain name -> class, by whole labels and by the synonyms in them; ambiguous ones left out."""
    whole = Counter(_plain(label) for label in labels)
    known = {_plain(label): i for i, label in enumerate(labels) if whole[_plain(label)] == 1}
    words = [{_plain(word) for word in label.split(",")} for label in labels]
    counts = Counter(word for synonyms in words for word in synonyms)
    for index, synonyms in enumerate(words):
        for word in synonyms:
            if counts[word] == 1 and word not in whole:
                known[word] = index
    return known


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())


def _in_order(
    source: str, names: Sequence[str], labels: Sequence[str] | None, order: Sequence[str]
) -> Matching:
    if labels is not None and len(order) != len(labels):
        raise DataError(
            f"classes.txt of {source} lists {len(order)} classes, and the model has {len(labels)}.",
            "List one name for each class of the model, in its order.",
        )
    twice = [name for name, count in Counter(order).items() if count > 1]
    if twice:
        raise DataError(f"classes.txt of {source} lists {twice[0]} twice.", "Correct it.")
    missing = sorted(set(names) - set(order))
    if missing:
        raise DataError(
            f"{source} has the class {_some(missing)}, which its classes.txt does not list; that "
            f"has {_some(order)}.",
            "Add it there.",
        )
    return Matching({name: order.index(name) for name in names})


def _numbered(source: str, names: Sequence[str], labels: Sequence[str] | None) -> Matching:
    indices = {name: int(name) for name in names}
    largest = max(indices.values())
    if labels is not None and largest >= len(labels):
        raise DataError(
            f"{source} has the class {largest}, and the model has {len(labels)}, counted from 0.",
            "List the names in the model's order in classes.txt.",
        )
    return _unique(source, Matching(indices))


def _unique(source: str, matching: Matching) -> Matching:
    taken: dict[int, str] = {}
    for name, index in matching.indices.items():
        if index in taken:
            raise DataError(
                f"{source} has {taken[index]} and {name}, which are the same class {index} of the "
                "model.",
                "Merge them.",
            )
        taken[index] = name
    return matching


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{shown}, ..." if len(names) > _SHOWN else shown
