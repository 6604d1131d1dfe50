"""How large a model can be: far beyond any that is useful, and within what a machine can describe.

A number beyond these is a slip or a damaged file. It is refused where it is read; what would be
made of it (tables of all pairs of tokens, lists of all layers) could take all of the memory.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

LARGEST_WIDTH = 1 << 17  # channels, queries
LARGEST_COUNT = 1000  # layers of a level or of a head
LARGEST_SIDE = 1 << 16  # pixels
LARGEST_AREA = 1 << 27  # pixels; a little less than what Pillow takes for an attack
LARGEST_KERNEL = 1 << 10  # tokens
LARGEST_SPAN = LARGEST_SIDE // 4  # tokens of the longest side, which a window cannot exceed

Width = Annotated[int, Field(ge=1, le=LARGEST_WIDTH)]
Count = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
CountOrNone = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]


def check_area(name: str, size: tuple[int, int]) -> None:
    """Raise ValueError if a (height, width) in pixels is beyond :data:`LARGEST_AREA`."""
    if size[0] * size[1] > LARGEST_AREA:
        raise ValueError(
            f"{name} of {size[0]}x{size[1]} is {size[0] * size[1]} pixels; {LARGEST_AREA} are the "
            "limit"
        )
