"""``verify``: compare whatever can be run with PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from typing import Any

from dinat_deploy.bundle import Bundle, Case
from dinat_deploy.detection_parity import compare_outputs
from dinat_deploy.errors import BundleError, MissingDependencyError
from dinat_deploy.parity import Errors, Tolerance, compare_all, tolerance_for
from dinat_deploy.pipeline.artefacts import Artefact, open_artefact
from dinat_deploy.pipeline.pixels import Pixels, pixels_of
from dinat_deploy.pipeline.running import onnxruntime_session
from dinat_deploy.pipeline.verify_cases import (
    Origin,
    Work,
    image_work,
    random_work,
    recorded_work,
    shapes_to_compare,
)
from dinat_deploy.progress import Progress, Silent
from dinat_deploy.session.base import FloatArray, Session


@dataclass(frozen=True)
class CaseReport:
    """Errors of every output for one input.

    Attributes:
        shapes: of the inputs.
    """

    name: str
    origin: Origin
    shapes: dict[str, list[int]]
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
        artefact: name of what was compared.
        reference, candidate: what ran the two sides.
        precision: types of the candidate's weights.
        layers: tapped tensors in the order they run; empty unless asked for.
        first_difference: the first layer outside the tolerance.
    """

    artefact: str
    reference: str
    candidate: str
    device: str
    precision: str
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
            "artefact": self.artefact,
            "passed": self.passed,
            "reference": self.reference,
            "candidate": self.candidate,
            "device": self.device,
            "precision": self.precision,
            "atol": self.tolerance.atol,
            "rtol": self.tolerance.rtol,
            "cases": [
                {
                    "name": case.name,
                    "origin": case.origin,
                    "shapes": case.shapes,
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
    shapes: Sequence[str | Mapping[str, Sequence[int]]] = (),
    layers: bool = False,
    tolerance: Tolerance | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    seed: int = 1000,
    bundle: str | Path | None = None,
    plugin_library: str | Path | None = None,
    trust: bool = False,
    progress: Progress | None = None,
) -> VerifyReport:
    """Compare an artefact with PyTorch on recorded, random and picture inputs.

    PyTorch runs on the CPU, with the weights read back from the bundle's ONNX file, after their
    digest has been checked against the one taken of the checkpoint at export. Where PyTorch is not
    installed, the outputs recorded at export take its place, for the recorded inputs.

    An artefact that takes pixels gets the pixels nearest to each input, and the reference is what
    the float32 model makes of the same pixels: PyTorch's, or where that is missing, ONNX Runtime's.

    Args:
        path: a bundle, an ONNX file or an engine, with the runtime before it if it is not to run
            where it usually does: ``onnxruntime-cuda:out/x``.
        images: pictures, preprocessed as the bundle says.
        random_cases: how many made-up inputs of every shape.
        shapes: of the made-up inputs, like ``image=1x3x64x64``. By default the smallest, best and
            largest of an engine's profiles, and otherwise the model's own.
        layers: compare every transformer layer too, and name the first that differs.
        tolerance: what counts as equal; by default it depends on the precision.
        atol, rtol: replace one of its parts.
        seed: of the made-up inputs.
        bundle: that an engine or ONNX file belongs to, where it is not found by itself.
        plugin_library: of TensorRT, instead of the one that is found.
        trust: load a plan that runs code of its own or has no manifest.

    Raises:
        BundleError: the bundle is incomplete or was changed after export, or there is none.
        EngineError: the engine is damaged, does not fit this machine, or is not trusted.
        MissingDependencyError: the runtime is missing; or pictures, layers or shapes are asked for
            and PyTorch is not installed; or nothing can run the float32 model on pixels.
    """
    progress = progress or Silent()
    has_torch = _has_torch()
    _require_packages(has_torch, images, layers, shapes)
    with open_artefact(
        path,
        taps=layers,
        trust=trust,
        bundle=bundle,
        plugin_library=plugin_library,
        progress=progress,
    ) as artefact:
        owner = _bundle_of(artefact)
        absent = _why_recorded(owner, has_torch, needed=bool(images or layers or shapes))
        pixels = pixels_of(artefact.inputs, owner)
        reference = None if absent else _torch_session(owner, layers, progress)
        if pixels is not None and reference is None:
            reference = _float32_session(artefact, owner)
        chosen = tolerance or _default_tolerance(artefact, owner)
        report = VerifyReport(
            str(artefact.name),
            reference=_reference_name(reference, owner, pixels),
            candidate=artefact.session.name,
            device=artefact.session.device,
            precision=artefact.precision,
            tolerance=chosen.replaced(atol, rtol),
            notes=list(artefact.notes),
        )
        if pixels is not None:
            report.notes.append(
                f"{artefact.name} takes pixels: both sides were given those nearest to the inputs."
            )
        work = recorded_work(artefact, owner, report.notes)
        if reference is not None:
            wanted = shapes_to_compare(artefact, shapes, report.notes) if random_cases else []
            work += random_work(wanted, random_cases, seed)
            work += image_work(artefact, owner, images)
        elif random_cases:
            report.notes.append(f"{absent}: compared with recorded outputs only.")
        if not work:
            raise BundleError(
                f"There is nothing to compare {artefact.name} on: {' '.join(report.notes)}",
                "Ask for made-up inputs with --random or pictures with --images, where PyTorch is "
                "installed.",
            )
        for position, each in enumerate(progress.track(work, "Comparing")):
            sides = artefact, reference, pixels
            _compare(sides, owner, each, report, layers=layers and position == 0)
    return report


def _compare(
    sides: tuple[Artefact, Session | None, Pixels | None],
    bundle: Bundle,
    work: Work,
    report: VerifyReport,
    *,
    layers: bool,
) -> None:
    """Compare on one input, and add what is found to the report."""
    artefact, reference, pixels = sides
    case = work.case
    feeds = pixels.nearest(case.inputs) if pixels else case.inputs
    found = artefact.session.run(feeds)
    same = pixels.normalized(feeds) if pixels else feeds
    expected = reference.run(same) if reference else case.outputs
    outputs = {spec.name: expected[spec.name] for spec in bundle.manifest.graph.outputs}
    errors = compare_outputs(outputs, found, bundle.manifest.config.decoder, report.tolerance)
    if work.origin == "recorded" and reference is not None and pixels is None:
        _check_recorded(bundle, case, expected)
    sizes = {name: list(array.shape) for name, array in case.inputs.items()}
    report.cases.append(CaseReport(case.name, work.origin, sizes, errors))
    if layers:
        renamed = {module: found[tensor] for module, tensor in artefact.taps.items()}
        tapped = compare_all(expected, renamed, list(artefact.taps), report.tolerance)
        report.layers = [LayerReport(name, e) for name, e in tapped.items()]


def _has_torch() -> bool:
    return util.find_spec("torch") is not None


def _require_packages(
    has_torch: bool, images: Sequence[object], layers: bool, shapes: Sequence[object]
) -> None:
    """Name everything that is missing at once."""
    missing = [] if has_torch else ["PyTorch"]
    if layers and util.find_spec("onnx") is None:
        # PyTorch's side is rebuilt from the weights in the ONNX file.
        missing.append("onnx")
    if not missing or not (images or layers or shapes):
        return
    verb = "is" if len(missing) == 1 else "are"
    packages = " ".join(name.replace("PyTorch", "torch") for name in missing)
    raise MissingDependencyError(
        f"Comparing pictures, layers or shapes of your choice needs {' and '.join(missing)}, "
        f"which {verb} not installed.",
        f"pip install {packages}, or leave --images, --layers and --shapes away.",
    )


def _why_recorded(bundle: Bundle, has_torch: bool, *, needed: bool) -> str | None:
    """Why PyTorch's recorded outputs take its place; None if it runs.

    Args:
        needed: whether something is asked for that only PyTorch can compute.
    """
    if not has_torch:
        return "PyTorch is not installed"
    if not needed and not bundle.model_path.exists():
        # A device may have the engine without the file that it was built from.
        return f"{bundle.model_path} is not here"
    return None


def _bundle_of(artefact: Artefact) -> Bundle:
    if artefact.bundle is not None:
        return artefact.bundle
    raise BundleError(
        f"No bundle was found that {artefact.name} belongs to, and so nothing to compare it with.",
        "Name the bundle that it was built from with --bundle.",
    )


def _default_tolerance(artefact: Artefact, bundle: Bundle) -> Tolerance:
    # TensorRT itself, behind ONNX Runtime, leaves TensorFloat-32 on.
    tf32 = (artefact.name.runtime or "").startswith("onnxruntime-tensorrt")
    if artefact.engine is not None:
        tf32 = artefact.engine.manifest.options.tf32
    decoder = bundle.manifest.config.decoder
    return tolerance_for(artefact.precision, tf32=tf32, decoder=decoder)


def _reference_name(reference: Session | None, bundle: Bundle, pixels: Pixels | None) -> str:
    if reference is None:
        version = bundle.manifest.versions.get("torch", "of unknown version")
        return f"recorded outputs of PyTorch {version}"
    return f"{reference.name}, float32, on the same pixels" if pixels else reference.name


def _float32_session(artefact: Artefact, bundle: Bundle) -> Session:
    """The float32 model in ONNX Runtime: the recorded inputs, and so outputs, are not of pixels."""
    needed = f"{artefact.name} takes pixels, for which no outputs were recorded"
    if not bundle.model_path.exists():
        raise BundleError(
            f"{needed}, and {bundle.model_path}, which could compute them, is not here.",
            "Copy it there from the bundle that was exported.",
        )
    bundle.check_model()
    try:
        return onnxruntime_session(bundle)
    except MissingDependencyError:
        raise MissingDependencyError(
            f"{needed}, and neither PyTorch nor ONNX Runtime is installed to compute them.",
            "pip install onnxruntime",
        ) from None


def _torch_session(bundle: Bundle, layers: bool, progress: Progress) -> Session:
    from dinat_deploy.pipeline.rebuild import torch_session

    with progress.stage("Rebuilding the PyTorch model"):
        bundle.check_model()
        return torch_session(bundle, taps=list(bundle.manifest.taps) if layers else [])


def _check_recorded(bundle: Bundle, case: Case, rerun: dict[str, FloatArray]) -> None:
    """The recorded outputs must be what PyTorch computes: they stand in for it elsewhere."""
    decoder = bundle.manifest.config.decoder
    exact = tolerance_for("float32", decoder=decoder)
    ours = {name: rerun[name] for name in case.outputs}
    errors = compare_outputs(ours, case.outputs, decoder, exact)
    for name, found in errors.items():
        if not found.passed:
            raise BundleError(
                f"{bundle.path}: the recorded output {name} of case {case.name} is off by "
                f"{found.max_abs:.3g} from PyTorch, and {found.limit:.3g} is allowed.",
                "reference.npz was changed or damaged; export the model again.",
            )
