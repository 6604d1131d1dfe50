"""What ``convert`` runs: the float32 model for its ranges, the converted one for its errors."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from dinat_deploy.bundle import MODEL, Bundle, Case, FloatArray, VariantVerification
from dinat_deploy.data.dataset import Sample
from dinat_deploy.detection_parity import align
from dinat_deploy.engine.onnx_file import read_onnx
from dinat_deploy.errors import BundleError, ConversionError, MissingDependencyError
from dinat_deploy.graph import choices
from dinat_deploy.graph.formats import QUANTIZED_FORMATS, Format
from dinat_deploy.graph.precision import check_convertible
from dinat_deploy.graph.ranges import Ranges, add_probes, attention_scales, record
from dinat_deploy.graph.reading import innermost, load_ir
from dinat_deploy.graph.simulation import simulate
from dinat_deploy.models.decoders import MaskRCNN
from dinat_deploy.models.preprocessing import open_image
from dinat_deploy.models.seeding import seeded_image
from dinat_deploy.native import find_library
from dinat_deploy.parity import Errors, Tolerance, compare_all
from dinat_deploy.pipeline.conversion_report import RunReport
from dinat_deploy.pipeline.pixels import Pixels
from dinat_deploy.progress import Progress
from dinat_deploy.session.onnxruntime_session import BUILD_THE_LIBRARY, OnnxRuntimeSession

# Protobuf messages end at 2 GiB; larger models keep their weights in a file beside them.
LARGEST_FILE = (1 << 31) - (1 << 20)


def save(model: ir.Model, path: Path, *, external: bool = False) -> None:
    """Write a model, its weights in ``<name>.data`` beside it if it is too large, or if asked.

    Raises:
        ConversionError: it holds what cannot be written, such as text that is none.
    """
    size = sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None
    )
    data = f"{path.name}.data" if external or size > LARGEST_FILE else None
    try:
        ir.save(model, path, external_data=data)
    except ir.serde.SerdeError as error:
        raise ConversionError(
            f"The model cannot be written: {innermost(error)}.", "Export the model again."
        ) from None


def gather_cases(
    bundle: Bundle,
    images: Sequence[str | Path],
    random_cases: int,
    seed: int,
    samples: Sequence[Sample] = (),
    pixels: Pixels | None = None,
) -> list[Case]:
    """The recorded cases, then made-up pictures and picture files, both without outputs.

    Args:
        samples: take the place of the recorded cases and the made-up pictures.
        pixels: for a model that will take pixels: every input becomes what it can be given, the
            nearest pixels, normalised, and no case has outputs.

    Raises:
        BundleError: the recorded cases are missing or damaged.
        ImageError: a file is no picture.
    """
    spec, config = bundle.manifest.graph.inputs[0], bundle.manifest.config
    defaults = (1, config.in_channels, *config.image_size)
    shape = [
        size if isinstance(size, int) else default
        for size, default in zip(spec.shape, defaults, strict=True)
    ]
    if samples:
        cases = [_case(sample.name, spec.name, sample.image, shape[0]) for sample in samples]
    else:
        cases = bundle.reference()
        for number in range(seed, seed + random_cases):
            image = seeded_image(shape, number)
            cases.append(Case(f"random {number}", {spec.name: image}, {}))
    for path in images:
        image = bundle.manifest.preprocessing(open_image(path))
        cases.append(_case(str(path), spec.name, image, shape[0]))
    if pixels is None:
        return cases
    return [Case(c.name, pixels.normalized(pixels.nearest(c.inputs)), {}) for c in cases]


def _case(name: str, tensor: str, image: FloatArray, batch: int) -> Case:
    """One image as often as the batch needs it."""
    return Case(name, {tensor: image[None].repeat(batch, axis=0)}, {})


def run_float32(
    bundle: Bundle, cases: Sequence[Case], scratch: Path, progress: Progress
) -> tuple[Ranges, list[Case]]:
    """Run the float32 model.

    Returns:
        The range of every tensor; and the cases, those that had no outputs with this model's. Of a
        detector, all have, and its choices are further inputs: PyTorch's may be others where there
        is a tie.

    Raises:
        BundleError: the model has no body, and the operator's library is missing.
        ConversionError: it is not float32, or computes infinities.
    """
    with progress.stage("Loading the float32 model"):
        file = read_onnx(bundle.model_path)
        bundle.check_interface(MODEL, file.input_specs, file.output_specs)
        model = load_ir(bundle.model_path)
        check_convertible(model)
        scales = attention_scales(model)
        detects = isinstance(bundle.manifest.config.decoder, MaskRCNN)
        chosen = choices.expose(model) if detects else []
        probes = add_probes(model)
        # Outside of the message, weights are mapped and not copied twice when they are loaded.
        save(model, scratch / "ranges.onnx", external=True)
        del model
        gc.collect()  # a graph refers to itself, and holds all weights
        session = _session(scratch / "ranges.onnx", bundle.manifest.graph.body, None)
    ranges = Ranges()
    complete = []
    outputs = [spec.name for spec in bundle.manifest.graph.outputs]
    for case in progress.track(cases, "Recording ranges"):
        found = session.run(case.inputs)
        record(ranges, probes, found, scales)
        # Copied: an array of the runtime's keeps all of its memory.
        recorded = {} if chosen else case.outputs
        own = recorded or {name: found[name].copy() for name in outputs}
        followed = {name: found[name].copy() for name in chosen}
        complete.append(Case(case.name, {**case.inputs, **followed}, own))
    session.close()
    return ranges, complete


def _session(path: Path, body: bool, custom_op: bool | Path | None) -> OnnxRuntimeSession:
    if body:
        return OnnxRuntimeSession(path, custom_op=custom_op)
    try:
        return OnnxRuntimeSession(path, custom_op=custom_op or True)
    except MissingDependencyError as error:
        raise BundleError(
            f"The model has no body for the operator. {error.cause}",
            f"{BUILD_THE_LIBRARY} Or export with --body standard.",
        ) from None


@dataclass(frozen=True)
class Way:
    """A way to run the converted model on the CPU: by the operator's body or by its library, as
    it is or simulated."""

    custom_op: Path | None
    simulated: bool


@dataclass(frozen=True)
class Subject:
    """A converted model that is to be checked.

    Attributes:
        file: the ONNX file.
        inputs: names of its inputs; cases may hold choices too.
        precision: as on the command line.
        form: the 16-bit type in it; None if there is none.
        pixels: if it takes pixels; the cases hold them normalised.
        detector: if it is one; it is then compared while it follows the choices in the cases.
    """

    file: Path
    inputs: Sequence[str]
    precision: str
    form: Format | None
    pixels: Pixels | None = None
    detector: MaskRCNN | None = None

    @property
    def name(self) -> str:
        if self.form is None or self.precision == self.form.precision:
            return self.form.name if self.form else self.precision
        return f"{self.precision} and {self.form.name}"

    @property
    def cure(self) -> str:
        if self.precision in QUANTIZED_FORMATS:
            return (
                "`dinat-deploy sensitivity` finds the nodes that lose it, for --exclude; or allow "
                "more with --rtol, or choose another --estimator."
            )
        return (
            "Keep the nodes that lose it in float32 with --keep-float32, allow more with --rtol, "
            "or choose another precision."
        )


def ways(body: bool, form: Format | None) -> list[Way]:
    """Which ways the model is run in: as it is if ONNX Runtime can, by the body and by the library
    if it is built; and simulated, if it is in a 16-bit type.

    The simulation always comes along: ONNX Runtime has few operators for bfloat16 on the CPU, and
    leaves out most of the rounding to float16 there. It takes the body, which rounds more often
    than the plugin and the library, whose sums are in float32.
    """
    library = find_library("onnxruntime")
    operators: list[Path | None] = [None] if body else []
    operators += [library] if library is not None or not body else []
    native = [] if form is not None and form.precision == "bf16" else operators
    simulated = [] if form is None else [Way(operators[0], True)]
    return [*(Way(operator, False) for operator in native), *simulated]


def check(
    subject: Subject,
    body: bool,
    cases: Sequence[Case],
    tolerance: Tolerance,
    progress: Progress,
) -> list[RunReport]:
    """Run a converted model in all ways and compare it with the cases' outputs.

    Raises:
        ConversionError: an output is off by more than the tolerance.
    """
    reports: list[RunReport] = []
    for way in progress.track(ways(body, subject.form), "Comparing"):
        followed = [name for name in cases[0].inputs if name not in subject.inputs]
        session = _load(subject, way, body, followed)
        name = f"{subject.name} simulated in {session.name}" if way.simulated else session.name
        report = _compare(session, name, way.simulated, cases, tolerance, subject)
        session.close()
        if not report.passed:
            raise ConversionError(_failure(report, subject), subject.cure)
        if subject.detector is not None and not reports:
            session = _load(subject, way, body)
            same = _same_detections(session, subject.detector, cases, tolerance, subject.pixels)
            session.close()
            report = replace(report, same_detections=same)
        reports.append(report)
    return reports


def _load(
    subject: Subject, way: Way, body: bool, followed: Sequence[str] = ()
) -> OnnxRuntimeSession:
    """The converted model, as it is to run, and with these of its choices as inputs."""
    path = subject.file
    if followed or way.simulated:
        model = ir.load(path)
        choices.follow(model, followed)
        if way.simulated and subject.form is not None:
            simulate(model, subject.form, inline=way.custom_op is None)
        path = path.with_name("simulated.onnx" if way.simulated else "followed.onnx")
        save(model, path, external=True)
        del model
        gc.collect()
    return _session(path, body, way.custom_op or False)


def _same_detections(
    session: OnnxRuntimeSession,
    detector: MaskRCNN,
    cases: Sequence[Case],
    tolerance: Tolerance,
    pixels: Pixels | None,
) -> float:
    """Share of the detections that are the float32 model's, but for ties, when the converted model
    makes its own choices."""
    others, rows = 0, 0
    for case in cases:
        outputs = session.run(pixels.nearest(case.inputs) if pixels else case.inputs)
        others += align(case.outputs, outputs, detector, tolerance).unexplained
        rows += sum(np.count_nonzero(run["scores"] > 0) for run in (case.outputs, outputs))
    return 1 - others / max(rows, 1)


def _failure(report: RunReport, subject: Subject) -> str:
    errors = report.errors
    return (
        f"The {subject.name} model loses accuracy: {report.worst} is off by {errors.max_abs:.3g}, "
        f"and {errors.limit:.3g} is allowed ({report.name})."
    )


def _compare(
    session: OnnxRuntimeSession,
    name: str,
    simulated: bool,
    cases: Sequence[Case],
    tolerance: Tolerance,
    subject: Subject,
) -> RunReport:
    pixels = subject.pixels
    found: dict[str, Errors] = {}
    agreeing: list[float] = []
    for case in cases:
        outputs = session.run(pixels.nearest(case.inputs) if pixels else case.inputs)
        compared = compare_all(case.outputs, outputs, list(case.outputs), tolerance)
        for output, errors in compared.items():
            found[f"{case.name}: {output}"] = errors
            # The rows of a detector's outputs are boxes.
            if errors.argmax_agreement is not None and subject.detector is None:
                rows = len(case.outputs[output])
                agreeing += [errors.argmax_agreement] * rows
    worst = max(found, key=lambda key: _excess(found[key]))
    return RunReport(
        name=name,
        simulated=simulated,
        inputs=len(cases),
        max_abs=max(errors.max_abs for errors in found.values()),
        relative=max(errors.relative for errors in found.values()),
        cosine=min(errors.cosine for errors in found.values()),
        argmax_agreement=float(np.mean(agreeing)) if agreeing else None,
        worst=worst,
        errors=found[worst],
    )


def _excess(errors: Errors) -> float:
    """How much of what is allowed was used; not a number is the most."""
    used = errors.max_abs / errors.limit if errors.limit else float(errors.max_abs > 0)
    return float("inf") if np.isnan(used) else used


def verification(reports: Sequence[RunReport], tolerance: Tolerance) -> VariantVerification:
    """The worst of all ways to run, for the manifest."""
    worst = max(reports, key=lambda report: _excess(report.errors))
    agreements = [r.argmax_agreement for r in reports if r.argmax_agreement is not None]
    return VariantVerification(
        passed=all(report.passed for report in reports),
        cases=worst.inputs,
        max_abs_error=worst.errors.max_abs,
        max_reference=worst.errors.max_reference,
        runtime="; ".join(report.name for report in reports),
        cosine=min(report.cosine for report in reports),
        argmax_agreement=min(agreements) if agreements else None,
        simulated=all(report.simulated for report in reports),
        **asdict(tolerance),
    )
