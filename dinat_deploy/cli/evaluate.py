"""``dinat-deploy evaluate``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dinat_deploy.cli.console import EXIT_FAILED, json_option, print_json, print_records, progress
from dinat_deploy.cli.options import data_options

if TYPE_CHECKING:
    from dinat_deploy.pipeline.evaluation_report import EvaluationReport

_STAGES = 4


@click.command(short_help="Accuracy, size and speed of artefacts side by side.")
@click.argument("artefacts", nargs=-1, required=True, metavar="[RUNTIME:]TARGET ...")
@data_options(required=True, limit=None)
@click.option(
    "--batch", type=click.IntRange(1), default=8, show_default=True, help="Images of a batch."
)
@click.option(
    "--reference",
    metavar="ARTEFACT",
    help="What the others are compared with.  [default: the first if it is float32, else its "
    "bundle's float32 model]",
)
@click.option(
    "--max-drop",
    type=click.FloatRange(0, 100),
    metavar="POINTS",
    help="Exit with 1 if an artefact loses more points of top-1 or mIoU than this (without labels, "
    "of the agreement).",
)
@click.option(
    "--simulate",
    is_flag=True,
    help="Compute float16 files as a GPU does, every tensor rounded. bfloat16 always is, on the "
    "CPU.",
)
@click.option(
    "--latency/--no-latency", default=True, show_default=True, help="Measure the speed as well ..."
)
@click.option(
    "--duration",
    type=click.FloatRange(0, min_open=True),
    default=2,
    show_default=True,
    metavar="S",
    help="... for so many seconds of each.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Spread the images over so many processes, or Ray actors.  [default: 1; with --ray one "
    "for each CPU of the cluster]",
)
@click.option(
    "--ray",
    metavar="ADDRESS|local",
    help="Spread the images over a Ray cluster, or one that is started here.",
)
@click.option(
    "--threads",
    type=click.IntRange(0),
    default=0,
    help="CPU threads of a run.  [default: the runtime's choice; workers share the cores]",
)
@click.option(
    "--bundle", type=click.Path(path_type=Path), help="That an engine or ONNX file belongs to."
)
@click.option(
    "--plugin-library", type=click.Path(path_type=Path), help="Instead of the one that is found."
)
@click.option(
    "--trust", is_flag=True, help="Load plans that hold code of their own or have no manifest."
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the report to FILE.json and FILE.md.",
)
@json_option
def evaluate(
    artefacts: tuple[str, ...], data: str, output: Path | None, as_json: bool, **options: Any
) -> int:
    """Evaluate artefacts on the same images, with a verdict on each.

    \b
    dinat-deploy evaluate out/digits out/digits/model.fp16.onnx --data digits
    dinat-deploy evaluate out/dinat_mini/model.int8.onnx --data imagenet/val --max-drop 0.5
    dinat-deploy evaluate out/x torch:out/x --data pictures --workers 4

    Top-1 and top-5 or mIoU where there are labels; agreement and SQNR against the reference; size
    of the files; time of an image, measured in turn. With --ray, models and data must lie at the
    same path on every node. Exits with 1 if --max-drop is exceeded.
    """
    from dinat_deploy.pipeline.evaluation_report import ReportFiles

    files = ReportFiles.at(output) if output is not None else None
    with progress(_STAGES) as shown:
        from dinat_deploy.pipeline.evaluating import evaluate as run

        report = run(artefacts, data, progress=shown, **options)
    if as_json:
        print_json(report.to_dict())
    else:
        _show(report)
    if files is not None:
        files.write(report)
        click.echo(f"Wrote {files.json} and {files.markdown}", err=as_json)
    return 0 if report.passed else EXIT_FAILED


def _show(report: EvaluationReport) -> None:
    from dinat_deploy.pipeline.evaluation_report import table_of

    click.echo(f"{report.data}: {report.summary}")
    print_records("", table_of(report))
    for note in report.notes:
        click.echo(f"Note: {note}")
    for artefact in report.artefacts:
        for note in artefact.notes:
            click.echo(f"Note: {artefact.name}: {note}")
    for artefact in report.artefacts[1:]:
        click.echo(f"{artefact.name}: {artefact.verdict}")
