"""Class names, colours and countability of ADE20K, COCO and Cityscapes, which ship as data.

Where they come from: for ADE20K the 150 classes of SceneParse150 (objectInfo150.txt of
CSAILVision/sceneparsing, the first of their names each), the colours that go with them, and the 100
things of Mask2Former's ade20k_instance_catid_mapping.txt; for COCO panoptic_coco_categories.json of
cocodataset/panopticapi; for Cityscapes the training classes in labels.py of
mcordts/cityscapesScripts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal, get_args

from dinat_deploy.models.decoders import Task

DatasetName = Literal["ade20k", "coco", "cityscapes"]
DATASETS: tuple[DatasetName, ...] = get_args(DatasetName)
Color = tuple[int, int, int]


@dataclass(frozen=True)
class ClassTable:
    """The classes of a data set for one task, in the order of a model's outputs.

    Attributes:
        labels: their names.
        palette: their colours, red, green and blue from 0 to 255.
        things: numbers of those whose instances are counted apart; the others are "stuff".
    """

    labels: list[str]
    palette: list[Color]
    things: list[int]


@cache
def class_table(dataset: DatasetName, task: Task) -> ClassTable:
    """The classes that published models of a task tell apart.

    ``instance`` has the things alone, renumbered in the same order.
    """
    file = resources.files("dinat_deploy").joinpath(f"data/{dataset}.json")
    classes = json.loads(file.read_text("utf-8"))["classes"]
    if task == "instance":
        classes = [each for each in classes if each["thing"]]
    return ClassTable(
        labels=[each["name"] for each in classes],
        palette=[(each["color"][0], each["color"][1], each["color"][2]) for each in classes],
        things=[number for number, each in enumerate(classes) if each["thing"]],
    )
