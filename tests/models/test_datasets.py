"""The classes that ship as data: as many, and in the order, as the data sets say."""

from __future__ import annotations

import pytest

from dinat_deploy.models.datasets import DATASETS, ClassTable, DatasetName, class_table

COUNTS = {"ade20k": (150, 100), "coco": (133, 80), "cityscapes": (19, 8)}


@pytest.mark.parametrize("name", DATASETS)
def test_there_are_as_many_classes_as_published(name: DatasetName) -> None:
    every, countable = COUNTS[name]
    table = class_table(name, "panoptic")
    assert (len(table.labels), len(table.palette), len(table.things)) == (every, every, countable)
    assert class_table(name, "semantic") == table
    assert len(class_table(name, "instance").labels) == countable


@pytest.mark.parametrize("name", DATASETS)
def test_names_and_colours_can_be_told_apart(name: DatasetName) -> None:
    table = class_table(name, "panoptic")
    assert len(set(table.labels)) == len(table.labels)
    assert all(label == label.strip() != "" for label in table.labels)
    assert all(0 <= part <= 255 for color in table.palette for part in color)
    # Two grey ones of ADE20K are the same: road and skyscraper.
    assert len(set(table.palette)) == len(table.palette) - (name == "ade20k")


@pytest.mark.parametrize("name", DATASETS)
def test_instances_have_the_things_in_the_same_order(name: DatasetName) -> None:
    table, things = class_table(name, "panoptic"), class_table(name, "instance")
    assert things.labels == [table.labels[k] for k in table.things]
    assert things.palette == [table.palette[k] for k in table.things]
    assert things.things == list(range(len(things.labels)))
    assert table.things == sorted(table.things)


def at(table: ClassTable, index: int) -> tuple[str, tuple[int, int, int], bool]:
    return table.labels[index], tuple(table.palette[index]), index in table.things


def test_ade20k_is_in_the_order_of_scene_parsing() -> None:
    table = class_table("ade20k", "semantic")
    assert at(table, 0) == ("wall", (120, 120, 120), False)
    assert at(table, 12) == ("person", (150, 5, 61), True)
    assert at(table, 20) == ("car", (0, 102, 200), True)
    assert at(table, 89) == ("television receiver", (0, 255, 194), True)
    assert at(table, 149) == ("flag", (92, 0, 255), True)
    instances = class_table("ade20k", "instance").labels
    assert [instances[k] for k in (0, 1, 2, 3, 99)] == [
        "bed",
        "windowpane",
        "cabinet",
        "person",
        "flag",
    ]


def test_coco_has_eighty_things_before_the_stuff() -> None:
    table = class_table("coco", "panoptic")
    assert table.things == list(range(80))
    assert at(table, 0) == ("person", (220, 20, 60), True)
    assert at(table, 79) == ("toothbrush", (191, 162, 208), True)
    assert at(table, 80) == ("banner", (255, 255, 128), False)
    assert at(table, 132)[0] == "rug-merged"


def test_cityscapes_has_its_training_classes() -> None:
    table = class_table("cityscapes", "semantic")
    assert table.things == list(range(11, 19))
    assert at(table, 0) == ("road", (128, 64, 128), False)
    assert at(table, 10) == ("sky", (70, 130, 180), False)
    assert at(table, 18) == ("bicycle", (119, 11, 32), True)
