"""The published segmenters and detectors on DiNAT, as data: settings and results.

Sources: the repository SHI-Labs/Neighborhood-Attention-Transformer (configurations and tables) and
the paper Dilated Neighborhood Attention Transformer (arXiv 2209.15001).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from dinat_deploy.errors import ConfigError
from dinat_deploy.models.datasets import DatasetName
from dinat_deploy.models.decoders import Decoder, DecoderTask, Mask2Former, MaskRCNN, UPerNet
from dinat_deploy.models.zoo import Schedule, Variant

DecoderName = Literal["upernet", "mask2former", "mask_rcnn", "cascade_mask_rcnn"]
DECODERS: tuple[DecoderName, ...] = get_args(DecoderName)

_TASKS: dict[DecoderName, tuple[DecoderTask, ...]] = {
    "upernet": ("semantic",),
    "mask2former": ("panoptic", "instance", "semantic"),
    "mask_rcnn": ("instance",),
    "cascade_mask_rcnn": ("instance",),
}
_DEFAULT_DECODER: dict[DecoderTask, DecoderName] = {
    "semantic": "upernet",
    "instance": "mask_rcnn",
    "panoptic": "mask2former",
}
_DEFAULT_DATASET: dict[DecoderName, DatasetName] = {
    "upernet": "ade20k",
    "mask2former": "coco",
    "mask_rcnn": "coco",
    "cascade_mask_rcnn": "coco",
}
_CLASSES: dict[tuple[DatasetName, DecoderTask], int] = {
    ("ade20k", "semantic"): 150,
    ("ade20k", "instance"): 100,
    ("ade20k", "panoptic"): 150,
    ("coco", "instance"): 80,
    ("coco", "panoptic"): 133,
    ("cityscapes", "semantic"): 19,
    ("cityscapes", "instance"): 8,
    ("cityscapes", "panoptic"): 19,
}
# (height, width) in pixels: of the crops in training, or for COCO's detectors of the usual picture
# with a short side of 800.
_MASK2FORMER_SIZES: dict[DatasetName, tuple[int, int]] = {
    "ade20k": (640, 640),
    "coco": (1024, 1024),
    "cityscapes": (512, 1024),
}
_DETECTION_SIZE = (800, 1216)
_MASK2FORMER_QUERIES: dict[DecoderTask, int] = {"semantic": 100, "instance": 200, "panoptic": 200}
_MASK2FORMER_KERNEL = 11


@dataclass(frozen=True)
class Published:
    """What was published of a variant with a decoder.

    Attributes:
        results: by measure, in %: ``mIoU``, ``mIoU multi-scale``, ``AP box``, ``AP mask``, ``PQ``.
        parameters_m: parameters (M).
        checkpoint: file name of the weights, where it is known.
    """

    variant: str
    decoder: DecoderName
    dataset: DatasetName
    task: DecoderTask
    results: dict[str, float]
    parameters_m: float
    checkpoint: str | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels that an export has unless told otherwise."""
        if self.decoder == "upernet":
            return _crop(self.variant)
        return (
            _MASK2FORMER_SIZES[self.dataset] if self.decoder == "mask2former" else _DETECTION_SIZE
        )


def _crop(variant: str) -> tuple[int, int]:
    # The paper trained the large ones with crops of 640 pixels.
    return (640, 640) if "large" in variant else (512, 512)


def _upernet() -> list[Published]:
    figures = {
        "nat_mini": (45.1, 46.4, 50),
        "nat_tiny": (47.1, 48.4, 58),
        "nat_small": (48.0, 49.5, 82),
        "nat_base": (48.5, 49.7, 123),
        "dinat_mini": (45.8, 47.2, 50),
        "dinat_tiny": (47.8, 48.8, 58),
        "dinat_small": (48.9, 49.9, 82),
        "dinat_base": (49.6, 50.4, 123),
        "dinat_large": (54.0, 54.9, 238),
        "dinat_s_tiny": (46.0, 47.4, 60),
        "dinat_s_small": (48.6, 49.9, 81),
        "dinat_s_base": (49.4, 50.2, 121),
        "dinat_s_large": (53.4, 54.6, 234),
    }
    return [
        Published(
            name,
            "upernet",
            "ade20k",
            "semantic",
            {"mIoU": single, "mIoU multi-scale": multiple},
            parameters,
            f"upernet_{name}.pth" if name.startswith("dinat") else None,
        )
        for name, (single, multiple, parameters) in figures.items()
    ]


