"""What is found in a picture: classes of its pixels, segments, or instances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]
IdArray = npt.NDArray[np.int32]
# The class of pixels that the model did not see, and the segment of those that belong to none.
UNSEEN = -1
NO_SEGMENT = 0


def run_lengths(mask: BoolArray) -> list[int]:
    """COCO's uncompressed run-length encoding: columns from the left, each from the top down; how
    many pixels are off, then on, then off, and so on. The first number may be 0."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0], changes, [flat.size]])
    lengths = np.diff(edges).tolist()
    return [0, *lengths] if flat.size and flat[0] else lengths


def _encoded(mask: BoolArray) -> dict[str, Any]:
    return {"size": list(mask.shape), "counts": run_lengths(mask)}


@dataclass(frozen=True)
class SemanticMap:
    """The class of every pixel.

    Attributes:
        classes: int32 ``[H, W]``; :data:`UNSEEN` where the model did not look.
        num_classes: that it tells apart.
    """

    classes: IdArray
    num_classes: int

    @property
    def size(self) -> tuple[int, int]:
        return self.classes.shape[0], self.classes.shape[1]

    def shares(self) -> npt.NDArray[np.float64]:
        """Share of the pixels seen that each class has: float64 ``[num_classes]``, sum 1."""
        seen = self.classes[self.classes != UNSEEN]
        counts = np.bincount(seen, minlength=self.num_classes)
        return counts / max(seen.size, 1)

    def to_dict(self, labels: Sequence[str] | None = None) -> dict[str, Any]:
        """Plain data: the classes that occur by share, the largest first."""
        shares = self.shares()
        order = np.argsort(-shares, kind="stable")
        return {
            "size": list(self.size),
            "classes": [
                {"class": int(k), "label": _name(labels, int(k)), "share": float(shares[k])}
                for k in order
                if shares[k] > 0
            ],
        }


@dataclass(frozen=True)
class Segment:
    """A thing, or all stuff of one class.

    Attributes:
        id: its number in the map, from 1.
        class_index: its class.
        score: how sure the model is of the class (0 to 1); of stuff that several answers cover,
            the largest.
        area: in pixels.
        is_thing: whether its class is one whose instances are counted apart.
    """

    id: int
    class_index: int
    score: float
    area: int
    is_thing: bool


@dataclass(frozen=True)
class PanopticMap:
    """The segment of every pixel.

    Attributes:
        ids: int32 ``[H, W]``, :data:`NO_SEGMENT` where there is none.
        segments: in the order of their ids.
    """

    ids: IdArray
    segments: list[Segment]

    @property
    def size(self) -> tuple[int, int]:
        return self.ids.shape[0], self.ids.shape[1]

    def to_dict(self, labels: Sequence[str] | None = None) -> dict[str, Any]:
        """Plain data, with every segment's mask as COCO's run lengths."""
        return {
            "size": list(self.size),
            "segments": [
                {
                    "id": segment.id,
                    "class": segment.class_index,
                    "label": _name(labels, segment.class_index),
                    "score": segment.score,
                    "area": segment.area,
                    "is_thing": segment.is_thing,
                    "mask": _encoded(self.ids == segment.id),
                }
                for segment in self.segments
            ],
        }


@dataclass(frozen=True)
class Instance:
    """A thing with an outline of its own; others may overlap it.

    Attributes:
        class_index: its class.
        score: how sure the model is (0 to 1).
        box: left, top, right, bottom in pixels of the picture.
        mask: bool ``[h, w]``, the part of the picture from ``corner`` on; all others are off.
        corner: (top, left) of that part.
    """

    class_index: int
    score: float
    box: tuple[float, float, float, float]
    mask: BoolArray
    corner: tuple[int, int]

    @property
    def area(self) -> int:
        """In pixels."""
        return int(np.count_nonzero(self.mask))

    @property
    def place(self) -> tuple[slice, slice]:
        """Rows and columns of the picture that the mask is about."""
        top, left = self.corner
        return slice(top, top + self.mask.shape[0]), slice(left, left + self.mask.shape[1])


@dataclass(frozen=True)
class Instances:
    """All things that were found.

    Attributes:
        size: (height, width) of the picture.
        found: best first.
    """

    size: tuple[int, int]
    found: list[Instance]

    def whole_mask(self, instance: Instance) -> BoolArray:
        """The mask at the size of the picture: bool ``[H, W]``."""
        whole = np.zeros(self.size, np.bool_)
        whole[instance.place] = instance.mask
        return whole

    def ids(self) -> IdArray:
        """Number of the best instance at every pixel, from 1: int32 ``[H, W]``; 0 for none."""
        ids = np.zeros(self.size, np.int32)
        for number in range(len(self.found), 0, -1):
            instance = self.found[number - 1]
            ids[instance.place][instance.mask] = number
        return ids

    def to_dict(self, labels: Sequence[str] | None = None) -> dict[str, Any]:
        """Plain data, with every mask as COCO's run lengths and boxes as left, top, right and
        bottom."""
        return {
            "size": list(self.size),
            "instances": [
                {
                    "class": instance.class_index,
                    "label": _name(labels, instance.class_index),
                    "score": instance.score,
                    "box": list(instance.box),
                    "area": instance.area,
                    "mask": _encoded(self.whole_mask(instance)),
                }
                for instance in self.found
            ],
        }


def instance_of(class_index: int, score: float, mask: BoolArray) -> Instance | None:
    """An instance from its mask ``[H, W]``, with the smallest box around it; None if empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    box = float(left), float(top), float(right), float(bottom)
    return Instance(class_index, score, box, mask[top:bottom, left:right].copy(), (top, left))


def _name(labels: Sequence[str] | None, index: int) -> str | None:
    return labels[index] if labels else None
