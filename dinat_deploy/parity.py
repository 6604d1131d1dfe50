"""How far one run of a model is from another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dinat_deploy.errors import ConfigError, DinatDeployError
from dinat_deploy.models.decoders import Decoder, Mask2Former, OneFormer

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Tolerance:
    """The largest allowed error of a tensor: ``atol + rtol * max(abs(reference))``.

    The relative part is taken of the tensor's largest value, not of each element: next to a zero
    of the reference every relative error is large and means nothing.
    """

    atol: float = 1e-4
    rtol: float = 1e-4

    def __post_init__(self) -> None:
        for name, value in (("atol", self.atol), ("rtol", self.rtol)):
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(
                    f"The tolerance {name} is {value}; expected a number from 0 on.", "Change it."
                )

    def replaced(self, atol: float | None, rtol: float | None) -> Tolerance:
        """The same with the parts that are given."""
        return Tolerance(self.atol if atol is None else atol, self.rtol if rtol is None else rtol)

    def limit(self, reference: FloatArray) -> float:
        largest = float(np.abs(reference).max()) if reference.size else 0.0
        return self.atol + self.rtol * largest


# The output of classifiers and segmenters; other maps hold features.
_LOGITS = "logits"
# What a right model is off by at most, by the coarsest type that it computes in: about twice the
# worst layer of dinat_mini, dinat_tiny and dinat_s_tiny with made-up weights, in that type.
_BY_PRECISION = {
    "float32": Tolerance(),
    "tf32": Tolerance(1e-3, 0.02),
    "float16": Tolerance(1e-3, 0.03),
    "bfloat16": Tolerance(1e-2, 0.2),
    "int8": Tolerance(1e-2, 0.4),
}

# Decoders whose queries read where their last mask is above 0: where it is 0 but for a rounding
# error they may read other pixels. One flip for every query in every layer changed the logits of a
# DiNAT-L by 1.5e-4 of the largest at 1024x1024 pixels, and by 6.6e-3 at 256x256; rounding errors
# alone by up to 5e-4.
_CHOICES = Tolerance(1e-4, 1e-3)


def tolerance_for(
    precision: str, *, tf32: bool = False, decoder: Decoder | None = None
) -> Tolerance:
    """The tolerance that a model of a precision is given unless the user names one.

    Types coarser than float32 get limits that find a wrong layer, but say nothing of accuracy: that
    is measured on data.

    Args:
        precision: element types of its weights, like ``float32`` or ``int8+float16``.
        tf32: whether float32 products may be computed in TensorFloat-32.
        decoder: of the model, if it has one.
    """
    types = precision.split("+")
    if any(name.startswith(("int", "uint", "float8", "float4")) for name in types):
        return _BY_PRECISION["int8"]
    for name in ("bfloat16", "float16"):
        if name in types:
            return _BY_PRECISION[name]
    if types != ["float32"]:  # nothing is known of it
        return _BY_PRECISION["float16"]
    if isinstance(decoder, Mask2Former | OneFormer) and not tf32:
        return _CHOICES
    return _BY_PRECISION["tf32" if tf32 else "float32"]


@dataclass(frozen=True)
class Errors:
    """Errors of one tensor against its reference.

    Attributes:
        max_abs, mean_abs, p99_abs: of the absolute error.
        relative: largest absolute error over largest reference value.
        cosine: of the angle between the two tensors as vectors.
        sqnr_db: signal to error ratio in dB; infinite if equal.
        argmax_agreement: share of rows with the same largest class, of pixels for a segmenter's
            logits; None if the tensor holds no scores of classes.
        max_reference: largest absolute reference value.
        limit: what ``max_abs`` may be.
        passed: whether all values are finite and within the limit.
    """

    max_abs: float
    mean_abs: float
    p99_abs: float
    relative: float
    cosine: float
    sqnr_db: float
    argmax_agreement: float | None
    max_reference: float
    limit: float
    passed: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, which has no infinities: they become None."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }


def compare(
    reference: FloatArray, candidate: FloatArray, tolerance: Tolerance, *, per_pixel: bool = False
) -> Errors:
    """Measure a tensor against its reference, in float64.

    Args:
        per_pixel: ``[batch, classes, height, width]`` holds scores of pixels. ``[batch, classes]``
            always holds scores.

    Raises:
        DinatDeployError: the shapes differ.
    """
    if reference.shape != candidate.shape:
        raise DinatDeployError(
            f"The shapes differ: {list(reference.shape)} expected, {list(candidate.shape)} found."
        )
    finite = bool(np.isfinite(reference).all() and np.isfinite(candidate).all())
    with np.errstate(invalid="ignore", over="ignore"):
        return _measure(reference, candidate, tolerance, finite, per_pixel)


def _measure(
    reference: FloatArray,
    candidate: FloatArray,
    tolerance: Tolerance,
    finite: bool,
    per_pixel: bool,
) -> Errors:
    expected = reference.astype(np.float64)
    error = np.abs(candidate.astype(np.float64) - expected)
    largest = float(np.abs(expected).max()) if expected.size else 0.0
    max_abs = float(error.max()) if error.size else 0.0
    limit = tolerance.limit(reference)
    return Errors(
        max_abs=max_abs,
        mean_abs=float(error.mean()) if error.size else 0.0,
        p99_abs=float(np.quantile(error, 0.99)) if error.size else 0.0,
        relative=max_abs / largest if largest else (0.0 if max_abs == 0 else math.inf),
        cosine=_cosine(expected, candidate.astype(np.float64)),
        sqnr_db=_sqnr_db(expected, error),
        argmax_agreement=_argmax_agreement(reference, candidate, per_pixel),
        max_reference=largest,
        limit=limit,
        passed=finite and max_abs <= limit,
    )


def _cosine(expected: npt.NDArray[np.float64], found: npt.NDArray[np.float64]) -> float:
    norms = float(np.linalg.norm(expected) * np.linalg.norm(found))
    if norms == 0:
        return 1.0 if np.array_equal(expected, found) else 0.0
    return float(np.dot(expected.ravel(), found.ravel())) / norms


def _sqnr_db(expected: npt.NDArray[np.float64], error: npt.NDArray[np.float64]) -> float:
    noise = float(np.square(error).sum())
    signal = float(np.square(expected).sum())
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def _argmax_agreement(
    reference: FloatArray, candidate: FloatArray, per_pixel: bool
) -> float | None:
    scores = reference.ndim == 2 or (per_pixel and reference.ndim == 4)
    if not scores or reference.size == 0:
        return None
    return float(np.mean(reference.argmax(1) == candidate.argmax(1)))


def compare_all(
    reference: Mapping[str, FloatArray],
    candidate: Mapping[str, FloatArray],
    names: Sequence[str],
    tolerance: Tolerance,
) -> dict[str, Errors]:
    """Measure several tensors by name.

    Raises:
        DinatDeployError: the candidate lacks one, or a shape differs.
    """
    results = {}
    for name in names:
        if name not in candidate:
            raise DinatDeployError(
                f"The compared model has no tensor {name!r}.", f"It has {', '.join(candidate)}."
            )
        try:
            results[name] = compare(
                reference[name], candidate[name], tolerance, per_pixel=name == _LOGITS
            )
        except DinatDeployError as error:
            raise DinatDeployError(f"Tensor {name!r}: {error.cause}") from None
    return results
