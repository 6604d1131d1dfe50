"""``infer``: classify pictures, or find out what is where in them, with whatever can be run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dinat_deploy.bundle import Bundle, Manifest
from dinat_deploy.errors import BundleError, ConfigError
from dinat_deploy.models.preprocessing import open_image
from dinat_deploy.pipeline.artefacts import Artefact, open_artefact
from dinat_deploy.pipeline.infer_files import check_apart, output_files
from dinat_deploy.pipeline.infer_running import Runner
from dinat_deploy.pipeline.infer_segmenting import Segmenter
from dinat_deploy.pipeline.infer_semantic import Mode
from dinat_deploy.pipeline.picture_files import write_picture
from dinat_deploy.postprocessing.drawing import DEFAULT_OPACITY, Answer, Style, draw, id_picture
from dinat_deploy.postprocessing.results import Instances, PanopticMap, SemanticMap
from dinat_deploy.progress import Progress, Silent

FloatArray = npt.NDArray[np.float32]
Shares = npt.NDArray[np.float64]  # of 1, by class
DEFAULT_TOP = 5


@dataclass(frozen=True)
class Prediction:
    """One guess: class index, its name if known, its softmax probability (0..1); of a segmenter a
    class that occurs, and the share of the pixels that it has; of a detector an instance, and its
    score."""

    index: int
    label: str | None
    probability: float


@dataclass(frozen=True)
class ImagePredictions:
    """What was found in one picture.

    Attributes:
        image: its file.
        predictions: the best guesses, best first.
        milliseconds: of its runs.
        answer: of a segmenter or detector: what is where; None of a classifier.
        labels: names of the classes, if they are known.
        overlay, map: files that were written.
    """

    image: str
    predictions: list[Prediction]
    milliseconds: float
    answer: Answer | None = None
    labels: list[str] | None = None
    overlay: Path | None = None
    map: Path | None = None

    @property
    def details(self) -> list[str]:
        """More on each prediction: where an instance is, how many segments there are."""
        if isinstance(self.answer, Instances):
            return [
                "{:.0f},{:.0f} to {:.0f},{:.0f}".format(*instance.box)
                for instance in self.answer.found[: len(self.predictions)]
            ]
        if isinstance(self.answer, PanopticMap):
            things = [segment.class_index for segment in self.answer.segments if segment.is_thing]
            counts = [things.count(guess.index) for guess in self.predictions]
            return [f"{count} of them" if count > 1 else "" for count in counts]
        return [""] * len(self.predictions)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; of a segmenter or detector also ``semantic``, ``panoptic`` or ``instances``,
        with masks as COCO's run lengths."""
        data: dict[str, Any] = {
            "image": self.image,
            "predictions": [asdict(guess) for guess in self.predictions],
            "milliseconds": self.milliseconds,
        }
        if self.answer is not None:
            data[_KEYS[type(self.answer)]] = self.answer.to_dict(self.labels)
        for name, file in (("overlay", self.overlay), ("map", self.map)):
            if file is not None:
                data[name] = str(file)
        return data


_KEYS: dict[type, str] = {
    SemanticMap: "semantic",
    PanopticMap: "panoptic",
    Instances: "instances",
}


@dataclass(frozen=True)
class Drawing:
    """What is drawn of a segmenter's or detector's answers.

    Attributes:
        output: a file for one picture or a folder for several: the photo under translucent
            colours, with a legend.
        map: the same for grey values that are the numbers of classes, segments or instances.
        opacity: of the colours, 0 to 1.
        side_by_side: the photo stands beside it.
    """

    output: str | Path | None = None
    map: str | Path | None = None
    opacity: float = DEFAULT_OPACITY
    side_by_side: bool = False


