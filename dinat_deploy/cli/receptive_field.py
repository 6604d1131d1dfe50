"""``dinat-deploy receptive-field``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dinat_deploy.cli.console import EXIT_FAILED, json_option, print_json, print_table
from dinat_deploy.cli.types import ImageSize

if TYPE_CHECKING:
    from dinat_deploy.pipeline.receptive_fields import Area, FieldReport


@click.command("receptive-field", short_help="How far the tokens of a model see.")
@click.option("--model", "-m", metavar="NAME", help="A variant.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Architecture as JSON, instead of --model.",
)
@click.option(
    "--image-size",
    type=ImageSize(),
    help="In pixels: 224, or 512x1024 (HxW).  [default: the model's]",
)
@click.option(
    "--dilations",
    metavar="SCHEDULE|LIST",
    help="classification, detection, ade20k, mask2former, or a list like 1,8,1/1,4,1,4/...",
)
@click.option("--kernel-size", type=click.IntRange(1), help="Attention window.")
@click.option(
    "--token",
    type=click.Choice(["centre", "corner"]),
    default="centre",
    show_default=True,
    help="Which token of every map.",
)
@click.option(
    "--measure",
    is_flag=True,
    help="Compare with the gradients of the model's code; this needs PyTorch.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE.html",
    help="Write a page with the growth over the layers, beside Swin, ConvNeXt and ViT.",
)
@click.option(
    "--picture",
    type=click.Path(path_type=Path),
    metavar="FILE.png",
    help="Draw which tokens one query sees at every dilation.",
)
@json_option
def receptive_field(as_json: bool, plot: Path | None, picture: Path | None, **options: Any) -> int:
    """Show how many tokens and pixels a token sees after every layer: by the paper's formula, which
    is for a token far from all borders, and exactly.

    \b
    dinat-deploy receptive-field --model dinat_tiny --measure
    dinat-deploy receptive-field --model dinat_tiny --image-size 512 --dilations ade20k
    dinat-deploy receptive-field --model dinat_mini --picture seen.png --plot field.html
    """
    from dinat_deploy.pipeline.receptive_fields import Files
    from dinat_deploy.pipeline.receptive_fields import receptive_field as run

    report = run(files=Files(plot, picture), **options)
    if as_json:
        print_json(report.to_dict())
    else:
        _show(report)
        for path in (plot, picture):
            if path is not None:
                click.echo(f"Written to {path}.")
    return 0 if report.agrees else EXIT_FAILED


def _show(report: FieldReport) -> None:
    click.echo(
        f"{report.name}, kernel size {report.config.kernel_size}, "
        f"{_pair(report.config.image_size)} pixels, the token in the {report.token} of every map"
    )
    measured = {(each.level, each.layer): each for each in report.measured or []}
    rows = []
    for each in report.layers:
        row = [str(each.level + 1), str(each.layer + 1), str(each.dilation)]
        row += [*_cells(each.tokens), *_cells(each.pixels)]
        if measured:
            row.append("equal" if measured[each.level, each.layer].agrees else "DIFFERENT")
        rows.append(row)
    columns = ["level >", "layer >", "dilation >", "tokens, formula >", "tokens >", "of map >"]
    columns += ["pixels, formula >", "pixels >", "of image >"]
    print_table("", [*columns, *(["gradient"] if measured else [])], rows)
    last = report.comparison
    print_table(
        "By formula: tokens along the shorter axis after all layers of a level",
        ["method", "after l layers", *(f"level {level + 1} >" for level in range(len(last)))],
        [
            [first.method, first.formula, *(str(found[number].extents[-1]) for found in last)]
            for number, first in enumerate(last[0])
        ],
    )
    for note in report.notes:
        click.echo(f"Note: {note}")
    if report.measured is not None:
        total = len(report.measured)
        equal = sum(each.agrees for each in report.measured)
        click.echo(
            f"Measured: the gradients of {equal} of {total} layers are not zero at exactly the "
            "tokens and pixels computed."
        )


def _cells(area: Area) -> list[str]:
    return [_pair(area.formula), _pair(area.lengths), f"{area.share:.1%}"]


def _pair(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
