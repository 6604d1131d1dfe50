"""``dinat-deploy bench``"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dinat_deploy.cli.bench_power import show_power
from dinat_deploy.cli.console import (
    EXIT_INTERRUPTED,
    answer_in_json,
    print_json,
    print_table,
    progress,
)
from dinat_deploy.cli.types import NumberList, Shapes

if TYPE_CHECKING:
    from dinat_deploy.measurement.records import ArtefactResult, BenchReport, Statistics
    from dinat_deploy.pipeline.bench_reports import ReportFiles

# Opening, measuring; with power also the device at rest, and the runs of their own.
_STAGES, _POWER_STAGES = 2, 2
_POWER = ("off", "auto", "on")
_MOST_LAYERS = 10


class _BenchCommand(click.Command):
    """``--json`` may be followed by a file, ``--power`` by ``=`` and a word, or both by nothing."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Only a word that ends in .json is taken for the file: what follows may as well be an
        artefact, which must be neither lost nor overwritten."""
        fixed = ["--power=on" if word == "--power" else word for word in args]
        for position, word in enumerate(fixed):
            following = fixed[position + 1 : position + 2]
            if word == "--json" and not any(name.endswith(".json") for name in following):
                fixed[position] = "--json=-"
        return super().parse_args(ctx, fixed)


def _json_file(context: click.Context, _: click.Parameter, value: str | None) -> str | None:
    if value == "-":
        answer_in_json(context)
    elif value is not None and not value.endswith(".json"):
        raise click.BadParameter(f"{value!r} does not end in .json")
    return value


@click.command(cls=_BenchCommand, short_help="Measure latency, throughput and memory.")
@click.argument("artefacts", nargs=-1, metavar="[RUNTIME:]TARGET ...")
@click.option(
    "--warm-up",
    type=click.FloatRange(0),
    default=200,
    show_default=True,
    metavar="MS",
    help="Milliseconds of runs before the measurement.",
)
@click.option(
    "--duration",
    type=click.FloatRange(0),
    default=3,
    show_default=True,
    metavar="S",
    help="Least seconds of measured runs, of every artefact.",
)
@click.option(
    "--iterations",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Least number of measured runs, of every artefact.",
)
@click.option("--batch", type=click.IntRange(1), help="Images of one run.")
@click.option(
    "--shapes", type=Shapes(), metavar="NAME=1x3x224x224,...", help="Shapes of dynamic inputs."
)
@click.option(
    "--streams",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Inferences in flight at once (GPU).",
)
@click.option(
    "--cuda-graph/--no-cuda-graph",
    default=True,
    show_default=True,
    help="Replay a recorded graph instead of launching kernel by kernel (GPU).",
)
@click.option(
    "--transfers/--no-transfers",
    default=False,
    show_default=True,
    help="Copy inputs to the GPU and outputs back in every run.",
)
@click.option(
    "--spin-wait/--no-spin-wait",
    default=True,
    show_default=True,
    help="Wait for the GPU by polling: more exact, but takes a CPU core.",
)
@click.option(
    "--idle-time",
    type=click.FloatRange(0),
    default=0,
    show_default=True,
    metavar="MS",
    help="Sleep between blocks of runs.",
)
@click.option(
    "--percentile",
    "percentiles",
    type=NumberList(0, 100),
    default="90,95,99",
    show_default=True,
    metavar="P,P,...",
    help="Percentiles to report.",
)
@click.option("--layers", is_flag=True, help="Time the layers, too, in runs of their own.")
@click.option(
    "--block-time",
    "block_ms",
    type=click.FloatRange(0, min_open=True),
    default=250,
    show_default=True,
    metavar="MS",
    help="Length of the blocks in which several artefacts take turns.",
)
@click.option(
    "--one-alive",
    is_flag=True,
    help="Load every artefact anew for each of its blocks, where memory cannot hold all.",
)
@click.option(
    "--power",
    type=click.Choice(_POWER),
    default="off",
    metavar="[=auto]",
    help="Measure the power, too: the device at rest, then each artefact in runs of its own. "
    "Without a source of readings that is an error; --power=auto goes on without.",
)
@click.option(
    "--threads",
    type=click.IntRange(0),
    default=0,
    help="CPU threads of a run.  [default: the runtime's choice]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of inputs and turns.")
@click.option(
    "--trust", is_flag=True, help="Run plans that hold code of their own or have no manifest."
)
@click.option(
    "--bundle", type=click.Path(path_type=Path), help="That an engine or ONNX file belongs to."
)
@click.option(
    "--plugin-library", type=click.Path(path_type=Path), help="Instead of the one that is found."
)
@click.option(
    "--json",
    "json_file",
    callback=_json_file,
    metavar="[FILE.json]",
    help="Print JSON for machines, or write it to a file.",
)
@click.option("--markdown", type=click.Path(path_type=Path), help="Write the report to a file.")
@click.option(
    "--html", type=click.Path(path_type=Path), help="Write the report with plots to a file."
)
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Show a report that --json wrote, perhaps on another machine, instead of measuring.",
)
def bench(
    artefacts: tuple[str, ...],
    json_file: str | None,
    markdown: Path | None,
    html: Path | None,
    source: Path | None,
    **options: Any,
) -> int:
    """Measure artefacts, several of them in turn; the first is the baseline.

    \b
    dinat-deploy bench out/dinat_mini
    dinat-deploy bench out/dinat_mini torch:out/dinat_mini --batch 1 --html report.html
    dinat-deploy bench --from report.json --html report.html

    RUNTIME is onnxruntime, onnxruntime-cuda, onnxruntime-tensorrt, onnxruntime-tensorrt-rtx,
    torch, torch-cuda, torch-compile or tensorrt. Without one, an engine runs in the TensorRT that
    built it and everything else in ONNX Runtime on the CPU.

    Names and defaults of the measurement are those of trtexec 11. Ctrl-C shows what was measured
    until then and writes no file.
    """
    from dinat_deploy.pipeline.bench_reports import ReportFiles, load_report
    from dinat_deploy.pipeline.benching import BenchInterrupted
    from dinat_deploy.pipeline.benching import bench as run

    if source is not None:
        _refuse_to_measure(artefacts, options)
    if source is None and not artefacts:
        raise click.UsageError("Name what to measure, such as out/dinat_mini.")
    to_stdout = json_file == "-"
    files = ReportFiles(
        json=Path(json_file) if json_file and not to_stdout else None, markdown=markdown, html=html
    )
    files.check()
    if source is not None:
        _deliver(load_report(source), files, to_stdout=to_stdout)
        return 0
    try:
        stages = _STAGES + _POWER_STAGES * (options["power"] != "off")
        with progress(stages, steady=True) as shown:
            report = run(artefacts, progress=shown, **options)
    except BenchInterrupted as stop:
        if to_stdout:
            print_json({**stop.report.model_dump(mode="json"), "interrupted": True})
        else:
            _show(stop.report)
        click.echo("Interrupted. No file was written.", err=True)
        return EXIT_INTERRUPTED
    _deliver(report, files, to_stdout=to_stdout)
    return 0


def _refuse_to_measure(artefacts: Sequence[str], options: Iterable[str]) -> None:
    """With ``--from`` nothing is measured: what would say how is refused, not ignored."""
    if artefacts:
        raise click.UsageError("--from shows a report; leave away the artefacts.")
    context = click.get_current_context()
    default = click.core.ParameterSource.DEFAULT
    given = [
        max(parameter.opts, key=len)
        for parameter in context.command.params
        if parameter.name in options and context.get_parameter_source(parameter.name) != default
    ]
    if given:
        raise click.UsageError(
            f"--from shows a report that was measured already; leave away {', '.join(given)}."
        )


def _deliver(report: BenchReport, files: ReportFiles, *, to_stdout: bool) -> None:
    # Before files are written, which may fail: the measurement may have taken long.
    if to_stdout:
        print_json(report.model_dump(mode="json"))
    else:
        _show(report)
    for path in files.write(report):
        click.echo(f"Wrote {path}", err=to_stdout)


def _show(report: BenchReport) -> None:
    results = report.results
    percentiles = list(results[0].latency.percentiles)
    columns = ["Latency, ms", "min >", "mean >", "median >"]
    columns += [*(f"p{name} >" for name in percentiles), "max >", "CoV >"]
    rows = [[result.name, *_figures(result.latency, percentiles)] for result in results]
    print_table("", _and_ratio(columns, results), _ratios(rows, results))
    for title, quantity in (
        ("GPU compute, ms", "compute"),
        ("Enqueue, ms", "enqueue"),
        ("Host to device, ms", "host_to_device"),
        ("Device to host, ms", "device_to_host"),
    ):
        having = [
            (result.name, getattr(result, quantity))
            for result in results
            if result.kind == "gpu" and getattr(result, quantity) is not None
        ]
        if having:
            rows = [[name, *_figures(figures, percentiles)] for name, figures in having]
            print_table("", [title, *columns[1:]], rows)
    _show_rest(results)
    show_power(report)
    for result in results:
        _show_layers(result)
    for warning in report.warnings:
        click.echo(f"Warning: {warning}")
    for note in report.power.notes if report.power else ():
        click.echo(f"Note: {note}")
    for result in results:
        prefix = f"{result.name}: " if len(results) > 1 else ""
        for warning in result.warnings:
            click.echo(f"Warning: {prefix}{warning}")
        for note in result.notes:
            click.echo(f"Note: {prefix}{note}")


def _figures(found: Statistics, percentiles: Sequence[str]) -> list[str]:
    values = [found.min, found.mean, found.median]
    values += [found.percentiles[name] for name in percentiles]
    values.append(found.max)
    return [*(_ms(value) for value in values), f"{found.coefficient_of_variation:.1%}"]


def _ms(value: float) -> str:
    """Four digits, which is more than repeats."""
    return f"{value:.1f}" if value >= 1000 else f"{value:.4g}" if value >= 1 else f"{value:.4f}"


def _and_ratio(columns: Sequence[str], results: Sequence[ArtefactResult]) -> list[str]:
    return [*columns, "times the first >"] if len(results) > 1 else list(columns)


def _ratios(rows: list[list[str]], results: Sequence[ArtefactResult]) -> list[list[str]]:
    if len(results) == 1:
        return rows
    return [[*row, _ratio(result)] for row, result in zip(rows, results, strict=True)]


def _ratio(result: ArtefactResult) -> str:
    ratio = result.ratio
    if ratio is None:
        return "1"
    if ratio.low is None or ratio.high is None:
        return f"{ratio.value:.3g}"
    return f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"


def _show_rest(results: Sequence[ArtefactResult]) -> None:
    """Throughput, memory and bounds; columns that would be empty are left out."""
    columns: dict[str, list[str]] = {
        "": [result.name for result in results],
        "runtime": [result.runtime for result in results],
        "device": [result.device for result in results],
        "batch >": [str(result.batch) for result in results],
        "runs >": [str(result.latency.count) for result in results],
        "images/s >": [_rate(result.throughput) for result in results],
        "memory >": [_memory(result.memory) for result in results],
        "floor ms >": [_ms(result.floor.total) if result.floor else "" for result in results],
        "times the floor >": [
            f"{result.latency.median / result.floor.total:.1f}" if result.floor else ""
            for result in results
        ],
        "NA share >": [
            "" if result.attention_share is None else f"{result.attention_share:.0%}"
            for result in results
        ],
    }
    kept = {name: cells for name, cells in columns.items() if any(cells)}
    rows = [list(row) for row in zip(*kept.values(), strict=True)]
    print_table("", list(kept), rows)


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _memory(memory: dict[str, int | None]) -> str:
    """What the runtime says it takes, else what the process gained."""
    parts = [memory.get(name) for name in ("weights", "activations", "inputs_outputs")]
    told = [part for part in parts if part is not None]
    total = sum(told) if told else memory.get("process")
    return "" if total is None else f"{total / 1e6:.0f} MB"


def _show_layers(result: ArtefactResult) -> None:
    if not result.layers:
        return
    rows = [
        [layer.name, layer.kind, f"{layer.milliseconds:.4f}", f"{layer.share:.1%}"]
        for layer in result.layers[:_MOST_LAYERS]
    ]
    more = len(result.layers) - len(rows)
    print_table(
        f"Layers of {result.name}"
        + (f", the longest {len(rows)} of {more + len(rows)}" * bool(more)),
        ["layer", "kind", "ms >", "share >"],
        rows,
    )
