"""Finds the artefact of a bundle that a result file speaks of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath, PureWindowsPath

from dinat_deploy.bundle import MODEL, Bundle
from dinat_deploy.engine.builder import PLAN
from dinat_deploy.engine.manifest import MANIFEST
from dinat_deploy.errors import ConfigError
from dinat_deploy.models.zoo import VARIANTS
from dinat_deploy.pipeline.artefact import parse_artefact
from dinat_deploy.reporting.records import ArtefactRecord, BundleRecord

# `bench` numbers an artefact that is named twice.
_AGAIN = re.compile(r" \(\d+\)$")


@dataclass(frozen=True)
class Owned:
    """A bundle that is reported on: what is on disk, what is said of it, and what it can run by
    its path within it."""

    bundle: Bundle
    record: BundleRecord
    artefacts: Mapping[str, ArtefactRecord]

    @classmethod
    def of(cls, bundle: Bundle, record: BundleRecord) -> Owned:
        return cls(bundle, record, {each.file: each for each in record.artefacts})


@dataclass(frozen=True)
class Match:
    """What a name stands for; ``runtime`` is empty for the usual one."""

    owner: Owned
    artefact: ArtefactRecord
    runtime: str


def match(name: str, source: Path, owners: Sequence[Owned]) -> Match | None:
    """The artefact that a result file calls by a name.

    A path that leads to one from here or from the file's folder is that one. A path that leads
    nowhere was perhaps written on another machine: then the name of a bundle's directory in it,
    and what follows, decide.

    Args:
        name: as ``bench`` and others were given it.
        source: the result file.

    Returns:
        None if it belongs to none of the bundles.

    Raises:
        ConfigError: it could belong to several bundles.
    """
    for text in dict.fromkeys([name, _AGAIN.sub("", name)]):
        try:
            parsed = parse_artefact(text)
        except ConfigError:
            continue
        runtime = parsed.runtime or ""
        if runtime.startswith("torch") and parsed.target in VARIANTS:
            continue  # a published model, whatever directories are called
        found = _by_path(parsed.target, source, owners)
        found = _by_tail(name, parsed.target, source, owners) if found is None else found
        if found:
            return Match(*found[0], runtime)
    return None


Found = tuple[Owned, ArtefactRecord]


def _by_path(target: str, source: Path, owners: Sequence[Owned]) -> list[Found] | None:
    """By a path that leads somewhere; None if it leads nowhere."""
    somewhere = False
    for place in (Path(target), source.parent / target):
        with suppress(OSError, ValueError):
            if not place.exists():
                continue
            somewhere, path = True, place.resolve()
            for owner in owners:
                root = owner.bundle.path.resolve()
                if path == root or root in path.parents:
                    found = _within(owner, path.relative_to(root))
                    if found is not None:
                        return [(owner, found)]
    return [] if somewhere else None


def _by_tail(name: str, target: str, source: Path, owners: Sequence[Owned]) -> list[Found]:
    """By the name of the bundle's directory; the bundle that the file lies in comes first."""
    found = list(_tails(target, owners))
    inside = [each for each in found if each[0].bundle.path.resolve() in source.resolve().parents]
    found = inside or found
    if len(found) > 1:
        raise ConfigError(
            f"{name} in {source} may belong to {found[0][0].bundle.path} or to "
            f"{found[1][0].bundle.path}.",
            "Report on one of them, or put the file into the bundle that it belongs to.",
        )
    return found


def _tails(target: str, owners: Sequence[Owned]) -> Iterator[Found]:
    pure = PureWindowsPath(target) if "\\" in target else PurePath(target)
    for owner in owners:
        folder = owner.bundle.path.resolve().name
        for place in reversed([i for i, part in enumerate(pure.parts) if part == folder]):
            artefact = _within(owner, PurePath(*pure.parts[place + 1 :]))
            if artefact is not None:
                yield owner, artefact
                break


def _within(owner: Owned, inside: PurePath) -> ArtefactRecord | None:
    """The artefact at a path within its bundle."""
    if inside.name in (PLAN, MANIFEST):
        inside = inside.parent
    file = inside.as_posix()
    return owner.artefacts.get(MODEL if file in (".", "model.json") else file)