def infer(
    path: str | Path,
    images: Sequence[str | Path],
    *,
    top: int | None = None,
    bundle: str | Path | None = None,
    plugin_library: str | Path | None = None,
    trust: bool = False,
    mode: Mode | None = None,
    stride: int | None = None,
    min_score: float | None = None,
    drawing: Drawing | None = None,
    progress: Progress | None = None,
) -> list[ImagePredictions]:
    """Classify pictures; with a segmenter or detector, find out what is where in them.

    Args:
        path: a bundle, an ONNX file or an engine, with the runtime before it if it is not to run
            where it usually does: ``onnxruntime-cuda:out/x``.
        images: picture files, preprocessed as the bundle says.
        top: how many predictions for each; by default 5 classes, or all instances.
        bundle: that an engine or ONNX file belongs to, where it is not found by itself.
        plugin_library: of TensorRT, instead of the one that is found.
        trust: load a plan that runs code of its own or has no manifest.
        mode, stride, min_score: as of
            :class:`~dinat_deploy.pipeline.infer_segmenting.Segmenter`.
        drawing: pictures of the answers to write.

    Raises:
        BundleError: the bundle gives no classes, is incomplete, or was changed; or there is none.
        ConfigError: an option means nothing for this model.
        EngineError: the engine is damaged, does not fit this machine, or is not trusted.
        ImageError: a file is no picture.
        OutputError: a picture cannot be written.
    """
    progress = progress or Silent()
    drawing = drawing or Drawing()
    if not 0 <= drawing.opacity <= 1:
        raise ConfigError(f"An opacity of {drawing.opacity} is not in 0..1.")
    overlays = output_files(drawing.output, images)
    maps = output_files(drawing.map, images, (".png",))
    check_apart(overlays, maps)
    for image in images:
        if not Path(image).exists():  # not after the pictures before it
            open_image(image)
    with open_artefact(
        path, trust=trust, bundle=bundle, plugin_library=plugin_library, progress=progress
    ) as artefact:
        for note in artefact.notes:
            progress.note(note)
        manifest = _with_classes(artefact).manifest
        if manifest.weights.source == "seeded":
            progress.note("This bundle has random weights; its predictions mean nothing.")
        if manifest.config.decoder is None:
            if overlays or maps or mode or stride or min_score is not None:
                raise ConfigError(
                    f"{artefact.name} is a classifier: it does not say where anything is.",
                    "Leave out what is about drawings and windows, or export with --task "
                    "semantic, panoptic or instance.",
                )
            return _classify(artefact, manifest, images, top or DEFAULT_TOP, progress)
        segmenter = Segmenter(artefact, manifest, mode=mode, stride=stride, min_score=min_score)
        results = []
        noted: set[str] = set()
        for number, image in enumerate(progress.track(list(images), "Segmenting")):
            result = _segmented(segmenter, manifest, image, top)
            overlay, ids = (files[number] if files else None for files in (overlays, maps))
            results.append(_drawn(result, manifest, drawing, overlay, ids))
            for note in segmenter.notes:
                if note not in noted:
                    progress.note(note)
                    noted.add(note)
        return results


def _with_classes(artefact: Artefact) -> Bundle:
    """The bundle, which says how pictures are preprocessed and what the classes are called."""
    bundle = artefact.bundle
    if bundle is None:
        raise BundleError(
            f"No bundle was found that {artefact.name} belongs to, so that nothing says how to "
            "preprocess pictures.",
            "Name the bundle that it was built from with --bundle.",
        )
    config, graph = bundle.manifest.config, bundle.manifest.graph
    if config.is_backbone or not config.num_classes:
        outputs = ", ".join(spec.name for spec in graph.outputs)
        raise BundleError(
            f"{bundle.path} is no classifier: its outputs are {outputs}.",
            "Export with --task classification, semantic, panoptic or instance to say what is in "
            "pictures.",
        )
    return bundle


def _classify(
    artefact: Artefact,
    manifest: Manifest,
    images: Sequence[str | Path],
    top: int,
    progress: Progress,
) -> list[ImagePredictions]:
    runner = Runner(artefact, manifest.preprocessing)
    output = manifest.graph.outputs[0].name
    batch = runner.batch(len(images))
    results = []
    groups = [list(images[first : first + batch]) for first in range(0, len(images), batch)]
    for group in progress.track(groups, "Classifying"):
        before = runner.seconds
        pictures = [manifest.preprocessing.pixels(open_image(image)) for image in group]
        logits = runner.run(pictures)[output]
        elapsed = 1e3 * (runner.seconds - before) / len(group)
        for image, row in zip(group, logits, strict=True):
            found = _best(_softmax(row), manifest.labels, top)
            results.append(ImagePredictions(str(image), found, elapsed))
    return results


def _segmented(
    segmenter: Segmenter, manifest: Manifest, image: str | Path, top: int | None
) -> ImagePredictions:
    answer, elapsed = segmenter.answer(open_image(image))
    labels = manifest.labels
    if isinstance(answer, Instances):
        found = [
            Prediction(one.class_index, labels[one.class_index] if labels else None, one.score)
            for one in answer.found[:top]
        ]
        return ImagePredictions(str(image), found, elapsed, answer, labels)
    if isinstance(answer, SemanticMap):
        shares = answer.shares()
    else:
        shares = np.zeros(manifest.config.num_classes)
        for segment in answer.segments:
            shares[segment.class_index] += segment.area / answer.ids.size
    found = [guess for guess in _best(shares, labels, top or DEFAULT_TOP) if guess.probability > 0]
    return ImagePredictions(str(image), found, elapsed, answer, labels)


def _drawn(
    result: ImagePredictions,
    manifest: Manifest,
    drawing: Drawing,
    overlay: Path | None,
    ids: Path | None,
) -> ImagePredictions:
    """The same, with its pictures written."""
    assert result.answer is not None
    if overlay is not None:
        style = Style(manifest.labels, manifest.palette, drawing.opacity, drawing.side_by_side)
        write_picture(draw(open_image(result.image), result.answer, style), overlay)
    if ids is not None:
        write_picture(id_picture(result.answer), ids)
    return replace(result, overlay=overlay, map=ids)


def _softmax(logits: FloatArray) -> Shares:
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


def _best(shares: Shares, labels: list[str] | None, top: int) -> list[Prediction]:
    order = np.argsort(-shares, kind="stable")[:top]
    return [
        Prediction(int(index), labels[index] if labels else None, float(shares[index]))
        for index in order
    ]
