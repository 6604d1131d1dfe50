"""Reads files of results: of ``bench``, ``evaluate``, ``sensitivity`` and ``verify``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from dinat_deploy.bundle import CALIBRATION, Bundle
from dinat_deploy.bundle import MANIFEST as BUNDLE_MANIFEST
from dinat_deploy.engine.manifest import MANIFEST as ENGINE_MANIFEST
from dinat_deploy.errors import ConfigError
from dinat_deploy.evaluation.records import METRICS
from dinat_deploy.measurement.records import BenchReport
from dinat_deploy.models.config import describe
from dinat_deploy.pipeline.deploy_record import RECORD
from dinat_deploy.pipeline.deploy_steps import BENCH, VERIFICATION
from dinat_deploy.pipeline.evaluation_report import EvaluationReport
from dinat_deploy.pipeline.sensitivity_report import SensitivityReport

_FORMAT_VERSION = 1
_LONGEST_MS = 1e12  # thirty years
# Of a bundle itself; no results.
_OWN = {BUNDLE_MANIFEST, ENGINE_MANIFEST, CALIBRATION, RECORD}


class _VerifiedTensor(BaseModel):
    """Errors of a tensor; what is not finite is None."""

    model_config = ConfigDict(extra="ignore")

    max_abs: float | None
    relative: float | None
    cosine: float | None
    sqnr_db: float | None
    argmax_agreement: float | None = None
    limit: float | None
    passed: bool


class _VerifiedLayer(_VerifiedTensor):
    name: str


class _VerifiedCase(BaseModel):
    model_config = ConfigDict(extra="ignore")

    name: str
    outputs: dict[str, _VerifiedTensor]


class Verified(BaseModel):
    """What ``verify --json`` prints, and :meth:`VerifyReport.to_dict` makes."""

    model_config = ConfigDict(extra="ignore")

    artefact: str
    passed: bool
    reference: str
    candidate: str
    cases: list[_VerifiedCase]
    layers: list[_VerifiedLayer]


Content = BenchReport | EvaluationReport | SensitivityReport | Verified


@dataclass(frozen=True)
class ResultFile:
    """A file with results, read."""

    path: Path
    content: Content


@dataclass(frozen=True)
class _Kind:
    """Results of one command: which fields tell them, and how they are read."""

    command: str
    fields: frozenset[str]
    read: Callable[[Any], Content]


_KINDS = (
    _Kind("bench", frozenset({"options", "results", "environment"}), BenchReport.model_validate),
    _Kind(
        "evaluate",
        frozenset({"artefacts", "metric", "images"}),
        TypeAdapter(EvaluationReport).validate_python,
    ),
    _Kind(
        "sensitivity",
        frozenset({"units", "together", "model_sha256"}),
        SensitivityReport.model_validate,
    ),
    _Kind(
        "verify", frozenset({"artefact", "cases", "reference", "layers"}), Verified.model_validate
    ),
)


def read_result(path: Path) -> ResultFile:
    """Read a result file.

    Raises:
        ConfigError: there is none, or it holds nothing that a report can show.
    """
    try:
        data = _load(path)
    except FileNotFoundError:
        raise ConfigError(
            f"There is no result file {path}.",
            "Write one with `bench --json`, `evaluate --output`, `sensitivity --output` or "
            "`verify --json`.",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} is not readable JSON: {error}.", "Make it again, or leave it out."
        ) from None
    kind = _kind_of(data)
    if kind is None:
        raise ConfigError(_unknown(path, data), "Name files that one of them wrote.")
    return _read(path, data, kind)


def find_results(bundle: Bundle) -> list[tuple[ResultFile, Path | None]]:
    """The results that lie in a bundle: JSON files in it, in its folders, and beside its engines.
    Other JSON files are passed over.

    Returns:
        Each with the engine's directory that it lies in, if it does.

    Raises:
        ConfigError: one of them is damaged.
    """
    found: list[tuple[ResultFile, Path | None]] = []
    engines = bundle.path / "engines"
    for path in sorted([*bundle.path.glob("*.json"), *bundle.path.glob("*/*.json")]):
        if path.name in _OWN or path.parent.name.startswith("."):
            continue
        if result := _result_at(path):
            found.append((result, None))
    for path in sorted(engines.glob("*/*.json")):
        if path.name in (f"{BENCH}.json", VERIFICATION):
            found.append((read_result(path), path.parent))
        elif path.name not in _OWN and (result := _result_at(path)):
            found.append((result, path.parent))
    return found


def _result_at(path: Path) -> ResultFile | None:
    """The results in a file; None if it is something else."""
    data = None
    with suppress(OSError, ValueError, RecursionError):
        data = _load(path)
    kind = _kind_of(data)
    return _read(path, data, kind) if kind is not None else None


def _kind_of(data: Any) -> _Kind | None:
    if not isinstance(data, dict):
        return None
    return next((kind for kind in _KINDS if kind.fields <= set(data)), None)


def _read(path: Path, data: Any, kind: _Kind) -> ResultFile:
    version = data.get("format_version")
    if isinstance(version, int) and version > _FORMAT_VERSION:
        raise ConfigError(
            f"{path} has format {version}; this dinat-deploy reads up to {_FORMAT_VERSION}.",
            "Upgrade dinat-deploy.",
        )
    try:
        content = kind.read(data)
    except ValidationError as error:
        raise ConfigError(
            describe(error, f"{path} is no result of {kind.command}"),
            f"Make it again with `dinat-deploy {kind.command}`, or leave it out.",
        ) from None
    fault = _fault(content)
    if fault:
        raise ConfigError(f"{path} {fault}.", "Make it again, or leave it out.")
    return ResultFile(path, content)


def _fault(content: Content) -> str:
    """What the types allow and no command writes."""
    if isinstance(content, BenchReport):
        if not content.results:
            return "holds no results"
        for result in content.results:
            found = result.latency
            times = (found.min, found.median, found.max, *found.percentiles.values())
            if result.batch < 1 or result.throughput <= 0 or found.median <= 0:
                return f"has a time or batch of {result.name} that is not positive"
            if not all(0 <= time <= _LONGEST_MS for time in times):
                return f"has a time of {result.name} that cannot have been measured"
    if isinstance(content, EvaluationReport):
        if not content.artefacts:
            return "holds no artefacts"
        if content.metric not in METRICS:
            return f"has the metric {content.metric}, which is none of {', '.join(METRICS)}"
    return ""


def _load(path: Path) -> Any:
    """Raises OSError, ValueError or RecursionError."""
    text = path.read_text(encoding="utf-8")
    data = json.loads(text, parse_float=_finite, parse_constant=_finite)
    if "\\ud" in text.lower():  # half a character, which no report could be written with
        json.dumps(data, ensure_ascii=False).encode()
    return data


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no number")
    return value


def _unknown(path: Path, data: Any) -> str:
    commands = ", ".join(kind.command for kind in _KINDS[:-1])
    error = data.get("error") if isinstance(data, dict) else None
    if isinstance(error, dict) and isinstance(error.get("cause"), str):
        return f"{path} holds no result, but the error of a command: {error['cause']}"
    return f"{path} is no result of {commands} or {_KINDS[-1].command}."
