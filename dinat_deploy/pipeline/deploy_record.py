"""``deploy.json``: which steps of a deployment are done, and for which inputs.

A step is done if it was finished for the same inputs, which its *key* stands for (a digest of
everything that its result depends on), and if the files that it wrote are still what they were. The
file is replaced as a whole before and after every step, so that a deployment that was stopped goes
on with the first step that had not finished.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dinat_deploy import __version__
from dinat_deploy.errors import ConfigError
from dinat_deploy.files import sha256, write_whole
from dinat_deploy.pipeline.requests import ModelRequest

RECORD = "deploy.json"
StepName = Literal["export", "precision", "build", "verify", "bench"]
# Arguments of a request that name files: their content counts, not their place.
_FILES = ("checkpoint", "config", "labels")


class StepRecord(BaseModel):
    """A finished step.

    Attributes:
        key: digest of what the step was given.
        seconds: how long it took.
        result: what came out, in a sentence.
        files: what the step wrote: path within the bundle -> SHA-256.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    seconds: float
    result: str
    files: dict[str, str]

    def intact(self, bundle: Path) -> bool:
        """Whether all that the step wrote is still there, unchanged."""
        return all(
            (bundle / name).is_file() and sha256(bundle / name) == digest
            for name, digest in self.files.items()
        )


class DeployRecord(BaseModel):
    """Content of ``deploy.json``.

    Attributes:
        steps: by what they made: ``export``, ``precision:fp16``, ``build:NAME OF THE ENGINE`` and
            so on. Engines of several kinds stand side by side in a bundle.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    created_by: str = f"dinat-deploy {__version__}"
    steps: dict[str, StepRecord] = Field(default_factory=dict)

    def with_step(self, slot: str, step: StepRecord) -> DeployRecord:
        """The same with another finished step."""
        return self.model_copy(update={"steps": {**self.steps, slot: step}})

    def without(self, slot: str) -> DeployRecord:
        """The same without a step."""
        kept = {name: step for name, step in self.steps.items() if name != slot}
        return self.model_copy(update={"steps": kept})


def read_record(bundle: Path) -> DeployRecord:
    """The record in a bundle; an empty one if there is none, or none that can be read: the steps
    are then done again."""
    try:
        return DeployRecord.model_validate_json((bundle / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, ValidationError):
        return DeployRecord()


def write_record(bundle: Path, record: DeployRecord) -> None:
    """Replace the record as a whole."""
    write_whole(bundle / RECORD, record.model_dump_json(indent=2) + "\n")


def key(content: Mapping[str, Any]) -> str:
    """Digest of plain data."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def request_key(request: ModelRequest, options: Mapping[str, Any]) -> str:
    """Digest of what an export is given: the request, with the content of its files, the other
    arguments, and the version of this package.

    Raises:
        ConfigError: a file that the request names cannot be read.
    """
    content = asdict(request)
    for name in _FILES:
        if content[name] is not None:
            content[name] = _content(Path(content[name]))
    return key({"request": content, "options": dict(options), "version": __version__})


def _content(path: Path) -> str | dict[str, str]:
    """Digest of a file, or of every file below a directory."""
    try:
        return digests(path, sorted(path.rglob("*"))) if path.is_dir() else sha256(path)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}.", "Check the path.") from None


def digests(directory: Path, files: Sequence[Path]) -> dict[str, str]:
    """SHA-256 of files in a directory, by their path within it; what is no file is left out."""
    return {str(file.relative_to(directory)): sha256(file) for file in files if file.is_file()}


def data_state(source: str | Path) -> list[tuple[str, int, int]]:
    """What tells whether data have changed: path, size and time of change of each file.

    Digests of a data set of thousands of pictures would take longer than what they save. Data that
    are no files (``digits``) do not change.
    """
    path = Path(source)
    files = sorted(path.rglob("*")) if path.is_dir() else [path] if path.is_file() else []
    states = ((file, file.stat()) for file in files if file.is_file())
    return [(str(file), state.st_size, state.st_mtime_ns) for file, state in states]
