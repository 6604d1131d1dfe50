"""``dinat-deploy models``"""

from __future__ import annotations

import click

from dinat_deploy.cli.console import json_option, print_json, print_table


@click.command(short_help="The known variants.")
@json_option
def models(as_json: bool) -> None:
    """List the variants: size, cost, published accuracy, dilations."""
    from dinat_deploy.pipeline.listing import list_models

    rows = list_models()
    if as_json:
        print_json([row.to_dict() for row in rows])
        return
    cells = [
        [
            row.name,
            f"{row.parameters / 1e6:.1f}",
            f"{row.macs / 1e9:.1f}",
            "" if row.top1 is None else f"{row.top1:.1f}",
            "" if row.miou is None else f"{row.miou:.1f}",
            "x".join(str(side) for side in row.image_size),
            str(row.kernel_size),
            _short(row.dilations),
            ", ".join(row.schedules),
            "yes" if row.pretrained else "",
        ]
        for row in rows
    ]
    columns = [
        "model",
        "params M >",
        "MACs G >",
        "top-1 % >",
        "mIoU % >",
        "pixels >",
        "kernel >",
        "dilations",
        "also for",
        "on hub",
    ]
    print_table("", columns, cells)
    click.echo(
        "MACs of one image, counted. Top-1 on ImageNet-1k and mIoU of UPerNet on ADE20K "
        "(--task semantic) as published."
    )


def _short(dilations: str) -> str:
    """Repetitions folded: ``1,2,1,2,1,2`` -> ``(1,2)x3``; --json has every layer."""
    return " ".join(_fold(level.split(",")) for level in dilations.split("/"))


def _fold(values: list[str]) -> str:
    for length in range(1, len(values) // 2 + 1):
        times, rest = divmod(len(values), length)
        if rest == 0 and values == values[:length] * times:
            pattern = ",".join(values[:length])
            return f"({pattern})x{times}" if length > 1 else f"{pattern}x{times}"
    return ",".join(values)
