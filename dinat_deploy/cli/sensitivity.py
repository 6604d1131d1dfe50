"""``dinat-deploy sensitivity``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dinat_deploy.cli.console import json_option, print_json, print_table, progress
from dinat_deploy.cli.options import data_options
from dinat_deploy.cli.quantize_options import SELECTION, selection_options

if TYPE_CHECKING:
    from dinat_deploy.pipeline.sensitivity_report import SensitivityReport

_STAGES = 7


@click.command(short_help="What INT8, FP8 or FP16 costs, layer by layer; what to leave out.")
@click.argument("bundle", type=click.Path(path_type=Path))
@data_options(required=True, limit=512, purpose="Judge the result on others.")
@click.option(
    "--precision",
    type=click.Choice(["int8", "fp8", "fp16", "bf16"]),
    default="int8",
    show_default=True,
    help="What is tried.",
)
@click.option(
    "--by",
    type=click.Choice(["site", "block", "level", "kind"]),
    default="site",
    show_default=True,
    help="Measure each node, each block, each level, or each kind of layer (qkv, proj, ...).",
)
@click.option(
    "--max-drop",
    type=click.FloatRange(0),
    metavar="POINTS",
    help="Budget: search for what must be left out to lose no more of top-1, mIoU, or, without "
    "labels, agreement with float32.",
)
@click.option("--min-sqnr", type=float, metavar="DB", help="Budget: SQNR at the outputs, in dB.")
@click.option("--without", is_flag=True, help="Also measure everything but one, for each.")
@click.option(
    "--unit-images",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="So many of them for each node, block, level or kind.",
)
@selection_options
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="Directory for sensitivity.json, .md, .html and exclude.txt.",
)
@click.option(
    "--rows",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Rows of the table shown here.",
)
@json_option
def sensitivity(bundle: Path, as_json: bool, rows: int, **options: Any) -> None:
    """Measure what lower precision costs each part of a bundle's model, and search for the parts
    that must keep the higher precision for an accuracy budget to hold.

    \b
    dinat-deploy calibrate out/digits --data digits:train
    dinat-deploy sensitivity out/digits --data digits:train --by block
    dinat-deploy sensitivity out/digits --data digits:train --max-drop 0.3 -o out/sensitivity
    dinat-deploy convert out/digits --precision int8 --exclude @out/sensitivity/exclude.txt

    INT8 and FP8 need ranges, which `dinat-deploy calibrate` records.
    """
    quantize = {name: options.pop(name) for name in SELECTION}
    with progress(_STAGES) as shown:
        from dinat_deploy.pipeline.quantizing import options_from
        from dinat_deploy.pipeline.sensitivity import sensitivity as run

        report = run(bundle, options=options_from(quantize), progress=shown, **options)
    if as_json:
        print_json(report.to_dict())
    else:
        _show(report, rows, options["output"])


def _show(report: SensitivityReport, rows: int, output: Path | None) -> None:
    from dinat_deploy.pipeline.sensitivity_page import facts, steps_table, units_table

    tables = [(f"{report.precision} alone, the most harmful first", units_table(report, rows))]
    if report.search is not None:
        tables.append(("Search", steps_table(report)))
    for title, table in tables:
        heads = [
            f"{head}>" if numeric else head
            for head, numeric in zip(table.heads, table.numeric, strict=True)
        ]
        print_table(title, heads, table.rows)
    if len(report.units) > rows:
        click.echo(f"{len(report.units) - rows} more are less harmful; --rows shows them.")
    for sentence in facts(report)[: 2 if report.search is None else 3]:
        click.echo(sentence)
    if output is not None:
        click.echo(f"Written to {output}.")
