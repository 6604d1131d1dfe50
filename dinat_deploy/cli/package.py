"""``dinat-deploy package``"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dinat_deploy.cli.console import EXIT_FAILED, json_option, print_json, print_table, progress
from dinat_deploy.cli.options import together
from dinat_deploy.cli.types import IntList

if TYPE_CHECKING:
    from dinat_deploy.pipeline.packaging import CheckReport, PackageReport

_STAGES = 4
# Beyond what anybody means, and within what Triton keeps such numbers in.
_MOST, _MOST_MICROSECONDS = 1_000_000, 1_000_000_000

# Arguments of pipeline.packaging_sources.Target.
_target_options = together(
    [
        click.option(
            "--tensorrt", metavar="VERSION", help="Of the server: refuse what it refuses."
        ),
        click.option(
            "--gpu", "capability", metavar="NN", help="Compute capability of the server's, like 86."
        ),
        click.option(
            "--plugin-library",
            type=click.Path(path_type=Path),
            help="TensorRT's plugin, instead of the one that is found.",
        ),
        click.option(
            "--operators/--no-operators",
            default=None,
            help="The operator's library for ONNX Runtime, or its body in standard operators.  "
            "[default: the library where it is built]",
        ),
        click.option(
            "--trust",
            is_flag=True,
            help="Package a plan with host code that was neither built nor trusted here.",
        ),
    ]
)

# Arguments of serving.triton_options.TritonOptions.
_triton_options = together(
    [
        click.option(
            "--max-batch",
            type=click.IntRange(0, _MOST),
            help="Images of a batch; 0 for none.  [default: the profile's largest, or 8]",
        ),
        click.option(
            "--dynamic-batching/--no-dynamic-batching",
            default=True,
            show_default=True,
            help="Let Triton put requests together.",
        ),
        click.option(
            "--preferred-batch",
            "preferred",
            type=IntList(),
            help="Sizes to close a batch at.  [default: those of the engine's profile]",
        ),
        click.option(
            "--queue-delay",
            type=click.IntRange(0, _MOST_MICROSECONDS),
            default=0,
            show_default=True,
            metavar="US",
            help="Microseconds that a request may wait for others.",
        ),
        click.option(
            "--priorities",
            "priority_levels",
            type=click.IntRange(0, _MOST),
            default=0,
            help="Levels of priority that requests may have.",
        ),
        click.option(
            "--max-queue",
            "max_queue_size",
            type=click.IntRange(0, _MOST),
            default=0,
            help="Requests that may wait; further ones are refused.",
        ),
        click.option(
            "--queue-timeout",
            "timeout",
            type=click.IntRange(0, _MOST_MICROSECONDS),
            default=0,
            metavar="US",
            help="Refuse requests that waited so many microseconds.",
        ),
        click.option(
            "--kind",
            type=click.Choice(["cpu", "gpu", "auto"]),
            help="What instances run on.  [default: gpu for engines, cpu for ONNX files]",
        ),
        click.option(
            "--instances",
            type=click.IntRange(1, _MOST),
            default=1,
            show_default=True,
            help="Of the model, on each GPU or on the CPU.",
        ),
        click.option(
            "--preprocess-instances",
            type=click.IntRange(1, _MOST),
            default=1,
            show_default=True,
            help="Of the decoding of pictures.",
        ),
        click.option("--gpus", type=IntList(), default=(), help="Numbers of the GPUs to use."),
        click.option(
            "--threads", type=click.IntRange(1, _MOST), help="CPU threads of a run of ONNX Runtime."
        ),
        click.option(
            "--profile",
            type=click.IntRange(0, _MOST),
            default=0,
            show_default=True,
            help="Number of the engine's optimisation profile.",
        ),
        click.option(
            "--warm-up/--no-warm-up",
            default=True,
            show_default=True,
            help="Run a model before it counts as ready.",
        ),
        click.option(
            "--pipeline/--no-pipeline",
            default=None,
            help="An ensemble that takes pictures.  [default: where the bundle is known]",
        ),
        click.option(
            "--top",
            type=click.IntRange(1, _MOST),
            default=5,
            show_default=True,
            help="Classes that a classifier's ensemble returns.",
        ),
    ]
)


@click.command(short_help="A model repository for Triton, or a folder for C++.")
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option(
    "--format",
    "package_format",
    type=click.Choice(["triton", "cpp"]),
    default="triton",
    show_default=True,
)
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Directory of the package.")
@click.option("--check", is_flag=True, help="Check what SOURCE holds: a package or a repository.")
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    help="That the models belong to, where it is not found by itself.",
)
@click.option("--name", help="Of the model.  [default: the bundle's]")
@click.option("--compile", "compile_runner", is_flag=True, help="Build the program in C++, too.")
@_target_options
@_triton_options
@json_option
def package(
    sources: tuple[str, ...],
    package_format: str,
    output: Path | None,
    check: bool,
    as_json: bool,
    **given: Any,
) -> int | None:
    """Package models for a server or a program: everything they need in one directory.

    \b
    dinat-deploy package out/dinat_mini -o serve            for Triton, in ONNX Runtime
    dinat-deploy package out/dinat_mini/engines/tensorrt -o serve    and in TensorRT
    dinat-deploy package ENGINE --format cpp -o run         the runner in C++, self-contained
    dinat-deploy package --check serve                      would Triton take it?

    SOURCE is a bundle, an ONNX file or an engine. What Triton would refuse is refused here.
    """
    if check:
        _refuse_options(given, "{} goes with writing a package, and --check writes none.")
        return _check(sources, output, as_json)
    if output is None:
        raise click.UsageError("Missing option '--output' / '-o'.")
    if package_format == "cpp":
        _refuse_options([*_names_of(_triton_options), "operators"], "{} is about --format triton.")
    elif given["compile_runner"]:
        raise click.UsageError("--compile is about --format cpp.")
    with progress(_STAGES + given["compile_runner"]) as shown:
        from dinat_deploy.pipeline.packaging import Target, TritonOptions
        from dinat_deploy.pipeline.packaging import package as run

        target = Target(
            on_gpu=given["kind"] in ("gpu", "auto"),
            **{name: given.pop(name) for name in ("tensorrt", "capability", "plugin_library",
                                                  "operators", "trust")},
        )  # fmt: skip
        rest = {name: given.pop(name) for name in ("bundle", "name", "compile_runner")}
        report = run(
            sources,
            output,
            package_format="cpp" if package_format == "cpp" else "triton",
            target=target,
            options=TritonOptions(**given),
            progress=shown,
            **rest,
        )
    if as_json:
        print_json(report.to_dict())
    else:
        _show(report)
    return None


def _names_of(options: Callable[[Callable[[], None]], Any]) -> list[str]:
    """Names of the arguments of a group of options."""

    def taken() -> None:
        pass

    options(taken)
    return [option.name for option in getattr(taken, "__click_params__", [])]


def _refuse_options(names: Iterable[str], said: str) -> None:
    """Options that would be ignored were given for something.

    Args:
        names: of the arguments that are.
        said: about the option, whose name is put in.
    """
    context = click.get_current_context()
    options = {option.name: option for option in context.command.params}
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise click.UsageError(said.format(options[name].opts[0]))


def _check(sources: tuple[str, ...], output: Path | None, as_json: bool) -> int | None:
    if output is not None or len(sources) != 1:
        raise click.UsageError("--check takes one directory and writes none.")
    with progress(2) as shown:
        from dinat_deploy.pipeline.packaging import check_package

        report = check_package(sources[0], progress=shown)
    if as_json:
        print_json(report.to_dict())
    else:
        _show_check(report)
    return None if report.passed else EXIT_FAILED


def _show(report: PackageReport) -> None:
    what = "model repository for Triton" if report.record.format == "triton" else "package for C++"
    click.echo(f"{report.path}: {what}, {report.bytes / 1e6:.1f} MB")
    for model in report.record.models:
        targets = ", ".join(model.architectures)
        place = f" on compute capability {targets}" if targets else ""
        click.echo(f"  {model.name} from {model.source}, for {model.runtime}{place}")
    if report.configs:
        rows = [
            [
                config.name,
                ", ".join(f"{one.name} {_dims(one.dims)}" for one in config.inputs),
                ", ".join(f"{one.name} {_dims(one.dims)}" for one in config.outputs),
                str(config.max_batch_size or "none"),
            ]
            for config in report.configs
        ]
        print_table("", ["model", "takes", "gives", "batch >"], rows)
        click.echo(f"Start it: {report.path / 'start.sh'}")
    else:
        click.echo(f"Run it: sh {report.path / 'run.sh'} cat.jpg")
    for note in report.notes:
        click.echo(f"Note: {note}")


def _dims(dims: tuple[int, ...]) -> str:
    return "x".join("?" if size < 0 else str(size) for size in dims)


def _show_check(report: CheckReport) -> None:
    if report.passed:
        click.echo(f"{report.path}: nothing wrong with {', '.join(report.models)}.")
        return
    count = len(report.problems)
    click.echo(f"{report.path}: {count} {'problem' if count == 1 else 'problems'}")
    for problem in report.problems:
        click.echo(f"  {problem.where}: {problem.cause}")
        if problem.cure:
            click.echo(f"      {problem.cure}")
