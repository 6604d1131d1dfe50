"""Pictures of answers: the photo under translucent colours, labels on them, and a legend below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from dinat_deploy.postprocessing.colors import (
    WHITE,
    Color,
    distinct_colors,
    palette_of,
    variation,
)
from dinat_deploy.postprocessing.lettering import (
    Labels,
    LegendEntry,
    drawable,
    font_for,
    legend,
)
from dinat_deploy.postprocessing.results import (
    NO_SEGMENT,
    UNSEEN,
    BoolArray,
    IdArray,
    Instances,
    PanopticMap,
    SemanticMap,
)

Answer = SemanticMap | PanopticMap | Instances
PixelArray = npt.NDArray[np.uint8]
DEFAULT_OPACITY = 0.55
# Smaller pictures are enlarged by a whole number, so that text has room; but no long and narrow
# ones, which would become huge.
_LEAST_SIDE = 400
_MOST_ENLARGED = 2000
_MOST_ENTRIES = 30
# Of the picture, for a label on a segment.
_LEAST_LABELLED = 0.004
_LINE_SHARE = 1 / 400
_COARSE = 128


@dataclass(frozen=True)
class Style:
    """How answers are drawn.

    Attributes:
        labels: names of the classes, or None: "class 7".
        palette: their colours, or None: distinct ones.
        opacity: of the colours over the photo, 0 to 1.
        side_by_side: the photo alone stands on the left.
    """

    labels: Sequence[str] | None = None
    palette: Sequence[Color] | None = None
    opacity: float = DEFAULT_OPACITY
    side_by_side: bool = False

    def name(self, index: int) -> str:
        return drawable(self.labels[index]) if self.labels else f"class {index}"

    def color(self, index: int) -> Color:
        count = len(self.labels) if self.labels else index + 1
        return palette_of(max(count, index + 1), self.palette)[index]


@dataclass
class _Canvas:
    """A picture that is being drawn on, enlarged ``scale`` times."""

    pixels: npt.NDArray[np.float32]
    scale: int
    style: Style
    tags: list[tuple[str, tuple[int, int], Color]] = field(default_factory=list)

    def enlarged(self, ids: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        return ids.repeat(self.scale, axis=0).repeat(self.scale, axis=1)

    def tint(self, mask: BoolArray, color: Color) -> None:
        share = self.style.opacity
        self.pixels[mask] = self.pixels[mask] * (1 - share) + np.array(color, np.float32) * share

    def lines(self, ids: IdArray) -> None:
        """White lines between areas of different numbers."""
        self.pixels[_borders(ids, self.line_width)] = WHITE

    @property
    def line_width(self) -> int:
        return max(1, round(min(self.pixels.shape[:2]) * _LINE_SHARE))

    def image(self) -> Image.Image:
        return Image.fromarray(self.pixels.round().clip(0, 255).astype(np.uint8))


def draw(photo: Image.Image, answer: Answer, style: Style) -> Image.Image:
    """An RGB picture of what was found, with a legend.

    Args:
        photo: of the answer's size.
    """
    scale = max(1, min(math.ceil(_LEAST_SIDE / min(photo.size)), _MOST_ENLARGED // max(photo.size)))
    photo = photo.convert("RGB").resize(
        (photo.width * scale, photo.height * scale), Image.Resampling.NEAREST
    )
    canvas = _Canvas(np.asarray(photo, np.float32).copy(), scale, style)
    if isinstance(answer, SemanticMap):
        entries = _semantic(canvas, answer)
    elif isinstance(answer, PanopticMap):
        entries = _panoptic(canvas, answer)
    else:
        return _put_together(photo, *_instances(canvas, answer), style)
    image = canvas.image()
    labels = Labels(image)
    for text, center, color in canvas.tags:
        labels.centred(text, center, color)
    return _put_together(photo, image, entries, style)


def _put_together(
    photo: Image.Image, image: Image.Image, entries: list[LegendEntry], style: Style
) -> Image.Image:
    """Photo and drawing side by side, or the drawing alone, and the legend below, which needs some
    width."""
    gap = max(4, min(image.size) // 60)
    left = photo.width + gap if style.side_by_side else 0
    width = max(left + image.width, _LEAST_SIDE if entries else 0)
    panel = legend(entries, width, font_for(image.size)) if entries else None
    height = image.height + (panel.height if panel else 0)
    sheet = Image.new("RGB", (width, height), WHITE)
    if style.side_by_side:
        sheet.paste(photo, (0, 0))
    sheet.paste(image, (left, 0))
    if panel:
        sheet.paste(panel, (0, image.height))
    return sheet


def _semantic(canvas: _Canvas, found: SemanticMap) -> list[LegendEntry]:
    shares = found.shares()
    occurring = [int(k) for k in np.argsort(-shares, kind="stable") if shares[k] > 0]
    big = canvas.enlarged(found.classes)
    for index in occurring:
        canvas.tint(big == index, canvas.style.color(index))
    canvas.lines(big.astype(np.int32))
    for index in occurring:
        mask = found.classes == index
        if mask.mean() >= _LEAST_LABELLED:
            _tag(canvas, canvas.style.name(index), mask, canvas.style.color(index))
    entries = [(canvas.style.color(k), canvas.style.name(k), float(shares[k])) for k in occurring]
    if (found.classes == UNSEEN).any():
        seen = float((found.classes != UNSEEN).mean())
        return [*_shortened(entries), LegendEntry(WHITE, f"not looked at: {1 - seen:.1%} of it")]
    return _shortened(entries)


def _panoptic(canvas: _Canvas, found: PanopticMap) -> list[LegendEntry]:
    counted: dict[int, int] = {}  # class -> segments so far
    areas: dict[int, int] = {}
    big = canvas.enlarged(found.ids)
    for segment in found.segments:
        index = segment.class_index
        number = counted.get(index, 0)
        counted[index] = number + 1
        areas[index] = areas.get(index, 0) + segment.area
        color = variation(canvas.style.color(index), number)
        canvas.tint(big == segment.id, color)
    canvas.lines(big.astype(np.int32))
    seen: dict[int, int] = {}
    tags = []
    for segment in found.segments:
        number = seen.get(segment.class_index, 0)
        seen[segment.class_index] = number + 1
        tags.append((segment, variation(canvas.style.color(segment.class_index), number)))
    for segment, color in sorted(tags, key=lambda tag: -tag[0].area):
        if segment.area >= _LEAST_LABELLED * found.ids.size:
            name = canvas.style.name(segment.class_index)
            _tag(canvas, name, found.ids == segment.id, color)
    entries = []
    for index in sorted(areas, key=lambda index: -areas[index]):
        times = f" x {counted[index]}" if counted[index] > 1 else ""
        name = canvas.style.name(index) + times
        entries.append((canvas.style.color(index), name, areas[index] / found.ids.size))
    rest = float((found.ids == NO_SEGMENT).mean())
    if rest > 0 and entries:
        return [*_shortened(entries), LegendEntry(WHITE, f"nothing  {rest:.1%}")]
    return _shortened(entries)


def _instances(canvas: _Canvas, found: Instances) -> tuple[Image.Image, list[LegendEntry]]:
    scale, width = canvas.scale, canvas.line_width
    colored = list(zip(found.found, distinct_colors(len(found.found)), strict=True))
    # Small ones over large ones.
    for instance, color in sorted(colored, key=lambda pair: -pair[0].area):
        rows, columns = (slice(part.start * scale, part.stop * scale) for part in instance.place)
        mask = canvas.enlarged(instance.mask).astype(np.bool_)
        part = _Canvas(canvas.pixels[rows, columns], scale, canvas.style)
        part.tint(mask, color)
        part.pixels[_edge(mask, width)] = WHITE
    image = canvas.image()
    pen = ImageDraw.Draw(image)
    for instance, color in reversed(colored):
        left, top, right, bottom = _scaled(instance.box, scale)
        box = left, top, max(right - 1, left), max(bottom - 1, top)
        pen.rectangle(box, outline=color, width=width + 1)
    labels = Labels(image)
    entries = []
    for instance, color in colored:
        text = f"{canvas.style.name(instance.class_index)} {instance.score:.0%}"
        labels.beside(text, _scaled(instance.box, scale), color)
        entries.append(LegendEntry(color, text))
    rest = len(entries) - _MOST_ENTRIES
    if rest > 0:
        entries = [*entries[:_MOST_ENTRIES], LegendEntry(WHITE, f"and {rest} more")]
    return image, entries


def _scaled(box: tuple[float, float, float, float], scale: int) -> tuple[int, int, int, int]:
    left, top, right, bottom = (round(side * scale) for side in box)
    return left, top, right, bottom


def _edge(mask: BoolArray, width: int) -> BoolArray:
    """Pixels of a mask that have one that is off within ``width`` pixels; beyond its ends all
    are."""
    inner = np.pad(mask, width)
    for step in range(1, width + 1):
        for axis in (0, 1):
            for way in (-step, step):
                inner &= np.roll(np.pad(mask, width), way, axis)
    return mask & ~inner[width:-width, width:-width]


def _shortened(entries: list[tuple[Color, str, float]]) -> list[LegendEntry]:
    """The legend's entries, the smallest of many as one."""
    shown = [LegendEntry(color, f"{text}  {_percent(share)}") for color, text, share in entries]
    if len(entries) <= _MOST_ENTRIES:
        return shown
    rest = entries[_MOST_ENTRIES:]
    text = f"and {len(rest)} more  {_percent(sum(share for _, _, share in rest))}"
    return [*shown[:_MOST_ENTRIES], LegendEntry(WHITE, text)]


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.0005 else "< 0.1%"


