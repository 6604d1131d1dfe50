"""Which input a number stands for: the same for the same seed and number, whatever else is run."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from dinat_deploy.files import sha256
from tests.fuzzing.byte_changes import mutate_bytes, mutate_place
from tests.fuzzing.readers import KINDS, Kind, Reader, files_of, mutation_of
from tests.fuzzing.values import OUTSIDE

# What is read there would be read outside of what the user named.
_DECOYS = (".bin", ".npz", ".safetensors", ".onnx", ".json", ".png")


@dataclass(frozen=True)
class Case:
    """One input and what reads it.

    Attributes:
        kind: key of :data:`tests.fuzzing.readers.KINDS`; ``reader`` the name of one of its readers.
        seed: the valid input that it was made of.
        said: what was changed.
    """

    kind: str
    reader: str
    seed: str
    said: str

    def read_by(self) -> Reader:
        return next(reader for reader in KINDS[self.kind].readers if reader.name == self.reader)


def numbers(seed: int, only: frozenset[str] | None) -> Iterator[int]:
    """Numbers of the cases of some kinds (None: of all), without end."""
    number = 0
    while True:
        if only is None or _kind_of(seed, number) in only:
            yield number
        number += 1


def _random(seed: int, number: int) -> Random:
    return Random(f"dinat {seed} {number}")


def _kind_of(seed: int, number: int) -> str:
    names = list(KINDS)
    return _random(seed, number).choices(names, [KINDS[name].weight for name in names])[0]


def make_case(seeds: Path, seed: int, number: int, place: Path) -> Case:
    """Write the input of a case.

    Args:
        seeds: as :func:`tests.fuzzing.seeds.make_seeds` wrote them.
        place: of the input, made anew.
    """
    rng = _random(seed, number)
    name = _kind_of(seed, number)
    rng.random()  # that one was for the kind
    kind = KINDS[name]
    reader = rng.choices(kind.readers, [reader.weight for reader in kind.readers])[0]
    origin = rng.choice(sorted(path.name for path in (seeds / name).iterdir()))
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(seeds / name / origin, place)
    said = _mutate(rng, kind, place)
    model = place / "bundle" / "model.onnx"
    if kind.reseal and model.is_file() and rng.random() < 0.85:
        reseal(place / "bundle")
    deep = any((place / folder).is_dir() for folder in ("bundle", "model"))
    for parent in (*((place,) if deep else ()), place.parent, place.parent.parent):
        for suffix in _DECOYS:
            decoy = parent / f"{OUTSIDE}{suffix}"
            if not decoy.exists():
                decoy.write_bytes(bytes(4096))
    return Case(name, reader.name, origin, said)


def _mutate(rng: Random, kind: Kind, place: Path) -> str:
    files = list(files_of(kind, place))
    said = []
    for path in {rng.choice(files): None for _ in range(rng.choice((1, 1, 1, 2)))}:
        if rng.random() < 0.05:
            said.append(f"{path.name}: {mutate_place(rng, path)}")
            continue
        content = path.read_bytes()
        how = mutation_of(path) if rng.random() < 0.8 else mutate_bytes
        try:
            content, what = how(rng, content)
        except Exception:  # a change that does not go with what is in the file
            content, what = mutate_bytes(rng, content)
        if rng.random() < 0.08:
            content, more = mutate_bytes(rng, content)
            what += f"; {more}"
        path.write_bytes(content)
        said.append(f"{path.name}: {what}")
    return " | ".join(said)


def reseal(bundle: Path) -> None:
    """Write the digest of a changed ``model.onnx`` into its manifest."""
    manifest = json.loads((bundle / "model.json").read_text())
    manifest["graph"]["sha256"] = sha256(bundle / "model.onnx")
    (bundle / "model.json").write_text(json.dumps(manifest))


def digest(place: Path) -> str:
    """SHA-256 over names and content of everything in a folder."""
    total = hashlib.sha256()
    for path in sorted(place.rglob("*")):
        if path.is_symlink():
            total.update(f"{path.relative_to(place)} -> {path.name}\n".encode())
        elif path.is_file():
            total.update(f"{path.relative_to(place)} {sha256(path)}\n".encode())
    return total.hexdigest()
