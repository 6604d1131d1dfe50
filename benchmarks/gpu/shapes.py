"""The problems that are timed: the stages of DiNAT-mini and -tiny by image, batch and window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

HEADS = (2, 4, 8, 16)
HEAD_DIM = 32
IMAGES: dict[str, tuple[int, int]] = {
    "224": (224, 224),
    "384": (384, 384),
    "512": (512, 512),
    "800x1333": (800, 1333),
    "1024": (1024, 1024),
}
BATCHES = (1, 8, 64)
KERNELS = (7, 11)
ELEMENT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Row:
    """One problem: a packed qkv ``[batch, *size, 3*heads*head_dim]`` with a positional bias.

    ``size`` is in tokens, ``kernel`` and ``dilation`` hold for both axes.
    """

    image: str
    stage: int
    size: tuple[int, int]
    heads: int
    kernel: int
    dilation: int
    batch: int
    dtype: str = "float16"
    head_dim: int = HEAD_DIM

    @property
    def channels(self) -> int:
        return self.heads * self.head_dim

    @property
    def tokens(self) -> int:
        """Of the whole batch."""
        return self.batch * self.size[0] * self.size[1]

    @property
    def bytes_moved(self) -> int:
        """The least that must move: query, key and value read once, the output written once."""
        return 4 * self.channels * self.tokens * ELEMENT_BYTES[self.dtype]

    @property
    def group(self) -> tuple[int, int]:
        """Tokens of the largest dilation group on each axis."""
        return -(-self.size[0] // self.dilation), -(-self.size[1] // self.dilation)

    @property
    def divisible(self) -> bool:
        """Whether all dilation groups have the same size."""
        return all(size % self.dilation == 0 for size in self.size)

    @property
    def name(self) -> str:
        height, width = self.size
        return (
            f"{self.image} s{self.stage} {height}x{width} h{self.heads} k{self.kernel} "
            f"d{self.dilation} b{self.batch} {self.dtype}"
        )

    @property
    def is_goal(self) -> bool:
        """Whether the goal on the share of the copy floor speaks of it."""
        if self.dtype != "float16" or self.kernel != 7:
            return False
        if self.batch == 1:
            return self.image in ("512", "800x1333", "1024")
        return self.batch == 64 and self.image == "224"


def stage_size(image: tuple[int, int], stage: int) -> tuple[int, int]:
    """Tokens of a stage (1 to 4): the stem halves twice, each later stage once, rounding up."""
    height, width = image
    for _ in range(stage + 1):
        height, width = -(-height // 2), -(-width // 2)
    return height, width


def _rows(image: str, kernel: int, batch: int, dtype: str) -> Iterator[Row]:
    for stage, heads in enumerate(HEADS, start=1):
        size = stage_size(IMAGES[image], stage)
        largest = min(size) // kernel
        # A model pads maps smaller than the window; such a map is no problem of its own.
        for dilation in sorted({1, largest}) if largest else ():
            yield Row(image, stage, size, heads, kernel, dilation, batch, dtype)


def all_rows(
    images: Sequence[str] = tuple(IMAGES),
    kernels: Sequence[int] = KERNELS,
    batches: Sequence[int] = BATCHES,
    dtypes: Sequence[str] = ("float16", "bfloat16", "float32"),
) -> list[Row]:
    """All rows, the most telling first, so that a time limit drops the least telling ones.

    float16 has every combination; the other types only the images that the goals speak of.
    """
    rows = [
        row
        for dtype in dtypes
        for kernel in kernels
        for batch in batches
        for image in images
        for row in _rows(image, kernel, batch, dtype)
        if dtype == "float16" or (kernel == 7 and (image, batch) in (("224", 64), ("512", 1)))
    ]

    def rank(row: Row) -> tuple[bool, bool, bool, int]:
        order = {1: 0, 64: 1, 8: 2}
        return (
            not row.is_goal,
            row.dtype != "float16",
            row.kernel != 7,
            order.get(row.batch, 3),
        )

    return sorted(rows, key=rank)


DRY_ROWS = (
    Row("dry", 1, (14, 14), 2, 7, 1, 1, "float32"),
    Row("dry", 1, (14, 14), 2, 7, 2, 2, "float32"),
    Row("dry", 2, (9, 10), 2, 3, 2, 1, "float32"),
    Row("dry", 3, (16, 32), 1, 3, 1, 1, "float32"),
)
"""Tiny problems for a machine without a GPU."""
