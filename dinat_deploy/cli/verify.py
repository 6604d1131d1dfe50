"""``dinat-deploy verify``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dinat_deploy.cli.console import EXIT_FAILED, json_option, print_json, print_table, progress

if TYPE_CHECKING:
    from dinat_deploy.parity import Errors
    from dinat_deploy.pipeline.verifying import VerifyReport

_STAGES = 4


@click.command(short_help="Compare a bundle with PyTorch.")
@click.argument("bundle", type=click.Path(path_type=Path))
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
    help="How many made-up inputs.",
)
@click.option("--layers", is_flag=True, help="Compare every layer; name the first that differs.")
@click.option(
    "--atol", type=click.FloatRange(0), default=1e-4, show_default=True, help="Allowed error ..."
)
@click.option(
    "--rtol",
    type=click.FloatRange(0),
    default=1e-4,
    show_default=True,
    help="... plus this x largest value.",
)
@click.option("--seed", type=int, default=1000, show_default=True, help="Of made-up inputs.")
@json_option
def verify(
    bundle: Path,
    images: tuple[Path, ...],
    random_cases: int,
    layers: bool,
    atol: float,
    rtol: float,
    seed: int,
    as_json: bool,
) -> int:
    """Compare a bundle's ONNX file with PyTorch: recorded, made-up and picture inputs.

    Without PyTorch on this machine, the outputs recorded at export take its place. Exits with 1
    if anything differs by more than allowed.
    """
    with progress(_STAGES) as shown:
        from dinat_deploy.parity import Tolerance
        from dinat_deploy.pipeline.verifying import verify as run

        report = run(
            bundle,
            images=images,
            random_cases=random_cases,
            layers=layers,
            tolerance=Tolerance(atol, rtol),
            seed=seed,
            progress=shown,
        )
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
    click.echo(f"{report.path}: {report.candidate} against {report.reference}")
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
