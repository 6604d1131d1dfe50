"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from dinat_deploy.cli.types import Choices, ImageSize, IntList, SizeRange

F = TypeVar("F", bound=Callable[..., Any])


def together(options: Sequence[Callable[[F], F]]) -> Callable[[F], F]:
    """One decorator of several, shown in ``--help`` in the order of the list."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def names_of(options: Callable[[Callable[[], None]], Callable[[], None]]) -> tuple[str, ...]:
    """The arguments that a decorator of options makes."""

    def none() -> None:
        pass

    made: list[click.Parameter] = getattr(options(none), "__click_params__", [])
    return tuple(parameter.name or "" for parameter in reversed(made))


# Arguments of pipeline.requests.ModelRequest, and --output.
model_options = together(
    [
        click.option(
            "--model", "-m", metavar="NAME", help="A variant; `dinat-deploy models` lists them."
        ),
        click.option(
            "--checkpoint",
            "-c",
            type=click.Path(path_type=Path),
            help="Weights: .pth, .safetensors, or a directory with config.json. Without any, the "
            "weights are random.",
        ),
        click.option(
            "--hf",
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="A directory saved by transformers: Dinat or Nat, or UperNet, Mask2Former or "
            "OneFormer on one. It says itself what it is for.",
        ),
        click.option(
            "--pretrained", is_flag=True, help="Download the published weights of --model."
        ),
        click.option(
            "--config",
            type=click.Path(path_type=Path),
            help="Architecture as JSON, instead of --model.",
        ),
        click.option(
            "--output",
            "-o",
            type=click.Path(path_type=Path),
            help="Directory of the bundle.  [default: out/NAME]",
        ),
        click.option(
            "--task",
            type=click.Choice(["classification", "backbone", "semantic", "instance", "panoptic"]),
            default="classification",
            show_default=True,
            help="Logits of the image; normalised features of every level; classes of the pixels; "
            "boxes and masks of things; or both.",
        ),
        click.option(
            "--decoder",
            type=click.Choice(["upernet", "mask2former", "mask_rcnn", "cascade_mask_rcnn"]),
            help="What does the task.  [default: upernet (semantic), mask_rcnn (instance), "
            "mask2former (panoptic)]",
        ),
        click.option(
            "--dataset",
            type=click.Choice(["ade20k", "coco", "cityscapes"]),
            help="Whose published settings and classes.  [default: ade20k (semantic), coco]",
        ),
        click.option(
            "--full-size",
            is_flag=True,
            help="Logits of pixels at the size of the image instead of a quarter of it.",
        ),
        click.option(
            "--dilations",
            metavar="SCHEDULE|LIST",
            help="classification, detection, ade20k, mask2former, or a list like 1,8,1/1,4,1,4/...",
        ),
        click.option("--kernel-size", type=click.IntRange(1), help="Attention window."),
        click.option("--depths", type=IntList(), help="Layers of each level."),
        click.option("--num-heads", type=IntList(), help="Heads of each level."),
        click.option("--num-classes", type=click.IntRange(0), help="Outputs of the classifier."),
        click.option(
            "--image-size", type=ImageSize(), help="Input in pixels: 224, or 512x1024 (HxW)."
        ),
        click.option(
            "--resize-rpb", is_flag=True, help="Resize positional bias of another kernel size."
        ),
        click.option(
            "--ema/--no-ema",
            default=True,
            show_default=True,
            help="Prefer averaged weights in training checkpoints.",
        ),
        click.option(
            "--labels", type=click.Path(path_type=Path), help="Class names, one per line."
        ),
        click.option("--seed", type=int, default=0, show_default=True, help="Of random weights."),
    ]
)

# How the graph is exported: arguments of pipeline.exporting.export.
graph_options = together(
    [
        click.option(
            "--batch", type=click.IntRange(1), default=1, show_default=True, help="Images per run."
        ),
        click.option(
            "--dynamic",
            type=Choices("batch", "size"),
            default=(),
            help="Axes left open: batch, size (height and width), or both.",
        ),
        click.option(
            "--size-range",
            type=SizeRange(),
            help="Bounds of a dynamic size.  [default: from the smallest size that needs no "
            "padding]",
        ),
        click.option(
            "--opset",
            type=click.IntRange(17, 21),
            default=20,
            show_default=True,
            help="ONNX opset.",
        ),
        click.option(
            "--body",
            type=click.Choice(["standard", "none"]),
            default="standard",
            show_default=True,
            help="Give the operator a body in standard ONNX operators, or leave it to a plugin "
            "(TensorRT before 10.7).",
        ),
    ]
)


def data_options(*, required: bool, limit: int | None, purpose: str = "") -> Callable[[F], F]:
    """Arguments of data.opening.open_dataset, and what to do about images that are no use.

    Args:
        required: whether a command cannot do without images.
        limit: how many it takes by default; None takes all.
        purpose: sentences for ``--data``.
    """
    return together(
        [
            click.option(
                "--data",
                "-d",
                required=required,
                metavar="DATA",
                help="A folder of pictures, of one folder for each class, or with images/ and "
                "masks/; a list of pictures; an .npz file; digits, digits:train or digits:test. "
                + purpose,
            ),
            click.option(
                "--limit",
                type=click.IntRange(1),
                default=limit,
                show_default=limit is not None,
                help="Take so many of the images, spread evenly and balanced over the classes.",
            ),
            click.option(
                "--seed", type=int, default=0, show_default=True, help="Decides which ones."
            ),
            click.option(
                "--on-bad",
                type=click.Choice(["refuse", "skip"]),
                default="refuse",
                show_default=True,
                help="What to do about images that cannot be used.",
            ),
        ]
    )
