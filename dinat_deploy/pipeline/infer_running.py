"""Runs pictures through an artefact, in batches as it takes them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dinat_deploy.models.preprocessing import PixelArray, Preprocessing
from dinat_deploy.pipeline.artefacts import Artefact
from dinat_deploy.pipeline.pixels import PIXEL_TYPE

Outputs = dict[str, npt.NDArray[Any]]


class Runner:
    """An artefact that takes any number of pictures.

    Args:
        artefact: with one input, of pictures.
        preprocessing: whose mean and deviation it was trained with.

    Attributes:
        seconds: that all runs so far took together.
    """

    def __init__(self, artefact: Artefact, preprocessing: Preprocessing) -> None:
        self._artefact = artefact
        self._input = artefact.image_input
        self._how = preprocessing
        self.seconds = 0.0

    @property
    def any_size(self) -> bool:
        """Whether height and width are left open."""
        return all(isinstance(side, str) for side in self._input.shape[2:])

    def batch(self, images: int) -> int:
        """Pictures of one run when there are so many: what is fixed, what an engine is built for
        best, or one."""
        fixed = self._input.shape[0]
        if isinstance(fixed, int):
            return fixed
        profiles = self._artefact.profiles
        if not profiles or self._input.name not in profiles[0]:
            return 1
        sizes = profiles[0][self._input.name]
        # Few pictures need no larger batch than there are.
        return max(sizes.min[0], min(sizes.opt[0], images))

    def run(self, pictures: Sequence[PixelArray]) -> Outputs:
        """The outputs for pictures of one size, uint8 ``[C, H, W]`` each, one after the other.

        Raises:
            ConfigError, EngineError: the artefact does not take this size.
        """
        step = self.batch(len(pictures))
        parts: list[Outputs] = []
        for first in range(0, len(pictures), step):
            group = np.stack(pictures[first : first + step])
            # Filled up with copies of its last picture.
            filled = np.concatenate([group, *[group[-1:]] * (step - len(group))])
            outputs = self._once(filled)
            parts.append({name: values[: len(group)] for name, values in outputs.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def run_one(self, picture: PixelArray) -> Outputs:
        """The outputs for one picture, uint8 ``[C, H, W]``, as the model gives them.

        Raises:
            ConfigError, EngineError: the artefact does not take this size, or only batches of
                another one.
        """
        return self._once(picture[None])

    def _once(self, pictures: PixelArray) -> Outputs:
        takes_pixels = self._input.dtype == PIXEL_TYPE
        fed = pictures if takes_pixels else self._how.normalize(pictures)
        self._artefact.check_shapes({self._input.name: list(fed.shape)})
        started = time.perf_counter()
        outputs: Outputs = dict(self._artefact.session.run({self._input.name: fed}))
        self.seconds += time.perf_counter() - started
        return outputs
