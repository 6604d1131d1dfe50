"""``dinat-deploy models``"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dinat_deploy.cli.console import json_option, print_json, print_table

if TYPE_CHECKING:
    from dinat_deploy.pipeline.listing import Published


@click.command(short_help="The known variants.")
@click.option(
    "--task",
    type=click.Choice(["semantic", "instance", "panoptic"]),
    help="The published segmenters and detectors of a task instead.",
)
@json_option
def models(task: str | None, as_json: bool) -> None:
    """List the variants: size, cost, published accuracy, dilations.

    \b
    dinat-deploy models --task instance
    """
    from dinat_deploy.pipeline.listing import list_models

    rows = list_models()
    if task is not None:
        rows = [row for row in rows if any(entry.task == task for entry in row.published)]
    if as_json:
        print_json([row.to_dict() for row in rows])
        return
    if task is not None:
        _print_published([each for row in rows for each in row.published if each.task == task])
        return
    cells = [
        [
            row.name,
            f"{row.parameters / 1e6:.1f}",
            f"{row.macs / 1e9:.1f}",
            "" if row.top1 is None else f"{row.top1:.1f}",
            *_best(row.published),
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
        "AP box % >",
        "PQ % >",
        "pixels >",
        "kernel >",
        "dilations",
        "also for",
        "on hub",
    ]
    print_table("", columns, cells)
    click.echo(
        "MACs of one image, counted. As published: top-1 on ImageNet-1k, the best mIoU on ADE20K "
        "(one scale), and the best AP and PQ on COCO; `models --task` lists what with."
    )


def _best(published: list[Published]) -> list[str]:
    """The best single-scale mIoU on ADE20K, and AP of boxes and PQ on COCO."""
    cells = []
    for measure, dataset in (("mIoU", "ade20k"), ("AP box", "coco"), ("PQ", "coco")):
        found = [
            entry.results[measure]
            for entry in published
            if entry.dataset == dataset and measure in entry.results
        ]
        cells.append(f"{max(found):.1f}" if found else "")
    return cells


def _print_published(entries: list[Published]) -> None:
    measures = list(dict.fromkeys(name for entry in entries for name in entry.results))
    rows = [
        [
            entry.variant,
            entry.decoder,
            entry.dataset,
            f"{entry.parameters_m:g}",
            *(f"{entry.results[name]:.1f}" if name in entry.results else "" for name in measures),
            "x".join(str(side) for side in entry.image_size),
            entry.checkpoint or "",
        ]
        for entry in entries
    ]
    columns = ["model", "--decoder", "--dataset", "params M >"]
    columns += [f"{name} % >" for name in measures]
    print_table("", [*columns, "pixels >", "file"], rows)


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
