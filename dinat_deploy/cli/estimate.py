"""``dinat-deploy estimate``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dinat_deploy.cli.console import json_option, print_json, print_records, print_table
from dinat_deploy.cli.types import ImageSize

if TYPE_CHECKING:
    from dinat_deploy.pipeline.estimating import Comparison, EstimateReport


@click.command(short_help="The time that a device needs at least.")
@click.option("--model", "-m", metavar="NAME", help="A variant.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Architecture as JSON, instead of --model.",
)
@click.option("--all", "every", is_flag=True, help="All models, on a choice of devices.")
@click.option(
    "--device", "devices", multiple=True, metavar="NAME", help="Such as orin-nano-super; several."
)
@click.option("--devices", "listing", is_flag=True, help="List the devices and their figures.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "tf32", "fp16", "bf16", "int8"]),
    default="fp16",
    show_default=True,
    help="int8: of convolutions and Linears, the rest in fp16.",
)
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Images.")
@click.option(
    "--image-size",
    type=ImageSize(),
    help="In pixels: 224, or 512x1024 (HxW).  [default: the model's]",
)
@click.option("--kernel-size", type=click.IntRange(1), help="Attention window.")
@click.option(
    "--dilations",
    metavar="SCHEDULE|LIST",
    help="As of export; they matter where a window is larger than the map.",
)
@click.option(
    "--launch-us",
    type=click.FloatRange(0),
    help="Least microseconds of a kernel.  [default: the device's]",
)
@click.option(
    "--measured",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Show what `bench --json` wrote beside the estimate.",
)
@click.option(
    "--plot", type=click.Path(path_type=Path), metavar="FILE.html", help="Write a page with a plot."
)
@json_option
def estimate(listing: bool, as_json: bool, plot: Path | None, **options: Any) -> None:
    """Estimate the latency of a model on a device, stage by stage, from the device's published
    rates: nothing is measured, and nothing runs.

    \b
    dinat-deploy estimate --model dinat_tiny --device orin-nano-super --image-size 512
    dinat-deploy estimate --model dinat_tiny --device agx-orin --measured bench.json
    dinat-deploy estimate --all --plot devices.html
    """
    from dinat_deploy.pipeline.estimating import device_table, estimate_models

    if listing:
        table = device_table()
        if as_json:
            print_json([dict(zip(table.heads, row, strict=True)) for row in table.rows])
        else:
            print_records("", table)
        return
    report = estimate_models(plot=plot, **options)
    if as_json:
        print_json(report.to_dict())
    else:
        _show(report, options["every"], plot)


def _show(report: EstimateReport, every: bool, plot: Path | None) -> None:
    from dinat_deploy.pipeline.estimating import NOT_MEASURED, model_table, stage_table

    if every:
        first = report.estimates[0][1]
        title = f"Estimated ms of a pass, {first.precision}, batch {first.batch}"
        print_records(title, model_table(report.estimates))
    else:
        for name, each in report.estimates:
            size, figures = f"{each.image_size[0]}x{each.image_size[1]}", each.device.figures
            title = (
                f"{name} on {figures.name} ({each.device.name}), {each.precision}, batch "
                f"{each.batch}, {size} pixels, {figures.bandwidth:g} GB/s"
            )
            print_records(title, stage_table(each))
            click.echo(
                f"Estimate {each.whole.total:.3g} ms, floor {each.whole.floor:.3g} ms. "
                f"Neighborhood attention: {each.attention_share:.1%} of the estimate, "
                f"{each.attention.floor / each.whole.floor:.1%} of the floor."
            )
    if report.comparisons:
        _print_comparisons(report.comparisons)
    for note in report.notes:
        click.echo(f"Note: {note}")
    click.echo(NOT_MEASURED)
    if plot is not None:
        click.echo(f"Written to {plot}.")


def _print_comparisons(found: list[Comparison]) -> None:
    columns = ["measured", "on", "precision", "batch >", "pixels >", "median ms >"]
    columns += ["estimate ms >", "ratio >", "attention >", "estimated >"]
    rows = [
        [
            each.name,
            each.device,
            each.precision,
            str(each.batch),
            f"{each.image_size[0]}x{each.image_size[1]}",
            f"{each.measured:.3g}",
            f"{each.estimated:.3g}",
            f"{each.ratio:.2f}",
            "" if each.attention_measured is None else f"{each.attention_measured:.0%}",
            f"{each.attention_estimated:.0%}",
        ]
        for each in found
    ]
    print_table("Measured beside the estimate", columns, rows)
    for each in found:
        for note in each.notes:
            click.echo(f"Note: {each.name}: {note}")
