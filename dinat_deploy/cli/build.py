"""``dinat-deploy build``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dinat_deploy.cli.build_options import build_arguments, build_options
from dinat_deploy.cli.console import json_option, print_json, progress

if TYPE_CHECKING:
    from dinat_deploy.pipeline.building import BuildPlan, BuildReport

_STAGES = 5


@click.command(short_help="A bundle or an ONNX file to a TensorRT engine.")
@click.argument("model", metavar="BUNDLE|MODEL.onnx", type=click.Path(path_type=Path))
@build_options
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="Directory of the engine.  [default: engines/NAME in the bundle]",
)
@click.option("--dry-run", is_flag=True, help="Check and print what would be done.")
@json_option
def build(model: Path, output: Path | None, dry_run: bool, as_json: bool, **given: Any) -> None:
    """Build a TensorRT engine from a bundle, or from an ONNX file.

    \b
    dinat-deploy build out/dinat_mini
    dinat-deploy build out/dinat_mini --backend tensorrt-rtx --embed-plugin --arch 86,89
    dinat-deploy build model.onnx --backend tensorrt-rtx --no-plugin \\
        --profile image=1x3x224x224:4x3x224x224:8x3x224x224

    The engine runs in the precision of the ONNX file. Beside it, engine.json says what it was
    built from and with.
    """
    arguments = build_arguments(**given)
    if dry_run:
        from dinat_deploy.pipeline.building import plan_build

        plan = plan_build(model, output, **arguments)
        if as_json:
            print_json(plan.to_dict())
        else:
            _show_plan(plan)
        return
    with progress(_STAGES) as shown:
        from dinat_deploy.pipeline.building import build as run

        report = run(model, output, progress=shown, **arguments)
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
    chosen = task.options.model_dump(exclude_defaults=True)
    if chosen:
        listed = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in chosen.items())
        click.echo(f"  options: {listed}")
    if task.timing_cache:
        click.echo(f"  timing cache {task.timing_cache}")
    if plan.taps:
        click.echo(f"  {len(plan.taps.tensors)} layers let out ({plan.taps.kind})")
    for note in plan.notes:
        click.echo(f"Note: {note}")


def _show_report(report: BuildReport) -> None:
    manifest = report.manifest
    layers = manifest.layers
    click.echo(
        f"{report.path}: {manifest.runtime.flavor} {manifest.runtime.version} engine for compute "
        f"capability {', '.join(manifest.architectures)}, {manifest.plan.bytes / 1e6:.1f} MB"
    )
    if manifest.gpu:
        click.echo(f"  built on a {manifest.gpu.name}")
    for tensor in (*manifest.inputs, *manifest.outputs):
        shape = " x ".join(str(size) for size in tensor.shape)
        click.echo(f"  {tensor.name}: {shape} {tensor.dtype}")
    for profile in manifest.profiles:
        for name, shapes in profile.items():
            click.echo(f"  profile {name}={shapes}")
    types = ", ".join(f"{count} {name}" for name, count in list(layers.types.items())[:5])
    click.echo(f"{sum(layers.types.values())} layers before fusion: {types}, ...")
    if layers.engine is not None:
        click.echo(f"{len(layers.engine)} layers of the finished engine")
    if layers.dla_unsupported:
        click.echo(f"{len(layers.dla_unsupported)} layers that the accelerator does not support:")
        for name in layers.dla_unsupported:
            click.echo(f"  {name}")
    if manifest.plugin:
        how = "embedded" if manifest.plugin.embedded else "to be loaded to run the engine"
        click.echo(f"{len(layers.plugin)} layers of the plugin {manifest.plugin.library} ({how}):")
        for layer in layers.plugin:
            click.echo(f"  {layer.node} ({layer.dtype})")
    if layers.body:
        click.echo(f"{len(layers.body)} attention nodes built from the operator's body.")
    if manifest.host_code:
        click.echo(f"Holds host code: {'; '.join(manifest.host_code)}.")
    for warning in report.warnings:
        click.echo(f"TensorRT warns: {warning}")
    if report.timing_cache:
        state = "used and updated" if report.timing_cache_hits else "begun"
        click.echo(f"Timing cache {report.timing_cache} {state}.")
    memory = f", {report.peak_memory / 1e6:.0f} MB of memory" if report.peak_memory else ""
    click.echo(
        f"Built in {report.seconds:.1f} s (parsing {report.parse_seconds:.1f} s, building "
        f"{report.build_seconds:.1f} s{memory})."
    )
