"""Counts what models get right, one batch of images at a time.

Batch k is always the same images, whoever counts it: this process, a worker or an actor on another
machine. Each of them has an :class:`Evaluator`, made from the same :class:`Plan`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dinat_deploy.data.dataset import IGNORED, Dataset, OnBad, Sample
from dinat_deploy.data.streaming import some_samples
from dinat_deploy.errors import ConfigError, DataError
from dinat_deploy.evaluation.metrics import ClassificationCounter, Counter, SegmentationCounter
from dinat_deploy.pipeline.artefacts import Artefact, open_artefact
from dinat_deploy.pipeline.evaluation_simulation import open_simulated
from dinat_deploy.pipeline.pixels import pixels_of
from dinat_deploy.pipeline.scored_models import check_scored

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Candidate:
    """A model to evaluate.

    Attributes:
        name: of the artefact, as the user named it.
        simulated: ``fp16`` or ``bf16`` if its arithmetic is simulated in float32.
    """

    name: str
    simulated: str | None = None


@dataclass(frozen=True)
class Plan:
    """What is evaluated on what; it can be sent to other processes.

    Attributes:
        candidates: the first one is the reference.
        batch: images of a batch.
        on_bad: what to do about images that cannot be used.
        threads: of the CPU for one run; 0 leaves the choice to the runtime.
        bundle, plugin_library, trust: as of
            :func:`dinat_deploy.pipeline.artefacts.open_artefact`.
    """

    candidates: tuple[Candidate, ...]
    dataset: Dataset
    batch: int
    on_bad: OnBad = "refuse"
    threads: int = 0
    bundle: str | Path | None = None
    plugin_library: str | Path | None = None
    trust: bool = False

    @property
    def batches(self) -> int:
        """How many there are; the last one may be smaller."""
        return -(-len(self.dataset) // self.batch)

    def images_of(self, index: int) -> range:
        """Numbers of the images of a batch."""
        return range(index * self.batch, min((index + 1) * self.batch, len(self.dataset)))


@dataclass(frozen=True)
class Opened:
    """What is known of a model once it is loaded, for the report."""

    runtime: str
    device: str
    precision: str
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class BatchResult:
    """What was found in a batch.

    Attributes:
        counters: of each candidate; empty if no image could be used.
        skipped: names of images that could not be used; ``reasons`` says why.
    """

    index: int
    counters: list[Counter]
    skipped: list[str]
    reasons: list[str]


class Evaluator:
    """Has the models of a plan loaded, and counts batches; a context manager.

    Raises:
        DinatDeployError: a model cannot be opened, or takes no such images.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        with ExitStack() as held:
            self._models = [_Model(held, candidate, plan) for candidate in plan.candidates]
            self._held = held.pop_all()
        self.opened = [model.opened for model in self._models]

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the models."""
        self._held.close()

    def count(self, index: int) -> BatchResult:
        """Run all models on a batch.

        Raises:
            DataError: an image cannot be used and such are refused; or a label is no class of the
                model.
            ConfigError: the models' outputs do not fit each other or the labels.
        """
        skipped: list[str] = []
        reasons: list[str] = []
        plan = self._plan
        found = list(
            some_samples(
                plan.dataset,
                plan.images_of(index),
                on_bad=plan.on_bad,
                skipped=skipped,
                note=reasons.append,
                may_be_empty=True,
            )
        )
        if not found:
            return BatchResult(index, [], skipped, reasons)
        images = np.stack([sample.image for sample in found])
        counters: list[Counter] = []
        reference: FloatArray | None = None
        for model in self._models:
            outputs = model.run(images)
            if reference is None:
                reference = outputs
                _check_labels(found, outputs.shape, model.name)
            elif reference.shape != outputs.shape:
                raise ConfigError(
                    f"{model.name} gives {list(outputs.shape[1:])} numbers for an image and "
                    f"{self._models[0].name} {list(reference.shape[1:])}; they cannot be compared.",
                    "Evaluate models of the same task, classes and size together.",
                )
            counters.append(_counted(index, outputs, found, reference))
        return BatchResult(index, counters, skipped, reasons)


class _Model:
    """A loaded model that takes batches of any size."""

    def __init__(self, held: ExitStack, candidate: Candidate, plan: Plan) -> None:
        self.name = candidate.name
        if candidate.simulated is not None:
            artefact = held.enter_context(open_simulated(candidate, plan.bundle, plan.threads))
        else:
            artefact = held.enter_context(
                open_artefact(
                    candidate.name,
                    trust=plan.trust,
                    threads=plan.threads,
                    bundle=plan.bundle,
                    plugin_library=plan.plugin_library,
                )
            )
        self._artefact = artefact
        self._input = artefact.image_input
        check_scored(artefact.model_config, self.name, "evaluate")
        if len(artefact.outputs) != 1:
            raise ConfigError(
                f"{self.name} is neither a classifier nor a segmenter: its outputs are "
                f"{', '.join(spec.name for spec in artefact.outputs)}.",
                "Export with --task classification or semantic.",
            )
        self._output = artefact.outputs[0].name
        self._pixels = pixels_of(artefact.inputs, artefact.bundle) if artefact.bundle else None
        self._least, self._most = _batches(artefact)
        session = artefact.session
        name = session.name
        if candidate.simulated is not None:
            name = f"{candidate.simulated} simulated in {name}"
        self.opened = Opened(name, session.device, artefact.precision, list(artefact.notes))

    def run(self, images: FloatArray) -> FloatArray:
        """The output for normalised images ``[B, C, H, W]``, float32 ``[B, ...]``."""
        step = min(self._most or len(images), len(images))
        parts = [images[first : first + step] for first in range(0, len(images), step)]
        return np.concatenate([self._run(part) for part in parts])

    def _run(self, images: FloatArray) -> FloatArray:
        # Filled up with copies of the last image to what the model takes.
        missing = max(0, self._least - len(images))
        filled = np.concatenate([images, *[images[-1:]] * missing]) if missing else images
        name = self._input.name
        self._artefact.check_shapes({name: list(filled.shape)})
        feeds = self._pixels.nearest({name: filled}) if self._pixels else {name: filled}
        return self._artefact.session.run(feeds)[self._output][: len(images)]


def _batches(artefact: Artefact) -> tuple[int, int | None]:
    """The smallest and the largest batch of one run; None for any."""
    spec = artefact.image_input
    if isinstance(spec.shape[0], int):
        return spec.shape[0], spec.shape[0]
    sizes = [profile[spec.name] for profile in artefact.profiles if spec.name in profile]
    if not sizes:
        return 1, None
    widest = max(sizes, key=lambda size: size.max[0])
    return widest.min[0], widest.max[0]


def _check_labels(samples: Sequence[Sample], shape: Sequence[int], name: str) -> None:
    """Compare labels with what the model tells apart."""
    kinds = {2: "classes of images", 4: "classes of pixels"}
    if len(shape) not in kinds:
        raise ConfigError(
            f"{name} gives {list(shape[1:])} numbers for an image, which are classes of neither "
            "images nor pixels.",
            "Evaluate a classifier or a segmenter.",
        )
    classes = shape[1]
    for sample in samples:
        if sample.label is None:
            continue
        expected = 2 if np.ndim(sample.label) == 0 else 4
        if expected != len(shape):
            raise ConfigError(
                f"The labels of the data are {kinds[expected]}, and {name} tells "
                f"{kinds[len(shape)]}.",
                "Name data for the model's task.",
            )
        values = np.asarray(sample.label)
        counted = values[values != IGNORED] if expected == 4 else values
        if counted.size and counted.max() >= classes:
            raise DataError(
                f"{sample.name} has the class {counted.max()}, and {name} has {classes}, counted "
                "from 0.",
                "Correct its label, or evaluate the model that it was labelled for.",
            )


def _counted(
    index: int, outputs: FloatArray, samples: Sequence[Sample], reference: FloatArray
) -> Counter:
    labelled = samples[0].label is not None
    if outputs.ndim == 2:
        images = ClassificationCounter()
        labels = np.array([s.label for s in samples], np.int64) if labelled else None
        images.add(index, outputs, labels, reference)
        return images
    pixels = SegmentationCounter()
    masks = [np.asarray(s.label, np.int64) for s in samples] if labelled else None
    pixels.add(index, outputs, masks, reference)
    return pixels
