"""``infer``: classify pictures, or their pixels, with whatever can be run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dinat_deploy.bundle import Bundle, TensorSpec
from dinat_deploy.errors import BundleError
from dinat_deploy.models.preprocessing import load_batch, load_pixels
from dinat_deploy.pipeline.artefacts import Artefact, open_artefact
from dinat_deploy.pipeline.pixels import PIXEL_TYPE
from dinat_deploy.progress import Progress, Silent

FloatArray = npt.NDArray[np.float32]
Shares = npt.NDArray[np.float64]  # of 1, by class


@dataclass(frozen=True)
class Prediction:
    """One guess: class index, its name if known, its softmax probability (0..1); of a segmenter a
    class that occurs, and the share of the pixels that it has."""

    index: int
    label: str | None
    probability: float


@dataclass(frozen=True)
class ImagePredictions:
    """The best guesses for one picture, best first, and the time of its run in milliseconds."""

    image: str
    predictions: list[Prediction]
    milliseconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def infer(
    path: str | Path,
    images: Sequence[str | Path],
    *,
    top: int = 5,
    bundle: str | Path | None = None,
    plugin_library: str | Path | None = None,
    trust: bool = False,
    progress: Progress | None = None,
) -> list[ImagePredictions]:
    """Classify pictures; with a segmenter, say which classes occur in them and how much.

    Args:
        path: a bundle, an ONNX file or an engine, with the runtime before it if it is not to run
            where it usually does: ``onnxruntime-cuda:out/x``.
        images: picture files, preprocessed as the bundle says.
        top: how many guesses for each.
        bundle: that an engine or ONNX file belongs to, where it is not found by itself.
        plugin_library: of TensorRT, instead of the one that is found.
        trust: load a plan that runs code of its own or has no manifest.

    Raises:
        BundleError: the bundle gives no classes, is incomplete, or was changed; or there is none.
        EngineError: the engine is damaged, does not fit this machine, or is not trusted.
        ImageError: a file is no picture.
    """
    progress = progress or Silent()
    with open_artefact(
        path, trust=trust, bundle=bundle, plugin_library=plugin_library, progress=progress
    ) as artefact:
        for note in artefact.notes:
            progress.note(note)
        return _classify(artefact, images, top, progress)


def _classify(
    artefact: Artefact, images: Sequence[str | Path], top: int, progress: Progress
) -> list[ImagePredictions]:
    manifest = _classifier(artefact).manifest
    if manifest.weights.source == "seeded":
        progress.note("This bundle has random weights; its predictions mean nothing.")
    spec, output = artefact.image_input, manifest.graph.outputs[0].name
    batch = _batch(artefact, spec, len(images))
    load: Callable[..., npt.NDArray[Any]] = load_pixels if spec.dtype == PIXEL_TYPE else load_batch
    results = []
    groups = [list(images[first : first + batch]) for first in range(0, len(images), batch)]
    for group in progress.track(groups, "Classifying"):
        loaded = load(group, manifest.preprocessing)
        # Filled up with copies of its last picture.
        filled = np.concatenate([loaded, *[loaded[-1:]] * (batch - len(group))])
        artefact.check_shapes({spec.name: list(filled.shape)})
        started = time.perf_counter()
        logits = artefact.session.run({spec.name: filled})[output]
        elapsed = 1e3 * (time.perf_counter() - started) / len(group)
        for image, row in zip(group, logits, strict=False):
            shares = _softmax(row) if row.ndim == 1 else _pixel_shares(row)
            found = _best(shares, manifest.labels, top)
            if row.ndim > 1:
                found = [guess for guess in found if guess.probability > 0]
            results.append(ImagePredictions(str(image), found, elapsed))
    return results


def _classifier(artefact: Artefact) -> Bundle:
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
            "Export with --task classification or semantic to classify pictures or their pixels.",
        )
    return bundle


def _batch(artefact: Artefact, spec: TensorSpec, images: int) -> int:
    """Images of one run: what is fixed, what an engine is built for best, or one."""
    if isinstance(spec.shape[0], int):
        return spec.shape[0]
    if not artefact.profiles or spec.name not in artefact.profiles[0]:
        return 1
    sizes = artefact.profiles[0][spec.name]
    # Few pictures need no larger batch than there are.
    return max(sizes.min[0], min(sizes.opt[0], images))


def _softmax(logits: FloatArray) -> Shares:
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


def _pixel_shares(logits: FloatArray) -> Shares:
    """Share of the pixels whose best class is each one: logits ``[K, h, w]`` -> ``[K]``."""
    best = logits.argmax(axis=0)
    return np.bincount(best.ravel(), minlength=len(logits)) / best.size


def _best(shares: Shares, labels: list[str] | None, top: int) -> list[Prediction]:
    order = np.argsort(-shares, kind="stable")[:top]
    return [
        Prediction(int(index), labels[index] if labels else None, float(shares[index]))
        for index in order
    ]
