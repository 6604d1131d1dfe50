"""``calibration.json``: ranges of a model's tensors and the data that they were recorded on."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Estimator = Literal["max", "entropy", "percentile", "mse"]
ESTIMATORS: tuple[str, ...] = get_args(Estimator)
DEFAULT_PERCENTILE = 99.99


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CalibrationData(_Record):
    """What was run.

    Attributes:
        source: as the user named it, without its directory.
        images: how many were used; ``skipped`` lists those that could not be.
        sha256: over the model's inputs, float32, in order.
    """

    source: str
    images: int
    skipped: list[str] = Field(default_factory=list)
    sha256: str


class TensorRange(_Record):
    """Largest absolute value that the scale of a tensor must reach, by each estimator.

    Attributes:
        values: how many values were seen.
        zeros: how many of them were exactly zero.
    """

    max: float
    entropy: float
    percentile: float
    mse: float
    values: int
    zeros: int


class Settings(_Record):
    """What the ranges depend on beside the data.

    Attributes:
        percentile: of the absolute values, in percent.
        bins: of the histograms that entropy, percentile and mse are taken from.
        levels: quantized levels that entropy and mse assume on each side, zero counted: 128 for
            int8.
    """

    percentile: float = DEFAULT_PERCENTILE
    bins: int
    levels: int


class Calibration(_Record):
    """Content of ``calibration.json``.

    Attributes:
        model_sha256: of the float32 ``model.onnx``.
        ranges: by the name of the tensor in that model.
    """

    format_version: Literal[1] = 1
    model_sha256: str
    data: CalibrationData
    settings: Settings
    ranges: dict[str, TensorRange]
    created_by: str

    def estimates(self, estimator: Estimator) -> dict[str, float]:
        """Tensor -> its range by one estimator."""
        return {name: getattr(found, estimator) for name, found in self.ranges.items()}
