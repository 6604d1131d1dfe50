"""The architecture that a question is about, without weights and without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinat_deploy.errors import ConfigError
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.model_card import read_card
from dinat_deploy.models.zoo import Variant, get_variant, named_dilations


@dataclass(frozen=True)
class Chosen:
    """A named architecture.

    Attributes:
        variant: the published model that it is or starts from; None for a file's.
        config: the encoder with the image size that the question is about. A decoder is left
            out: dilations, receptive fields and estimates are those of the encoder.
        notes: what was left out or changed.
    """

    name: str
    variant: Variant | None
    config: ModelConfig
    notes: tuple[str, ...] = ()


def choose(
    model: str | None,
    config: Path | None = None,
    *,
    dilations: str | None = None,
    kernel_size: int | None = None,
    image_size: tuple[int, int] | None = None,
) -> Chosen:
    """Find an architecture by name or in a JSON file.

    Args:
        model: a variant's name in any spelling.
        config: file with a model configuration or model card, instead.
        dilations: a published schedule's name, or a list like ``1,8,1/1,4,1,4/...``.
        kernel_size: in place of the model's own.
        image_size: (height, width) in pixels, in place of the model's own.

    Raises:
        ConfigError: neither or both of model and config are given, the file is no configuration,
            or the changes do not fit the model.
        UnknownModelError: there is no such variant.
    """
    if (model is None) == (config is None):
        raise ConfigError(
            "Neither --model nor --config says which model is meant."
            if model is None
            else "--model and --config both say which model is meant.",
            "Give one of them, like --model dinat_tiny.",
        )
    variant = get_variant(model) if model is not None else None
    found = variant.config if variant is not None else read_card(str(config)).config
    notes = []
    if found.decoder is not None:
        found = found.replace(decoder=None)
        notes.append("The decoder is left out: this is about the encoder.")
    if dilations is not None:
        found = _with_dilations(found, variant, dilations)
    changes: dict[str, Any] = {}
    if kernel_size is not None and kernel_size != found.kernel_size:
        changes["kernel_size"] = kernel_size
    if image_size is not None:
        changes["image_size"] = image_size
    if changes:
        found = found.replace(**changes)
    found.check_image_size(found.image_size)
    name = variant.name if variant is not None else Path(str(config)).stem
    return Chosen(name, variant, found, tuple(notes))


def _with_dilations(config: ModelConfig, variant: Variant | None, text: str) -> ModelConfig:
    if config.global_attention:
        raise ConfigError(
            f"Every token of this model sees all others: dilations {text} mean nothing for it.",
            "Drop --dilations.",
        )
    return config.replace(dilations=named_dilations(text, variant))
