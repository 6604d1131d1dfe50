"""A bundle's model whose nodes can be lowered in precision one by one, measured on data."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import filter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from dinat_deploy.bundle import Bundle, TensorSpec
from dinat_deploy.calibration.sensitivity import Noise
from dinat_deploy.data.dataset import IGNORED, Dataset, OnBad, Task
from dinat_deploy.data.streaming import samples
from dinat_deploy.errors import ConfigError, DataError
from dinat_deploy.evaluation.metrics import ClassificationCounter, SegmentationCounter
from dinat_deploy.evaluation.records import Scores
from dinat_deploy.graph import islands, schema
from dinat_deploy.graph.formats import FORMATS, QUANTIZED_FORMATS
from dinat_deploy.graph.node_kinds import is_move
from dinat_deploy.graph.quantization import switches
from dinat_deploy.graph.reading import load_ir
from dinat_deploy.measurement.onnx_work import macs_by_node
from dinat_deploy.pipeline.conversion_checks import save
from dinat_deploy.pipeline.quantizing import QuantizeOptions, decide, ranges_of
from dinat_deploy.pipeline.running import onnx_session

FloatArray = npt.NDArray[np.float32]
Outputs = Mapping[str, FloatArray]
PRECISIONS = (*QUANTIZED_FORMATS, *FORMATS)
# Images of one run where the model leaves that open.
_BATCH = 8
# Images, and outputs of the float32 model, are kept between measurements up to this size.
_KEPT_BYTES = 1 << 30


@dataclass(frozen=True)
class Batch:
    """Some images, fewer than the model takes at the end of the data.

    Attributes:
        images: float32 ``[n, C, H, W]``.
        labels: of each; None if there are none.
    """

    images: FloatArray
    labels: list[Any] | None


class Batches:
    """The samples of a dataset in batches, over and over; kept in memory if they are small.

    Args:
        size: images of a batch.
        on_bad: what to do about images that cannot be used.
        note: told of each that is skipped, the first time.

    Attributes:
        dataset: as given.
        skipped: names of the images that were skipped.
    """

    def __init__(
        self, dataset: Dataset, size: int, on_bad: OnBad, note: Callable[[str], None]
    ) -> None:
        self.dataset = dataset
        self.skipped: list[str] = []
        self._size, self._on_bad, self._note = size, on_bad, note
        self._kept: list[Batch] | None = []
        self._complete = False

    @property
    def count(self) -> int:
        """How many there are if no image is skipped."""
        return -(-len(self.dataset) // self._size)

    def __iter__(self) -> Iterator[Batch]:
        if self._complete and self._kept is not None:
            yield from self._kept
            return
        first = not self._complete
        kept: list[Batch] | None = [] if first else None
        for batch in self._read(first):
            if kept is not None:
                kept.append(batch)
                if sum(one.images.nbytes for one in kept) > _KEPT_BYTES:
                    kept = None
            yield batch
        if first:
            self._kept, self._complete = kept, True

    def _read(self, first: bool) -> Iterator[Batch]:
        skipped = self.skipped if first else []
        note = self._note if first else None
        waiting = []
        for sample in samples(self.dataset, on_bad=self._on_bad, skipped=skipped, note=note):
            waiting.append(sample)
            if len(waiting) == self._size:
                yield _stacked(waiting)
                waiting = []
        if waiting:
            yield _stacked(waiting)


def _stacked(waiting: Sequence[Any]) -> Batch:
    labels = [sample.label for sample in waiting]
    return Batch(
        np.stack([sample.image for sample in waiting]),
        None if any(label is None for label in labels) else labels,
    )


@dataclass(frozen=True)
class Measured:
    """What a choice of nodes in lower precision gives.

    Attributes:
        noise: energy of what changes in the outputs over that of the outputs, the mean over the
            outputs; None if they are not finite.
        scores: by the task; None if the outputs are no classes.
    """

    noise: float | None
    scores: Scores | None


class SwitchedModel:
    """The model in one ONNX Runtime session.

    Args:
        precision: ``int8``, ``fp8``, ``fp16`` or ``bf16``.
        options: how it would be quantized; of a 16-bit precision only ``exclude`` counts.
        scratch: directory for the graph, which is large; empty it when the model is closed.

    Attributes:
        sites: nodes (or tensors between them) that can be lowered in precision, in the order of the
            graph.
        skipped: node -> why it cannot, for products.

    Raises:
        BundleError: there are no ranges to quantize with, or the model has no body and the
            operator's library is missing.
        ConfigError: no node is left to choose from, or a pattern names none.
        ConversionError: the model is not float32.
    """

    def __init__(
        self, bundle: Bundle, precision: str, options: QuantizeOptions, scratch: Path
    ) -> None:
        self._bundle, self._precision, self._options = bundle, precision, options
        self._scratch = scratch
        self._ranges: dict[str, float] = {}
        if precision in QUANTIZED_FORMATS:
            estimator = options.estimator_for(precision)  # type: ignore[arg-type]
            self._ranges = ranges_of(bundle, estimator)
        schema.register()
        self.skipped: dict[str, str] = {}
        path = scratch / "switched.onnx"
        self.sites = self._write(path, errors=False)
        self._session = onnx_session(path, bundle.manifest.graph.body)
        graph = bundle.manifest.graph
        self._input: TensorSpec = graph.inputs[0]
        self.outputs: list[TensorSpec] = graph.outputs

    def close(self) -> None:
        self._session.close()

    @property
    def runtime(self) -> str:
        """What runs it."""
        return self._session.name

    @property
    def batch(self) -> int:
        """Images of one run."""
        size = self._input.shape[0]
        return size if isinstance(size, int) else _BATCH

    def run(self, images: FloatArray, lowered: Collection[str]) -> dict[str, FloatArray]:
        """The model's outputs for some images, at most a batch of them.

        Args:
            lowered: the sites in lower precision.
        """
        chosen = np.asarray([site in lowered for site in self.sites], np.float32)
        feeds = {self._input.name: self._filled(images), switches.SWITCHES: chosen}
        return {name: found[: len(images)] for name, found in self._session.run(feeds).items()}

    def local_noise(self, batches: Batches) -> dict[str, float | None]:
        """Site -> noise that lowering its precision brings into its own output, as a share of
        that; its inputs are exact."""
        path = self._scratch / "errors.onnx"
        self._write(path, errors=True)
        session = onnx_session(path, self._bundle.manifest.graph.body)
        noise = {site: Noise() for site in self.sites}
        for batch in batches:
            found = session.run({self._input.name: self._filled(batch.images)})[switches.ERRORS]
            for site, (signal, change) in zip(self.sites, found.tolist(), strict=True):
                noise[site].add(site, signal, change)
        session.close()
        for file in self._scratch.glob(f"{path.name}*"):
            file.unlink()  # as large as the model twice
        return {site: found.share for site, found in noise.items()}

    def macs(self, images: FloatArray) -> dict[str, int]:
        """Node -> multiply-accumulates for one image of this size."""
        size = self._input.shape[0]
        count = size if isinstance(size, int) else 1
        shapes = {self._input.name: [count, *images.shape[1:]]}
        found = macs_by_node(self._bundle.model_path, shapes)
        return {node: macs // count for node, macs in found.items()}

    def _filled(self, images: FloatArray) -> FloatArray:
        """A whole batch, if the model takes nothing else."""
        size = self._input.shape[0]
        if not isinstance(size, int) or len(images) == size:
            return images
        return np.concatenate([images, images[-1:].repeat(size - len(images), axis=0)])

    def _write(self, path: Path, *, errors: bool) -> list[str]:
        """The graph with switches, or the one that compares at each site."""
        model = load_ir(self._bundle.model_path)
        if self._precision in QUANTIZED_FORMATS:
            form = QUANTIZED_FORMATS[self._precision]
            placement = decide(model, form, self._options)
            self.skipped = dict(placement.skipped)
            add = switches.add_quantization_errors if errors else switches.add_quantization_switches
            sites = add(model, placement, self._ranges, form)
        else:
            sites = self._write_rounding(model, errors)
        save(model, path, external=True)
        del model
        gc.collect()  # a graph refers to itself, and holds all weights
        return sites

    def _write_rounding(self, model: ir.Model, errors: bool) -> list[str]:
        form = FORMATS[self._precision]
        keep = self._options.exclude
        for pattern in keep:
            if not filter([str(node.name) for node in model.graph], pattern):
                raise ConfigError(
                    f"No node is named like {pattern!r}.",
                    f"Names look like {model.graph[0].name}; `*` stands for anything.",
                )
        rules = islands.rules(model, form, keep=keep)
        kept = islands.find_islands(model, rules)
        data = islands.data_nodes(model.graph)
        nodes = [node for node in data if node not in kept and not is_move(node)]
        self.skipped = {str(node.name): reason for node, reason in kept.items()}
        if not nodes:
            raise ConfigError(f"No node is left to become {form.name}.", "Exclude fewer.")
        add = switches.add_rounding_errors if errors else switches.add_rounding_switches
        return add(model, nodes, form)


class Measurer:
    """Measures choices of sites against the float32 model.

    Args:
        model: what is measured.
        batches: on what.
    """

    def __init__(self, model: SwitchedModel, batches: Batches) -> None:
        self._model, self._batches = model, batches
        self._task = _task_of(model.outputs, batches.dataset)
        self._exact: dict[int, Outputs] = {}
        self._exact_bytes = 0

    def measure(
        self, choices: Sequence[Collection[str]], done: Callable[[float], None] = lambda share: None
    ) -> list[Measured]:
        """Run over the data once.

        Args:
            choices: sets of sites in lower precision.
            done: is told which share of the runs is done.
        """
        tallies = [_Tally(self._task) for _ in choices]
        runs = max(self._batches.count * len(choices), 1)
        for number, batch in enumerate(self._batches):
            exact = self._exact_outputs(number, batch)
            for index, (choice, tally) in enumerate(zip(choices, tallies, strict=True)):
                outputs = self._model.run(batch.images, choice) if choice else exact
                tally.add(number, outputs, exact, batch.labels)
                done(min((number * len(choices) + index + 1) / runs, 1.0))
        return [tally.result() for tally in tallies]

    def _exact_outputs(self, number: int, batch: Batch) -> Outputs:
        if number in self._exact:
            return self._exact[number]
        found = self._model.run(batch.images, ())
        size = sum(output.nbytes for output in found.values())
        if self._exact_bytes + size <= _KEPT_BYTES:
            # Copied: an array of the runtime's keeps all of its memory.
            self._exact[number] = {name: output.copy() for name, output in found.items()}
            self._exact_bytes += size
        return found


class _Tally:
    """Sums over the batches of a measurement."""

    def __init__(self, task: Task | None) -> None:
        self._noise = Noise()
        self._counter: ClassificationCounter | SegmentationCounter | None = None
        if task is not None:
            segmentation = task == "segmentation"
            self._counter = SegmentationCounter() if segmentation else ClassificationCounter()

    def add(self, number: int, outputs: Outputs, exact: Outputs, labels: list[Any] | None) -> None:
        for name, expected in exact.items():
            wide = expected.astype(np.float64)
            with np.errstate(invalid="ignore", over="ignore"):
                noise = float(np.square(outputs[name] - wide).sum())
            noise = noise if math.isfinite(noise) else math.inf
            self._noise.add(name, float(np.square(wide).sum()), noise)
        if self._counter is not None:
            (name,) = exact
            _check_labels(labels, exact[name].shape[1])
            self._counter.add(number, outputs[name], labels, exact[name])

    def result(self) -> Measured:
        scores = self._counter.scores() if self._counter is not None else None
        return Measured(self._noise.share, scores)


def _check_labels(labels: list[Any] | None, classes: int) -> None:
    for label in labels or ():
        values = np.asarray(label)
        largest = int(np.max(values, initial=0, where=values != IGNORED if values.ndim else True))
        if largest >= classes:
            raise DataError(
                f"An image of the data has the class {largest}, and the model has {classes}, "
                "counted from 0.",
                "Correct the labels, or name the data that the model was made for.",
            )


def _task_of(outputs: Sequence[TensorSpec], dataset: Dataset) -> Task | None:
    """What the model's only output is scored as; None if it is no scores of classes.

    Raises:
        DataError: the data have labels of another kind.
    """
    kinds: dict[int, Task] = {2: "classification", 4: "segmentation"}
    task = kinds.get(len(outputs[0].shape)) if len(outputs) == 1 else None
    if dataset.task is None:
        return task if outputs[0].name == "logits" else None
    if task != dataset.task:
        shapes = ", ".join(f"{o.name} {' x '.join(map(str, o.shape))}" for o in outputs)
        raise DataError(
            f"The labels of {dataset.name} are for {dataset.task}, and the model gives {shapes}.",
            "Name data for the model's task, or images without labels.",
        )
    return task
