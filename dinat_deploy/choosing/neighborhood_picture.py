"""Pictures of the tokens that one query sees, one panel for each dilation, as in the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dinat_deploy.choosing.fields import field_masks
from dinat_deploy.choosing.geometry import BoolArray, Token, axis_steps, position
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.postprocessing.colors import BLACK, WHITE, Color
from dinat_deploy.postprocessing.lettering import LegendEntry, legend

# Told apart in grey, too: dark, medium, light.
_QUERY: Color = (176, 58, 18)
_SEEN: Color = (86, 158, 212)
_UNSEEN: Color = (236, 238, 241)
_LINE: Color = (255, 255, 255)
_PANEL, _GAP, _FONT = 224, 28, 14  # pixels
_RING = 9  # around a query that is a dot


@dataclass(frozen=True)
class Panel:
    """A map with the query and what it sees.

    Attributes:
        title: lines below it.
        seen: bool ``[rows, columns]``.
        query: (row, column).
    """

    title: tuple[str, ...]
    seen: BoolArray
    query: tuple[int, int]


def panels(config: ModelConfig, token: Token) -> list[list[Panel]]:
    """For every level: one panel for each of its dilations, and one for all its layers together.

    Args:
        config: its image size counts.

    Raises:
        ConfigError: the image is too small for the model.
    """
    rows = []
    steps = (axis_steps(config, 0), axis_steps(config, 1))
    for level, (size, dilations) in enumerate(
        zip(config.feature_sizes(), config.dilations, strict=True)
    ):
        query = position(token, size[0]), position(token, size[1])
        drawn = []
        for dilation in sorted(set(dilations)):
            axes = []
            for axis in (0, 1):
                step = next(
                    s
                    for s in steps[axis]
                    if s.level == level and s.layer is not None and s.dilation == dilation
                )
                axes.append(step.sources(np.arange(step.outputs) == query[axis]))
            name = "all tokens" if config.global_attention else f"dilation {dilation}"
            drawn.append(_panel(f"level {level + 1}, {name}", np.outer(*axes), query))
        whole, _ = field_masks(config, token, level, len(dilations) - 1)
        drawn.append(_panel(f"level {level + 1}, all {len(dilations)} layers", whole, query))
        rows.append(drawn)
    return rows


def _panel(title: str, seen: BoolArray, query: tuple[int, int]) -> Panel:
    of = f"{int(seen.sum())} of {seen.size} tokens ({seen.shape[0]}x{seen.shape[1]})"
    return Panel((title, of), seen, query)


def draw(rows: Sequence[Sequence[Panel]], caption: str) -> Image.Image:
    """All panels as one RGB picture with a caption above and a legend below."""
    font = ImageFont.load_default(_FONT)
    assert isinstance(font, ImageFont.FreeTypeFont)
    line = sum(font.getmetrics()) + 2
    maps = [[_map(panel) for panel in row] for row in rows]
    cell = max(
        _PANEL,
        *(image.width for row in maps for image in row),
        *(round(font.getlength(text)) for row in rows for panel in row for text in panel.title),
    )
    width = _GAP + max(len(row) for row in rows) * (cell + _GAP)
    width = max(width, round(font.getlength(caption)) + 2 * _GAP)
    heights = [
        max(image.height for image in images) + 6 + line * len(row[0].title) + _GAP
        for images, row in zip(maps, rows, strict=True)
    ]
    key = legend(
        [
            LegendEntry(_QUERY, "the query"),
            LegendEntry(_SEEN, "tokens it sees"),
            LegendEntry(_UNSEEN, "tokens it does not see"),
        ],
        width,
        font,
    )
    top = 2 * _GAP + line // 2
    picture = Image.new("RGB", (width, top + sum(heights) + key.height), WHITE)
    pen = ImageDraw.Draw(picture)
    pen.text((_GAP, _GAP // 2), caption, fill=BLACK, font=font)
    for images, row, height in zip(maps, rows, heights, strict=True):
        left = _GAP
        for image, panel in zip(images, row, strict=True):
            picture.paste(image, (left, top))
            for number, text in enumerate(panel.title):
                place = left, top + image.height + 6 + number * line
                pen.text(place, text, fill=BLACK, font=font)
            left += cell + _GAP
        top += height
    picture.paste(key, (0, top))
    return picture


def _map(panel: Panel) -> Image.Image:
    """A square of pixels for each token, as large as the panel has room for."""
    rows, columns = panel.seen.shape
    longest = max(rows, columns)
    side = max(_PANEL // longest, 2 if longest <= 2 * _PANEL else 1)
    colors = np.where(panel.seen[..., None], np.array(_SEEN), np.array(_UNSEEN)).astype(np.uint8)
    colors[panel.query] = _QUERY
    pixels = colors.repeat(side, axis=0).repeat(side, axis=1)
    if side >= 4:  # lines between the tokens
        pixels[side - 1 :: side] = _LINE
        pixels[:, side - 1 :: side] = _LINE
    image = Image.fromarray(pixels)
    if side <= _RING // 2:
        y, x = (place * side + side // 2 for place in panel.query)
        box = (x - _RING, y - _RING, x + _RING, y + _RING)
        ImageDraw.Draw(image).ellipse(box, outline=_QUERY, width=2)
    return image
