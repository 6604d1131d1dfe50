"""``convert``: a bundle's model in another precision, in a file beside it."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from dinat_deploy import __version__
from dinat_deploy.bundle import (
    MANIFEST,
    MODEL,
    Bundle,
    Manifest,
    Variant,
    external_data_name,
    is_bundle,
    open_bundle,
    variant_name,
)
from dinat_deploy.data.dataset import Sample
from dinat_deploy.errors import BundleError, ConfigError, ConversionError
from dinat_deploy.files import hidden_directory, sha256, write_whole
from dinat_deploy.graph import islands
from dinat_deploy.graph.formats import (
    FORMATS,
    QUANTIZED_FORMATS,
    Precision,
    QuantizedPrecision,
)
from dinat_deploy.models.decoders import MaskRCNN
from dinat_deploy.parity import Tolerance
from dinat_deploy.pipeline import conversion_checks as checks
from dinat_deploy.pipeline.conversion_report import ConvertReport, RunReport
from dinat_deploy.pipeline.conversion_writing import (
    IO_TYPES,
    IoType,
    Made,
    QuantizeRecipe,
    Recipe,
    write,
)
from dinat_deploy.pipeline.pixels import Pixels
from dinat_deploy.pipeline.quantizing import (
    QuantizeOptions,
    describe_quantization,
    ranges_of,
)
from dinat_deploy.progress import Progress, Silent

DEFAULT_SEED = 2000
# The largest error allowed by default, relative to the largest value of an output: three times that
# of the features of dinat_mini, which are off by more than its logits.
DEFAULT_ATOL = 1e-3
DEFAULT_RTOL: dict[str, float] = {"fp16": 2e-2, "bf16": 1e-1, "int8": 4e-1, "fp8": 4e-1}
# The same of a detector: errors of corrections count by the size of the box, and made-up weights
# give up to 2 % and 12 %.
DETECTOR_RTOL: dict[str, float] = {**DEFAULT_RTOL, "fp16": 5e-2, "bf16": 3e-1}
_LARGEST_SHOWN = 5


def convert(
    path: str | Path,
    precision: Precision | QuantizedPrecision,
    *,
    quantize: QuantizeOptions | None = None,
    io: IoType = "fp32",
    keep_float32: Sequence[str] = (),
    images: Sequence[str | Path] = (),
    random_cases: int = 2,
    samples: Sequence[Sample] = (),
    margin: float = islands.DEFAULT_MARGIN,
    verify: bool = True,
    atol: float | None = None,
    rtol: float | None = None,
    seed: int = DEFAULT_SEED,
    progress: Progress | None = None,
) -> ConvertReport:
    """Write a bundle's model in another precision beside it, strongly typed.

    The float32 model runs first, on the recorded inputs, made-up pictures and ``images``. Nodes
    whose values come near the end of float16's range stay in float32, as do those that sum up
    (normalizations, means, softmax) and the head of each output.

    ``int8`` and ``fp8`` quantize the products with constant weights on top of that, by the ranges
    in the bundle's ``calibration.json``.

    A detector is compared while it follows the float32 model's choices of boxes, and then asked how
    many of its detections are the same when it chooses itself.

    With ``io="uint8"`` the model takes pixels and normalises them itself, in float32. It is then
    compared with the float32 model on the pixels nearest to the inputs.

    Args:
        path: the bundle; an older variant of the same precision in it is replaced.
        precision: ``fp16``, ``bf16``, ``int8`` or ``fp8``.
        quantize: how, for the last two.
        io: type of the graph's inputs and outputs; with ``uint8`` the inputs are pixels, 0 to 255,
            and the outputs float32.
        keep_float32: patterns (``levels.3.*``) of further nodes to stay in float32.
        images: picture files, preprocessed as the bundle says.
        random_cases: how many made-up pictures.
        samples: to run and to compare on instead of the recorded inputs and made-up pictures, which
            are noise: ranges that were recorded on real pictures clip it.
        margin: the share of float16's largest number that recorded values may reach, up to 1.
        verify: compare with PyTorch (recorded inputs) and the float32 model (the others, and all
            pixels).
        atol, rtol: the largest allowed error of an output is ``atol + rtol * its largest value``;
            by default 1e-3 and, for fp16, 2e-2, for bf16 1e-1, for the others 4e-1; of a detector
            5e-2 and 3e-1.
        seed: of the first made-up picture.

    Returns:
        The report; the file and the manifest are complete when the function returns.

    Raises:
        ConversionError: the model is not float32, or the converted one loses accuracy; nothing is
            written then.
        BundleError: the bundle is incomplete, was changed after export, or has no ranges to
            quantize with.
        ConfigError: an option has an impossible value.
        ImageError: a file is no picture.
        OutputError: the bundle cannot be written to.
    """
    progress = progress or Silent()
    _check_options(precision, io, margin, random_cases)
    if precision in QUANTIZED_FORMATS:
        quantize = quantize or QuantizeOptions()
    form = quantize.form if quantize else FORMATS[precision]
    _check_rest(quantize, precision, io, keep_float32)
    bundle = bundle_to_convert(Path(path))
    decoder = bundle.manifest.config.decoder
    detector = decoder if isinstance(decoder, MaskRCNN) else None
    defaults = DEFAULT_RTOL if detector is None else DETECTOR_RTOL
    tolerance = Tolerance(DEFAULT_ATOL, defaults[precision]).replaced(atol, rtol)
    file = variant_name(precision)
    with progress.stage("Checking the bundle"):
        bundle.check_model()
        recipe = Recipe(form, io, keep_float32, margin)
        if quantize is not None:
            into = QUANTIZED_FORMATS[precision]
            found = ranges_of(bundle, quantize.estimator_for(into.precision))
            recipe = replace(recipe, quantized=QuantizeRecipe(into, quantize, found))
        pixels = _pixels(bundle) if io == "uint8" else None
        cases = checks.gather_cases(bundle, images, random_cases, seed, samples, pixels)
    with hidden_directory(bundle.path / file) as partial:
        ranges, cases = checks.run_float32(bundle, cases, partial, progress)
        with progress.stage(f"Writing {file}"):
            made = write(bundle, partial / file, recipe, ranges)
            gc.collect()  # the graph refers to itself, and holds all weights
        runs = []
        if verify:
            subject = checks.Subject(
                partial / file,
                [spec.name for spec in made.inputs],
                precision,
                form,
                pixels,
                detector,
            )
            body = bundle.manifest.graph.body
            runs = checks.check(subject, body, cases, tolerance, progress)
        with progress.stage("Updating the manifest"):
            quantization = None
            if quantize is not None and made.placement is not None:
                shapes = {name: array.shape for name, array in cases[0].inputs.items()}
                quantization = describe_quantization(
                    bundle, made.placement, into.precision, quantize, shapes
                )
            data = partial / external_data_name(file)
            variant = Variant(
                precision=precision,
                sha256=sha256(partial / file),
                data_sha256=sha256(data) if data.exists() else None,
                inputs=made.inputs,
                outputs=made.outputs,
                float32=made.islands,
                quantization=quantization,
                verification=checks.verification(runs, tolerance) if verify else None,
                created_by=f"dinat-deploy {__version__}",
            )
            after = _size(partial, file)
            _publish(bundle.path, partial, file, variant)
    notes = _notes(bundle, images, precision, made, runs)
    for note in notes:
        progress.note(note)
    largest = sorted(ranges.tensors.items(), key=lambda entry: -entry[1])[:_LARGEST_SHOWN]
    return ConvertReport(
        path=bundle.path / file,
        variant=variant,
        converted=made.conversion.converted,
        casts=made.conversion.casts,
        ranges=dict(largest),
        range_used=max(ranges.tensors.values()) / form.largest if form else None,
        inputs=ranges.inputs,
        weights=made.weights,
        runs=runs,
        size_before=_size(bundle.path, MODEL),
        size_after=after,
        notes=notes,
    )


def _check_options(precision: str, io: str, margin: float, random_cases: int) -> None:
    if precision not in DEFAULT_RTOL:
        raise ConfigError(f"Unknown precision {precision!r}.", f"Use {', '.join(DEFAULT_RTOL)}.")
    if io not in get_args(IoType):
        raise ConfigError(f"Unknown type of inputs {io!r}.", f"Use {' or '.join(IO_TYPES)}.")
    if not 0 < margin <= 1:
        raise ConfigError(f"The margin is {margin}; expected more than 0, up to 1.", "Change it.")
    if random_cases < 0:
        raise ConfigError(f"random_cases is {random_cases}; expected 0 or more.", "Change it.")


def _check_rest(
    quantize: QuantizeOptions | None, precision: str, io: str, keep_float32: Sequence[str]
) -> None:
    """Refuse options that contradict each other or would do nothing."""
    if quantize is not None and precision not in QUANTIZED_FORMATS:
        raise ConfigError(
            f"{precision} quantizes nothing, and options for that are given.",
            f"Leave them out, or use {' or '.join(QUANTIZED_FORMATS)}.",
        )
    if quantize is None or quantize.form is not None:
        return
    if io == "fp16":
        raise ConfigError(
            "The rest of the model is to be fp32, and inputs and outputs fp16.",
            "Use --rest fp16, or another --io.",
        )
    if keep_float32:
        raise ConfigError(
            "All but the quantized nodes are to be float32 already (--rest fp32).",
            "Use --exclude for nodes that shall not be quantized.",
        )


def _pixels(bundle: Bundle) -> Pixels:
    """For a model all of whose inputs are to take pixels."""
    names = frozenset(spec.name for spec in bundle.manifest.graph.inputs)
    return Pixels(names, bundle.manifest.preprocessing)


def bundle_to_convert(path: Path) -> Bundle:
    """The bundle; it may be named by its ``model.onnx``.

    Raises:
        BundleError: it is none, or another file.
        ConversionError: it is a variant, which cannot be converted once more.
    """
    if path.is_dir() or not path.exists():
        return open_bundle(path)
    if not is_bundle(path.parent):
        raise BundleError(
            f"{path} is not in a bundle, which has the outputs to compare with.",
            "Pass a directory written by `dinat-deploy export`.",
        )
    bundle = open_bundle(path.parent)
    variant = bundle.variants.get(path.name)
    if variant is not None:
        raise ConversionError(
            f"{path} is in {variant.precision} already.", f"Convert {bundle.model_path}."
        )
    if path.name != MODEL:
        raise BundleError(f"{path} is not the model of its bundle.", f"Pass {bundle.path}.")
    return bundle


def _size(directory: Path, file: str) -> int:
    paths = (directory / file, directory / external_data_name(file))
    return sum(path.stat().st_size for path in paths if path.exists())


def _publish(bundle: Path, partial: Path, file: str, variant: Variant) -> None:
    """Put the files in their place. At no moment does the manifest vouch for another file."""
    manifest = open_bundle(bundle).manifest
    others = {name: entry for name, entry in manifest.variants.items() if name != file}
    if file in manifest.variants:
        _write_manifest(bundle, manifest.with_variants(others))
    (bundle / external_data_name(file)).unlink(missing_ok=True)
    for name in (external_data_name(file), file):
        if (partial / name).exists():
            (partial / name).replace(bundle / name)
    _write_manifest(bundle, manifest.with_variants({**others, file: variant}))


def _write_manifest(bundle: Path, manifest: Manifest) -> None:
    write_whole(bundle / MANIFEST, manifest.to_json())


def _notes(
    bundle: Bundle,
    images: Sequence[str | Path],
    precision: str,
    made: Made,
    runs: Sequence[RunReport],
) -> list[str]:
    notes = []
    if precision == "fp16" and not images and bundle.manifest.weights.source != "seeded":
        notes.append(
            "The ranges were recorded on made-up pictures; --images records them on real ones too."
        )
    if made.raised:
        tensor, count = max(made.raised.items(), key=lambda entry: entry[1])
        notes.append(
            f"{sum(made.raised.values())} scales are too small for the type of the rest and were "
            f"raised, {count} of them of {tensor}."
        )
    same = [run.same_detections for run in runs if run.same_detections is not None]
    if same:
        notes.append(
            "Compared while it followed the float32 model's choices of boxes. Left to its own, "
            f"{min(same):.0%} of the detections are the same, but for ties."
        )
    return notes