def _tag(canvas: _Canvas, text: str, mask: BoolArray, color: Color) -> None:
    y, x = inner_point(mask)
    center = round((x + 0.5) * canvas.scale), round((y + 0.5) * canvas.scale)
    canvas.tags.append((text, center, color))


def _borders(ids: IdArray, width: int) -> BoolArray:
    """Pixels that have another number within ``width`` pixels to the right or below."""
    found = np.zeros(ids.shape, np.bool_)
    for step in range(1, width + 1):
        found[:-step] |= ids[:-step] != ids[step:]
        found[:, :-step] |= ids[:, :-step] != ids[:, step:]
    return found


def inner_point(mask: BoolArray) -> tuple[int, int]:
    """(row, column) of a point of a mask ``[H, W]`` that lies far from its edges.

    The mask is looked at on a coarse grid, whose edge points are removed until none would be left.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    part = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    step = -(-max(part.shape) // _COARSE)
    coarse = np.pad(part[::step, ::step], 1)
    if not coarse.any():  # thin, and between the points of the grid
        row, column = np.argwhere(part)[0]
        return top + int(row), left + int(column)
    while True:
        smaller = coarse.copy()
        smaller[1:-1, 1:-1] &= coarse[:-2, 1:-1] & coarse[2:, 1:-1]
        smaller[1:-1, 1:-1] &= coarse[1:-1, :-2] & coarse[1:-1, 2:]
        if not smaller.any():
            break
        coarse = smaller
    left_over = np.argwhere(coarse) - 1
    distance = np.abs(left_over - left_over.mean(axis=0)).sum(axis=1)
    row, column = left_over[distance.argmin()] * step
    return top + int(row), left + int(column)


def id_picture(answer: Answer) -> Image.Image:
    """Numbers as grey values: classes of pixels (255, or 65535 where there are more classes, for
    those that the model did not see), or numbers of segments or instances from 1 (0 for none).
    Of 8 bits, or 16 where that is too few."""
    if isinstance(answer, SemanticMap):
        wide = answer.num_classes > 255
        unseen = 65535 if wide else 255
        ids = np.where(answer.classes == UNSEEN, unseen, answer.classes)
    else:
        ids = answer.ids if isinstance(answer, PanopticMap) else answer.ids()
        wide = int(ids.max(initial=0)) > 255
    return Image.fromarray(ids.astype(np.uint16 if wide else np.uint8))
