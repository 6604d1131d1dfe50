"""Logits to the most probable classes, in Triton's Python back end.

Written by dinat-deploy. It needs numpy; the names of the classes are in ``labels.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found, unused-ignore]


def best(logits: Any, count: int) -> tuple[Any, Any]:
    """Probabilities and numbers of the best classes, best first: ``[B, count]`` each.

    Equal ones come in the order of their numbers.
    """
    exact = logits.astype(np.float32)
    weights = np.exp(exact - exact.max(axis=-1, keepdims=True))
    probabilities = weights / weights.sum(axis=-1, keepdims=True)
    classes = np.argsort(-probabilities, axis=-1, kind="stable")[:, :count]
    return np.take_along_axis(probabilities, classes, axis=-1), classes.astype(np.int32)


class TritonPythonModel:
    """What Triton calls."""

    def initialize(self, args: dict[str, str]) -> None:
        folder = Path(args["model_repository"]) / args["model_version"]
        self.settings: dict[str, Any] = json.loads(
            (folder / "labels.json").read_text(encoding="utf-8")
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self.answer(request) for request in requests]

    def answer(self, request: Any) -> Any:
        logits = pb_utils.get_input_tensor_by_name(request, self.settings["input"]).as_numpy()
        scores, classes = best(logits, self.settings["top"])
        made = [pb_utils.Tensor("scores", scores), pb_utils.Tensor("classes", classes)]
        labels = self.settings["labels"]
        if labels is not None:
            names = np.array(
                [[labels[number].encode() for number in row] for row in classes], dtype=np.object_
            )
            made.append(pb_utils.Tensor("labels", names))
        return pb_utils.InferenceResponse(output_tensors=made)
