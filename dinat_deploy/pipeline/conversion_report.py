"""What ``convert`` tells of its work. Needs no onnx."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dinat_deploy.bundle import Variant
from dinat_deploy.parity import Errors


@dataclass(frozen=True)
class RunReport:
    """One way to run the converted model, over all inputs.

    Attributes:
        name: what ran it.
        simulated: whether it was simulated in float32.
        inputs: how many inputs.
        max_abs, relative, cosine: worst error, also over the largest output, and worst angle.
        argmax_agreement: share of the images with the same best class; None without classes.
        worst: the output that is closest to, or furthest beyond, its limit, as ``case: output``.
        errors: of that output.
        same_detections: of a detector that made its own choices, the share of the detections that
            are the float32 model's; None if that was not asked.
    """

    name: str
    simulated: bool
    inputs: int
    max_abs: float
    relative: float
    cosine: float
    argmax_agreement: float | None
    worst: str
    errors: Errors
    same_detections: float | None = None

    @property
    def passed(self) -> bool:
        return self.errors.passed

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "errors": self.errors.to_dict(), "passed": self.passed}


@dataclass(frozen=True)
class WeightReport:
    """What became of the weights that are stored in the 16-bit type.

    Attributes:
        values: how many there are.
        subnormal: share of them below the format's full precision.
        lost: how many became zero.
        worst: the tensor that rounding changed the most, relative to its own size.
        worst_error: how much, as root mean square.
    """

    values: int
    subnormal: float
    lost: int
    worst: str
    worst_error: float


@dataclass(frozen=True)
class ConvertReport:
    """What ``convert`` made.

    Attributes:
        path: the ONNX file.
        variant: its entry in the bundle's manifest.
        converted, casts: nodes that compute in the 16-bit type, and Casts that were added.
        ranges: the tensors with the largest values, recorded with the float32 model.
        range_used: the share of the 16-bit type's range that the largest of them takes.
        inputs: how many inputs the ranges were recorded on.
        runs: the comparisons; empty if none were asked for.
        size_before, size_after: of the ONNX files with their external data, in bytes.
        notes: what the user should know.
    """

    path: Path
    variant: Variant
    converted: int
    casts: int
    ranges: dict[str, float]
    range_used: float | None
    inputs: int
    weights: WeightReport | None
    runs: list[RunReport]
    size_before: int
    size_after: int
    notes: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """One sentence: is the accuracy kept, and what is it worth."""
        size = f"{self.size_before / 1e6:.1f} MB became {self.size_after / 1e6:.1f} MB"
        checked = self.variant.verification
        if checked is None:
            return f"Not verified; {size}."
        worst = max(run.max_abs for run in self.runs)
        relative = max(run.relative for run in self.runs)
        allowed = checked.atol + checked.rtol * checked.max_reference
        same = ""
        if checked.argmax_agreement is not None:
            same = f", the same best class for {checked.argmax_agreement:.0%} of the images"
        if self.variant.quantization is not None:
            return (
                f"Off by at most {worst:.2e} ({relative:.2%} of the largest output; {allowed:.2e} "
                f"allowed){same}; {size}. What that costs on the task, `dinat-deploy evaluate` "
                "measures."
            )
        return (
            f"Accuracy kept: off by at most {worst:.2e} ({relative:.2%} of the "
            f"largest output; {allowed:.2e} allowed){same}; {size}."
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "verdict": self.verdict,
            "variant": self.variant.model_dump(mode="json"),
            "converted": self.converted,
            "casts": self.casts,
            "ranges": self.ranges,
            "range_used": self.range_used,
            "inputs": self.inputs,
            "weights": asdict(self.weights) if self.weights else None,
            "runs": [run.to_dict() for run in self.runs],
            "size_before": self.size_before,
            "size_after": self.size_after,
            "notes": self.notes,
        }
