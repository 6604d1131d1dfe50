"""What PyTorch and ONNX Runtime see in a real photo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_sample_image

from dinat_deploy.bundle import open_bundle
from dinat_deploy.pipeline.rebuild import torch_session
from dinat_deploy.pipeline.running import onnxruntime_session

Maps = npt.NDArray[np.float64]


def pixel_scores(outputs: dict[str, npt.NDArray[np.float32]]) -> Maps:
    """``[K, h, w]``: logits, or what queries add up to (Mask2Former, arXiv 2112.01527)."""
    if "logits" in outputs:
        return outputs["logits"][0].astype(np.float64)
    shares = np.exp(outputs["class_logits"][0].astype(np.float64))
    shares /= shares.sum(axis=1, keepdims=True)
    masks = 1 / (1 + np.exp(-outputs["mask_logits"][0].astype(np.float64)))
    return np.einsum("qk,qhw->khw", shares[:, :-1], masks)


def both(bundle: Path) -> tuple[Maps, Maps]:
    """Scores of the pixels of a photo by a bundle's model, in PyTorch and in ONNX Runtime."""
    opened = open_bundle(bundle)
    photo = Image.fromarray(load_sample_image("china.jpg"))
    feeds = {"image": opened.manifest.preprocessing(photo)[None]}
    return (
        pixel_scores(torch_session(opened).run(feeds)),
        pixel_scores(onnxruntime_session(opened).run(feeds)),
    )


def assert_same_classes(bundle: Path) -> None:
    """The class maps are the same but where the two best are within 1e-3.

    Small models with made-up weights prefer one class everywhere; the mean of each is taken off.
    """
    exact, found = both(bundle)
    assert np.abs(exact - found).max() < 1e-3
    usual = exact.mean(axis=(1, 2), keepdims=True)
    exact, found = exact - usual, found - usual
    best = exact.argmax(axis=0)
    assert len(np.unique(best)) > 1
    second, first = np.sort(exact, axis=0)[-2:]
    differ = best != found.argmax(axis=0)
    assert not (differ & (first - second > 1e-3)).any()
