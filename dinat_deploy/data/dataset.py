"""What all data are to those who use them: numbered samples that are read when they are needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
# The value of a class map for pixels that do not count.
IGNORED = 255
OnBad = Literal["refuse", "skip"]
Task = Literal["classification", "segmentation"]


@dataclass(frozen=True)
class Sample:
    """One image.

    Attributes:
        name: of its file, or its number.
        image: the model's input, float32 ``[C, H, W]``.
        label: its class; for segmentation the class of every pixel, int64 ``[H, W]``, with
            :data:`IGNORED` for those that do not count; None if there is none.
    """

    name: str
    image: FloatArray
    label: int | npt.NDArray[np.int64] | None = None


class Dataset(Protocol):
    """Samples that are read when they are asked for, the same ones in the same order each time.

    Attributes:
        name: as the user named it, for reports.
        task: what the labels are for; None if there are none.
        classes: their names, where the data or the model say them.
        notes: what the user should check, such as how classes were matched.
    """

    @property
    def name(self) -> str: ...

    @property
    def task(self) -> Task | None: ...

    @property
    def classes(self) -> list[str] | None: ...

    @property
    def notes(self) -> list[str]: ...

    def __len__(self) -> int: ...

    def name_of(self, index: int) -> str:
        """The name of a sample, without reading it."""
        ...

    def load(self, index: int) -> Sample:
        """Read a sample.

        Raises:
            DataError: it cannot be used; the message names the file.
        """
        ...
