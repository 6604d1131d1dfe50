"""``dinat-deploy compare``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dinat_deploy.cli.console import (
    EXIT_INTERRUPTED,
    json_option,
    print_json,
    print_records,
    progress,
)
from dinat_deploy.cli.types import Choices, ImageSize

if TYPE_CHECKING:
    from dinat_deploy.choosing.comparison import ComparisonReport

_SIZES = ("mini", "tiny", "small", "base", "large")
_RUNTIMES = (
    "onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "onnxruntime-tensorrt-rtx", "torch",
    "torch-cuda", "torch-compile",
)  # fmt: skip
# Preparing, measuring.
_STAGES = 2


def _names(_: click.Context, __: click.Parameter, value: str | None) -> list[str]:
    names = [name.strip() for name in (value or "").split(",") if name.strip()]
    if value is not None and not names:  # an empty variable of a script, not a wish for all
        raise click.BadParameter("no model is named; write dinat_tiny,swin_tiny")
    return names


@click.command(short_help="DiNAT, NAT, Swin and ConvNeXt side by side.")
@click.option(
    "--size",
    "sizes",
    type=Choices(*_SIZES),
    default="tiny",
    show_default=True,
    help="All models of one or several sizes.",
)
@click.option(
    "--models",
    callback=_names,
    metavar="NAME,NAME,...",
    help="These, instead: dinat_tiny,swin_tiny.",
)
@click.option(
    "--base", metavar="NAME", help="What times are compared with.  [default: the first Swin]"
)
@click.option(
    "--runtime",
    type=click.Choice(_RUNTIMES),
    default="onnxruntime",
    show_default=True,
    metavar="NAME",
    help=f"As bench names them: {', '.join(_RUNTIMES)}.",
)
@click.option("--image-size", type=ImageSize(), default="224", show_default=True, help="In pixels.")
@click.option(
    "--batch", type=click.IntRange(1), default=1, show_default=True, help="Images of one run."
)
@click.option(
    "--duration",
    type=click.FloatRange(0),
    default=5,
    show_default=True,
    metavar="S",
    help="Least seconds of measured runs, of every model.",
)
@click.option(
    "--threads",
    type=click.IntRange(0),
    default=0,
    help="CPU threads of a run.  [default: the runtime's choice]",
)
@click.option(
    "--measure/--no-measure",
    "measuring",
    default=True,
    help="Or only what is published and counted, in seconds.",
)
@click.option(
    "--plot", type=click.Path(path_type=Path), metavar="FILE.html", help="Write a page with plots."
)
@json_option
def compare(as_json: bool, plot: Path | None, **options: Any) -> int:
    """Put DiNAT, NAT, DiNAT_s, Swin and ConvNeXt of the same size side by side: published accuracy,
    counted parameters and work, and latency, measured in turn on this machine.

    \b
    dinat-deploy compare --plot tiny.html
    dinat-deploy compare --models dinat_s_small,swin_small,convnext_small --image-size 512
    dinat-deploy compare --size tiny,small,base,large --no-measure

    Swin and ConvNeXt are those of transformers (pip install 'dinat-deploy[hf]'). All weights are
    random, and nothing is downloaded: they do not change how fast a model is. Ctrl-C shows what was
    measured until then and writes no file.
    """
    from dinat_deploy.pipeline.comparing import ComparisonInterrupted
    from dinat_deploy.pipeline.comparing import compare as run

    try:
        with progress(_STAGES if options["measuring"] else 1, steady=True) as shown:
            report = run(plot=plot, progress=shown, **options)
    except ComparisonInterrupted as stop:
        _deliver(stop.report, as_json=as_json)
        click.echo("Interrupted. No file was written.", err=True)
        return EXIT_INTERRUPTED
    _deliver(report, as_json=as_json)
    if plot is not None:
        click.echo(f"Written to {plot}.", err=as_json)
    return 0


def _deliver(report: ComparisonReport, *, as_json: bool) -> None:
    if as_json:
        print_json(report.to_dict())
        return
    from dinat_deploy.pipeline.comparing import comparison_table, reading

    height, width = report.image_size
    title = f"{height}x{width} pixels"
    if report.measured:
        title += f", batch {report.batch}, {report.runtime}"
        title += (
            f" on {report.machine.get('GPU') or report.machine.get('processor', 'this machine')}"
        )
    print_records(title, comparison_table(report))
    for sentence in reading(report):
        click.echo(sentence)
    for warning in report.warnings:
        click.echo(f"Warning: {warning}")
    for note in report.notes:
        click.echo(f"Note: {note}")
