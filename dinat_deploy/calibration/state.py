"""Histograms in a file: to take other ranges from them later, and to go on after an interruption.

The file is an ``.npz`` of plain arrays, the same bytes for the same content.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from dinat_deploy import __version__
from dinat_deploy.archives import read_arrays
from dinat_deploy.calibration.estimators import estimate
from dinat_deploy.calibration.histogram import Histogram
from dinat_deploy.calibration.record import (
    Calibration,
    CalibrationData,
    Estimator,
    Settings,
    TensorRange,
)
from dinat_deploy.errors import ConversionError
from dinat_deploy.files import hidden_directory

_FORMAT = 1
_LARGEST_EXPONENT = 200  # of float32: 128


@dataclass(frozen=True)
class Recorded:
    """What a model's tensors were like on some data.

    Attributes:
        model_sha256: of the float32 model.
        data: what was run.
        runtime: what ran it.
        histograms: tensor -> the sizes of its values.
    """

    model_sha256: str
    data: CalibrationData
    runtime: str
    histograms: Mapping[str, Histogram]

    def calibration(self, settings: Settings) -> Calibration:
        """The ranges by all estimators, with the same content for the same input.

        Args:
            settings: as many bins as the histograms have.

        Raises:
            ConfigError: they cannot be used; see :func:`~.estimators.estimate`.
        """
        return Calibration(
            model_sha256=self.model_sha256,
            data=self.data,
            settings=settings,
            ranges={name: _range(found, settings) for name, found in self.histograms.items()},
            created_by=f"dinat-deploy {__version__}",
        )


def _range(histogram: Histogram, settings: Settings) -> TensorRange:
    def by(estimator: Estimator) -> float:
        return estimate(
            histogram, estimator, levels=settings.levels, percentile=settings.percentile
        )

    return TensorRange(
        max=by("max"),
        entropy=by("entropy"),
        percentile=by("percentile"),
        mse=by("mse"),
        values=histogram.values,
        zeros=histogram.zeros,
    )


def save_histograms(path: Path, recorded: Recorded) -> None:
    """Write an ``.npz`` file that appears whole or not at all; an older one is replaced.

    Raises:
        OutputError: the place cannot be written to.
    """
    header = {
        "format_version": _FORMAT,
        "model_sha256": recorded.model_sha256,
        "data": recorded.data.model_dump(),
        "runtime": recorded.runtime,
        "tensors": list(recorded.histograms),
    }
    found = list(recorded.histograms.values())
    arrays: dict[str, npt.NDArray[Any]] = {
        "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
        "counts": np.array([histogram.counts for histogram in found], np.int64),
        "exponents": np.array([histogram.exponent for histogram in found], np.int64),
        "values": np.array([histogram.values for histogram in found], np.int64),
        "zeros": np.array([histogram.zeros for histogram in found], np.int64),
        "max": np.array([histogram.max for histogram in found], np.float64),
    }
    with hidden_directory(path) as partial:
        np.savez(partial / path.name, allow_pickle=False, **arrays)
        (partial / path.name).replace(path)


def load_histograms(path: Path) -> Recorded:
    """Read what :func:`save_histograms` wrote.

    Raises:
        ConversionError: the file is missing, or is not what it should be.
    """
    try:
        arrays = read_arrays(path)
        data = json.loads(arrays.pop("header").tobytes())
        version = data.get("format_version") if isinstance(data, dict) else None
        if version != _FORMAT:
            raise ConversionError(
                f"{path} has the format {version}, and this version of dinat-deploy reads "
                f"{_FORMAT}.",
                "Calibrate again.",
            )
        header = _Header.model_validate(data)
        _check_columns(arrays, len(header.tensors))
        return Recorded(
            model_sha256=header.model_sha256,
            data=header.data,
            runtime=header.runtime,
            histograms={name: _histogram(arrays, row) for row, name in enumerate(header.tensors)},
        )
    except FileNotFoundError:
        raise ConversionError(f"{path} does not exist.", "Calibrate first.") from None
    except (ValueError, KeyError, RecursionError) as error:  # ValidationError is a ValueError
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> ConversionError:
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ConversionError(f"{path} holds no histograms: {said}", "Calibrate again.")


class _Header(BaseModel):
    """Of a file of histograms."""

    format_version: Literal[1]
    model_sha256: str
    data: CalibrationData
    runtime: str
    tensors: list[str]


# Kinds of NumPy types, and dimensions.
_COLUMNS = {"counts": ("i", 2), "exponents": ("i", 1), "values": ("i", 1), "zeros": ("i", 1),
            "max": ("f", 1)}  # fmt: skip


def _check_columns(columns: Mapping[str, npt.NDArray[Any]], rows: int) -> None:
    """Raise ValueError if they are not those of so many histograms."""
    for name, (kind, dimensions) in _COLUMNS.items():
        column = columns[name]
        if not rows and not column.size:
            continue
        if column.dtype.kind != kind or column.ndim != dimensions:
            raise ValueError(f"{name} of type {column.dtype} and shape {list(column.shape)}")
        if len(column) != rows:
            raise ValueError("arrays of different lengths")
    if any((columns[name] < 0).any() for name in ("counts", "zeros", "max")):
        raise ValueError("negative counts")


def _histogram(columns: Mapping[str, npt.NDArray[Any]], row: int) -> Histogram:
    counts = columns["counts"][row]
    histogram = Histogram(counts.size)
    histogram.counts = counts
    histogram.exponent = int(columns["exponents"][row])
    histogram.values = int(columns["values"][row])
    histogram.zeros = int(columns["zeros"][row])
    histogram.max = float(columns["max"][row])
    # In Python's numbers, which do not overflow.
    if sum(counts.tolist()) + histogram.zeros != histogram.values:
        raise ValueError("counts that do not add up")
    end = 2.0**histogram.exponent if abs(histogram.exponent) < _LARGEST_EXPONENT else math.inf
    if not math.isfinite(end) or not histogram.max <= end:
        raise ValueError(f"a range of 2**{histogram.exponent} with values up to {histogram.max}")
    return histogram


class SavedState:
    """Histograms of the images so far, in a hidden file that only the same calibration takes up.

    The name of the file is a digest of what the histograms depend on beside the data. Of these it
    holds the digest, with which whoever takes it up compares the data read again.

    Args:
        directory: an existing one.
        model_sha256, tensors, bins, runtime: what was counted.
        source: name of the data.
    """

    def __init__(
        self,
        directory: Path,
        *,
        model_sha256: str,
        tensors: list[str],
        bins: int,
        runtime: str,
        source: str,
    ) -> None:
        identity = json.dumps([_FORMAT, model_sha256, tensors, bins, runtime, source])
        digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self.path = directory / f".calibration.{digest}.npz"
        self._tensors, self._bins = tensors, bins

    def load(self) -> Recorded | None:
        """What was saved; None if nothing was, or nothing that is of use."""
        try:
            found = load_histograms(self.path)
        except ConversionError:
            return None
        bins = {histogram.counts.size for histogram in found.histograms.values()}
        if list(found.histograms) != self._tensors or bins - {self._bins}:
            return None
        return found

    def save(self, recorded: Recorded) -> None:
        """Raises OutputError if the directory cannot be written to."""
        save_histograms(self.path, recorded)

    def remove(self) -> None:
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
