"""``package``: models to a repository for Triton, or to a folder for the runner in C++."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dinat_deploy.errors import ConfigError
from dinat_deploy.files import whole_directory
from dinat_deploy.pipeline.packaging_sources import Target, networks
from dinat_deploy.progress import Progress, Silent
from dinat_deploy.serving.cpp_package import check_cpp_package, write_cpp_package
from dinat_deploy.serving.problems import Problem
from dinat_deploy.serving.record import (
    RECORD,
    Format,
    PackageRecord,
    check_files_of,
    is_package,
    read_record,
)
from dinat_deploy.serving.triton_config import ModelConfig
from dinat_deploy.serving.triton_options import TritonOptions
from dinat_deploy.serving.triton_package import write_triton_package
from dinat_deploy.serving.triton_readme import START
from dinat_deploy.serving.triton_repository import check_repository, repository_in

__all__ = ["CheckReport", "PackageReport", "Target", "TritonOptions", "check_package", "package"]


@dataclass(frozen=True)
class PackageReport:
    """What ``package`` wrote.

    Attributes:
        configs: of Triton's models; empty for C++.
        bytes: of all files.
        notes: what the user should know.
    """

    path: Path
    record: PackageRecord
    configs: list[ModelConfig]
    bytes: int
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "bytes": self.bytes,
            "configs": [config.name for config in self.configs],
            "notes": self.notes,
            **self.record.model_dump(mode="json"),
        }


@dataclass(frozen=True)
class CheckReport:
    """What ``package --check`` found.

    Attributes:
        format: of the package; ``triton`` also for a bare model repository.
        models: names of those that were looked at.
    """

    path: Path
    format: Format
    models: list[str]
    problems: list[Problem]

    @property
    def passed(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "format": self.format,
            "models": self.models,
            "passed": self.passed,
            "problems": [
                {"where": one.where, "cause": one.cause, "cure": one.cure} for one in self.problems
            ],
        }


def package(
    sources: Sequence[str | Path],
    output: str | Path,
    *,
    package_format: Literal["triton", "cpp"] = "triton",
    bundle: str | Path | None = None,
    name: str | None = None,
    target: Target | None = None,
    options: TritonOptions | None = None,
    compile_runner: bool = False,
    progress: Progress | None = None,
) -> PackageReport:
    """Write a package; it appears whole or not at all, and replaces an older one.

    Args:
        sources: bundles, ONNX files and engines; one engine for C++.
        bundle: that they belong to, where it is not found by itself.
        name: of the model; None takes the bundle's.
        target: where the package is to run.
        options: how Triton is to serve the models.
        compile_runner: build the program in C++, too.

    Raises:
        ConfigError: the arguments contradict each other.
        PackageError: a model would be refused where the package goes.
        BundleError, EngineError: a source is damaged, or not for the target.
        OutputError: the output cannot be written, or is something else than a package.
    """
    shown = progress or Silent()
    place = Path(output)
    with shown.stage("Reading the models"):
        found = networks(
            [str(source) for source in sources],
            Path(bundle) if bundle is not None else None,
            name,
            target or Target(),
        )
    if package_format == "cpp" and len(found) > 1:
        raise ConfigError(
            f"{len(found)} models are named, and a package for C++ holds one engine.",
            "Package them one by one.",
        )
    configs: list[ModelConfig] = []
    notes: list[str] = []
    with whole_directory(place, is_package) as partial:
        if package_format == "triton":
            written = write_triton_package(partial, found, options or TritonOptions(), shown)
            record, configs, notes = written.record, written.configs, written.notes
        else:
            record = write_cpp_package(partial, found[0], shown, compile_runner=compile_runner)
            notes = found[0].notes
        size = sum(file.stat().st_size for file in partial.rglob("*") if file.is_file())
    return PackageReport(place, record, configs, size, notes)


def check_package(path: str | Path, *, progress: Progress | None = None) -> CheckReport:
    """Check a package, or a model repository of anybody's.

    Raises:
        PackageError: it is neither, or its record is invalid.
        MissingDependencyError: tritonclient, which has Triton's definitions, is not installed.
    """
    shown = progress or Silent()
    place = Path(path)
    record = read_record(place) if (place / RECORD).exists() else None
    problems: list[Problem] = []
    if record is not None:
        with shown.stage("Comparing the files with their digests"):
            problems += check_files_of(place, record)
    if record is not None and record.format == "cpp":
        with shown.stage("Checking the engine"):
            problems += check_cpp_package(place)
        return CheckReport(place, "cpp", [model.name for model in record.models], problems)
    repository, started_in = repository_in(place)
    if record is not None and not (place / START).is_file():
        problems.append(Problem(START, "It is missing, and starts the server.", "Package again."))
    with shown.stage("Checking the models"):
        configs, wrong = check_repository(repository, started_in)
    names = [config.name for config in configs]
    return CheckReport(place, "triton", names, [*problems, *wrong])
