"""``dinat-deploy infer``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from dinat_deploy.cli.console import json_option, on_interrupt, print_json, progress

if TYPE_CHECKING:
    from dinat_deploy.pipeline.inferring import ImagePredictions

_STAGES = 3


@click.command(short_help="Classify pictures, or find out what is where in them.")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--model",
    "-m",
    "model",
    metavar="ARTEFACT",
    help="What classifies: a bundle, an ONNX file or an engine.  [default: the --bundle]",
)
@click.option(
    "--bundle",
    "-b",
    type=click.Path(path_type=Path),
    help="Bundle with the preprocessing and the labels.  [default: the one around the --model]",
)
@click.option(
    "--top", type=click.IntRange(1), help="Lines each.  [default: 5 classes, or all instances]"
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="Draw what a segmenter or detector finds over the photo, with a legend: a picture file, "
    "or a folder for several.",
)
@click.option(
    "--side-by-side", is_flag=True, help="Put the photo beside the drawing, to compare them."
)
@click.option(
    "--opacity",
    type=click.FloatRange(0, 1),
    default=0.55,
    show_default=True,
    help="Of the colours over the photo.",
)
@click.option(
    "--map",
    "map_",
    type=click.Path(path_type=Path),
    help="Write the numbers of classes, segments or instances as grey values: a .png file, or a "
    "folder for several.",
)
@click.option(
    "--min-score",
    type=click.FloatRange(0, 1),
    help="Leave out instances and segments below.  [default: 0.5; panoptic: as the bundle says]",
)
@click.option(
    "--mode",
    type=click.Choice(["slide", "whole", "crop"]),
    help="How UPerNet sees a picture: through overlapping windows, all of it at once, or the part "
    "that evaluations cut out.  [default: all of it: slide, unless one look shows it]",
)
@click.option(
    "--stride",
    type=click.IntRange(1),
    help="Pixels from window to window.  [default: two thirds of a window]",
)
@click.option(
    "--plugin-library",
    type=click.Path(path_type=Path),
    help="TensorRT's plugin.  [default: what `dinat-deploy plugin info` finds]",
)
@click.option(
    "--trust", is_flag=True, help="Load a plan that holds code of its own, or has no manifest."
)
@json_option
def infer(
    images: tuple[Path, ...],
    model: str | None,
    bundle: Path | None,
    top: int | None,
    output: Path | None,
    side_by_side: bool,
    opacity: float,
    map_: Path | None,
    min_score: float | None,
    mode: Literal["slide", "whole", "crop"] | None,
    stride: int | None,
    plugin_library: Path | None,
    trust: bool,
    as_json: bool,
) -> None:
    """Classify pictures with a bundle, an ONNX file or an engine. A segmenter gives the classes
    of their pixels, and the share that each has; a detector the things in them.

    \b
    dinat-deploy infer --bundle out/dinat_mini cat.jpg dog.png
    dinat-deploy infer --model out/dinat_mini/engines/tensorrt-plugin cat.jpg
    dinat-deploy infer --model onnxruntime-cuda:out/dinat_mini cat.jpg
    dinat-deploy infer --bundle out/segmenter photo.jpg --output out/overlay.png
    """
    if model is None and bundle is None:
        raise click.UsageError("Missing option '--bundle' (or '--model').")
    if output is not None or map_ is not None:
        on_interrupt("What was drawn of earlier pictures is kept.")
    with progress(_STAGES) as shown:
        from dinat_deploy.pipeline.inferring import Drawing
        from dinat_deploy.pipeline.inferring import infer as run

        results = run(
            model if model is not None else str(bundle),
            images,
            top=top,
            bundle=bundle if model is not None else None,
            plugin_library=plugin_library,
            trust=trust,
            mode=mode,
            stride=stride,
            min_score=min_score,
            drawing=Drawing(output, map_, opacity, side_by_side),
            progress=shown,
        )
    if as_json:
        print_json([result.to_dict() for result in results])
        return
    for result in results:
        _print(result)


def _print(result: ImagePredictions) -> None:
    click.echo(f"{result.image}  ({result.milliseconds:.1f} ms)")
    for guess, detail in zip(result.predictions, result.details, strict=True):
        label = guess.label or f"class {guess.index}"
        click.echo(f"  {guess.probability:7.2%}  {label}{'  ' if detail else ''}{detail}")
    if not result.predictions:
        click.echo("  nothing that is sure enough (--min-score)")
    for file in (result.overlay, result.map):
        if file is not None:
            click.echo(f"  written to {file}")
