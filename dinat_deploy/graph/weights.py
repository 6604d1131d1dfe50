"""Read a PyTorch model's weights back out of its ONNX file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import numpy_helper

from dinat_deploy.graph.passes import TRANSPOSED_SUFFIX
from dinat_deploy.graph.reading import load_model

FloatArray = npt.NDArray[np.float32]


def read_weights(path: Path, names: Iterable[str]) -> dict[str, FloatArray]:
    """The parameters that an exported file holds, by their PyTorch names.

    The exporter keeps the names and marks the matrices that it stores transposed. Parameters that
    the graph does not need (levels behind a backbone's last output) are not in the file.

    Raises:
        BundleError: the file is missing or damaged.
    """
    model = load_model(path)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    found: dict[str, FloatArray] = {}
    for name in names:
        if name in stored:
            found[name] = numpy_helper.to_array(stored[name])
        elif name + TRANSPOSED_SUFFIX in stored:
            found[name] = numpy_helper.to_array(stored[name + TRANSPOSED_SUFFIX]).T
    return found


def parameters_in(initializers: Iterable[str], names: Iterable[str]) -> list[str]:
    """Which of the parameters ``names`` are among a graph's initializers."""
    have = set(initializers)
    return [name for name in names if name in have or name + TRANSPOSED_SUFFIX in have]
