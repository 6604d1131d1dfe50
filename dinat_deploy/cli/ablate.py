"""``dinat-deploy ablate``"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dinat_deploy.cli.console import json_option, on_interrupt, print_json, print_records, progress
from dinat_deploy.cli.types import Choices, IntList

if TYPE_CHECKING:
    from dinat_deploy.choosing.ablation_effects import Cell, Effect

# Reading the digits, training.
_STAGES = 2
_ORDERS = ("NA-NA", "NA-DiNA", "DiNA-NA", "DiNA-DiNA")


@click.command(short_help="Train tiny models: what layer order and kernel size do.")
@click.option(
    "--orders",
    type=Choices(*_ORDERS),
    default=",".join(_ORDERS),
    show_default=True,
    help="Which layers of each pair are dilated.",
)
@click.option(
    "--kernel-sizes",
    type=IntList(),
    default="3,5,7",
    show_default=True,
    help="Windows, in tokens.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1, 20),
    default=3,
    show_default=True,
    help="Trainings of each model.",
)
@click.option("--epochs", type=click.IntRange(1), default=20, show_default=True)
@click.option(
    "--limit", type=click.IntRange(64), help="Scans to learn from, and to judge on, at most."
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("out/ablation.json"),
    show_default=True,
    help="Keeps all trainings; those that it has are not repeated.",
)
@click.option(
    "--plot", type=click.Path(path_type=Path), metavar="FILE.html", help="Write a page with plots."
)
@json_option
def ablate(as_json: bool, plot: Path | None, output: Path, **options: Any) -> None:
    """Train tiny DiNATs on handwritten digits, one for each order of plain and dilated layers, each
    kernel size and each seed, and say which differences are larger than chance.

    \b
    dinat-deploy ablate --plot ablation.html
    dinat-deploy ablate --seeds 5                  two more of each: the others are kept
    dinat-deploy ablate --orders NA-NA,NA-DiNA --kernel-sizes 3,7

    Needs scikit-learn, which brings the digits. Ctrl-C loses one training: the same command goes on
    from there.
    """
    from dinat_deploy.pipeline.ablating import ablate as run

    on_interrupt(f"Finished trainings are kept in {output}; the same command goes on from there.")
    with progress(_STAGES) as shown:
        report = run(output=output, plot=plot, progress=shown, **options)
    if as_json:
        print_json(report.to_dict())
        return
    _show(report.cells, report.effects)
    for remark in report.remarks:
        click.echo(remark)
    click.echo(f"All trainings are in {report.path}.")
    if plot is not None:
        click.echo(f"Written to {plot}.")


def _show(cells: Sequence[Cell], effects: Sequence[Effect]) -> None:
    from dinat_deploy.pipeline.ablating import (
        SOURCE,
        accuracy_table,
        effect_table,
        published_table,
    )

    print_records("Measured on digits: accuracy in %, mean over the seeds", accuracy_table(cells))
    if effects:
        print_records("Measured on digits: differences, with 95 % intervals", effect_table(effects))
    print_records("Published, not measured here", published_table())
    click.echo(f"{SOURCE}: top-1 on ImageNet-1k, AP on COCO, mean IoU on ADE20K.")
