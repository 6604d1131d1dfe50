"""``dinat-deploy infer``"""

from __future__ import annotations

from pathlib import Path

import click

from dinat_deploy.cli.console import json_option, print_json, progress

_STAGES = 3


@click.command(short_help="Classify pictures.")
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
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Guesses each.")
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
    top: int,
    plugin_library: Path | None,
    trust: bool,
    as_json: bool,
) -> None:
    """Classify pictures with a bundle, an ONNX file or an engine. A segmenter gives the classes
    of their pixels, and the share that each has.

    \b
    dinat-deploy infer --bundle out/dinat_mini cat.jpg dog.png
    dinat-deploy infer --model out/dinat_mini/engines/tensorrt-plugin cat.jpg
    dinat-deploy infer --model onnxruntime-cuda:out/dinat_mini cat.jpg
    """
    if model is None and bundle is None:
        raise click.UsageError("Missing option '--bundle' (or '--model').")
    with progress(_STAGES) as shown:
        from dinat_deploy.pipeline.inferring import infer as run

        results = run(
            model if model is not None else str(bundle),
            images,
            top=top,
            bundle=bundle if model is not None else None,
            plugin_library=plugin_library,
            trust=trust,
            progress=shown,
        )
    if as_json:
        print_json([result.to_dict() for result in results])
        return
    for result in results:
        click.echo(f"{result.image}  ({result.milliseconds:.1f} ms)")
        for guess in result.predictions:
            label = guess.label or f"class {guess.index}"
            click.echo(f"  {guess.probability:7.2%}  {label}")
