"""``dinat-deploy dilations``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dinat_deploy.cli.console import json_option, print_json, print_table
from dinat_deploy.cli.types import ImageSize, IntList

if TYPE_CHECKING:
    from dinat_deploy.pipeline.dilation_choice import DilationChoice, Fit


@click.command(short_help="Which dilations fit an image size.")
@click.option("--model", "-m", metavar="NAME", help="A variant.  [default: dinat_tiny]")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Architecture as JSON, instead of --model.",
)
@click.option(
    "--architecture",
    type=click.Choice(["dinat", "dinat_s", "isotropic"]),
    help="Instead of --model: its smallest variant.",
)
@click.option(
    "--image-size",
    type=ImageSize(),
    help="In pixels: 224, or 512x1024 (HxW).  [default: the model's]",
)
@click.option("--kernel-size", type=click.IntRange(1), help="Attention window.")
@click.option("--depths", type=IntList(), help="Layers of each level.")
@json_option
def dilations(as_json: bool, **options: Any) -> None:
    """Show the largest dilation of every level for an image size, which published schedules fit it
    without padding, and schedules to train with.

    \b
    dinat-deploy dilations --image-size 512x1024
    dinat-deploy dilations --model dinat_s_small --image-size 800x1333
    """
    from dinat_deploy.pipeline.dilation_choice import choose_dilations

    choice = choose_dilations(**options)
    if as_json:
        print_json(choice.to_dict())
    else:
        _show(choice)


def _show(choice: DilationChoice) -> None:
    from dinat_deploy.pipeline.dilation_choice import format_dilations

    size = _pair(choice.config.image_size)
    click.echo(
        f"{choice.name}, kernel size {choice.config.kernel_size}, {size} pixels (height x width)"
    )
    rows = [
        [str(each.level + 1), _pair(each.size), str(each.bound), *map(str, each.by_axis)]
        for each in choice.levels
    ]
    print_table("", ["level >", "tokens >", "bound >", "by height >", "by width >"], rows)

    def listed(fits: list[Fit], kind: str) -> list[list[str]]:
        return [
            [kind, f.name, str(f.kernel_size), format_dilations(f.dilations), _verdict(f)]
            for f in fits
        ]

    rows = listed(choice.published, "published") + listed(choice.suggested, "for this size")
    print_table(
        "", ["", "schedule", "kernel >", "dilations (--dilations)", "without padding"], rows
    )
    for note in choice.notes:
        click.echo(f"Note: {note}")
    click.echo(choice.warning)


def _verdict(fit: Fit) -> str:
    if fit.fits:
        return "fits"
    return "no: " + ", ".join(
        f"level {level + 1} ({span} > {size})" for level, span, size in fit.padded
    )


def _pair(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
