"""``dinat-deploy report``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dinat_deploy.cli.console import json_option, print_json, print_table, progress
from dinat_deploy.cli.options import data_options

if TYPE_CHECKING:
    from dinat_deploy.reporting.records import ReportData

_DEFAULT = "report.html"
# Reading and writing; finding out what runs, layers, opening and measuring; then for each bundle
# its data and scores.
_STAGES, _MEASURED, _POWER, _SCORED = 2, 4, 2, 2


@click.command(short_help="One page about bundles: accuracy, speed, parity, and verdicts.")
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...", type=click.Path())
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    metavar="FILE.html",
    help=f"The page.  [default: {_DEFAULT}; with --json or --markdown none]",
)
@click.option(
    "--results",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Also show what `bench --json`, `evaluate --output`, `sensitivity --output` or "
    "`verify --json` wrote; several. Files in a bundle are found without.",
)
@click.option(
    "--measure/--no-measure",
    default=True,
    show_default=True,
    help="Measure what no file says: times, memory and layers.",
)
@click.option(
    "--duration",
    type=click.FloatRange(0),
    default=1,
    show_default=True,
    metavar="S",
    help="Least seconds of measured runs, of every artefact.",
)
@click.option("--power", is_flag=True, help="Measure the power, too, of what is measured.")
@click.option(
    "--threads",
    type=click.IntRange(0),
    default=0,
    help="CPU threads of a run.  [default: the runtime's choice]",
)
@data_options(required=False, limit=None, purpose="All artefacts are scored on it.")
@click.option(
    "--max-drop",
    type=click.FloatRange(0, 100),
    metavar="POINTS",
    help="What an artefact may lose of top-1 or mIoU (without labels, of the agreement).",
)
@click.option(
    "--plugin-library", type=click.Path(path_type=Path), help="Instead of the one that is found."
)
@click.option(
    "--trust", is_flag=True, help="Load plans that hold code of their own or have no manifest."
)
@click.option(
    "--markdown", type=click.Path(path_type=Path), metavar="FILE.md", help="The tables as Markdown."
)
@json_option
def report(
    bundles: tuple[str, ...],
    output: Path | None,
    markdown: Path | None,
    results: tuple[Path, ...],
    as_json: bool,
    measure: bool,
    power: bool,
    data: str | None,
    **options: Any,
) -> None:
    """Show bundles, their variants and engines on one page: accuracy, latency, power, memory, size,
    roofline, blocks, parity of every layer, and a verdict on each.

    \b
    dinat-deploy report out/dinat_mini out/dinat_tiny --output report.html
    dinat-deploy report out/digits --data digits:test --max-drop 0.5
    dinat-deploy report out/dinat_mini --results orin/bench.json --no-measure

    What manifests and result files say is shown; the rest is measured here, where it runs, and
    otherwise the page says which command makes it.
    """
    if output is None and markdown is None and not as_json:
        output = Path(_DEFAULT)
    evaluation = {name: options.pop(name) for name in ("limit", "seed", "on_bad", "max_drop")}
    stages = _STAGES + _MEASURED * measure + _POWER * power + _SCORED * len(bundles) * bool(data)
    with progress(stages, steady=True) as shown:
        from dinat_deploy.pipeline.reporting import report as run

        found = run(
            bundles,
            results=results,
            output=output,
            markdown=markdown,
            progress=shown,
            enabled=measure,
            power="on" if power else "off",
            data=data,
            evaluate=evaluation,
            **options,
        )
    if as_json:
        print_json(found.to_dict())
    else:
        _show(found)
    for path in (output, markdown):
        if path is not None:
            click.echo(f"Wrote {path}", err=as_json)


def _show(data: ReportData) -> None:
    from dinat_deploy.pipeline.reporting import summary, verdict_table

    table = verdict_table(data)
    print_table("", table.heads, table.rows)
    for note in data.notes:
        click.echo(f"Note: {note}")
    absent = {each.what for artefact in data.artefacts for each in artefact.missing}
    if absent:
        click.echo(f"Not measured here: {', '.join(sorted(absent))}; the report says why.")
    click.echo(summary(data))
