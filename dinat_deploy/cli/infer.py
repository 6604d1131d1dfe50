"""``dinat-deploy infer``"""

from __future__ import annotations

from pathlib import Path

import click

from dinat_deploy.cli.console import json_option, print_json, progress

_STAGES = 2


@click.command(short_help="Classify pictures.")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--bundle",
    "-b",
    required=True,
    type=click.Path(path_type=Path),
    help="The model, a directory written by export.",
)
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Guesses each.")
@json_option
def infer(images: tuple[Path, ...], bundle: Path, top: int, as_json: bool) -> None:
    """Classify pictures with a bundle.

    \b
    dinat-deploy infer --bundle out/dinat_mini cat.jpg dog.png
    """
    with progress(_STAGES) as shown:
        from dinat_deploy.pipeline.inferring import infer as run

        results = run(bundle, images, top=top, progress=shown)
    if as_json:
        print_json([result.to_dict() for result in results])
        return
    for result in results:
        click.echo(f"{result.image}  ({result.milliseconds:.1f} ms)")
        for guess in result.predictions:
            label = guess.label or f"class {guess.index}"
            click.echo(f"  {guess.probability:7.2%}  {label}")
