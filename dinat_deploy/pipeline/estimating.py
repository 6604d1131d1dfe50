"""``estimate``: the time that devices need for models, beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dinat_deploy.choosing.chosen import Chosen, choose
from dinat_deploy.choosing.devices import DEVICES, Device, device_of_gpu, get_device
from dinat_deploy.choosing.estimate import (
    PRECISIONS,
    Estimate,
    Precision,
    Row,
    Time,
    estimate,
)
from dinat_deploy.choosing.estimate_page import NOT_MEASURED, model_table, stage_table
from dinat_deploy.errors import ConfigError, DinatDeployError, OutputError
from dinat_deploy.files import write_whole
from dinat_deploy.measurement.gpu_table import gpu_figures
from dinat_deploy.measurement.records import ArtefactResult
from dinat_deploy.measurement.tables import Table
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.zoo import VARIANTS
from dinat_deploy.pipeline.bench_reports import load_report

__all__ = [
    "NOT_MEASURED",
    "PRECISIONS",
    "Comparison",
    "EstimateReport",
    "device_table",
    "estimate_models",
    "model_table",
    "stage_table",
]

# One of each kind, from the smallest board to the largest card.
_USUAL = (
    "orin-nano-super", "orin-nx", "agx-orin", "thor", "rtx-3060", "rtx-4090", "l4", "a100-80gb",
    "h200",
)  # fmt: skip
_OF_TYPES: tuple[tuple[str, Precision], ...] = (
    ("int8", "int8"),
    ("float16", "fp16"),
    ("bfloat16", "bf16"),
    ("float32", "fp32"),
)


@dataclass(frozen=True)
class Comparison:
    """A measured pass beside its estimate.

    Attributes:
        name, device, precision, batch, image_size: of what was measured.
        measured: median milliseconds.
        estimated: of the same batch, size and precision on the estimate's device.
        attention_measured, attention_estimated: share of neighborhood attention; None where layers
            were not timed.
        notes: why the two may not be comparable.
    """

    name: str
    device: str
    precision: Precision
    batch: int
    image_size: tuple[int, int]
    measured: float
    estimated: float
    attention_measured: float | None
    attention_estimated: float
    notes: list[str]

    @property
    def ratio(self) -> float:
        """Measured over estimated."""
        return self.measured / self.estimated


@dataclass(frozen=True)
class EstimateReport:
    """Estimates of models on devices.

    Attributes:
        estimates: (name of the model, estimate), model by model.
        comparisons: with what was measured.
    """

    estimates: list[tuple[str, Estimate]]
    comparisons: list[Comparison] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": "estimate",
            "meaning": NOT_MEASURED,
            "estimates": [
                {
                    "model": name,
                    "device": each.device.name,
                    "gpu": asdict(each.device.figures),
                    "launch_us": each.device.launch_us,
                    "precision": each.precision,
                    "batch": each.batch,
                    "image_size": each.image_size,
                    "whole": _time(each.whole),
                    "attention": _time(each.attention),
                    "attention_share": each.attention_share,
                    "rows": [_row(row) for row in each.rows],
                }
                for name, each in self.estimates
            ],
            "measured": [asdict(each) | {"ratio": each.ratio} for each in self.comparisons],
            "notes": self.notes,
        }


def estimate_models(
    *,
    model: str | None = None,
    config: Path | None = None,
    devices: Sequence[str] = (),
    every: bool = False,
    precision: Precision = "fp16",
    batch: int = 1,
    image_size: tuple[int, int] | None = None,
    kernel_size: int | None = None,
    dilations: str | None = None,
    launch_us: float | None = None,
    measured: Path | None = None,
    plot: Path | None = None,
) -> EstimateReport:
    """Estimate one model on one or several devices, or all models.

    Args:
        model, config, image_size, kernel_size, dilations: as of
            :func:`dinat_deploy.choosing.chosen.choose`.
        devices: short names; with ``every``, a choice of them by default.
        every: all variants, at their own image size unless one is given; a model with global
            attention is left out where it does not take that size.
        launch_us: least microseconds of a kernel, in place of the devices' own.
        measured: report of ``bench --json`` whose figures belong beside the estimate.
        plot: HTML page to write.

    Raises:
        ConfigError, UnknownModelError: the model, a device, its rate or the report is not known.
        OutputError, MissingDependencyError: the page cannot be made.
    """
    _check_plot(plot)
    if every and (model is not None or config is not None or measured is not None):
        raise ConfigError(
            "--all is about all models; --model, --config and --measured are about one.",
            "Drop --all or the others.",
        )
    if not devices and not every:
        raise ConfigError(
            "No device is named.",
            "Give one, like --device orin-nano-super; `dinat-deploy estimate --devices` lists "
            "them.",
        )
    chosen_devices = [get_device(name) for name in devices or _USUAL]
    notes: list[str] = []
    if every:
        models = _variants(image_size, notes, kernel_size=kernel_size, dilations=dilations)
    else:
        models = [
            choose(
                model, config, dilations=dilations, kernel_size=kernel_size, image_size=image_size
            )
        ]
        notes += models[0].notes
    found = []
    for device in chosen_devices:
        if device.figures.peak("int8") is None and precision == "int8" and not devices:
            notes.append(f"No INT8 rate of {device.figures.name} is published: it is left out.")
            continue
        found += [
            (one.name, estimate(one.config, device, precision, batch=batch, launch_us=launch_us))
            for one in models
        ]
    comparisons = []
    if measured is not None:
        for device in chosen_devices:
            comparisons += _compare(measured, models[0].config, device, launch_us, notes)
    if plot is not None:
        from dinat_deploy.choosing.estimate_page import to_html

        write_whole(plot, to_html(found))
    return EstimateReport(found, comparisons, list(dict.fromkeys(notes)))


def device_table() -> Table:
    """All devices with their figures."""
    rows = [
        [
            device.name,
            device.figures.name + (" (measured)" if device.measured else ""),
            f"{device.figures.bandwidth:g}",
            *(
                "" if rate is None else f"{rate:.3g}"
                for rate in (device.figures.fp32, device.figures.half, device.figures.int8)
            ),
            f"{device.launch_us:g}",
        ]
        for device in DEVICES.values()
    ]
    heads = ["--device", "GPU", "GB/s", "FP32 TFLOPS", "FP16 TFLOPS", "INT8 TOPS", "launch us"]
    return Table(heads, [False, False, *[True] * 5], rows)


def _variants(image_size: tuple[int, int] | None, notes: list[str], **changes: Any) -> list[Chosen]:
    found = []
    for variant in VARIANTS.values():
        if variant.config.num_classes != 1000:
            continue  # the same encoders with another head
        try:
            found.append(choose(variant.name, image_size=image_size, **changes))
        except DinatDeployError as error:
            notes.append(f"{variant.name} is left out: {error.cause}")
    return found


def _compare(
    path: Path, config: ModelConfig, device: Device, launch_us: float | None, notes: list[str]
) -> list[Comparison]:
    found = []
    for result in load_report(path).results:
        shapes = list(result.shapes.values())
        if result.kind == "cpu" or len(shapes) != 1 or len(shapes[0]) != 4:
            why = "ran on a CPU" if result.kind == "cpu" else "has other inputs than one image"
            notes.append(f"{result.name} in {path} {why}: there is no estimate for it.")
            continue
        batch, _, height, width = shapes[0]
        precision = _precision(result.precision)
        try:
            own = estimate(
                config,
                device,
                precision,
                batch=batch,
                image_size=(height, width),
                launch_us=launch_us,
            )
        except DinatDeployError as error:
            notes.append(f"{result.name} in {path} is left out: {error.cause}")
            continue
        found.append(
            Comparison(
                result.name,
                result.device,
                precision,
                batch,
                (height, width),
                result.latency.median,
                own.whole.total,
                result.attention_share,
                own.attention_share,
                _doubts(result, own),
            )
        )
    return found


def _doubts(result: ArtefactResult, own: Estimate) -> list[str]:
    """Why a measured figure may be of something else than the estimate."""
    doubts = []
    figures = gpu_figures(result.device)
    gpu = result.floor.device if result.floor else figures.name if figures else result.device
    if own.device.name not in {device.name for device in device_of_gpu(gpu)}:
        doubts.append(f"It ran on {gpu}, and the estimate is for {own.device.figures.name}.")
    # What a decoder or other outputs add shows in the work; convolutions alone differ by little.
    if result.work is not None and abs(result.work.macs / own.whole.macs - 1) > 0.02:
        doubts.append(
            f"Its work is {result.work.macs / 1e9:.2f} GMAC and the model's "
            f"{own.whole.macs / 1e9:.2f}: it is another model, or one with a decoder."
        )
    return doubts


def _precision(types: str | None) -> Precision:
    """The precision that an artefact's types stand for; the fastest of them counts."""
    named = (types or "float32").split("+")
    return next((precision for name, precision in _OF_TYPES if name in named), "fp32")


def _check_plot(plot: Path | None) -> None:
    if plot is None:
        return
    if plot.suffix.lower() != ".html":
        raise OutputError(
            f"{plot} does not end in .html, which is what it would be.",
            f"Name it {plot.stem}.html.",
        )
    from dinat_deploy.measurement.page import plotly_library

    plotly_library()


def _row(row: Row) -> dict[str, Any]:
    return {"stage": row.stage, "kind": row.kind, **_time(row.time)}


def _time(time: Time) -> dict[str, Any]:
    return {
        "kernels": time.kernels,
        "macs": time.macs,
        "bytes": time.bytes,
        "compute_ms": time.compute,
        "memory_ms": time.memory,
        "floor_ms": time.floor,
        "estimate_ms": time.total,
        "bound": time.bound,
    }
