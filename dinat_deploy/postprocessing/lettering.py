"""Text on pictures: labels that avoid each other, and a legend below."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from dinat_deploy.postprocessing.colors import BLACK, WHITE, Color, text_color

Box = tuple[int, int, int, int]  # left, top, right, bottom
_LEAST_FONT = 13
_FONT_SHARE = 1 / 32  # of the short side of the picture
_ELLIPSIS = "…"
# What Pillow's own font has beside ASCII, and letters that do not come apart into one of ASCII's
# and an accent.
_ALSO_DRAWN = "©«°±·»"
_SPELLED = str.maketrans(
    {"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L"}
    | {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2044": "/"}
    | {"\u2010": "-", "\u2011": "-", "\u2013": "-", "\u2014": "-"}
)


def font_for(size: tuple[int, int]) -> ImageFont.FreeTypeFont:
    """Pillow's own font in a size that suits a picture of (width, height)."""
    pixels = max(_LEAST_FONT, round(min(size) * _FONT_SHARE))
    font = ImageFont.load_default(pixels)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def drawable(text: str) -> str:
    """A text as the font can draw it, in one line: accents are left out, and what is no Latin
    letter becomes a question mark."""
    apart = unicodedata.normalize("NFKD", " ".join(text.split())).translate(_SPELLED)
    letters = [char for char in apart if not unicodedata.combining(char)]
    return "".join(char if char.isascii() or char in _ALSO_DRAWN else "?" for char in letters)


@dataclass(frozen=True)
class LegendEntry:
    """A colour and what it stands for."""

    color: Color
    text: str


class Labels:
    """Draws labels on a picture so that none covers another or is cut off.

    Args:
        image: RGB; drawn on.
    """

    def __init__(self, image: Image.Image) -> None:
        self._draw = ImageDraw.Draw(image)
        self._size = image.size
        self._font = font_for(image.size)
        self._taken: list[Box] = []
        self._margin = max(2, round(self._font.size / 5))

    def extent(self, text: str) -> tuple[int, int]:
        """(width, height) in pixels of a label."""
        ascent, descent = self._font.getmetrics()
        return (
            round(self._font.getlength(text)) + 2 * self._margin,
            ascent + descent + self._margin,
        )

    def centred(self, text: str, center: tuple[int, int], color: Color) -> bool:
        """Draw a label around a point (x, y); not if another one is there already.

        Returns:
            Whether it was drawn.
        """
        width, height = self.extent(text)
        return self._place(text, [(center[0] - width // 2, center[1] - height // 2)], color)

    def beside(self, text: str, box: Box, color: Color) -> bool:
        """Draw a label above a box, in it, or below it, wherever there is room."""
        _, height = self.extent(text)
        left, top, right, bottom = box
        width, _ = self.extent(text)
        places = [
            (left, top - height),
            (left, top),
            (right - width, top - height),
            (left, bottom - height),
            (left, bottom),
            (right - width, bottom - height),
        ]
        return self._place(text, places, color)

    def _place(self, text: str, places: Sequence[tuple[int, int]], color: Color) -> bool:
        width, height = self.extent(text)
        if width > self._size[0] or height > self._size[1]:
            return False
        for x, y in places:
            left = min(max(x, 0), self._size[0] - width)
            top = min(max(y, 0), self._size[1] - height)
            box = left, top, left + width, top + height
            if not any(_overlap(box, other) for other in self._taken):
                self._taken.append(box)
                self._draw.rounded_rectangle(
                    (left, top, left + width - 1, top + height - 1), self._margin, fill=color
                )
                self._draw.text(
                    (left + self._margin, top + self._margin // 2),
                    text,
                    fill=text_color(color),
                    font=self._font,
                )
                return True
        return False


def _overlap(first: Box, second: Box) -> bool:
    return (
        first[0] < second[2]
        and second[0] < first[2]
        and first[1] < second[3]
        and second[1] < first[3]
    )


def legend(entries: Sequence[LegendEntry], width: int, font: ImageFont.FreeTypeFont) -> Image.Image:
    """A white panel of this width with as many columns as there is room for.

    Text that is wider than the panel is cut off with an ellipsis.
    """
    gap = round(font.size * 0.6)
    ascent, descent = font.getmetrics()
    line = ascent + descent + round(font.size * 0.35)
    swatch = round(font.size * 1.1)
    texts = [_fitted(entry.text, width - 4 * gap - swatch, font) for entry in entries]
    widest = max((round(font.getlength(text)) for text in texts), default=0)
    column = swatch + gap // 2 + widest + 2 * gap
    columns = max(1, (width - gap) // column)
    rows = -(-len(entries) // columns)
    columns = -(-len(entries) // max(rows, 1)) or 1
    panel = Image.new("RGB", (width, rows * line + 2 * gap), WHITE)
    draw = ImageDraw.Draw(panel)
    for number, (entry, text) in enumerate(zip(entries, texts, strict=True)):
        left = gap + number // rows * ((width - gap) // columns)
        top = gap + number % rows * line
        middle = top + (ascent + descent) // 2
        box = left, middle - swatch // 2, left + swatch, middle - swatch // 2 + swatch
        draw.rectangle(box, fill=entry.color, outline=BLACK)
        draw.text((left + swatch + gap // 2, top), text, fill=BLACK, font=font)
    return panel


def _fitted(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + _ELLIPSIS) > width:
        text = text[:-1]
    return text + _ELLIPSIS
