"""``dinat-deploy deploy``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from click.core import ParameterSource

from dinat_deploy.cli.build_options import build_arguments, build_options
from dinat_deploy.cli.console import (
    EXIT_FAILED,
    json_option,
    on_interrupt,
    print_json,
    print_table,
    progress,
)
from dinat_deploy.cli.options import graph_options, model_options, names_of
from dinat_deploy.cli.quantize_options import quantize_options, take_quantize_options

if TYPE_CHECKING:
    from dinat_deploy.pipeline.deploying import DeployReport

# export, build, and what each of the others shows: an estimate, for the bar only
_STAGES = 9 + 9 + 5 + 4 + 4
_GRAPH = names_of(graph_options)
_MODEL = tuple(name for name in names_of(model_options) if name != "output")


@click.command(short_help="All in one: export, build, verify and measure; resumes.")
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@model_options
@graph_options
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "bf16", "int8", "fp8"]),
    default="fp32",
    show_default=True,
    help="Of the engine; fp32 is as exported, int8 and fp8 are calibrated on --data.",
)
@click.option(
    "--data",
    metavar="DATA",
    help="Images to calibrate on: a folder, a list, an .npz file, or digits:train.",
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=512,
    show_default=True,
    help="Calibrate on so many of them.",
)
@quantize_options
@build_options
@click.option(
    "--run/--no-run",
    default=True,
    show_default=True,
    help="Compare and measure the engine, on the GPU that it is for.",
)
@click.option("--force", is_flag=True, help="Do every step again.")
@click.option("--dry-run", is_flag=True, help="Print the steps and what is left to do.")
@json_option
def deploy(
    bundle: Path | None,
    output: Path | None,
    precision: Literal["fp32", "fp16", "bf16", "int8", "fp8"],
    data: str | None,
    limit: int,
    run: bool,
    force: bool,
    dry_run: bool,
    as_json: bool,
    **arguments: Any,
) -> int:
    """Take a model, or an existing BUNDLE, all the way to a verified and measured engine.

    \b
    dinat-deploy deploy --model dinat_tiny --checkpoint dinat_tiny_in1k_224.pth
    dinat-deploy deploy --model dinat_mini --precision fp16 --backend tensorrt-rtx --no-run
    dinat-deploy deploy out/dinat_tiny --precision int8 --data images/

    Finished steps are recorded in the bundle: called again, the command does only what is missing
    or whose inputs changed. Exits with 1 if the engine differs from PyTorch.
    """
    on_interrupt("Finished steps are kept; the same command goes on with the others.")
    from dinat_deploy.pipeline.deploy_steps import DeployOptions
    from dinat_deploy.pipeline.deploying import deploy as execute
    from dinat_deploy.pipeline.requests import ModelRequest

    request = {name: arguments.pop(name) for name in _MODEL}
    graph = {name: arguments.pop(name) for name in _GRAPH}
    if bundle is not None:
        _refuse_export_options()
    quantize = take_quantize_options(arguments, precision)
    if quantize is None and data is not None:
        raise click.UsageError(
            f"--data is to calibrate on, and {precision} needs no calibration. Leave it out, or "
            "use --precision int8 or fp8."
        )
    calibrate = {"data": data, "limit": limit, "quantize": quantize} if data else {}
    options = DeployOptions(
        export=graph,
        precision=precision,
        calibrate=calibrate,
        build=build_arguments(**arguments),
        run=run,
        force=force,
    )
    model = bundle if bundle is not None else ModelRequest(**request)
    with progress(_STAGES) as shown:
        report = execute(model, output, options=options, dry_run=dry_run, progress=shown)
    if as_json:
        print_json(report.to_dict())
    else:
        _show(report)
    return 0 if report.passed else EXIT_FAILED


def _refuse_export_options() -> None:
    """An existing bundle is what it is: say so, instead of leaving options out without a word."""
    context = click.get_current_context()
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name in (*_MODEL, *_GRAPH):
            raise click.UsageError(
                f"{max(parameter.opts, key=len)} is about exporting a model, and a bundle is "
                "named. Leave one of them out."
            )


def _show(report: DeployReport) -> None:
    rows = [
        (step.name, step.state, "" if step.seconds is None else f"{step.seconds:.1f} s", step.text)
        for step in report.steps
    ]
    print_table(str(report.bundle), ["step", "state", "time>", ""], rows)
    if report.engine:
        click.echo(f"Engine: {report.engine}")
    click.echo(f"Took {report.seconds:.1f} s.")
