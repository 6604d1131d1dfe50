"""Picture files: a folder of them, a folder of folders, or a list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dinat_deploy.data.classes import match_classes
from dinat_deploy.data.dataset import Sample, Task
from dinat_deploy.data.pictures import SUFFIXES, is_picture, pictures_below, read_picture
from dinat_deploy.errors import DataError
from dinat_deploy.models.preprocessing import Preprocessing

_CLASSES_FILE = "classes.txt"


@dataclass(frozen=True)
class PictureFiles:
    """A dataset of picture files; see :class:`dinat_deploy.data.dataset.Dataset`.

    Attributes:
        paths, names: of each.
        labels: class of each; None if there are none.
    """

    name: str
    paths: list[Path]
    names: list[str]
    labels: list[int] | None
    classes: list[str] | None
    preprocessing: Preprocessing
    notes: list[str] = field(default_factory=list)

    @property
    def task(self) -> Task | None:
        return None if self.labels is None else "classification"

    def __len__(self) -> int:
        return len(self.paths)

    def name_of(self, index: int) -> str:
        return self.names[index]

    def class_of(self, index: int) -> int | None:
        return None if self.labels is None else self.labels[index]

    def load(self, index: int) -> Sample:
        label = self.class_of(index)
        if label is not None and self.classes is not None and not 0 <= label < len(self.classes):
            raise DataError(
                f"{self.paths[index]} has the class {label} in {self.name}, and the model has "
                f"{len(self.classes)}, counted from 0.",
                "Correct the list.",
            )
        image = read_picture(self.paths[index], self.preprocessing)
        return Sample(self.names[index], image, label)


def image_folder(
    path: Path, preprocessing: Preprocessing, labels: Sequence[str] | None
) -> PictureFiles:
    """A folder of pictures (no labels), or of folders that each hold the pictures of a class.

    Raises:
        DataError: there are none, or both; or the classes are not the model's.
    """
    name = str(path)
    folders = _folders(path)
    flat = sorted(file for file in path.iterdir() if is_picture(file) and file.is_file())
    filled = {folder.name: pictures_below(folder) for folder in folders}
    if not flat and not any(filled.values()):
        raise DataError(
            f"{path} holds no pictures.",
            f"Name a folder with files that end in {', '.join(sorted(SUFFIXES))}.",
        )
    if flat and any(filled.values()):
        inner = next(name for name, files in filled.items() if files)
        raise DataError(
            f"{path} holds pictures ({flat[0].name}) and folders of pictures ({inner}), so that it "
            "is not clear whether the folders are classes.",
            "Sort all pictures into class folders, or none.",
        )
    if flat:
        return PictureFiles(
            name, flat, [file.name for file in flat], None, _listed(labels), preprocessing
        )
    order_file = path / _CLASSES_FILE
    order = _lines(order_file) if order_file.is_file() else None
    matching = match_classes(name, list(filled), labels, order)
    files = [(file, matching.indices[folder]) for folder, held in filled.items() for file in held]
    return PictureFiles(
        name,
        [file for file, _ in files],
        [file.relative_to(path).as_posix() for file, _ in files],
        [label for _, label in files],
        _listed(labels) or _own_names(matching.indices),
        preprocessing,
        [matching.how] if matching.how else [],
    )


def image_list(
    path: Path, preprocessing: Preprocessing, labels: Sequence[str] | None
) -> PictureFiles:
    """A text file with a picture on every line, relative to the file, and perhaps its class.

    The class is a number or one of the model's labels, after a tab or else the last word of a line
    that does not end like the name of a picture. Empty lines and those that begin with ``#`` do not
    count.

    Raises:
        DataError: it lists none; some lines have a class and some not; or a class is not known.
    """
    lines = [line for line in _lines(path) if not line.startswith("#")]
    if not lines:
        raise DataError(f"{path} lists no pictures.", "Write one path on every line.")
    entries = [_split(line) for line in lines]
    words = [word for _, word in entries if word is not None]
    if words and len(words) < len(entries):
        bare = next(name for name, word in entries if word is None)
        raise DataError(
            f"{path} gives classes to {len(words)} of its {len(entries)} pictures, and none to "
            f"{bare}.",
            "Give one to all, or to none.",
        )
    numbers = [_numbers_of(path, words, labels, entries)] if words else []
    return PictureFiles(
        str(path),
        [path.parent / name for name, _ in entries],
        [name for name, _ in entries],
        numbers[0] if numbers else None,
        _listed(labels),
        preprocessing,
    )


def _split(line: str) -> tuple[str, str | None]:
    name, tab, word = line.partition("\t")
    if not tab and not is_picture(Path(line)):
        name, _, word = line.rpartition(" ")
    if not name:
        return line, None
    return name.strip(), word.strip() or None


def _numbers_of(
    path: Path,
    words: Sequence[str],
    labels: Sequence[str] | None,
    entries: Sequence[tuple[str, str | None]],
) -> list[int]:
    if all(word.lstrip("-").isdecimal() for word in words):
        return [int(word) for word in words]
    if labels is None:
        named = next(word for word in words if not word.lstrip("-").isdecimal())
        file = next(name for name, word in entries if word == named)
        raise DataError(
            f"{path} gives {file} the class {named!r}, and the model has no names of classes.",
            "Write their numbers, counted from 0.",
        )
    matching = match_classes(str(path), sorted(set(words)), labels, None)
    return [matching.indices[word] for word in words]


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(f for f in path.iterdir() if f.is_dir() and not f.name.startswith("."))
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}.", "Mend its permissions."
        ) from None


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.", "It must be text in UTF-8.") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def _own_names(indices: Mapping[str, int]) -> list[str] | None:
    """The folders' names as those of the classes, if no class is left out."""
    if sorted(indices.values()) != list(range(len(indices))):
        return None
    return sorted(indices, key=indices.__getitem__)


def _listed(labels: Sequence[str] | None) -> list[str] | None:
    return None if labels is None else list(labels)
