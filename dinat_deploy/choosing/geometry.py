"""Which inputs an output depends on, exactly: sets of positions, one axis at a time.

Every step of the encoders (convolution, patches, neighborhood attention) reads a rectangle of its
input, or the product of a set of rows and a set of columns. Unions of such products over a product
are products again, so two one-dimensional sets describe a receptive field completely. LayerNorm,
MLP and residual additions work on every token by itself and change nothing.

Borders are as in the models: convolutions and padded patches lose what lies outside, attention
windows are shifted inward (:mod:`dinat_deploy.ops.windows`), and the zeros that pad a map smaller
than ``kernel_size * dilation`` are keys that no input token stands behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from dinat_deploy.errors import ConfigError
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.ops.windows import AxisWindow, axis_members

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
Token = Literal["centre", "corner"]

_CONV_KERNEL, _CONV_STRIDE = 3, 2


@dataclass(frozen=True)
class AxisStep:
    """One operation along one axis.

    Attributes:
        kind: ``convolution`` (3 taps, stride 2, padding 1), ``patches`` (``size`` inputs for every
            output), ``attention`` (``size`` keys, ``dilation`` apart) or ``global`` (all keys).
        level: the level that a layer belongs to, or that the step leads to.
        layer: number of the layer in its level; None of what is no layer.
        inputs, outputs: positions before and after.
    """

    kind: Literal["convolution", "patches", "attention", "global"]
    level: int
    layer: int | None
    inputs: int
    outputs: int
    size: int
    dilation: int = 1

    def sources(self, wanted: BoolArray) -> BoolArray:
        """The inputs that some outputs depend on.

        Args:
            wanted: bool ``[outputs]``.

        Returns:
            bool ``[inputs]``.
        """
        seen = np.zeros(self.inputs, dtype=np.bool_)
        if self.kind == "global":
            seen[:] = wanted.any()
            return seen
        read = self._read(np.flatnonzero(wanted))
        seen[read[(read >= 0) & (read < self.inputs)]] = True
        return seen

    def _read(self, outputs: IntArray) -> IntArray:
        taps = np.arange(self.size, dtype=np.int64)
        if self.kind == "convolution":
            return outputs[:, None] * _CONV_STRIDE - _CONV_KERNEL // 2 + taps
        if self.kind == "patches":
            return outputs[:, None] * self.size + taps
        return _keys(self.inputs, self.size, self.dilation)[outputs]


@lru_cache(maxsize=256)
def _keys(length: int, kernel: int, dilation: int) -> IntArray:
    """The tokens that each token of a padded axis attends to, int64 ``[padded length, kernel]``."""
    window = AxisWindow(kernel, dilation)
    axis = axis_members(max(length, window.span), window)
    members = axis.start[:, None] + np.arange(kernel, dtype=np.int64)
    return axis.group[:, None] + members * dilation


@dataclass(frozen=True)
class Extent:
    """Positions along one axis: the first and last of them, and how many there are."""

    first: int
    last: int
    count: int

    @property
    def length(self) -> int:
        """From the first to the last, both included."""
        return self.last - self.first + 1


def extent(seen: BoolArray) -> Extent:
    """Summary of a set of positions, bool ``[length]``; it must not be empty."""
    positions = np.flatnonzero(seen)
    return Extent(int(positions[0]), int(positions[-1]), len(positions))


def axis_steps(config: ModelConfig, axis: Literal[0, 1]) -> list[AxisStep]:
    """All steps of the encoder in order, from pixels to the tokens of the last level.

    Args:
        axis: 0 for rows, 1 for columns of the configuration's image size.

    Raises:
        ConfigError: the image is too small for the model.
    """
    pixels = config.image_size[axis]
    lengths = [size[axis] for size in config.feature_sizes()]
    steps = _tokenizer(config, pixels, lengths[0])
    for level, dilations in enumerate(config.dilations):
        length = lengths[level]
        if level:
            steps.append(_downsampler(config, level, lengths[level - 1], length))
        for layer, dilation in enumerate(dilations):
            steps.append(
                AxisStep(
                    "global" if config.global_attention else "attention",
                    level,
                    layer,
                    length,
                    length,
                    config.kernel_size,
                    dilation,
                )
            )
    return steps


def _tokenizer(config: ModelConfig, pixels: int, tokens: int) -> list[AxisStep]:
    if config.architecture == "isotropic":
        return [AxisStep("patches", 0, None, pixels, tokens, 16)]
    if config.architecture == "dinat_s":
        return [AxisStep("patches", 0, None, pixels, tokens, 4)]
    half = -(-pixels // _CONV_STRIDE)
    return [
        AxisStep("convolution", 0, None, pixels, half, _CONV_KERNEL),
        AxisStep("convolution", 0, None, half, tokens, _CONV_KERNEL),
    ]


def _downsampler(config: ModelConfig, level: int, inputs: int, outputs: int) -> AxisStep:
    if config.architecture == "dinat":
        return AxisStep("convolution", level, None, inputs, outputs, _CONV_KERNEL)
    return AxisStep("patches", level, None, inputs, outputs, 2)


def position(token: Token, length: int) -> int:
    """Where a token stands on an axis: the middle (the right one of two), or the beginning."""
    return length // 2 if token == "centre" else 0


def trace(steps: Sequence[AxisStep], place: int) -> BoolArray:
    """The inputs of the first step that one output of the last one depends on.

    Args:
        steps: consecutive ones, at least one.
        place: of the output.

    Returns:
        bool ``[inputs of the first step]``.
    """
    if not steps or not 0 <= place < steps[-1].outputs:
        raise ConfigError(
            f"Output {place} is none of {steps[-1].outputs if steps else 0}.",
            "Choose a token of the map.",
        )
    seen = np.zeros(steps[-1].outputs, dtype=np.bool_)
    seen[place] = True
    for step in reversed(steps):
        seen = step.sources(seen)
    return seen
