"""Values on the command line that need parsing of their own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    _Parameter = click.ParamType[Any]
else:
    _Parameter = click.ParamType


class ImageSize(_Parameter):
    """``224`` or ``512x1024`` (height x width), in pixels."""

    name = "SIZE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(\d+)(?:x(\d+))?", str(value).strip().lower())
        if not found or int(found[1]) < 1 or int(found[2] or 1) < 1:
            self.fail(f"{value!r} is not a size; write 224, or height x width like 512x1024", param)
        return int(found[1]), int(found[2] or found[1])


class IntList(_Parameter):
    """``3,4,18,5``."""

    name = "N,N,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(item) for item in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers like 3,4,18,5", param)


class SizeRange(_Parameter):
    """``224:1024``, in pixels."""

    name = "MIN:MAX"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(\d+):(\d+)", str(value).strip())
        if not found:
            self.fail(f"{value!r} is not a range like 224:1024", param)
        return int(found[1]), int(found[2])


class Choices(_Parameter):
    """Some of a few words, by comma: ``batch,size``."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self.name = ",".join(words)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        chosen = tuple(word.strip() for word in str(value).split(",") if word.strip())
        for word in chosen:
            if word not in self.words:
                self.fail(f"{word!r} is none of {', '.join(self.words)}", param)
        return chosen


class NumberList(_Parameter):
    """``90,95,99.9``, each within bounds."""

    name = "N,N,..."

    def __init__(self, least: float, largest: float) -> None:
        self.least, self.largest = least, largest

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[float]:
        if isinstance(value, list):
            return value
        try:
            numbers = [float(item) for item in str(value).split(",") if item.strip()]
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers like 90,99.9", param)
        for number in numbers:
            if not self.least <= number <= self.largest:
                self.fail(f"{number:g} is not in {self.least:g}..{self.largest:g}", param)
        return list(dict.fromkeys(numbers))


class Shapes(_Parameter):
    """``image=1x3x224x224,mask=1x224x224``: shapes of inputs by name."""

    name = "NAME=SHAPE,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, list[int]]:
        if isinstance(value, dict):
            return value
        shapes = {}
        for part in str(value).split(","):
            found = re.fullmatch(r"([^=]+)=(\d+(?:x\d+)*)", part.strip())
            if not found or "0" in found[2].split("x") or found[1] in shapes:
                self.fail(f"{value!r} does not name shapes; write image=1x3x224x224", param)
            shapes[found[1]] = [int(size) for size in found[2].split("x")]
        return shapes
