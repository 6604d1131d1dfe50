"""``dinat-deploy export``"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dinat_deploy.cli.console import json_option, print_json, progress
from dinat_deploy.cli.types import Choices, ImageSize, IntList, SizeRange

_STAGES = 8  # without the comparison and the stripping of the body


@click.command(short_help="A model to a verified bundle (ONNX file + manifest).")
@click.option("--model", "-m", metavar="NAME", help="A variant; `dinat-deploy models` lists them.")
@click.option(
    "--checkpoint",
    "-c",
    type=click.Path(path_type=Path),
    help="Weights: .pth, .safetensors, or a directory with config.json. Without any, the weights "
    "are random.",
)
@click.option("--pretrained", is_flag=True, help="Download the published weights of --model.")
@click.option(
    "--config", type=click.Path(path_type=Path), help="Architecture as JSON, instead of --model."
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="Directory of the bundle.  [default: out/NAME]",
)
@click.option(
    "--task",
    type=click.Choice(["classification", "backbone"]),
    default="classification",
    show_default=True,
    help="Logits, or the normalised features of every level.",
)
@click.option(
    "--dilations",
    metavar="SCHEDULE|LIST",
    help="classification, detection, ade20k, mask2former, or a list like 1,8,1/1,4,1,4/...",
)
@click.option("--kernel-size", type=click.IntRange(1), help="Attention window.")
@click.option("--depths", type=IntList(), help="Layers of each level.")
@click.option("--num-heads", type=IntList(), help="Heads of each level.")
@click.option("--num-classes", type=click.IntRange(0), help="Outputs of the classifier.")
@click.option("--image-size", type=ImageSize(), help="Input in pixels: 224, or 512x1024 (HxW).")
@click.option(
    "--batch", type=click.IntRange(1), default=1, show_default=True, help="Images per run."
)
@click.option(
    "--dynamic",
    type=Choices("batch", "size"),
    default=(),
    help="Axes left open: batch, size (height and width), or both.",
)
@click.option(
    "--size-range",
    type=SizeRange(),
    help="Bounds of a dynamic size.  [default: from the smallest size that needs no padding]",
)
@click.option(
    "--opset", type=click.IntRange(17, 21), default=20, show_default=True, help="ONNX opset."
)
@click.option(
    "--body",
    type=click.Choice(["standard", "none"]),
    default="standard",
    show_default=True,
    help="Give the operator a body in standard ONNX operators, or leave it to a plugin "
    "(TensorRT before 10.7).",
)
@click.option("--resize-rpb", is_flag=True, help="Resize positional bias of another kernel size.")
@click.option(
    "--ema/--no-ema",
    default=True,
    show_default=True,
    help="Prefer averaged weights in training checkpoints.",
)
@click.option("--labels", type=click.Path(path_type=Path), help="Class names, one per line.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of random weights.")
@click.option("--verify/--no-verify", default=True, show_default=True, help="Compare with PyTorch.")
@click.option(
    "--atol", type=click.FloatRange(0), default=1e-4, show_default=True, help="Allowed error."
)
@click.option(
    "--rtol",
    type=click.FloatRange(0),
    default=1e-4,
    show_default=True,
    help="... plus this x largest output.",
)
@json_option
def export(
    output: Path | None,
    batch: int,
    dynamic: tuple[str, ...],
    size_range: tuple[int, int] | None,
    opset: int,
    body: str,
    verify: bool,
    atol: float,
    rtol: float,
    as_json: bool,
    **request: Any,
) -> None:
    """Turn a model into a bundle: an ONNX file, compared with PyTorch, and what belongs to it.

    \b
    dinat-deploy export --model dinat_tiny --checkpoint dinat_tiny_in1k_224.pth
    dinat-deploy export --checkpoint my_huggingface_dinat/ --dynamic batch
    dinat-deploy export --model dinat_base --task backbone --dilations detection \\
        --image-size 800x1216
    """
    with progress(_STAGES + verify + (body == "none")) as shown:
        with shown.stage("Loading PyTorch"):
            from dinat_deploy.parity import Tolerance
            from dinat_deploy.pipeline.exporting import export as run
            from dinat_deploy.pipeline.sources import ModelRequest, default_output

        wanted = ModelRequest(**request)
        report = run(
            wanted,
            output or default_output(wanted),
            batch=batch,
            dynamic=dynamic,  # type: ignore[arg-type]
            size_range=size_range,
            opset=opset,
            body=body,  # type: ignore[arg-type]
            verify=verify,
            tolerance=Tolerance(atol, rtol),
            progress=shown,
        )
    if as_json:
        print_json(report.to_dict())
        return
    manifest = report.manifest
    click.echo(
        f"{report.path}: {manifest.name}, {manifest.graph.op_nodes} neighborhood attention nodes, "
        f"opset {manifest.graph.opset}, {report.file_size / 1e6:.1f} MB"
    )
    for tensor in (*manifest.graph.inputs, *manifest.graph.outputs):
        shape = " x ".join(str(size) for size in tensor.shape)
        click.echo(f"  {tensor.name}: {shape} {tensor.dtype}")
    if manifest.verification is None:
        click.echo("Not verified (--no-verify).")
        return
    checked = manifest.verification
    click.echo(
        f"Verified: {checked.runtime} differs from PyTorch by at most "
        f"{checked.max_abs_error:.2e} on {checked.cases} inputs "
        f"(outputs up to {checked.max_reference:.3g}; "
        f"allowed {checked.atol + checked.rtol * checked.max_reference:.2e})."
    )
