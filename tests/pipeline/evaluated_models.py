"""Small models and data for tests of ``evaluate``: what they must score is known."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dinat_deploy.data.dataset import Dataset, Sample

CLASSES = 7
SIDE = 64


def images(count: int, seed: int = 0) -> np.ndarray:
    """Normalised images whose channels have different means."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((count, 3, SIDE, SIDE), dtype=np.float32)
    return noise + rng.standard_normal((count, 3, 1, 1), dtype=np.float32)


def weights(noise: float) -> np.ndarray:
    """Of a linear model, ``[3, CLASSES]``."""
    rng = np.random.default_rng(1)
    exact = rng.standard_normal((3, CLASSES), dtype=np.float32)
    return exact + np.float32(noise) * rng.standard_normal((3, CLASSES), dtype=np.float32)


def classifier(path: Path, batch: int | str = "batch", noise: float = 0.0) -> Path:
    """Logits are a linear function of the channels' means."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    return _save(path, nodes, batch, [batch, CLASSES], weights(noise))


def segmenter(path: Path, noise: float = 0.0, stride: int = 1) -> Path:
    """Logits of a pixel are a linear function of its channels."""
    kernel = weights(noise).T.reshape(CLASSES, 3, 1, 1)
    node = helper.make_node("Conv", ["image", "weights"], ["logits"], strides=[stride, stride])
    size = SIDE // stride
    return _save(path, [node], "batch", ["batch", CLASSES, size, size], kernel)


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    batch: int | str,
    output: list[int | str],
    values: np.ndarray,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(values, "weights")],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def labelled(path: Path, count: int, wrong: int = 0) -> Path:
    """An ``.npz`` file whose labels are what the exact classifier says, but for the first few."""
    inputs = images(count)
    labels = (inputs.mean(axis=(2, 3)) @ weights(0.0)).argmax(1)
    labels[:wrong] = (labels[:wrong] + 1) % CLASSES
    np.savez(path, images=inputs, labels=labels)
    return path


@dataclass(frozen=True)
class Deadly:
    """Data that kill the process which reads one of their images, as often as ``lives`` has files.

    It stands for a process that is killed from outside, at a moment when it is sure to be at work.
    """

    data: Dataset
    deadly: int
    lives: Path

    @property
    def name(self) -> str:
        return self.data.name

    @property
    def task(self) -> str | None:
        return self.data.task

    @property
    def classes(self) -> list[str] | None:
        return self.data.classes

    @property
    def notes(self) -> list[str]:
        return self.data.notes

    def __len__(self) -> int:
        return len(self.data)

    def name_of(self, index: int) -> str:
        return self.data.name_of(index)

    def load(self, index: int) -> Sample:
        if index == self.deadly:
            for life in self.lives.iterdir():
                life.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        return self.data.load(index)


def deadly(data: Dataset, index: int, lives: Path, deaths: int) -> Deadly:
    """Data that kill so many processes."""
    lives.mkdir()
    for number in range(deaths):
        (lives / str(number)).touch()
    return Deadly(data, index, lives)
