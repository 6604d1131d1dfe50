"""Which model a user asks for. Needs no PyTorch, unlike what :mod:`sources` makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dinat_deploy.models.config import Dilations
from dinat_deploy.models.datasets import DatasetName
from dinat_deploy.models.decoders import Task
from dinat_deploy.models.presets import DecoderName
from dinat_deploy.models.zoo import canonical_name


@dataclass(frozen=True)
class ModelRequest:
    """What a user asks for; None leaves a setting to the variant or the checkpoint.

    Attributes:
        model: name of a variant.
        checkpoint: file or directory with weights.
        hf: directory that transformers saved; it says itself which model it is and what for.
        config: JSON file with a model configuration or model card.
        pretrained: download the published weights.
        task: ``classification``; ``backbone`` for normalised features of every level; ``semantic``
            for the class of every pixel, ``instance`` for boxes and masks of things, ``panoptic``
            for both. A checkpoint directory that says itself what it is stays a backbone, segmenter
            or detector under ``classification``.
        decoder: what does the task; by default UPerNet (semantic), Mask R-CNN (instance) or
            Mask2Former (panoptic).
        dataset: whose published settings and classes are meant; by default COCO, or ADE20K for
            semantic segmentation.
        dilations: a schedule's name, ``1,8,1/1,4,...``, or the values.
        kernel_size, depths, num_heads, num_classes, image_size: replace the variant's.
        full_size: UPerNet only: resize the logits to the size of the image in the graph.
        resize_rpb: resize positional bias tables of another kernel size.
        ema: prefer the exponential moving average in training checkpoints.
        labels: file with one class name per line.
        seed: of the made-up weights when there is no checkpoint.
    """

    model: str | None = None
    checkpoint: str | Path | None = None
    hf: str | Path | None = None
    config: str | Path | None = None
    pretrained: bool = False
    task: Task = "classification"
    decoder: DecoderName | None = None
    dataset: DatasetName | None = None
    dilations: str | Dilations | None = None
    kernel_size: int | None = None
    depths: tuple[int, ...] | None = None
    num_heads: tuple[int, ...] | None = None
    num_classes: int | None = None
    image_size: tuple[int, int] | None = None
    full_size: bool = False
    resize_rpb: bool = False
    ema: bool = True
    labels: str | Path | None = None
    seed: int = 0


def default_output(request: ModelRequest) -> Path:
    """Where a bundle goes if the user does not say: ``out/`` and the model's name."""
    return Path("out") / request_name(request)


def request_name(request: ModelRequest) -> str:
    """What to call the model: its variant, or the checkpoint's or configuration's file name."""
    if request.model:
        return canonical_name(request.model)
    path = Path(request.hf or request.checkpoint or request.config or "model").resolve()
    return path.name if path.is_dir() else path.stem
