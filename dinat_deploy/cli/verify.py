"""``dinat-deploy verify``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dinat_deploy.cli.console import EXIT_FAILED, json_option, print_json, print_table, progress

if TYPE_CHECKING:
    from dinat_deploy.parity import Errors
    from dinat_deploy.pipeline.verifying import VerifyReport

_STAGES = 4


@click.command(short_help="Compare a bundle, ONNX file or engine with PyTorch.")
@click.argument("artefact")
@click.option(
    "--images",
    "-i",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A picture to compare on as well; repeat for more.",
)
@click.option(
    "--random",
    "random_cases",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="How many made-up inputs of every shape.",
)
@click.option(
    "--shapes",
    multiple=True,
    metavar="NAME=SHAPE[,...]",
    help="Shape of the made-up inputs, like image=1x3x64x64; repeat for more.  [default: the "
    "smallest, best and largest of an engine's profiles; else the model's own]",
)
@click.option("--layers", is_flag=True, help="Compare every layer; name the first that differs.")
@click.option(
    "--atol",
    type=click.FloatRange(0),
    help="Allowed error ...  [default: 0.0001 in float32, more in coarser types]",
)
@click.option(
    "--rtol",
    type=click.FloatRange(0),
    help="... plus this x largest value.  [default: 0.0001 in float32, more in coarser types]",
)
@click.option("--seed", type=int, default=1000, show_default=True, help="Of made-up inputs.")
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    help="Bundle that an engine or ONNX file belongs to.  [default: the one around it]",
)
@click.option(
    "--plugin-library",
    type=click.Path(path_type=Path),
    help="TensorRT's plugin.  [default: what `dinat-deploy plugin info` finds]",
)
@click.option(
    "--trust", is_flag=True, help="Load a plan that holds code of its own, or has no manifest."
)
@json_option
def verify(artefact: str, as_json: bool, **options: Any) -> int:
    """Compare a bundle, an ONNX file or an engine with PyTorch.

    \b
    dinat-deploy verify out/dinat_mini
    dinat-deploy verify out/dinat_mini/engines/tensorrt-plugin --layers
    dinat-deploy verify onnxruntime-cuda:out/dinat_mini

    It is compared on the recorded inputs, made-up ones and pictures. Without PyTorch on this
    machine, the outputs recorded at export take its place. Exits with 1 if anything differs by more
    than allowed.
    """
    with progress(_STAGES) as shown:
        from dinat_deploy.pipeline.verifying import verify as run

        report = run(artefact, progress=shown, **options)
    if as_json:
        print_json(report.to_dict())
    else:
        _show(report)
    return 0 if report.passed else EXIT_FAILED


_COLUMNS = ("max >", "mean >", "p99 >", "relative >", "cosine >", "SQNR dB >", "argmax >", "")


def _cells(errors: Errors) -> list[str]:
    agreement = errors.argmax_agreement
    return [
        f"{errors.max_abs:.2e}",
        f"{errors.mean_abs:.2e}",
        f"{errors.p99_abs:.2e}",
        f"{errors.relative:.2e}",
        f"{errors.cosine:.7f}",
        f"{errors.sqnr_db:.1f}",
        "" if agreement is None else f"{agreement:.0%}",
        "ok" if errors.passed else f"FAILED (allowed {errors.limit:.2e})",
    ]


def _show(report: VerifyReport) -> None:
    where = "" if report.device == "CPU" else f" on {report.device}"
    click.echo(f"{report.artefact}: {report.candidate}{where} against {report.reference}")
    rows = [
        [case.origin, case.name, name, *_cells(errors)]
        for case in report.cases
        for name, errors in case.outputs.items()
    ]
    print_table("", ["input", "", "output", *_COLUMNS], rows)
    if report.layers:
        layer_rows = [[layer.name, *_cells(layer.errors)] for layer in report.layers]
        print_table("Layers, on the first input", ["layer", *_COLUMNS], layer_rows)
    for note in report.notes:
        click.echo(f"Note: {note}")
    allowed = f"{report.tolerance.atol:g} + {report.tolerance.rtol:g} x largest value"
    if report.passed:
        click.echo(f"Verified: every error is within {allowed}.")
    elif report.first_difference:
        click.echo(f"FAILED: {report.first_difference} is the first layer off by over {allowed}.")
    else:
        click.echo(f"FAILED: an output is off by more than {allowed}; --layers finds where.")
