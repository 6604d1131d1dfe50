"""``dinat-deploy export``"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dinat_deploy.cli.console import json_option, print_json, progress
from dinat_deploy.cli.options import graph_options, model_options

_STAGES = 8  # without the comparison and the stripping of the body


@click.command(short_help="A model to a verified bundle (ONNX file + manifest).")
@model_options
@graph_options
@click.option("--verify/--no-verify", default=True, show_default=True, help="Compare with PyTorch.")
@click.option("--atol", type=click.FloatRange(0), help="Allowed error ...  [default: 0.0001]")
@click.option(
    "--rtol",
    type=click.FloatRange(0),
    help="... plus this x largest output.  [default: 0.0001; Mask2Former and OneFormer 0.001]",
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
    atol: float | None,
    rtol: float | None,
    as_json: bool,
    **request: Any,
) -> None:
    """Turn a model into a bundle: an ONNX file, compared with PyTorch, and what belongs to it.

    \b
    dinat-deploy export --model dinat_tiny --checkpoint dinat_tiny_in1k_224.pth
    dinat-deploy export --hf my_huggingface_dinat/ --dynamic batch
    dinat-deploy export --hf oneformer_ade20k_dinat_large/ --task semantic
    dinat-deploy export --model dinat_base --task backbone --dilations detection \\
        --image-size 800x1216
    """
    with progress(_STAGES + verify + (body == "none")) as shown:
        with shown.stage("Loading PyTorch"):
            from dinat_deploy.pipeline.exporting import export as run
            from dinat_deploy.pipeline.requests import ModelRequest, default_output

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
            atol=atol,
            rtol=rtol,
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