def _mask_rcnn() -> list[Published]:
    single = {
        "nat_mini": (46.5, 41.7, 40),
        "nat_tiny": (47.7, 42.6, 48),
        "nat_small": (48.4, 43.2, 70),
        "dinat_mini": (47.2, 42.5, 40),
        "dinat_tiny": (48.6, 43.5, 48),
        "dinat_small": (49.3, 44.0, 70),
        "dinat_s_tiny": (46.6, 42.1, 48),
        "dinat_s_small": (48.6, 43.5, 69),
    }
    cascade = {
        "nat_mini": (50.3, 43.6, 77),
        "nat_tiny": (51.4, 44.5, 85),
        "nat_small": (52.0, 44.9, 108),
        "nat_base": (52.3, 45.1, 147),
        "dinat_mini": (51.2, 44.4, 77),
        "dinat_tiny": (52.2, 45.1, 85),
        "dinat_small": (52.9, 45.8, 108),
        "dinat_base": (53.4, 46.2, 147),
        "dinat_large": (55.3, 47.8, 258),
        "dinat_s_tiny": (51.0, 44.1, 86),
        "dinat_s_small": (52.3, 45.2, 107),
        "dinat_s_base": (52.6, 45.3, 145),
        "dinat_s_large": (54.8, 47.2, 253),
    }
    heads: tuple[tuple[DecoderName, dict[str, tuple[float, float, int]]], ...] = (
        ("mask_rcnn", single),
        ("cascade_mask_rcnn", cascade),
    )
    return [
        Published(
            name,
            decoder,
            "coco",
            "instance",
            {"AP box": box, "AP mask": mask},
            parameters,
            _detector_file(name, decoder),
        )
        for decoder, figures in heads
        for name, (box, mask, parameters) in figures.items()
    ]


def _detector_file(variant: str, decoder: DecoderName) -> str:
    if variant.startswith("dinat"):
        return (
            f"{'cascadedmaskrcnn' if decoder == 'cascade_mask_rcnn' else 'maskrcnn'}_{variant}.pth"
        )
    kind = "cascademaskrcnn" if decoder == "cascade_mask_rcnn" else "maskrcnn"
    return f"nat_{variant.removeprefix('nat_')[0]}_{kind}.pth"


def _mask2former() -> list[Published]:
    figures: dict[tuple[DatasetName, DecoderTask], dict[str, float]] = {
        ("coco", "panoptic"): {"PQ": 58.5, "AP mask": 49.2, "mIoU": 68.3},
        ("coco", "instance"): {"AP mask": 50.8},
        ("ade20k", "panoptic"): {"PQ": 49.4, "AP mask": 35.0, "mIoU": 56.3},
        ("ade20k", "instance"): {"AP mask": 35.4},
        ("ade20k", "semantic"): {"mIoU": 57.3, "mIoU multi-scale": 58.1},
        ("cityscapes", "panoptic"): {"PQ": 67.2, "AP mask": 44.5, "mIoU": 83.4},
        ("cityscapes", "instance"): {"AP mask": 45.1},
        ("cityscapes", "semantic"): {"mIoU": 83.9, "mIoU multi-scale": 84.5},
    }
    return [
        Published(
            "dinat_large",
            "mask2former",
            dataset,
            task,
            results,
            220,
            f"mask2former_dinat_large_{dataset}_{task}.pth",
        )
        for (dataset, task), results in figures.items()
    ]


PUBLISHED: tuple[Published, ...] = (*_upernet(), *_mask_rcnn(), *_mask2former())


def choose_decoder(decoder: DecoderName | None, task: DecoderTask) -> DecoderName:
    """The decoder for a task, by default the one that most variants were published with.

    Raises:
        ConfigError: the decoder does something else.
    """
    chosen = decoder or _DEFAULT_DECODER[task]
    if task not in _TASKS[chosen]:
        fitting = [name for name, tasks in _TASKS.items() if task in tasks]
        raise ConfigError(
            f"The decoder {chosen} is for {', '.join(_TASKS[chosen])}, not {task}.",
            f"For --task {task} there is {' and '.join(fitting)}.",
        )
    return chosen


def settings(decoder: DecoderName, task: DecoderTask) -> Decoder:
    """The published settings of a decoder."""
    if decoder == "upernet":
        return UPerNet()
    if decoder == "mask2former":
        return Mask2Former(task=task, num_queries=_MASK2FORMER_QUERIES[task])
    return MaskRCNN.cascade() if decoder == "cascade_mask_rcnn" else MaskRCNN()


def dataset_for(
    decoder: DecoderName, task: DecoderTask, dataset: DatasetName | None
) -> DatasetName:
    """The data set that a model is for: the one asked for, or else the usual one.

    Raises:
        ConfigError: no model of this task was published on it.
    """
    if dataset is None:
        usual = _DEFAULT_DATASET[decoder]
        return usual if (usual, task) in _CLASSES else "ade20k"
    if (dataset, task) not in _CLASSES:
        having = [name for name, known in _CLASSES if known == task]
        raise ConfigError(
            f"No {task} classes of {dataset} are known.", f"There are those of {', '.join(having)}."
        )
    return dataset


def preset(
    variant: Variant | None, decoder: DecoderName, task: DecoderTask, dataset: DatasetName
) -> dict[str, Any]:
    """What the published model with this decoder has other than the variant's configuration.

    Returns:
        Changes of :class:`~dinat_deploy.models.config.ModelConfig`'s fields.
    """
    changes: dict[str, Any] = {
        "decoder": settings(decoder, task),
        "num_classes": _CLASSES[dataset, task],
    }
    if variant is None:
        return changes
    schedule: Schedule = "detection"
    if decoder == "upernet":
        schedule, changes["image_size"] = "ade20k", _crop(variant.name)
    elif decoder == "mask2former":
        schedule, changes["image_size"] = "mask2former", _MASK2FORMER_SIZES[dataset]
        if schedule in variant.schedules:
            changes["kernel_size"] = _MASK2FORMER_KERNEL
    else:
        changes["image_size"] = _DETECTION_SIZE
    if schedule in variant.schedules:
        changes["dilations"] = variant.schedules[schedule]
    return changes
