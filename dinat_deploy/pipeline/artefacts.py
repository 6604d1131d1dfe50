"""What can be run: how it is named on the command line, and what opens it.

    [RUNTIME:]TARGET

``TARGET`` is a bundle, an ONNX file, an engine (the directory with ``engine.json``) or a plan in
one, and for PyTorch also the name of a model of the zoo. Without ``RUNTIME`` an engine runs in the
TensorRT that built it and the others in ONNX Runtime on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from dinat_deploy.errors import ConfigError

RuntimeName = Literal[
    "onnxruntime",
    "onnxruntime-cuda",
    "onnxruntime-tensorrt",
    "onnxruntime-tensorrt-rtx",
    "torch",
    "torch-cuda",
    "torch-compile",
    "tensorrt",
]
RUNTIMES: tuple[str, ...] = get_args(RuntimeName)


@dataclass(frozen=True)
class ArtefactName:
    """A name as it was written, in its parts; ``runtime`` is None where none was named."""

    text: str
    runtime: RuntimeName | None
    target: str

    def __str__(self) -> str:
        return self.text


def parse_artefact(text: str) -> ArtefactName:
    """Split a name.

    Raises:
        ConfigError: the runtime is unknown, or no target is named.
    """
    runtime, colon, target = text.partition(":")
    # C:\models is a path, and so is everything in which a separator stands before the colon.
    if not colon or len(runtime) == 1 or "/" in runtime or "\\" in runtime:
        return ArtefactName(text, None, text)
    for known in RUNTIMES:
        if runtime == known:
            if not target:
                raise ConfigError(f"{text!r} names no model.", f"Write {runtime}:TARGET.")
            return ArtefactName(text, known, target)  # type: ignore[arg-type]
    raise ConfigError(
        f"{runtime!r} in {text!r} is no runtime.", f"There are {', '.join(RUNTIMES)}."
    )
