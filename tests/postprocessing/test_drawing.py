"""Drawings: the colours are where the answer says, text can be read and is not cut off."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from dinat_deploy.models.datasets import class_table
from dinat_deploy.postprocessing.colors import (
    distinct_colors,
    luminance,
    palette_of,
    text_color,
    variation,
)
from dinat_deploy.postprocessing.drawing import Style, draw, id_picture, inner_point
from dinat_deploy.postprocessing.lettering import (
    Labels,
    LegendEntry,
    drawable,
    font_for,
    legend,
)
from dinat_deploy.postprocessing.results import (
    UNSEEN,
    Instances,
    PanopticMap,
    Segment,
    SemanticMap,
    instance_of,
)

GREY = Image.new("RGB", (600, 400), (100, 100, 100))
RED, BLUE = (200, 0, 0), (0, 0, 200)


def pixels(image: Image.Image) -> npt.NDArray[np.int64]:
    return np.asarray(image).astype(np.int64)


def halves(left: int, right: int) -> npt.NDArray[np.int32]:
    ids = np.full((400, 600), left, np.int32)
    ids[:, 300:] = right
    return ids


def test_classes_are_tinted_in_their_colours() -> None:
    style = Style(["sky", "sea"], [RED, BLUE], opacity=0.5)
    drawn = pixels(draw(GREY, SemanticMap(halves(0, 1), 2), style))
    assert drawn[20, 20].tolist() == [150, 50, 50]
    assert drawn[20, 580].tolist() == [50, 50, 150]
    assert drawn[200, 299].tolist() == [255, 255, 255]  # a line between them
    assert drawn.shape[0] > 400  # the legend
    assert (drawn[400:] == np.array(RED)).all(axis=2).any()
    assert (drawn[400:] == np.array(BLUE)).all(axis=2).any()
    # A label of each, in its colour, over the middle of its half.
    assert (drawn[190:210, 100:200] == np.array(RED)).all(axis=2).any()
    assert (drawn[190:210, 400:500] == np.array(BLUE)).all(axis=2).any()


def test_without_opacity_the_photo_shows_but_for_lines_and_labels() -> None:
    style = Style(None, None, opacity=0)
    drawn = pixels(draw(GREY, SemanticMap(halves(0, 1), 2), style))[:400]
    assert (drawn == 100).all(axis=2).mean() > 0.95


def test_what_was_not_looked_at_is_left_as_it_is() -> None:
    drawn = pixels(draw(GREY, SemanticMap(halves(UNSEEN, 1), 2), Style(None, [RED, BLUE])))
    assert (drawn[:400, :298] == 100).all()


def test_photo_and_drawing_stand_side_by_side() -> None:
    style = Style(None, [RED, BLUE], side_by_side=True)
    drawn = pixels(draw(GREY, SemanticMap(halves(0, 1), 2), style))
    alone = pixels(draw(GREY, SemanticMap(halves(0, 1), 2), Style(None, [RED, BLUE])))
    assert (drawn[:400, :600] == 100).all()
    assert np.array_equal(drawn[:400, -600:], alone[:400])
    assert drawn.shape[1] > 1200


def test_small_pictures_are_enlarged() -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8))
    classes = np.zeros((40, 64), np.int32)
    classes[:, 32:] = 1
    drawn = pixels(draw(photo, SemanticMap(classes, 2), Style(None, [RED, BLUE], opacity=0)))
    assert drawn.shape[1] == 640
    assert np.array_equal(drawn[5, ::10][:6], pixels(photo)[0, :6])


@pytest.mark.parametrize("size", [(2000, 20), (20, 2000), (3, 12000)])
def test_long_and_narrow_pictures_stay_as_small_as_they_are(size: tuple[int, int]) -> None:
    photo = Image.new("RGB", size[::-1])
    drawn = draw(photo, SemanticMap(np.zeros(size, np.int32), 1), Style(["a long name"], [RED]))
    assert drawn.width == max(400, size[1])  # room for the legend
    assert size[0] < drawn.height < size[0] + 80
    assert (pixels(drawn)[: size[0], : size[1], 0] > 0).all()


def test_segments_of_one_class_get_different_shades() -> None:
    segments = [Segment(1, 0, 0.9, 120_000, True), Segment(2, 0, 0.8, 120_000, True)]
    drawn = pixels(draw(GREY, PanopticMap(halves(1, 2), segments), Style(["car"], [RED])))
    assert drawn[20, 20].tolist() != drawn[20, 580].tolist()


def test_instances_have_boxes_and_outlines() -> None:
    mask = np.zeros((400, 600), bool)
    mask[100:200, 150:300] = True
    instance = instance_of(0, 0.93, mask)
    assert instance is not None
    drawn = pixels(draw(GREY, Instances((400, 600), [instance]), Style(["dog"], None, opacity=1)))
    color = np.array(distinct_colors(1)[0])
    assert (drawn[150, 160:290] == color).all()
    assert (drawn[100, 160:290] == color).all()  # the box
    assert (drawn[:400][~np.pad(mask[1:-1, 1:-1], 1)][0] == 100).all()
    # The label stands above the box.
    assert (drawn[80:99, 150:180] == color).all(axis=2).any()


@pytest.mark.parametrize("place", [(0, 0), (599, 399), (300, 0), (0, 399)], ids=str)
def test_labels_are_not_cut_off(place: tuple[int, int]) -> None:
    image = GREY.copy()
    assert Labels(image).centred("a rather long name", place, (0, 255, 0))
    changed = np.argwhere((pixels(image) != 100).any(axis=2))
    width, height = Labels(image).extent("a rather long name")
    assert np.ptp(changed[:, 0]) + 1 == height
    assert np.ptp(changed[:, 1]) + 1 == width


def test_labels_do_not_cover_each_other() -> None:
    image = GREY.copy()
    labels = Labels(image)
    assert labels.centred("first", (300, 200), RED)
    assert not labels.centred("second", (310, 205), BLUE)
    assert not (pixels(image) == np.array(BLUE)).all(axis=2).any()
    box = (280, 180, 330, 220)
    assert labels.beside("third", box, BLUE)  # above or below the box
    assert (pixels(image) == np.array(BLUE)).all(axis=2).any()


@pytest.mark.parametrize("width", [120, 400, 1300])
def test_a_legend_shows_every_entry_in_full_where_it_has_room(width: int) -> None:
    colors = distinct_colors(9)
    entries = [LegendEntry(color, f"class of number {k}") for k, color in enumerate(colors)]
    panel = pixels(legend(entries, width, font_for((600, 400))))
    assert panel.shape[1] == width
    for color in colors:
        assert (panel == np.array(color)).all(axis=2).any()
    # Nothing is drawn in the margin: no text is cut off.
    assert (panel[:, -4:] == 255).all()
    assert (panel[-4:] == 255).all()


@pytest.mark.parametrize(
    ("label", "drawn"),
    [
        ("traffic light", "traffic light"),
        ("Straße, Café, Łódź", "Strasse, Cafe, Lodz"),
        ("two\nlines", "two lines"),
        ("\u201c½ °C\u201d…", '"1/2 °C"...'),
        ("山 a", "? a"),
    ],
)
def test_labels_are_spelled_with_letters_that_the_font_has(label: str, drawn: str) -> None:
    assert drawable(label) == drawn
    assert Style([label]).name(0) == drawn
    font = font_for((400, 400))
    missing = bytes(font.getmask("山"))
    assert all(bytes(font.getmask(char)) != missing for char in drawable(label))


def test_colours_can_be_told_apart() -> None:
    colors = np.array(distinct_colors(24))
    distances = np.abs(colors[:, None] - colors[None]).sum(axis=2)
    assert distances[~np.eye(24, dtype=bool)].min() >= 30
    assert distinct_colors(5) == distinct_colors(24)[:5]
    assert palette_of(3, [RED, BLUE]) == distinct_colors(3)  # no palette for so many
    assert palette_of(2, [RED, BLUE]) == [RED, BLUE]
    assert len({variation(RED, number) for number in range(6)}) == 6
    assert variation(RED, 0) == RED


@pytest.mark.parametrize("name", ["ade20k", "coco", "cityscapes"])
def test_text_can_be_read_on_every_colour(name: str) -> None:
    """A contrast of 4.5 : 1, as WCAG asks for."""
    for color in [*class_table(name, "panoptic").palette, *distinct_colors(50)]:
        lighter, darker = sorted((luminance(color), luminance(text_color(color))))[::-1]
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5


def test_labels_stand_inside_of_their_segment() -> None:
    y, x = np.mgrid[:200, :300]
    radius = np.hypot(y - 100, x - 150)
    ring = (radius < 90) & (radius > 60)  # whose centre of gravity is outside
    row, column = inner_point(ring)
    assert ring[row, column]
    assert 65 < radius[row, column] < 85
    line = np.zeros((300, 300), bool)
    line[7, 3] = True
    assert inner_point(line) == (7, 3)
    assert inner_point(np.ones((50, 50), bool)) == pytest.approx((25, 25), abs=2)


def test_numbers_become_grey_values() -> None:
    classes = np.int32([[0, 149], [UNSEEN, 3]])
    assert np.asarray(id_picture(SemanticMap(classes, 150))).tolist() == [[0, 149], [255, 3]]
    many = np.asarray(id_picture(SemanticMap(classes, 300)))
    assert many.tolist() == [[0, 149], [65535, 3]]
    assert many.dtype == np.uint16
    ids = np.int32([[1, 2], [0, 2]])
    assert np.asarray(id_picture(PanopticMap(ids, []))).tolist() == ids.tolist()
