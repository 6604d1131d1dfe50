"""``dinat-deploy calibrate``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from dinat_deploy.cli.console import json_option, on_interrupt, print_json, print_table, progress
from dinat_deploy.cli.convert import show_conversion
from dinat_deploy.cli.options import data_options
from dinat_deploy.cli.quantize_options import quantize_options, take_quantize_options

if TYPE_CHECKING:
    from dinat_deploy.pipeline.calibrating import CalibrateReport

_STAGES = 10
_SHOWN = 8


@click.command(short_help="Record ranges on images; a bundle's model in INT8 or FP8.")
@click.argument("bundle", type=click.Path(path_type=Path))
@data_options(
    required=False,
    limit=512,
    purpose="Left out, the values recorded before are used again.",
)
@click.option(
    "--percentile",
    type=click.FloatRange(0, 100, min_open=True),
    default=99.99,
    show_default=True,
    help="Of the absolute values, for --estimator percentile.",
)
@click.option(
    "--precision",
    type=click.Choice(["int8", "fp8", "none"]),
    default="int8",
    show_default=True,
    help="Of the model to write; none only records.",
)
@quantize_options
@click.option(
    "--io",
    type=click.Choice(["fp32", "fp16", "uint8"]),
    default="fp32",
    show_default=True,
    help="Type of the model's inputs and outputs, as of `convert`.",
)
@click.option(
    "--tensorrt-cache",
    metavar="VERSION",
    help="Also write calibration.cache for the INT8 mode of a TensorRT up to 10, such as 10.3.0.",
)
@click.option("--verify/--no-verify", default=True, show_default=True, help="Compare with PyTorch.")
@click.option(
    "--restart", is_flag=True, help="Forget what an interrupted run recorded, and begin again."
)
@json_option
def calibrate(
    bundle: Path, precision: Literal["int8", "fp8", "none"], as_json: bool, **options: Any
) -> None:
    """Record the ranges of a model's tensors on images, and write it quantized.

    \b
    dinat-deploy calibrate out/dinat_mini --data images/
    dinat-deploy calibrate out/dinat_mini --data images/ --estimator percentile --limit 200
    dinat-deploy calibrate out/dinat_mini --estimator mse --exclude 'levels.0.*'

    Writes calibration.json (the ranges by all estimators, and a digest of the images),
    calibration.npz (how often each tensor had which values), and model.int8.onnx or model.fp8.onnx
    into the bundle. An interrupted run goes on where it was. `evaluate` says what it costs.
    """
    on_interrupt("What was recorded is kept; the same command goes on from there.")
    with progress(_STAGES) as shown:
        from dinat_deploy.pipeline.calibrating import calibrate as run

        quantize = take_quantize_options(options, precision)
        report = run(
            bundle,
            precision=None if precision == "none" else precision,
            quantize=quantize,
            progress=shown,
            **options,
        )
    if as_json:
        print_json(report.to_dict())
    else:
        _show(report)


def _show(report: CalibrateReport) -> None:
    found = report.calibration
    left_out = f", {len(found.data.skipped)} left out" if found.data.skipped else ""
    click.echo(
        f"{report.path}: ranges of {len(found.ranges)} tensors on {found.data.images} images of "
        f"{found.data.source}{left_out}"
    )
    widest = sorted(found.ranges.items(), key=lambda entry: -entry[1].max / entry[1].entropy)
    rows = [
        [name, *(f"{value:.4g}" for value in (r.max, r.entropy, r.percentile, r.mse))]
        for name, r in widest[:_SHOWN]
    ]
    print_table(
        "Ranges by each estimator, where they differ most",
        ["tensor", "max>", "entropy>", f"{found.settings.percentile:g} %>", "mse>"],
        rows,
    )
    if report.cache is not None:
        click.echo(f"{report.cache}: for TensorRT's calibrator")
    if report.conversion is not None:
        show_conversion(report.conversion)
