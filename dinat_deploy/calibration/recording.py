"""Run a model on data, a batch at a time, and count the values of its tensors."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from dinat_deploy.calibration.histogram import Histogram, NotFiniteError
from dinat_deploy.data.dataset import Sample
from dinat_deploy.errors import ConversionError, DataError
from dinat_deploy.graph.reading import load_ir
from dinat_deploy.session.onnxruntime_session import OnnxRuntimeSession

FloatArray = npt.NDArray[np.float32]
_FLOAT = ir.DataType.FLOAT


@dataclass(frozen=True)
class Batch:
    """What a model is run on at once.

    Attributes:
        names: of the samples, for errors. There may be fewer than rows; the rest is filling, which
            a model with a fixed batch size needs, and does not count.
        inputs: input of the graph -> float32 ``[rows, ...]``.
    """

    names: tuple[str, ...]
    inputs: Mapping[str, FloatArray]


def batches(samples: Iterable[Sample], name: str, size: int = 1) -> Iterator[Batch]:
    """Samples in batches of equal size, the last one filled up with its last sample.

    Args:
        name: of the graph's input.
        size: how many samples in a batch.

    Raises:
        DataError: samples of one batch have different shapes.
    """
    waiting: list[Sample] = []
    for sample in samples:
        if waiting and sample.image.shape != waiting[0].image.shape:
            raise DataError(
                f"{sample.name} has the shape {list(sample.image.shape)}, and {waiting[0].name} "
                f"{list(waiting[0].image.shape)}: they cannot be run in one batch.",
                "Calibrate with images of one size.",
            )
        waiting.append(sample)
        if len(waiting) == size:
            yield _batch(waiting, name, size)
            waiting = []
    if waiting:
        yield _batch(waiting, name, size)


def _batch(samples: list[Sample], name: str, size: int) -> Batch:
    images = [sample.image for sample in samples]
    images += images[-1:] * (size - len(samples))
    return Batch(tuple(sample.name for sample in samples), {name: np.stack(images)})


def tap(path: Path, tensors: Sequence[str], target: Path) -> None:
    """Write a model that has further tensors as outputs, its weights in a file beside it.

    Outside of the message, weights are mapped when the file is loaded, and not copied twice.

    Raises:
        ConversionError: the model has no such tensor, or it is not float32.
    """
    model = load_ir(path)
    graph = model.graph
    values = {value.name: value for node in graph for value in node.outputs}
    values.update({value.name: value for value in graph.inputs})
    unknown = [name for name in tensors if name not in values]
    if unknown:
        raise ConversionError(
            f"{path} has no tensor {unknown[0]} ({len(unknown)} of {len(tensors)} are missing).",
            "The file was changed after it was read; start again.",
        )
    for name in tensors:
        value = values[name]
        if value.dtype not in (_FLOAT, None):
            raise ConversionError(
                f"The tensor {name} is {value.dtype.name.lower()}, and ranges are of float32.",
                "Calibrate the float32 model.",
            )
        if not value.is_graph_input() and value not in graph.outputs:
            graph.outputs.append(value)
    ir.save(model, target, external_data=f"{target.name}.data")


class Recorder:
    """A model in ONNX Runtime, and the histograms of its tensors.

    Args:
        path: the float32 model; a file with further outputs is made from it.
        tensors: names in its graph.
        scratch: an empty directory for that file, as large as the model.
        bins: of the histograms.
        threads, custom_op: as of OnnxRuntimeSession.

    Attributes:
        histograms: tensor -> what was counted so far.
        images: how many.
        runtime: its name and version, and what runs the operator; the values depend on it.

    Raises:
        ConversionError: see :func:`tap`.
        BundleError: ONNX Runtime cannot load the model.
    """

    def __init__(
        self,
        path: Path,
        tensors: Sequence[str],
        scratch: Path,
        *,
        bins: int,
        threads: int = 0,
        custom_op: bool | Path | None = None,
    ) -> None:
        tapped = scratch / "tapped.onnx"
        tap(path, tensors, tapped)
        gc.collect()  # a graph refers to itself, and holds all weights
        self.histograms = {name: Histogram(bins) for name in tensors}
        self.forget()
        self._session = OnnxRuntimeSession(tapped, threads=threads, custom_op=custom_op)
        self.runtime = self._session.name

    def close(self) -> None:
        self._session.close()

    def forget(self) -> None:
        """Start again, with nothing counted."""
        for name, histogram in self.histograms.items():
            self.histograms[name] = Histogram(histogram.counts.size)
        self.images = 0
        self._digest = hashlib.sha256()
        self._torn = False

    @property
    def sha256(self) -> str:
        """Over the inputs of all images so far, float32, in order."""
        return self._digest.hexdigest()

    @property
    def whole(self) -> bool:
        """Whether all tensors of each image are counted, or none."""
        return not self._torn

    def run(self, batch: Batch) -> dict[str, FloatArray]:
        """The tensors' values.

        Raises:
            BundleError: the inputs do not fit the model.
        """
        found = {**batch.inputs, **self._session.run(batch.inputs)}
        return {name: found[name] for name in self.histograms}

    def count(self, batch: Batch, found: Mapping[str, FloatArray]) -> None:
        """Add what :meth:`run` gave.

        Raises:
            ConversionError: a tensor is not finite; the histograms are of no use then.
        """
        self._torn = True
        for name, histogram in self.histograms.items():
            values = _without_filling(found[name], batch)
            try:
                histogram.add(values)
            except NotFiniteError as error:
                raise _not_finite(name, values, batch, error.value) from None
        self.skip(batch)
        self._torn = False

    def skip(self, batch: Batch) -> None:
        """Take note of images whose values are counted already."""
        for row in range(len(batch.names)):
            for name in sorted(batch.inputs):
                self._digest.update(batch.inputs[name][row].astype("<f4", copy=False).tobytes())
        self.images += len(batch.names)


def _without_filling(values: FloatArray, batch: Batch) -> FloatArray:
    rows = len(next(iter(batch.inputs.values())))
    filled = len(batch.names) < rows and values.ndim > 0 and len(values) == rows
    return values[: len(batch.names)] if filled else values


def _not_finite(name: str, values: FloatArray, batch: Batch, found: float) -> ConversionError:
    sample = ", ".join(batch.names)
    if values.ndim > 0 and len(values) == len(batch.names):
        bad = [not np.isfinite(row).all() for row in values]
        sample = batch.names[bad.index(True)]
    return ConversionError(
        f"The float32 model computes {found} in the tensor {name} for {sample}.",
        "Check the weights and that image; no range can be taken from such values.",
    )
