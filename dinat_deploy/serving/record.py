"""``package.json``: what is in a package, so that it can be seen whether it still is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dinat_deploy import __version__
from dinat_deploy.engine.builder import PLAN
from dinat_deploy.files import sha256, write_whole
from dinat_deploy.models.config import describe
from dinat_deploy.serving.network import Network
from dinat_deploy.serving.problems import PackageError, Problem
from dinat_deploy.session.tensorrt_api import TITLES

RECORD = "package.json"
FORMAT_VERSION = 1

Format = Literal["triton", "cpp"]
# What whoever serves the model is meant to edit.
_EDITED = ("config.pbtxt", "start.sh", "README.md")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Packaged(_Record):
    """A model of the package, and what it was made from.

    Attributes:
        source: the ONNX file or the plan: its name, and its digest.
        model: name of the bundle's model, if it came from a bundle.
        runtime: that it needs, such as ``TensorRT 10.3.0``.
        architectures: compute capabilities that an engine is for.
        host_code: why loading the plan runs code out of it.
    """

    name: str
    source: str
    sha256: str
    model: str | None = None
    runtime: str
    architectures: list[str] = Field(default_factory=list)
    host_code: list[str] = Field(default_factory=list)


class PackageRecord(_Record):
    """Content of ``package.json``.

    Attributes:
        files: SHA-256 of every other file that nobody should edit, by its path in the package.
    """

    format_version: Literal[1] = 1
    created_by: str = f"dinat-deploy {__version__}"
    format: Format
    models: list[Packaged]
    files: dict[str, str]

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


def write_record(place: Path, package_format: Format, models: list[Packaged]) -> PackageRecord:
    """Record all files that are in a package now."""
    record = PackageRecord(format=package_format, models=models, files=dict(_digests(place)))
    write_whole(place / RECORD, record.to_json())
    return record


def _digests(place: Path) -> Iterator[tuple[str, str]]:
    for file in sorted(place.rglob("*")):
        if file.is_file() and file != place / RECORD and file.name not in _EDITED:
            yield file.relative_to(place).as_posix(), sha256(file)


def is_package(place: Path) -> bool:
    """Whether a directory was written by ``package``."""
    try:
        data = json.loads((place / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and "format_version" in data and data.get("format") in (
        "triton", "cpp",
    )  # fmt: skip


def read_record(place: Path) -> PackageRecord:
    """The record of a package.

    Raises:
        PackageError: there is none, it is of a newer format, or invalid.
    """
    file = place / RECORD
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        json.dumps(data, ensure_ascii=False).encode()  # half a character could not be printed
    except (FileNotFoundError, NotADirectoryError):
        raise PackageError(
            f"{place} is no package: it has no {RECORD}.",
            "Pass a directory written by `dinat-deploy package`.",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise PackageError(f"{file} is not readable JSON: {error}.", "Package again.") from None
    version = data.get("format_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise PackageError(
            f"{file} has format {version}; this dinat-deploy reads up to {FORMAT_VERSION}.",
            "Upgrade dinat-deploy.",
        )
    try:
        return PackageRecord.model_validate(data)
    except ValidationError as error:
        raise PackageError(describe(error, f"{file} is not valid"), "Package again.") from None


def check_files_of(place: Path, record: PackageRecord) -> Iterator[Problem]:
    """Files that are missing or were changed since; further ones are left alone."""
    for name, expected in record.files.items():
        file = place / name
        # A record from elsewhere may name any path.
        if ".." in Path(name).parts or Path(name).is_absolute():
            yield Problem(RECORD, f"It names {name}, which is outside of the package.")
        elif not file.is_file():
            yield Problem(name, f"It is missing; {RECORD} lists it.", "Package again.")
        elif (actual := sha256(file)) != expected:
            yield Problem(
                name,
                f"It was changed: it has SHA-256 {actual[:12]}..., and {RECORD} was written for "
                f"{expected[:12]}....",
                "Package again.",
            )


def packaged(network: Network) -> Packaged:
    """What ``package.json`` says of a model."""
    manifest = network.engine.manifest if network.engine is not None else None
    model = network.bundle.manifest.name if network.bundle is not None else None
    if manifest is None:
        assert network.onnx is not None
        return Packaged(
            name=network.name,
            source=network.source.name,
            sha256=sha256(network.onnx.path),
            model=model,
            runtime="ONNX Runtime",
        )
    return Packaged(
        name=network.name,
        source=f"{network.source.name}/{PLAN}",
        sha256=manifest.plan.sha256,
        model=model or manifest.model,
        runtime=f"{TITLES[manifest.runtime.flavor]} {manifest.runtime.version}",
        architectures=manifest.architectures,
        host_code=manifest.host_code,
    )
