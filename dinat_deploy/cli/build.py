"""``dinat-deploy build``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dinat_deploy.cli.console import json_option, print_json, progress

if TYPE_CHECKING:
    from dinat_deploy.pipeline.building import BuildPlan, BuildReport

_STAGES = 5


@click.command(short_help="A bundle or an ONNX file to a TensorRT engine.")
@click.argument("model", metavar="BUNDLE|MODEL.onnx", type=click.Path(path_type=Path))
@click.option(
    "--backend",
    required=True,
    type=click.Choice(["tensorrt-rtx"]),
    help="tensorrt-rtx builds ahead of time; it needs no GPU.",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="Directory of the engine.  [default: engines/NAME in the bundle]",
)
@click.option(
    "--plugin/--no-plugin",
    default=None,
    help="Compute attention with the plugin, or with the operator's body in standard operators.  "
    "[default: the plugin if its library is found]",
)
@click.option(
    "--plugin-library",
    type=click.Path(path_type=Path),
    help="The plugin library, instead of the one that is found.",
)
@click.option(
    "--embed-plugin",
    is_flag=True,
    help="Store the plugin library in the engine, so that none has to be loaded to run it.",
)
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    metavar="NAME=MIN:OPT:MAX[,...]",
    help="Shapes of dynamic inputs, such as image=1x3x224x224:4x3x224x224:8x3x224x224; several "
    "inputs by comma. Repeat for more profiles.  [default: from the bundle]",
)
@click.option(
    "--arch",
    "architectures",
    default="",
    callback=lambda context, parameter, value: tuple(filter(None, value.split(","))),
    metavar="N,N,...",
    help="Compute capabilities to build for, such as 86,89,120; `current` for the GPU at hand.  "
    "[default: those of 80,86,89,120 that the plugin has code for]",
)
@click.option(
    "--optimization-level",
    type=click.IntRange(0, 5),
    help="0 builds fastest, 5 optimises most.  [default: TensorRT's]",
)
@click.option(
    "--workspace",
    "workspace_mib",
    type=click.IntRange(1),
    metavar="MiB",
    help="Bound of the engine's scratch memory.  [default: TensorRT's]",
)
@click.option(
    "--verbose-log",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write everything that TensorRT says to a file.",
)
@click.option("--dry-run", is_flag=True, help="Check and print what would be done.")
@json_option
def build(model: Path, output: Path | None, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Build a TensorRT engine from a bundle, or from an ONNX file.

    \b
    dinat-deploy build out/dinat_mini --backend tensorrt-rtx
    dinat-deploy build out/dinat_mini --backend tensorrt-rtx --embed-plugin --arch 86,89
    dinat-deploy build model.onnx --backend tensorrt-rtx --no-plugin \\
        --profile image=1x3x224x224:4x3x224x224:8x3x224x224

    The engine runs in the precision of the ONNX file. Beside it, engine.json says what it was
    built from and with.
    """
    if dry_run:
        from dinat_deploy.pipeline.building import plan_build

        plan = plan_build(model, output, **options)
        if as_json:
            print_json(plan.to_dict())
        else:
            _show_plan(plan)
        return
    with progress(_STAGES) as shown:
        from dinat_deploy.pipeline.building import build as run

        report = run(model, output, progress=shown, **options)
    if as_json:
        print_json(report.to_dict())
    else:
        _show_report(report)


def _show_plan(plan: BuildPlan) -> None:
    task = plan.task
    click.echo(f"Would build {plan.output} with {plan.flavor} {plan.version}")
    click.echo(f"  from {plan.model.path}, weights in {plan.model.precision}")
    for entry in plan.model.inputs:
        click.echo(f"  input {entry} {entry.dtype}")
    click.echo(f"  for compute capabilities {', '.join(task.architectures)}")
    for profile in task.profiles:
        for name, shapes in profile.items():
            click.echo(f"  profile {name}={shapes}")
    nodes = len(plan.model.op_nodes)
    if task.plugin:
        how = ", embedded" if task.plugin.embed else ""
        click.echo(f"  {nodes} attention nodes by the plugin {task.plugin.library}{how}")
    else:
        click.echo(f"  {nodes} attention nodes by the operator's body")
    for note in plan.notes:
        click.echo(f"Note: {note}")


def _show_report(report: BuildReport) -> None:
    manifest = report.manifest
    layers = manifest.layers
    click.echo(
        f"{report.path}: {manifest.runtime.flavor} {manifest.runtime.version} engine for compute "
        f"capability {', '.join(manifest.architectures)}, {manifest.plan.bytes / 1e6:.1f} MB"
    )
    for tensor in (*manifest.inputs, *manifest.outputs):
        shape = " x ".join(str(size) for size in tensor.shape)
        click.echo(f"  {tensor.name}: {shape} {tensor.dtype}")
    for profile in manifest.profiles:
        for name, shapes in profile.items():
            click.echo(f"  profile {name}={shapes}")
    types = ", ".join(f"{count} {name}" for name, count in list(layers.types.items())[:5])
    click.echo(f"{sum(layers.types.values())} layers before fusion: {types}, ...")
    if manifest.plugin:
        how = "embedded" if manifest.plugin.embedded else "to be loaded to run the engine"
        click.echo(f"{len(layers.plugin)} layers of the plugin {manifest.plugin.library} ({how}):")
        for layer in layers.plugin:
            click.echo(f"  {layer.node} ({layer.dtype})")
    if layers.body:
        click.echo(f"{len(layers.body)} attention nodes built from the operator's body.")
    for warning in report.warnings:
        click.echo(f"TensorRT warns: {warning}")
    memory = f", {report.peak_memory / 1e6:.0f} MB of memory" if report.peak_memory else ""
    click.echo(
        f"Built in {report.seconds:.1f} s (parsing {report.parse_seconds:.1f} s, building "
        f"{report.build_seconds:.1f} s{memory})."
    )
