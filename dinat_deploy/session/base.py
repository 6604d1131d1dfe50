"""One protocol for everything that runs a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Feeds = Mapping[str, FloatArray]


class Session(Protocol):
    """A loaded model.

    Attributes:
        name: what runs it, with its version, for reports.
    """

    name: str

    def run(self, feeds: Feeds) -> dict[str, FloatArray]:
        """Run once.

        Args:
            feeds: input name -> array.

        Returns:
            Output name -> array, the model's outputs and the tapped tensors.
        """
        ...
