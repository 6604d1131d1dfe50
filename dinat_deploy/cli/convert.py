"""``dinat-deploy convert``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dinat_deploy.cli.console import json_option, print_json, print_table, progress
from dinat_deploy.cli.quantize_options import quantize_options, take_quantize_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dinat_deploy.bundle import Island
    from dinat_deploy.pipeline.conversion_report import ConvertReport

_STAGES = 6
_NODES_SHOWN = 3
# Of the range of the 16-bit type: bfloat16 has a range that is never used up.
_SMALL_SHARE = 1e-9


@click.command(short_help="A bundle's model in FP16, BF16, INT8 or FP8.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--precision",
    required=True,
    type=click.Choice(["fp16", "bf16", "int8", "fp8"]),
    help="Of weights and activations; int8 and fp8 take the ranges that `calibrate` recorded.",
)
@click.option(
    "--io",
    type=click.Choice(["fp32", "fp16", "uint8"]),
    default="fp32",
    show_default=True,
    help="Type of the model's inputs and outputs; uint8: the input is pixels, 0 to 255, which the "
    "model normalises, and outputs are fp32.",
)
@click.option(
    "--keep-float32",
    multiple=True,
    metavar="PATTERN|@FILE",
    help="Nodes that shall stay in float32, such as 'levels.3.*', or a file of such patterns as "
    "`sensitivity` writes; repeat for more.",
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
    help="... plus this x largest output.  [default: 0.02 for fp16, 0.1 for bf16, 0.4 for the "
    "others; detectors 0.05 and 0.3]",
)
@click.option("--seed", type=int, default=2000, show_default=True, help="Of made-up pictures.")
@quantize_options
@json_option
def convert(bundle: Path, as_json: bool, **options: Any) -> None:
    """Write a bundle's model in another precision beside model.onnx, strongly typed.

    \b
    dinat-deploy convert out/dinat_mini --precision fp16
    dinat-deploy convert out/dinat_mini --precision bf16 --keep-float32 'levels.3.*'
    dinat-deploy convert out/dinat_mini --precision fp16 --io uint8
    dinat-deploy convert out/dinat_mini --precision int8 --exclude 'levels.0.*'
    dinat-deploy build out/dinat_mini/model.fp16.onnx

    Nodes that need it stay in float32: normalizations, means, the head, and for fp16 those whose
    values come near the end of its range, recorded on the bundle's inputs, made-up pictures and
    --images. int8 and fp8 quantize convolutions and linear layers on top of that. Nothing is
    written if the result loses more accuracy than allowed.
    """
    with progress(_STAGES) as shown:
        from dinat_deploy.pipeline.converting import convert as run
        from dinat_deploy.pipeline.quantizing import read_all_patterns

        quantize = take_quantize_options(options, options["precision"])
        options["keep_float32"] = read_all_patterns(options["keep_float32"])
        report = run(bundle, progress=shown, quantize=quantize, **options)
    if as_json:
        print_json(report.to_dict())
    else:
        show_conversion(report)


def show_conversion(report: ConvertReport) -> None:
    variant, quantization = report.variant, report.variant.quantization
    kept = sum(len(island.nodes) for island in variant.float32)
    if quantization is None:
        what = f"{report.converted} nodes in {variant.precision}, {kept} in float32"
    else:
        what = (
            f"{len(quantization.nodes)} nodes in {variant.precision}, which do "
            f"{quantization.macs:.1%} of the multiply-accumulates; the rest in {quantization.rest}"
        )
        what += f", {kept} nodes in float32" if kept else ""
    click.echo(
        f"{report.path}: {what}" + (f", {report.casts} Casts between them" if report.casts else "")
    )
    for tensor in (*variant.inputs, *variant.outputs):
        shape = " x ".join(str(size) for size in tensor.shape)
        click.echo(f"  {tensor.name}: {shape} {tensor.dtype}")
    if quantization is not None:
        _list_nodes("Not quantized:", quantization.excluded)
    _list_nodes("In float32:", variant.float32)
    tensor_name, largest = next(iter(report.ranges.items()))
    of_range = report.range_used is not None and report.range_used > _SMALL_SHARE
    click.echo(
        f"Largest value on {report.inputs} inputs: {largest:.4g} in {tensor_name}"
        + (f", {report.range_used:.2%} of float16's range" if of_range else "")
    )
    if report.weights is not None and report.weights.values:
        weights = report.weights
        click.echo(
            f"Weights: {weights.values:,} values rounded, {weights.subnormal:.2%} of them below "
            f"full precision, {weights.lost} to zero; {weights.worst} changes the most, by "
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
        against = "PyTorch (recorded inputs) and the float32 model (others)"
        if variant.takes_pixels:
            against = "the float32 model on the same pixels"
        print_table(
            f"Against {against}, the worst of each",
            ["run by", "inputs>", "error>", "relative>", "cosine>", "argmax>"],
            rows,
        )
    click.echo(report.verdict)


def _list_nodes(title: str, groups: Sequence[Island]) -> None:
    if groups:
        click.echo(title)
    for group in groups:
        names = ", ".join(group.nodes[:_NODES_SHOWN])
        more = ", ..." if len(group.nodes) > _NODES_SHOWN else ""
        click.echo(f"  {len(group.nodes):>3}  {group.reason}: {names}{more}")
