"""Classes of the pixels of a whole picture, from a model that looks at windows of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from PIL import Image

from dinat_deploy.errors import ConfigError, ImageError
from dinat_deploy.models.preprocessing import FloatArray, PixelArray, Preprocessing
from dinat_deploy.pipeline.infer_running import Runner
from dinat_deploy.postprocessing.axes import View
from dinat_deploy.postprocessing.results import SemanticMap
from dinat_deploy.postprocessing.semantic import Strip, best_classes, window_starts

Mode = Literal["slide", "whole", "crop"]
MODES: tuple[Mode, ...] = ("slide", "whole", "crop")
_MOST_WINDOWS = 500


class SemanticModel:
    """A segmenter for pictures of any size.

    Args:
        runner: of the model.
        preprocessing: of its bundle.
        output: name of the logits, ``[B, K, h, w]``.
        num_classes: K.
        mode: ``crop`` looks where the preprocessing says; ``slide`` at overlapping windows of the
            picture, which is resized as it is for a crop; ``whole`` once at all of it: at that
            size if the model takes any, else made to fit into its input. None looks as the
            preprocessing says where that shows the whole picture, and else slides.
        stride: from window to window, in pixels; None takes two thirds of the window, like the
            published evaluations.

    Attributes:
        notes: what was done with the pictures so far.

    Raises:
        ConfigError: the stride would leave gaps, or means nothing.
    """

    def __init__(
        self,
        runner: Runner,
        preprocessing: Preprocessing,
        output: str,
        num_classes: int,
        mode: Mode | None = None,
        stride: int | None = None,
    ) -> None:
        least = min(preprocessing.crop)
        if stride is not None and not 1 <= stride <= least:
            raise ConfigError(
                f"A stride of {stride} pixels leaves gaps between windows of "
                f"{_size(preprocessing.crop)}.",
                f"Use 1 to {least}.",
            )
        if stride is not None and mode not in (None, "slide"):
            raise ConfigError(f"There is no stride in mode {mode}.", "Use --mode slide.")
        self._runner = runner
        self._how = preprocessing
        self._output = output
        self._num_classes = num_classes
        self._mode = mode if stride is None else "slide"
        self._stride = stride
        self.notes: list[str] = []

    def classes(self, photo: Image.Image) -> SemanticMap:
        """The class of every pixel of a photo.

        Raises:
            ImageError: it is so much longer than wide that it would take hundreds of windows.
            ConfigError: the model does not take the whole picture's size.
        """
        size = photo.height, photo.width
        mode = self._mode
        if mode is None:
            view = View.of(self._how, size)
            mode = "crop" if view.seen(0).all() and view.seen(1).all() else "slide"
        if mode == "slide":
            return self._slide(photo)
        return self._look(photo, self._how if mode == "crop" else self._whole(photo))

    def _look(self, photo: Image.Image, how: Preprocessing) -> SemanticMap:
        """One look at it."""
        logits = self._logits([how.pixels(photo)])
        view = View.of(how, (photo.height, photo.width))
        rows, columns = (Strip.of_view(view, axis, logits.shape[2 + axis]) for axis in (0, 1))
        return best_classes(rows, columns, self._num_classes, lambda _: list(logits))

    def _whole(self, photo: Image.Image) -> Preprocessing:
        if not self._runner.any_size:
            self._note(f"The whole picture is made to fit into {_size(self._how.crop)} pixels.")
            return self._how.model_copy(update={"resize_mode": "contain"})
        resized = self._resized(photo)
        self._note(f"The whole picture is looked at at once, in {_size(resized)} pixels.")
        return self._stretched(resized)

    def _resized(self, photo: Image.Image) -> tuple[int, int]:
        """(height, width) that the picture has before a crop is cut out."""
        how = self._how.model_copy(update={"resize_mode": "cover"})
        width, height = how.geometry(photo.size)[0]
        return height, width

    def _stretched(self, size: tuple[int, int]) -> Preprocessing:
        return self._how.model_copy(update={"resize_mode": "stretch", "resize": size, "crop": size})

    def _slide(self, photo: Image.Image) -> SemanticMap:
        resized, window = self._resized(photo), self._how.crop
        starts = [
            window_starts(resized[axis], window[axis], self._stride or window[axis] * 2 // 3)
            for axis in (0, 1)
        ]
        count = len(starts[0]) * len(starts[1])
        if count > _MOST_WINDOWS:
            raise ImageError(
                f"A picture of {photo.width} x {photo.height} pixels takes {count} windows of "
                f"{_size(window)}; {_MOST_WINDOWS} are the most.",
                "Cut it into parts, use a larger --stride, or --mode whole.",
            )
        if count > 1:
            self._note(
                f"Pictures are looked at through windows of {_size(window)} pixels, averaged where "
                "they overlap (--mode slide)."
            )
        pixels = self._padded(self._stretched(resized).pixels(photo))

        def cut(place: tuple[int, int]) -> PixelArray:
            top, left = starts[0][place[0]], starts[1][place[1]]
            return pixels[:, top : top + window[0], left : left + window[1]]

        # The first window tells how large its logits are.
        first = self._logits([cut((0, 0))])

        def logits(places: Sequence[tuple[int, int]]) -> list[FloatArray]:
            others = [place for place in places if place != (0, 0)]
            found = (
                dict(zip(others, self._logits([cut(p) for p in others]), strict=True))
                if (others)
                else {}
            )
            return [first[0] if place == (0, 0) else found[place] for place in places]

        strips = [
            Strip.of_starts(
                starts[axis],
                window[axis],
                resized[axis],
                (photo.height, photo.width)[axis],
                first.shape[2 + axis],
            )
            for axis in (0, 1)
        ]
        return best_classes(strips[0], strips[1], self._num_classes, logits)

    def _padded(self, pixels: PixelArray) -> PixelArray:
        """At least as large as a window, filled up with the mean at the right and the bottom."""
        missing = [max(0, self._how.crop[axis] - pixels.shape[1 + axis]) for axis in (0, 1)]
        if not any(missing):
            return pixels
        height, width = pixels.shape[1] + missing[0], pixels.shape[2] + missing[1]
        filled = self._how.mean_pixels((height, width))
        filled[:, : pixels.shape[1], : pixels.shape[2]] = pixels
        return filled

    def _logits(self, pictures: Sequence[PixelArray]) -> FloatArray:
        found: FloatArray = self._runner.run(pictures)[self._output]
        if found.ndim != 4 or found.shape[1] != self._num_classes:
            raise ConfigError(
                f"The output {self._output} has the shape {list(found.shape)}, not that of logits "
                f"of {self._num_classes} classes for the pixels of pictures.",
                "Export the bundle again.",
            )
        return found

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
