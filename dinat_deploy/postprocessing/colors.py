"""Colours of classes and instances, and of text that is to be read on them."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

Color = tuple[int, int, int]
BLACK: Color = (0, 0, 0)
WHITE: Color = (255, 255, 255)
_FULL = 255
# Neighbours in this order differ most in hue: steps of the golden section of a turn never repeat.
_TURN = 0.381966
_FIRST_HUE = 0.58
# (saturation, value), changed with every colour so that close hues differ in these.
_TONES = ((0.75, 0.95), (0.85, 0.65), (0.45, 1.0), (0.95, 0.85), (0.55, 0.5))
# Black and white text have the same contrast on a ground of this relative luminance.
_EVEN_LUMINANCE = 0.179


def distinct_colors(count: int) -> list[Color]:
    """Colours that can be told apart; the first ones are the same for every count."""
    return [_distinct(number) for number in range(count)]


def _distinct(number: int) -> Color:
    saturation, value = _TONES[number % len(_TONES)]
    parts = colorsys.hsv_to_rgb((_FIRST_HUE + number * _TURN) % 1, saturation, value)
    return _color(parts)


def palette_of(count: int, known: Sequence[Color] | None) -> list[Color]:
    """A colour for each of ``count`` classes: the known ones, or distinct ones."""
    return list(known) if known and len(known) == count else distinct_colors(count)


def variation(color: Color, number: int) -> Color:
    """A colour like this one for the instance of this number: lighter and darker in turn."""
    if number == 0:
        return color
    hue, lightness, saturation = colorsys.rgb_to_hls(*(part / _FULL for part in color))
    step = 0.12 * (1 + (number - 1) // 2 % 3)
    lightness += step if number % 2 else -step
    # Where there is no room on one side, turn the hue a little instead.
    hue += 0.03 * (number % 4)
    return _color(colorsys.hls_to_rgb(hue % 1, min(0.9, max(0.15, lightness)), saturation))


def luminance(color: Color) -> float:
    """Relative luminance of an sRGB colour, 0 (black) to 1 (white), as WCAG 2 defines it."""
    red, green, blue = (_linear(part / _FULL) for part in color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(part: float) -> float:
    return part / 12.92 if part <= 0.04045 else float(((part + 0.055) / 1.055) ** 2.4)


def text_color(ground: Color) -> Color:
    """Black or white, whichever has more contrast with the ground (at least 4.5 : 1)."""
    return BLACK if luminance(ground) > _EVEN_LUMINANCE else WHITE


def _color(parts: Sequence[float]) -> Color:
    red, green, blue = (round(_FULL * part) for part in parts)
    return red, green, blue
