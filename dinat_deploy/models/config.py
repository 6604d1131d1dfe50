"""The one configuration object that describes every model: a variant is data, not a class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dinat_deploy.errors import ConfigError
from dinat_deploy.models.decoders import Decoder, Task, UPerNet
from dinat_deploy.models.limits import (
    LARGEST_COUNT,
    LARGEST_KERNEL,
    LARGEST_SPAN,
    LARGEST_WIDTH,
    Count,
    Side,
    Width,
    check_area,
)

Architecture = Literal["dinat", "dinat_s", "isotropic"]
Dilations = tuple[tuple[int, ...], ...]
_LEVELS = 16
_LARGEST_RATIO = 64
_CLASSES = 1 << 24


@dataclass(frozen=True)
class Layer:
    """One transformer layer of a model, as far as its cost and shape are concerned."""

    level: int
    index: int
    dim: int
    heads: int
    dilation: int


class ModelConfig(BaseModel):
    """Architecture of a NAT, DiNAT, DiNAT_s, isotropic or ViT+ model.

    Attributes:
        architecture: ``dinat`` (overlapping convolutions between levels; NAT too), ``dinat_s``
            (Swin-shaped: 4x4 patches, patch merging) or ``isotropic`` (16x16 patches, one level).
        embed_dim: channels of the first level; every further level doubles them.
        depths, num_heads: layers and heads of each level.
        kernel_size: attention window, the same on both axes.
        dilations: dilation of every layer, by level; all 1 when left out (NAT).
        mlp_ratio: hidden width of the MLP as a multiple of the channels.
        layer_scale: initial value of the layer scale, or None for a model without.
        drop_path_rate: stochastic depth of the last layer while training.
        num_classes: outputs of the classifier, of images or pixels; 0 leaves the pooled features.
        out_levels: levels whose normalised features are the outputs (a backbone); empty for a
            classifier.
        decoder: head of a segmenter or detector, or None. It reads the features of all levels.
        global_attention: every token sees all others (ViT+); the token grid must then be
            ``kernel_size`` x ``kernel_size``.
        image_size: the (height, width) in pixels that the model is meant for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Architecture = "dinat"
    embed_dim: int = Field(ge=2, le=LARGEST_WIDTH)
    depths: tuple[Count, ...] = Field(min_length=1, max_length=_LEVELS)
    num_heads: tuple[Width, ...] = Field(min_length=1)
    kernel_size: int = Field(default=7, ge=1, le=LARGEST_KERNEL)
    dilations: Dilations = ()
    mlp_ratio: float = Field(default=3.0, gt=0, le=_LARGEST_RATIO)
    layer_scale: float | None = Field(default=None, allow_inf_nan=False)
    drop_path_rate: float = Field(default=0.0, ge=0, lt=1)
    num_classes: int = Field(default=1000, ge=0, le=_CLASSES)
    out_levels: tuple[int, ...] = ()
    decoder: Decoder | None = None
    global_attention: bool = False
    in_channels: Width = 3
    image_size: tuple[Side, Side] = (224, 224)

    @model_validator(mode="before")
    @classmethod
    def _fill_dilations(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("dilations"):
            return data
        depths = data.get("depths")
        if not isinstance(depths, list | tuple) or not all(map(_is_depth, depths)):
            return data  # which is refused for that
        return {**data, "dilations": tuple((1,) * int(depth) for depth in depths)}

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        levels = len(self.depths)
        if len(self.num_heads) != levels:
            raise ValueError(
                f"num_heads lists {len(self.num_heads)} levels and depths lists {levels}"
            )
        if self.architecture == "isotropic" and levels != 1:
            raise ValueError(f"an isotropic model has one level, depths lists {levels}")
        listed = tuple(len(level) for level in self.dilations)
        if listed != self.depths:
            raise ValueError(
                f"dilations lists {listed} layers per level and depths says {self.depths}"
            )
        widest = max(max(level) for level in self.dilations)
        if min(min(level) for level in self.dilations) < 1:
            raise ValueError("dilations must be at least 1")
        if self.kernel_size * widest > LARGEST_SPAN:
            raise ValueError(
                f"kernel_size {self.kernel_size} * dilation {widest} exceeds the {LARGEST_SPAN} "
                "tokens of the largest image"
            )
        if self.dim(levels - 1) > LARGEST_WIDTH:
            raise ValueError(
                f"embed_dim {self.embed_dim} is doubled to {self.dim(levels - 1)} channels over "
                f"{levels} levels; {LARGEST_WIDTH} are the limit"
            )
        check_area("image_size", self.image_size)
        for level, heads in enumerate(self.num_heads):
            if self.dim(level) % heads:
                raise ValueError(
                    f"{self.dim(level)} channels of level {level} do not split into {heads} heads"
                )
        if any(not 0 <= level < levels for level in self.out_levels):
            raise ValueError(f"out_levels {self.out_levels} must lie in 0..{levels - 1}")
        if tuple(sorted(set(self.out_levels))) != self.out_levels:
            raise ValueError(f"out_levels {self.out_levels} must be ascending and distinct")
        if self.decoder is not None:
            self._check_decoder(self.decoder)
        return self

    def _check_decoder(self, decoder: Decoder) -> None:
        levels = len(self.depths)
        if levels < 2:
            raise ValueError("a decoder needs the features of two levels or more, depths lists 1")
        if levels != 4 and not isinstance(decoder, UPerNet):
            raise ValueError(
                f"a decoder of type {decoder.type} needs the features of four levels, depths lists "
                f"{levels}"
            )
        if self.out_levels:
            raise ValueError("a model with a decoder returns no features: out_levels must be empty")
        if not self.num_classes:
            raise ValueError("a model with a decoder needs num_classes of at least 1")
        if not isinstance(decoder, UPerNet) or decoder.auxiliary_channels is None:
            return
        if decoder.auxiliary_level >= levels:
            raise ValueError(
                f"auxiliary_level {decoder.auxiliary_level} must lie in 0..{levels - 1}"
            )

    @classmethod
    def parse(cls, data: Any) -> ModelConfig:
        """A configuration from plain data.

        Raises:
            ConfigError: the data is not a valid configuration; the message names the field.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(describe(error, "Invalid model configuration")) from None

    def replace(self, **changes: Any) -> ModelConfig:
        """A copy with some fields changed, checked like a new configuration.

        Changing ``depths`` without ``dilations`` resets the dilations to 1.
        """
        data = self.model_dump()
        if "depths" in changes and "dilations" not in changes:
            data["dilations"] = ()
        return self.parse({**data, **changes})

    @property
    def is_backbone(self) -> bool:
        return bool(self.out_levels)

    @property
    def task(self) -> Task:
        """What the outputs are about."""
        if self.is_backbone:
            return "backbone"
        return "classification" if self.decoder is None else self.decoder.task

    @property
    def is_classifier(self) -> bool:
        """Whether it gives the whole image a class."""
        return not self.is_backbone and self.decoder is None and self.num_classes > 0

    @property
    def backbone(self) -> ModelConfig:
        """The same with the features of all levels as outputs."""
        if self.is_backbone:
            return self
        return self.replace(decoder=None, out_levels=tuple(range(len(self.depths))))

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs: ``logits``, ``stage1`` .. for a backbone, or a decoder's."""
        if self.is_backbone:
            return tuple(f"stage{level + 1}" for level in self.out_levels)
        if self.decoder is not None:
            return self.decoder.output_names
        return ("logits",) if self.num_classes else ("features",)

    def dim(self, level: int) -> int:
        """Channels of a level."""
        return self.embed_dim << level

    def hidden_dim(self, level: int) -> int:
        """Hidden width of the MLPs of a level."""
        return int(self.dim(level) * self.mlp_ratio)

    def layers(self) -> Iterator[Layer]:
        """All transformer layers in order."""
        for level, dilations in enumerate(self.dilations):
            for index, dilation in enumerate(dilations):
                yield Layer(level, index, self.dim(level), self.num_heads[level], dilation)

    def feature_sizes(self, image_size: tuple[int, int] | None = None) -> list[tuple[int, int]]:
        """(height, width) in tokens of every level, for an image size in pixels.

        Raises:
            ConfigError: the image is smaller than one patch.
        """
        height, width = image_size or self.image_size
        if self.architecture == "isotropic":
            sizes = [(height // 16, width // 16)]
        else:
            # Two stride-2 convolutions with padding, or 4x4 patches of an image padded to a
            # multiple of 4: both give the size over 4, rounded up.
            sizes = [(-(-height // 4), -(-width // 4))]
            for _ in self.depths[1:]:
                sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
        if min(sizes[0]) < 1:
            raise ConfigError(
                f"An image of {height}x{width} pixels has no 16x16 patch.",
                "Use an image of at least 16x16 pixels.",
            )
        return sizes

    def check_image_size(self, image_size: tuple[int, int]) -> None:
        """Raise :class:`ConfigError` if the model is not defined for an image size."""
        grid = self.feature_sizes(image_size)[0]
        if self.global_attention and grid != (self.kernel_size, self.kernel_size):
            raise ConfigError(
                f"This model attends over a {self.kernel_size}x{self.kernel_size} token grid, and "
                f"{image_size[0]}x{image_size[1]} pixels give {grid[0]}x{grid[1]}.",
                f"Use {self.kernel_size * 16}x{self.kernel_size * 16} pixels, "
                "or a kernel size equal to the grid.",
            )


def _is_depth(value: object) -> bool:
    return isinstance(value, int) and 0 <= value <= LARGEST_COUNT


def describe(error: ValidationError, what: str) -> str:
    """A pydantic error as one sentence that names the field and what it holds."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{what}: {where + ': ' if where else ''}{message}."
