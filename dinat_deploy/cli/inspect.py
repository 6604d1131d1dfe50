"""``dinat-deploy inspect``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dinat_deploy.cli.console import json_option, print_json, print_table

if TYPE_CHECKING:
    from dinat_deploy.graph.inspection import Inspection

_SHOWN = ("num_heads", "kernel_size", "dilation", "head_dim")


@click.command(short_help="What an ONNX file holds.")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@json_option
def inspect(path: Path, as_json: bool) -> None:
    """Show what an ONNX file (or a bundle's) holds: operators, types, inputs, attention nodes."""
    from dinat_deploy.pipeline.inspecting import inspect as run

    found = run(path)
    if as_json:
        print_json(found.to_dict())
    else:
        _show(found)


def _shape(shape: list[int | str]) -> str:
    return " x ".join(str(size) for size in shape) or "scalar"


def _show(found: Inspection) -> None:
    opsets = ", ".join(f"{domain} {version}" for domain, version in found.opsets.items())
    click.echo(f"{found.path}: IR {found.ir_version}, opset {opsets}, by {found.producer or '?'}")
    for title, tensors in (("input", found.inputs), ("output", found.outputs)):
        for tensor in tensors:
            click.echo(f"  {title} {tensor.name}: {_shape(tensor.shape)} {tensor.type}")
    for kind, total in found.weights.items():
        click.echo(f"  weights {kind}: {total['values']:,} values, {total['bytes'] / 1e6:.1f} MB")
    for name, nodes in found.functions.items():
        click.echo(f"  function {name}: body of {nodes} nodes")
    operators = [[name, str(count)] for name, count in found.operators.items()]
    print_table("Operators", ["operator", "nodes >"], operators)
    if not found.op_nodes:
        click.echo("No neighborhood attention nodes.")
        return
    rows = [
        [
            node.name,
            _shape(node.input_shape),
            *(_attribute(node.attributes.get(name)) for name in _SHOWN),
            "yes" if node.has_rpb else "no",
        ]
        for node in found.op_nodes
    ]
    columns = ["node", "input", *(f"{name} >" for name in _SHOWN), "rpb"]
    print_table("Neighborhood attention", columns, rows)


def _attribute(value: object) -> str:
    if isinstance(value, list):
        return "x".join(str(item) for item in value)
    return "" if value is None else str(value)
