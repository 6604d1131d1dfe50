"""Classes of pixels from the logits of one or more windows of a picture.

mmsegmentation (``slide_inference``) resizes the logits of each window to the window, adds them up,
divides by the number of windows that each pixel lies in, resizes the result to the picture, all
bilinearly with ``align_corners=False``, and takes the best class. Here the same sum is computed
tile by tile, so that it never exists for the whole picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dinat_deploy.postprocessing.axes import Axis, BoolArray, FloatArray, View
from dinat_deploy.postprocessing.results import UNSEEN, IdArray, SemanticMap

_TILE_COLUMNS = 256
_TILE_BYTES = 16 << 20  # of logits
# (row, column) of windows in their grid -> logits [K, h, w] of each.
Logits = Callable[[Sequence[tuple[int, int]]], Sequence[FloatArray]]


@dataclass(frozen=True)
class Strip:
    """Windows along one axis of a picture.

    Attributes:
        windows: for each one how the picture's pixels follow from its logits; 0 beyond it.
        seen: which pixels lie in any; bool ``[n]``.
    """

    windows: list[Axis]
    seen: BoolArray

    @classmethod
    def of_view(cls, view: View, axis: int, length: int) -> Strip:
        """One window with logits of ``length`` elements."""
        return cls([view.from_outputs(axis, length)], view.seen(axis))

    @classmethod
    def of_starts(
        cls, starts: Sequence[int], window: int, resized: int, picture: int, length: int
    ) -> Strip:
        """Windows over all of a resized picture, averaged where they overlap.

        Args:
            starts: of the windows, in pixels of the resized picture.
            window: their extent.
            resized, picture: extents of the picture after and before resizing.
            length: of the logits of each.
        """
        places = np.arange(resized)
        within = [(places >= start) & (places < start + window) for start in starts]
        share = (1 / np.sum(within, axis=0)).astype(np.float32)
        inner, outer = Axis.bilinear(length, window), Axis.bilinear(resized, picture)
        windows = [
            outer.after(inner.picked((places - start).clip(0, window - 1), share * inside))
            for start, inside in zip(starts, within, strict=True)
        ]
        return cls(windows, np.ones(picture, np.bool_))


def window_starts(extent: int, window: int, stride: int) -> list[int]:
    """Where windows begin: every ``stride``, and the last at the end, as in mmsegmentation.

    An extent that is not larger than the window has one that begins at 0.
    """
    count = max(extent - window + stride - 1, 0) // stride + 1
    return [max(min(number * stride, extent - window), 0) for number in range(count)]


def best_classes(rows: Strip, columns: Strip, num_classes: int, logits: Logits) -> SemanticMap:
    """The best class of every pixel.

    Args:
        rows, columns: how the picture follows from the logits of the windows, down and across.
        num_classes: K.
        logits: asked for the windows of one part of the picture after the other, from the left to
            the right, or from the top down where more windows lie above each other than side by
            side; each is asked for once, unless it lies beyond parts that were asked for already.

    Returns:
        Of equal logits the first class counts.
    """
    turned = len(rows.windows) > len(columns.windows)
    down, across = (columns, rows) if turned else (rows, columns)
    classes = np.full((len(down.seen), len(across.seen)), UNSEEN, np.int32)
    held: dict[tuple[int, int], FloatArray] = {}
    for left in range(0, len(across.seen), _TILE_COLUMNS):
        right = min(left + _TILE_COLUMNS, len(across.seen))
        needed = _reaching(across, left, right)
        held = {place: values for place, values in held.items() if place[1] in needed}
        missing = [(i, j) for j in needed for i in range(len(down.windows)) if (i, j) not in held]
        asked = [(j, i) for i, j in missing] if turned else missing
        for place, values in zip(missing, logits(asked) if asked else [], strict=True):
            # [h, K, w], so that products need no copies.
            held[place] = np.ascontiguousarray(
                values.transpose(2 if turned else 1, 0, 1 if turned else 2)
            )
        _fill_tiles(classes, down, across, held, (left, right), num_classes)
    classes[~down.seen] = UNSEEN
    classes[:, ~across.seen] = UNSEEN
    return SemanticMap(np.ascontiguousarray(classes.T) if turned else classes, num_classes)


def _reaching(strip: Strip, start: int, stop: int) -> list[int]:
    """Windows that have a share in pixels of a range."""
    found = []
    for number, axis in enumerate(strip.windows):
        begin, end = axis.reach()
        if begin < stop and end > start:
            found.append(number)
    return found


def _fill_tiles(
    classes: IdArray,
    down: Strip,
    across: Strip,
    held: dict[tuple[int, int], FloatArray],
    span: tuple[int, int],
    num_classes: int,
) -> None:
    """Best classes of the columns of ``span``."""
    left, right = span
    width = right - left
    wide: dict[int, FloatArray] = {}  # row of windows -> [h, K * width]
    for (i, j), values in held.items():
        used, matrix = across.windows[j].dense(left, right)
        product = (values[:, :, used] @ matrix.T).reshape(len(values), -1)
        wide[i] = wide[i] + product if i in wide else product
    step = max(1, _TILE_BYTES // (4 * num_classes * width))
    for top in range(0, len(classes), step):
        bottom = min(top + step, len(classes))
        total: FloatArray | None = None
        for i in _reaching(down, top, bottom):
            used, matrix = down.windows[i].dense(top, bottom)
            part = matrix @ wide[i][used]
            total = part if total is None else total + part
        if total is not None:
            scores = total.reshape(bottom - top, num_classes, width)
            classes[top:bottom, left:right] = _largest(scores)


def _largest(scores: FloatArray) -> IdArray:
    """Index of the largest of K: ``[n, K, w]`` -> int32 ``[n, w]``. Faster than ``argmax`` along
    an axis that is not the last."""
    best = scores[:, 0].copy()
    index = np.zeros(best.shape, np.int32)
    for k in range(1, scores.shape[1]):
        better = scores[:, k] > best
        np.copyto(best, scores[:, k], where=better)
        index[better] = k
    return index
