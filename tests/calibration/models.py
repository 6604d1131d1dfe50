"""A small model to calibrate, and its calibration, which can be killed on the way."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dinat_deploy.calibration.recording import Batch
from dinat_deploy.calibration.run import Read, calibrate
from dinat_deploy.calibration.state import Recorded

SHAPE = (3, 4, 4)
# The input, two tensors inside, one of which has a colon in its name, and the output.
TENSORS = ["image", "hidden", "root/Sqrt:0", "logits"]
BINS = 64


def write_model(path: Path) -> Path:
    """``logits = (relu(2 * image - 1) + sqrt(image + 1)) @ weight``, for images of -1 and more."""
    nodes = [
        helper.make_node("Mul", ["image", "two"], ["doubled"]),
        helper.make_node("Sub", ["doubled", "one"], ["shifted"]),
        helper.make_node("Relu", ["shifted"], ["hidden"]),
        helper.make_node("Add", ["image", "one"], ["raised"]),
        helper.make_node("Sqrt", ["raised"], ["root/Sqrt:0"]),
        helper.make_node("Add", ["hidden", "root/Sqrt:0"], ["sum"]),
        helper.make_node("MatMul", ["sum", "weight"], ["logits"]),
        helper.make_node("Shape", ["logits"], ["size"]),
    ]
    constants = {
        "one": np.array(1, np.float32),
        "two": np.array(2, np.float32),
        "weight": np.random.default_rng(0).standard_normal((4, 100), dtype=np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *SHAPE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3, 4, 100])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
        value_info=[helper.make_tensor_value_info("size", TensorProto.INT64, [4])],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def tensors_of(images: np.ndarray) -> dict[str, np.ndarray]:
    """The model's tensors, computed by NumPy."""
    weight = np.random.default_rng(0).standard_normal((4, 100), dtype=np.float32)
    hidden, root = np.maximum(2 * images - 1, 0), np.sqrt(images + 1)
    return dict(zip(TENSORS, (images, hidden, root, (hidden + root) @ weight), strict=True))


def image(number: int) -> np.ndarray:
    return np.random.default_rng(number).random(SHAPE, dtype=np.float32) * np.float32(number + 1)


def read(images: int, before: Callable[[int], None] = lambda number: None) -> Read:
    """Images one by one; ``before`` is called before each is handed out."""

    def batches(skipped: list[str]) -> Iterator[Batch]:
        for number in range(images):
            before(number)
            yield Batch((f"image {number}",), {"image": image(number)[None]})

    return batches


def run(model: Path, directory: Path, batches: Read, **options: object) -> Recorded:
    settings = {
        "tensors": TENSORS,
        "images": 8,
        "model_sha256": "a" * 64,
        "source": "numbers",
        "bins": BINS,
        "threads": 1,
        "custom_op": False,
    }
    return calibrate(model, read=batches, state_dir=directory, **{**settings, **options})


def _kill_at(number: int, at: int) -> None:
    if number == at:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    place, images, killed_at = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    run(
        place / "model.onnx",
        place,
        read(images, lambda number: _kill_at(number, killed_at)),
        save_every=2,
    )
