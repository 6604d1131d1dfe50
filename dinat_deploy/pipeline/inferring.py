"""``infer``: classify pictures with a bundle's ONNX file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dinat_deploy.bundle import open_bundle
from dinat_deploy.errors import BundleError
from dinat_deploy.models.preprocessing import load_batch
from dinat_deploy.pipeline.running import onnxruntime_session
from dinat_deploy.progress import Progress, Silent

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """One guess: class index, its name if known, its softmax probability (0..1)."""

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
    progress: Progress | None = None,
) -> list[ImagePredictions]:
    """Classify pictures.

    Args:
        path: the bundle.
        images: picture files, preprocessed as the bundle says.
        top: how many guesses for each.

    Raises:
        BundleError: the bundle is no classifier, incomplete, or was changed.
        ImageError: a file is no picture.
    """
    progress = progress or Silent()
    bundle = open_bundle(path)
    manifest = bundle.manifest
    if manifest.config.is_backbone or not manifest.config.num_classes:
        outputs = ", ".join(spec.name for spec in manifest.graph.outputs)
        raise BundleError(
            f"{bundle.path} is no classifier: its outputs are {outputs}.",
            "Export with --task classification to classify pictures.",
        )
    if manifest.weights.source == "seeded":
        progress.note("This bundle has random weights; its predictions mean nothing.")
    with progress.stage("Loading the model"):
        bundle.check_model()
        session = onnxruntime_session(bundle)
    for note in session.notes:
        progress.note(note)
    spec, output = manifest.graph.inputs[0], manifest.graph.outputs[0].name
    batch = spec.shape[0] if isinstance(spec.shape[0], int) else 1
    results = []
    groups = [list(images[first : first + batch]) for first in range(0, len(images), batch)]
    for group in progress.track(groups, "Classifying"):
        pixels = load_batch(group, manifest.preprocessing)
        # A static batch is filled up with copies of its last picture.
        filled = np.concatenate([pixels, *[pixels[-1:]] * (batch - len(group))])
        started = time.perf_counter()
        logits = session.run({spec.name: filled})[output]
        elapsed = 1e3 * (time.perf_counter() - started) / len(group)
        for image, row in zip(group, logits, strict=False):
            results.append(ImagePredictions(str(image), _best(row, manifest.labels, top), elapsed))
    return results


def _best(logits: FloatArray, labels: list[str] | None, top: int) -> list[Prediction]:
    weights = np.exp(logits.astype(np.float64) - logits.max())
    probabilities = weights / weights.sum()
    order = np.argsort(-probabilities, kind="stable")[:top]
    return [
        Prediction(int(index), labels[index] if labels else None, float(probabilities[index]))
        for index in order
    ]
