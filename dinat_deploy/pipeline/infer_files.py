"""Where the pictures that ``infer`` draws are written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dinat_deploy.errors import ConfigError, OutputError

PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def output_files(
    output: str | Path | None, images: Sequence[str | Path], suffixes: Sequence[str] = PICTURES
) -> list[Path] | None:
    """A file for each picture.

    Args:
        output: a file for one picture; a folder, made if need be, for any number, where each gets
            the name of its picture with ``.png``, and a number if the name is taken. None for none.
        images: the pictures.
        suffixes: endings that a file may have.

    Raises:
        ConfigError: there are several pictures for one file, or its ending means nothing.
        OutputError: a file would replace one of the pictures, or the folder is a file.
    """
    if output is None:
        return None
    target = Path(output)
    if not target.suffix and target.is_file():
        raise OutputError(
            f"{target} is a file, and without an ending it would be a folder.",
            f"Name another folder, or a file that ends in {', '.join(suffixes)}.",
        )
    if target.is_dir() or not target.suffix:
        files = _in_folder(target, images)
    elif target.suffix.lower() not in suffixes:
        raise ConfigError(
            f"{target} does not end like a picture.",
            f"Name a folder, or a file that ends in {', '.join(suffixes)}.",
        )
    elif len(images) > 1:
        raise ConfigError(
            f"{len(images)} pictures do not fit into one file, {target}.", "Name a folder."
        )
    else:
        files = [target]
    originals = {Path(image).resolve() for image in images}
    for file in files:
        if file.resolve() in originals:
            raise OutputError(f"{file} is a picture to look at.", "Write to another place.")
    return files


def check_apart(first: Sequence[Path] | None, second: Sequence[Path] | None) -> None:
    """That no file would be written twice.

    Args:
        first, second: files of the drawings and of the maps, None for none.

    Raises:
        OutputError: a file is both.
    """
    others = {file.resolve() for file in second or ()}
    for file in first or ():
        if file.resolve() in others:
            raise OutputError(
                f"{file} would be the drawing, and then the map in its place.",
                "Give --output and --map different places.",
            )


def _in_folder(folder: Path, images: Sequence[str | Path]) -> list[Path]:
    files: list[Path] = []
    for image in images:
        stem, number = Path(image).stem, 2
        file = folder / f"{stem}.png"
        while file in files:
            file = folder / f"{stem}-{number}.png"
            number += 1
        files.append(file)
    return files
