"""``verify``: compare a bundle's ONNX file with PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from dinat_deploy.bundle import Bundle, Case, TensorSpec, open_bundle
from dinat_deploy.errors import BundleError, MissingDependencyError
from dinat_deploy.models.preprocessing import load_batch
from dinat_deploy.models.seeding import seeded_image
from dinat_deploy.parity import Errors, Tolerance, compare_all
from dinat_deploy.pipeline.running import onnxruntime_session
from dinat_deploy.progress import Progress, Silent
from dinat_deploy.session.onnxruntime_session import OnnxRuntimeSession

if TYPE_CHECKING:
    from dinat_deploy.session.torch_session import TorchSession

FloatArray = npt.NDArray[np.float32]
Origin = Literal["recorded", "random", "image"]


@dataclass(frozen=True)
class CaseReport:
    """Errors of every output for one input."""

    name: str
    origin: Origin
    outputs: dict[str, Errors]

    @property
    def passed(self) -> bool:
        return all(errors.passed for errors in self.outputs.values())


@dataclass(frozen=True)
class LayerReport:
    """Error of one tapped tensor."""

    name: str
    errors: Errors


@dataclass
class VerifyReport:
    """Outcome of a comparison.

    Attributes:
        reference, candidate: what ran the two sides.
        layers: tapped tensors in the order they run; empty unless asked for.
        first_difference: the first layer outside the tolerance.
    """

    path: Path
    reference: str
    candidate: str
    tolerance: Tolerance
    cases: list[CaseReport] = field(default_factory=list)
    layers: list[LayerReport] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def first_difference(self) -> str | None:
        return next((layer.name for layer in self.layers if not layer.errors.passed), None)

    @property
    def passed(self) -> bool:
        return all(case.passed for case in self.cases) and self.first_difference is None

    def to_dict(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "passed": self.passed,
            "reference": self.reference,
            "candidate": self.candidate,
            "atol": self.tolerance.atol,
            "rtol": self.tolerance.rtol,
            "cases": [
                {
                    "name": case.name,
                    "origin": case.origin,
                    "passed": case.passed,
                    "outputs": {name: e.to_dict() for name, e in case.outputs.items()},
                }
                for case in self.cases
            ],
            "first_difference": self.first_difference,
            "layers": [{"name": layer.name, **layer.errors.to_dict()} for layer in self.layers],
            "notes": self.notes,
        }


def verify(
    path: str | Path,
    *,
    images: Sequence[str | Path] = (),
    random_cases: int = 1,
    layers: bool = False,
    tolerance: Tolerance | None = None,
    seed: int = 1000,
    progress: Progress | None = None,
) -> VerifyReport:
    """Compare a bundle's ONNX file with PyTorch on recorded, random and picture inputs.

    PyTorch runs with the weights read back from the ONNX file, after their digest has been
    checked against the one taken of the checkpoint at export. Where PyTorch is not installed, the
    outputs recorded at export take its place, for the recorded inputs.

    Args:
        images: pictures, preprocessed as the bundle says.
        random_cases: how many made-up inputs.
        layers: compare every transformer layer too, and name the first that differs.
        tolerance: what counts as equal.
        seed: of the made-up inputs.

    Raises:
        BundleError: the bundle is incomplete or was changed after export.
        MissingDependencyError: pictures or layers are asked for and PyTorch is not installed.
    """
    progress = progress or Silent()
    tolerance = tolerance or Tolerance()
    bundle = open_bundle(path)
    with progress.stage("Checking the bundle"):
        bundle.check_model()
        recorded = bundle.reference()
    with progress.stage("Loading the ONNX file"):
        candidate = _candidate(bundle, layers)
    torch_session = _torch_session(bundle, layers, progress) if _has_torch() else None
    if torch_session is None and (images or layers):
        raise MissingDependencyError(
            "Comparing pictures or layers needs PyTorch, which is not installed.",
            "pip install torch, or leave --images and --layers away.",
        )
    report = VerifyReport(
        bundle.path,
        reference=torch_session.name if torch_session else _recorded_by(bundle),
        candidate=candidate.name,
        tolerance=tolerance,
        notes=list(candidate.notes),
    )
    work: list[tuple[Origin, Case]] = [("recorded", case) for case in recorded]
    if torch_session is not None:
        work += [("random", case) for case in _random_cases(bundle, random_cases, seed)]
        work += [("image", case) for case in _image_cases(bundle, images)]
    elif random_cases:
        report.notes.append("PyTorch is not installed: compared with recorded outputs only.")
    outputs = [spec.name for spec in bundle.manifest.graph.outputs]
    for position, (origin, case) in enumerate(progress.track(work, "Comparing")):
        found = candidate.run(case.inputs)
        reference = torch_session.run(case.inputs) if torch_session else case.outputs
        compared = compare_all(reference, found, outputs, tolerance)
        if origin == "recorded" and torch_session is not None:
            _check_recorded(bundle, case, reference, tolerance)
        report.cases.append(CaseReport(case.name, origin, compared))
        if layers and position == 0:
            taps = bundle.manifest.taps
            renamed = {module: found[tensor] for module, tensor in taps.items()}
            errors = compare_all(reference, renamed, list(taps), tolerance)
            report.layers = [LayerReport(name, e) for name, e in errors.items()]
    return report


def _has_torch() -> bool:
    return util.find_spec("torch") is not None


def _recorded_by(bundle: Bundle) -> str:
    version = bundle.manifest.versions.get("torch", "of unknown version")
    return f"recorded outputs of PyTorch {version}"


def _candidate(bundle: Bundle, layers: bool) -> OnnxRuntimeSession:
    taps = list(bundle.manifest.taps.values()) if layers else []
    return onnxruntime_session(bundle, taps=taps)


def _torch_session(bundle: Bundle, layers: bool, progress: Progress) -> TorchSession:
    from dinat_deploy.pipeline.rebuild import torch_session

    with progress.stage("Rebuilding the PyTorch model"):
        return torch_session(bundle, taps=list(bundle.manifest.taps) if layers else [])


def _check_recorded(
    bundle: Bundle, case: Case, rerun: dict[str, FloatArray], tolerance: Tolerance
) -> None:
    """The recorded outputs must be what PyTorch computes: they stand in for it elsewhere."""
    errors = compare_all(rerun, case.outputs, list(case.outputs), tolerance)
    for name, found in errors.items():
        if not found.passed:
            raise BundleError(
                f"{bundle.path}: the recorded output {name} of case {case.name} is off by "
                f"{found.max_abs:.3g} from PyTorch, and {found.limit:.3g} is allowed.",
                "reference.npz was changed or damaged; export the model again.",
            )


def _input(bundle: Bundle) -> TensorSpec:
    return bundle.manifest.graph.inputs[0]


def _batch(spec: TensorSpec) -> int:
    return spec.shape[0] if isinstance(spec.shape[0], int) else 1


def _random_cases(bundle: Bundle, count: int, seed: int) -> list[Case]:
    spec, config = _input(bundle), bundle.manifest.config
    defaults = (1, config.in_channels, *config.image_size)
    shape = [
        size if isinstance(size, int) else default
        for size, default in zip(spec.shape, defaults, strict=True)
    ]
    return [
        Case(f"random {seed + number}", {spec.name: seeded_image(shape, seed + number)}, {})
        for number in range(count)
    ]


def _image_cases(bundle: Bundle, images: Sequence[str | Path]) -> list[Case]:
    spec = _input(bundle)
    cases = []
    for path in images:
        one = load_batch([path], bundle.manifest.preprocessing)
        cases.append(Case(str(path), {spec.name: one.repeat(_batch(spec), axis=0)}, {}))
    return cases
