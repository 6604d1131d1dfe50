"""``dinat-deploy convert``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dinat_deploy.cli.console import json_option, print_json, print_table, progress

if TYPE_CHECKING:
    from dinat_deploy.pipeline.conversion_report import ConvertReport

_STAGES = 6
_NODES_SHOWN = 3


@click.command(short_help="A bundle's model in FP16 or BF16.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--precision",
    required=True,
    type=click.Choice(["fp16", "bf16"]),
    help="Type of weights and activations.",
)
@click.option(
    "--io",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="Type of the model's inputs and outputs.",
)
@click.option(
    "--keep-float32",
    multiple=True,
    metavar="PATTERN",
    help="Nodes that shall stay in float32, such as 'levels.3.*'; repeat for more.",
)
@click.option(
    "--images",
    "-i",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A picture to record ranges on and to compare on; repeat for more.",
)
@click.option(
    "--random",
    "random_cases",
    type=click.IntRange(0),
    default=2,
    show_default=True,
    help="How many made-up pictures.",
)
@click.option(
    "--margin",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.25,
    show_default=True,
    help="Share of float16's range that recorded values may reach before their node stays in "
    "float32.",
)
@click.option("--verify/--no-verify", default=True, show_default=True, help="Compare with PyTorch.")
@click.option("--atol", type=click.FloatRange(0), help="Allowed error ...  [default: 0.001]")
@click.option(
    "--rtol",
    type=click.FloatRange(0),
    help="... plus this x largest output.  [default: 0.02 for fp16, 0.1 for bf16]",
)
@click.option("--seed", type=int, default=2000, show_default=True, help="Of made-up pictures.")
@json_option
def convert(bundle: Path, as_json: bool, **options: Any) -> None:
    """Write a bundle's model in 16-bit floating point beside model.onnx, strongly typed.

    \b
    dinat-deploy convert out/dinat_mini --precision fp16
    dinat-deploy convert out/dinat_mini --precision bf16 --keep-float32 'levels.3.*'
    dinat-deploy build out/dinat_mini/model.fp16.onnx

    Nodes that need it stay in float32: normalizations, means, the head, and for fp16 those whose
    values come near the end of its range, recorded on the bundle's inputs, made-up pictures and
    --images. Nothing is written if the result loses more accuracy than allowed.
    """
    with progress(_STAGES) as shown:
        from dinat_deploy.pipeline.converting import convert as run

        report = run(bundle, progress=shown, **options)
    if as_json:
        print_json(report.to_dict())
    else:
        _show(report)


def _show(report: ConvertReport) -> None:
    variant = report.variant
    kept = sum(len(island.nodes) for island in variant.float32)
    click.echo(
        f"{report.path}: {report.converted} nodes in {variant.precision}, {kept} in float32, "
        f"{report.casts} Casts between them"
    )
    for tensor in (*variant.inputs, *variant.outputs):
        shape = " x ".join(str(size) for size in tensor.shape)
        click.echo(f"  {tensor.name}: {shape} {tensor.dtype}")
    click.echo("In float32:")
    for island in variant.float32:
        names = ", ".join(island.nodes[:_NODES_SHOWN])
        more = ", ..." if len(island.nodes) > _NODES_SHOWN else ""
        click.echo(f"  {len(island.nodes):>3}  {island.reason}: {names}{more}")
    tensor_name, largest = next(iter(report.ranges.items()))
    click.echo(
        f"Largest value on {report.inputs} inputs: {largest:.4g} in {tensor_name}"
        + (f", {report.range_used:.2%} of float16's range" if variant.precision == "fp16" else "")
    )
    weights = report.weights
    click.echo(
        f"Weights: {weights.values:,} values rounded, {weights.subnormal:.2%} of them below full "
        f"precision, {weights.lost} to zero; {weights.worst} changes the most, by "
        f"{weights.worst_error:.2%}."
    )
    if report.runs:
        rows = [
            [
                run.name,
                str(run.inputs),
                f"{run.max_abs:.2e}",
                f"{run.relative:.2%}",
                f"{run.cosine:.7f}",
                "" if run.argmax_agreement is None else f"{run.argmax_agreement:.0%}",
            ]
            for run in report.runs
        ]
        print_table(
            "Against PyTorch (recorded inputs) and the float32 model (others), the worst of each",
            ["run by", "inputs>", "error>", "relative>", "cosine>", "argmax>"],
            rows,
        )
    click.echo(report.verdict)
