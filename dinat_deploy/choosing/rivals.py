"""Swin and ConvNeXt in their published shapes, from transformers' classes, with random weights.

Shapes: Swin Transformer (arXiv 2103.14030) and A ConvNet for the 2020s (arXiv 2201.03545). Nothing
is downloaded: how fast a model is does not depend on its weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from dinat_deploy.errors import ConfigError, MissingDependencyError
from dinat_deploy.exporter import to_onnx

INPUT, OUTPUT = "image", "logits"


@dataclass(frozen=True)
class RivalModel:
    """A model of another family, ready to run.

    Attributes:
        module: from images, float32 ``[B, 3, height, width]``, to logits ``[B, classes]``.
    """

    name: str
    module: nn.Module

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.module.parameters())


class Logits(nn.Module):
    """A classifier of transformers as a function from pictures to logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.model(image, return_dict=False)[0]
        return logits


def _swin(dim: int, depth: int, heads: int) -> dict[str, Any]:
    return {
        "embed_dim": dim,
        "depths": [2, 2, depth, 2],
        "num_heads": [heads << level for level in range(4)],
        "window_size": 7,
    }


def _convnext(dim: int, depth: int) -> dict[str, Any]:
    return {"hidden_sizes": [dim << level for level in range(4)], "depths": [3, 3, depth, 3]}


# Name -> settings of transformers' configuration class.
RIVALS: dict[str, dict[str, Any]] = {
    "swin_tiny": _swin(96, 6, 3),
    "swin_small": _swin(96, 18, 3),
    "swin_base": _swin(128, 18, 4),
    "swin_large": _swin(192, 18, 6),
    "convnext_tiny": _convnext(96, 9),
    "convnext_small": _convnext(96, 27),
    "convnext_base": _convnext(128, 27),
    "convnext_large": _convnext(192, 27),
}


def require_transformers() -> None:
    """Raise MissingDependencyError if transformers is not installed."""
    try:
        import transformers  # noqa: F401
    except ImportError:
        raise MissingDependencyError(
            "Swin and ConvNeXt come from the package transformers, which is not installed.",
            "pip install 'dinat-deploy[hf]', or leave them out with --models.",
        ) from None


def build_rival(
    name: str, *, image_size: tuple[int, int] = (224, 224), seed: int = 0, **changes: Any
) -> RivalModel:
    """A model with random weights, in evaluation mode.

    Args:
        name: one of :data:`RIVALS`.
        image_size: (height, width) in pixels.
        changes: settings in place of the published ones.

    Raises:
        ConfigError: the image is too small for the windows of a Swin.
        MissingDependencyError: transformers is not installed.
    """
    require_transformers()
    from transformers import (
        ConvNextConfig,
        ConvNextForImageClassification,
        SwinConfig,
        SwinForImageClassification,
    )

    settings = {"num_labels": 1000, **RIVALS[name], **changes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name.startswith("swin"):
            _check_windows(name, image_size, settings)
            config = SwinConfig(
                **{"attn_implementation": "eager", "image_size": image_size, **settings}
            )
            model: nn.Module = SwinForImageClassification(config)
        else:
            model = ConvNextForImageClassification(ConvNextConfig(**settings))
    return RivalModel(name, Logits(model).eval().requires_grad_(False))


def _check_windows(name: str, image_size: tuple[int, int], settings: dict[str, Any]) -> None:
    """The bias tables of transformers' class fit maps that hold a whole window."""
    window, levels = int(settings["window_size"]), len(settings["depths"])
    least = 4 * window << (levels - 1)
    if min(image_size) < least:
        raise ConfigError(
            f"{name} needs images of at least {least}x{least} pixels for its windows of {window} "
            f"tokens, not {image_size[0]}x{image_size[1]}.",
            "Take a larger --image-size, or leave it out with --models.",
        )


def export_rival(
    module: nn.Module, path: Path, image_size: tuple[int, int], batch: int = 1
) -> None:
    """Write a module by the exporter that writes ours, with static shapes.

    Raises:
        ExportError: it cannot be traced or translated.
    """
    graph = to_onnx(
        module,
        [torch.zeros(batch, 3, *image_size)],
        input_names=[INPUT],
        output_names=[OUTPUT],
        keep_parameters=False,
    )
    ir.save(graph.model, path)


def count_operations(module: nn.Module, image_size: tuple[int, int], batch: int = 1) -> int:
    """Multiply-accumulates of a run, of convolutions and matrix products, without an ONNX file.

    The same that :func:`dinat_deploy.measurement.onnx_work.count_onnx` counts in the file.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        module(torch.zeros(batch, 3, *image_size))
    return counter.get_total_flops() // 2
