"""``calibrate``: ranges of a bundle's tensors on images, and its model quantized by them."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from dinat_deploy.bundle import CALIBRATION, HISTOGRAMS, Bundle
from dinat_deploy.calibration import run
from dinat_deploy.calibration.estimators import LEVELS
from dinat_deploy.calibration.histogram import BINS
from dinat_deploy.calibration.record import DEFAULT_PERCENTILE, Calibration, Settings
from dinat_deploy.calibration.recording import Batch, batches
from dinat_deploy.calibration.state import Recorded, load_histograms
from dinat_deploy.calibration.tensorrt_cache import version_number, write_cache
from dinat_deploy.data.dataset import Dataset, OnBad, Sample
from dinat_deploy.data.opening import open_dataset
from dinat_deploy.data.streaming import samples
from dinat_deploy.errors import BundleError
from dinat_deploy.files import write_whole
from dinat_deploy.graph import schema
from dinat_deploy.graph.formats import QUANTIZED_FORMATS, QuantizedPrecision
from dinat_deploy.graph.reading import load_ir
from dinat_deploy.pipeline.conversion_report import ConvertReport
from dinat_deploy.pipeline.conversion_writing import IoType
from dinat_deploy.pipeline.converting import bundle_to_convert, convert
from dinat_deploy.pipeline.quantizing import QuantizeOptions, quantizable_tensors, ranges_of
from dinat_deploy.pipeline.scored_models import check_scored
from dinat_deploy.progress import Progress, Silent

CACHE = "calibration.cache"
DEFAULT_LIMIT = 512
_FEW = 32  # images
_COMPARED = 4


@dataclass(frozen=True)
class CalibrateReport:
    """What ``calibrate`` made.

    Attributes:
        path: ``calibration.json``, whose content ``calibration`` is.
        conversion: of the quantized model, if one was written.
        cache: for TensorRT's own calibrator, if one was asked for.
        notes: what the user should know.
    """

    path: Path
    calibration: Calibration
    conversion: ConvertReport | None
    cache: Path | None
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "calibration": self.calibration.model_dump(mode="json"),
            "conversion": self.conversion.to_dict() if self.conversion else None,
            "cache": str(self.cache) if self.cache else None,
            "notes": self.notes,
        }


def calibrate(
    bundle: str | Path,
    data: str | Path | Dataset | Iterable[Any] | None = None,
    *,
    precision: QuantizedPrecision | None = "int8",
    quantize: QuantizeOptions | None = None,
    limit: int = DEFAULT_LIMIT,
    seed: int = 0,
    on_bad: OnBad = "refuse",
    percentile: float = DEFAULT_PERCENTILE,
    io: IoType = "fp32",
    tensorrt_cache: str | None = None,
    verify: bool = True,
    restart: bool = False,
    progress: Progress | None = None,
) -> CalibrateReport:
    """Record the ranges of a model's tensors on images, and write it quantized.

    The bundle gets ``calibration.json`` (the range of every tensor by every estimator),
    ``calibration.npz`` (how often it had which values, so that other ranges need no images) and the
    quantized model. The same images give the same bytes.

    Args:
        data: what :func:`~dinat_deploy.data.opening.open_dataset` takes; None takes the values
            recorded before.
        precision: of the model to write; None only records.
        quantize: how it is quantized.
        limit: use so many images, spread evenly over them all.
        seed: of that choice.
        on_bad: ``refuse`` an image that cannot be used, or ``skip`` it.
        percentile: of the absolute values, for that estimator.
        io: of the model, as of :func:`dinat_deploy.convert`.
        tensorrt_cache: a version of TensorRT up to 10 (``10.3.0``), whose INT8 mode
            ``calibration.cache`` is to be for.
        verify: compare the quantized model with PyTorch and the float32 one.
        restart: forget what an interrupted run recorded.

    Raises:
        DataError: there are no images, or one cannot be used.
        ConversionError: the model is not float32, or computes values that are not finite.
        BundleError: the bundle was changed after export, or nothing was recorded before.
        ConfigError: an option has an impossible value, or the model is none of those that can be
            quantized.
        OutputError: the bundle cannot be written to.
    """
    progress = progress or Silent()
    opened = bundle_to_convert(Path(bundle))
    check_scored(opened.manifest.config, bundle, "calibrate")
    # What can be wrong shows before an hour of recording.
    if tensorrt_cache is not None:
        version_number(tensorrt_cache)
    if quantize is not None and precision is not None:
        quantize.estimator_for(precision)
    with progress.stage("Checking the bundle"):
        opened.check_model()
    notes: list[str] = []
    shown: list[Sample] = []
    if data is None:
        recorded = _recorded_before(opened)
    else:
        manifest = opened.manifest
        dataset = open_dataset(
            data, manifest.preprocessing, labels=manifest.labels, limit=limit, seed=seed
        )
        if restart:
            _forget(opened)
        recorded = _record(opened, dataset, on_bad, progress)
        shown = list(islice(samples(dataset, on_bad="skip"), _COMPARED))
        notes += [*dataset.notes, *_few(recorded)]
    with progress.stage("Estimating ranges"):
        settings = Settings(percentile=percentile, bins=BINS, levels=LEVELS)
        calibration = recorded.calibration(settings)
    path = opened.path / CALIBRATION
    write_whole(path, calibration.model_dump_json(indent=2) + "\n")
    cache = None
    if tensorrt_cache is not None:
        cache = opened.path / CACHE
        estimator = (quantize or QuantizeOptions()).estimator_for("int8")
        write_cache(cache, ranges_of(opened, estimator), version=tensorrt_cache)
    conversion = None
    if precision is not None:
        conversion = convert(
            opened.path,
            precision,
            quantize=quantize,
            io=io,
            samples=shown,
            verify=verify,
            progress=progress,
        )
    for note in notes:
        progress.note(note)
    return CalibrateReport(path, calibration, conversion, cache, notes)


def _forget(bundle: Bundle) -> None:
    """Remove what interrupted runs recorded."""
    for saved in bundle.path.glob(f".{Path(CALIBRATION).stem}.*.npz"):
        saved.unlink(missing_ok=True)


def _record(bundle: Bundle, dataset: Dataset, on_bad: OnBad, progress: Progress) -> Recorded:
    schema.register()
    model = load_ir(bundle.model_path)
    tensors = quantizable_tensors(model, QUANTIZED_FORMATS["int8"])
    del model
    gc.collect()  # the graph refers to itself, and holds all weights
    spec = bundle.manifest.graph.inputs[0]
    size = spec.shape[0] if isinstance(spec.shape[0], int) else 1

    def read(skipped: list[str]) -> Iterator[Batch]:
        chosen = samples(dataset, on_bad=on_bad, skipped=skipped, note=progress.note)
        return batches(chosen, spec.name, size)

    return run.calibrate(
        bundle.model_path,
        tensors,
        read,
        images=len(dataset),
        model_sha256=bundle.digest(),
        source=dataset.name,
        bins=BINS,
        state_dir=bundle.path,
        target=bundle.path / HISTOGRAMS,
        progress=progress,
    )


def _few(recorded: Recorded) -> list[str]:
    count = recorded.data.images
    if count >= _FEW:
        return []
    return [f"{count} images are few: ranges are usually taken from some hundred."]


def _recorded_before(bundle: Bundle) -> Recorded:
    path = bundle.path / HISTOGRAMS
    if not path.exists():
        raise BundleError(
            f"{bundle.path} has no {HISTOGRAMS}: nothing was recorded before.",
            "Name images with --data.",
        )
    recorded = load_histograms(path)
    if recorded.model_sha256 != bundle.digest():
        raise BundleError(
            f"{path} was recorded with a model of SHA-256 {recorded.model_sha256[:12]}..., and the "
            f"bundle's is {bundle.digest()[:12]}....",
            "Record again, with --data.",
        )
    return recorded
