"""Ways to break a model repository that Triton refuses, each with a word of our message.

``test_real_triton.py`` has Triton itself refuse each of them, where there is one.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

NAME = "tiny"


@dataclass(frozen=True)
class Break:
    """How a package of the classifier ``tiny`` is broken, and what our check says of it."""

    what: str
    do: Callable[[Path], object]
    where: str
    said: str

    def __str__(self) -> str:
        return self.what


def edit(model: str, old: str, new: str) -> Callable[[Path], None]:
    """Replace the first match of a regular expression in a config.pbtxt."""

    def do(package: Path) -> None:
        file = package / "models" / model / "config.pbtxt"
        text, count = re.subn(old, new, file.read_text(), count=1)
        assert count == 1, old
        file.write_text(text)

    return do


def _remove(path: str) -> Callable[[Path], None]:
    def do(package: Path) -> None:
        place = package / "models" / path
        shutil.rmtree(place) if place.is_dir() else place.unlink()

    return do


def _both(*parts: Callable[[Path], object]) -> Callable[[Path], None]:
    def do(package: Path) -> None:
        for part in parts:
            part(package)

    return do


_NO_WARM_UP = r"(?s)model_warmup \{.*\Z"
_LIBRARY = 'model_operations { op_library_filename: "lib/libdinat_onnxruntime.so" }\n'

BREAKS = [
    Break("wrong input dims", _both(edit(NAME, _NO_WARM_UP, ""), edit(NAME, "64, 64", "32, 32")),
          NAME, r"is a batch and \[3, 32, 32\], and in .* it is a batch and \[3, 64, 64\]"),
    Break("too few input dims", _both(edit(NAME, _NO_WARM_UP, ""), edit(NAME, "3, 64, 64", "3, 64")),
          NAME, r"\[3, 64\]"),
    Break("wrong output dims", edit(NAME, r"dims: \[10\]\n  label_filename: .*", "dims: [11]"),
          NAME, r"the output logits is a batch and \[11\]"),
    Break("wrong input type", _both(edit(NAME, _NO_WARM_UP, ""), edit(NAME, "TYPE_FP32", "TYPE_FP16")),
          NAME, "the input image is TYPE_FP16"),
    Break("wrong output type", edit(NAME, r'(?s)("logits"\s+data_type:) TYPE_FP32', r"\1 TYPE_INT32"),
          NAME, "the output logits is TYPE_INT32"),
    Break("an output that the model does not have", edit(NAME, '"logits"', '"logitz"'),
          NAME, "an output logitz, and .* has logits"),
    Break("an input that the model does not have",
          _both(edit(NAME, _NO_WARM_UP, ""), edit(NAME, '"image"', '"picture"')),
          NAME, "an input picture, and .* has image"),
    Break("a batch of a model that takes whole shapes",
          edit(NAME, "max_batch_size: 8\n", "max_batch_size: 0\n"), NAME, "in .* it is"),
    Break("a missing operator library", edit(NAME, "model_warmup", _LIBRARY + "model_warmup"),
          NAME, "loads the operator library lib/libdinat_onnxruntime.so, and there is none"),
    Break("a missing model file", _remove(f"{NAME}/1/model.onnx"), NAME, "There is no model.onnx"),
    Break("no version", _remove(f"{NAME}/1"), NAME, "It has no version"),
    Break("another name than its directory's", edit(NAME, f'name: "{NAME}"', 'name: "other"'),
          NAME, "a model named 'other'"),
    Break("a field that does not exist", edit(NAME, "max_batch_size", "largest_batch"),
          NAME, 'no field named "largest_batch"'),
    Break("an unfinished file", edit(NAME, r"\}\n\Z", ""), NAME, "does not read this"),
    Break("dims of zero", edit(NAME, r"dims: \[10\]", "dims: [0]"), NAME, r"dims \[0\]; they are 1 or"),
    Break("no dims", edit(NAME, r"  dims: \[10\]\n", ""), NAME, "logits has no dims"),
    Break("no type", edit(NAME, r"(?s)(\"logits\"\n)  data_type: TYPE_FP32\n", r"\1"),
          NAME, "logits has no data_type"),
    Break("a negative batch", edit(NAME, "max_batch_size: 8", "max_batch_size: -1"),
          NAME, "max_batch_size is -1"),
    Break("a preferred batch above the largest",
          edit(NAME, r"dynamic_batching \{", "dynamic_batching {\n  preferred_batch_size: [16]"),
          NAME, "A batch of 16 is preferred, and max_batch_size is 8"),
    Break("a default priority beyond the levels",
          edit(NAME, r"dynamic_batching \{", "dynamic_batching {\n  priority_levels: 2"),
          NAME, "default priority is 0, of levels 1 to 2"),
    Break("a platform of another back end", edit(NAME, "onnxruntime_onnx", "tensorrt_plan"),
          NAME, "the platform onnxruntime_onnx, and config.pbtxt says tensorrt_plan"),
    Break("GPUs for instances on the CPU", edit(NAME, "kind: KIND_CPU", "kind: KIND_CPU\n  gpus: [0]"),
          NAME, "names GPUs"),
    Break("a warm-up of other dims",
          edit(NAME, r'(?s)(model_warmup .*?dims: )\[3, 64, 64\]', r"\1[3, -1, 64]"),
          NAME, r"gives image dims \[3, -1, 64\]"),
    Break("Python that is none", lambda package: (
          package / "models" / f"{NAME}_preprocess/1/model.py").write_text("def ("),
          f"{NAME}_preprocess", "is not Python"),
    Break("a step that is no model", edit(f"{NAME}_pipeline", f'"{NAME}_preprocess"', '"nothing"'),
          f"{NAME}_pipeline", "A step is the model 'nothing'"),
    Break("an ensemble of larger batches than its model's",
          edit(f"{NAME}_pipeline", "max_batch_size: 8", "max_batch_size: 16"),
          f"{NAME}_pipeline", "batches of up to 16, and its step .* of up to 8"),
    Break("a map from an output that the model does not have",
          edit(f"{NAME}_pipeline", r'(?s)(output_map \{\s+key: )"image"', r'\1"pixels"'),
          f"{NAME}_pipeline", "The output pixels of the step"),
    Break("an input that is not mapped",
          edit(f"{NAME}_pipeline", r'(?s)(input_map \{\s+key: )"image"', r'\1"picture"'),
          f"{NAME}_pipeline", "The input image of the step tiny is not mapped"),
    Break("a tensor that no step writes",
          edit(f"{NAME}_pipeline", r'(?s)(output_map \{\s+key: "image"\s+value: )"prepared"',
               r'\1"other"'),
          f"{NAME}_pipeline", "reads the tensor prepared, which none writes"),
    Break("an output that no step writes",
          edit(f"{NAME}_pipeline", r'(?s)(output \{\s+name: )"scores"', r'\1"probabilities"'),
          f"{NAME}_pipeline", "No step writes the output probabilities"),
    Break("steps of different types",
          _both(edit(f"{NAME}_preprocess", "TYPE_FP32", "TYPE_FP16")),
          f"{NAME}_pipeline", "is TYPE_FP16 for tiny_preprocess, and TYPE_FP32 for tiny"),
    Break("steps of different dims",
          edit(f"{NAME}_preprocess", r"dims: \[3, 64, 64\]", "dims: [3, 32, 32]"),
          f"{NAME}_pipeline", r"\[-1, 3, 32, 32\] for tiny_preprocess"),
    Break("an ensemble's output of another type",
          edit(f"{NAME}_pipeline", "TYPE_INT32", "TYPE_INT64"),
          f"{NAME}_pipeline", "The tensor classes is TYPE_INT64"),
    Break("instances of an ensemble",
          edit(f"{NAME}_pipeline", "max_batch_size", "instance_group { count: 1 }\nmax_batch_size"),
          f"{NAME}_pipeline", "an ensemble with instance_group"),
    Break("an ensemble without steps", edit(f"{NAME}_pipeline", r"(?s)ensemble_scheduling.*", ""),
          f"{NAME}_pipeline", "without steps"),
]  # fmt: skip


def _without_configuration(package: Path) -> None:
    """Then Triton takes batches of 4."""
    _remove(f"{NAME}/config.pbtxt")(package)
    edit(f"{NAME}_pipeline", "max_batch_size: 8", "max_batch_size: 4")(package)


# What Triton adds by itself, unless it is told not to, and what else a user may write.
LEFT_OUT: dict[str, Callable[[Path], object]] = {
    "the name": edit(NAME, f'name: "{NAME}"\n', ""),
    "the name of an ensemble": edit(f"{NAME}_pipeline", f'name: "{NAME}_pipeline"\n', ""),
    "the number of instances": edit(NAME, r"\n  count: 1", ""),
    "the platform": edit(NAME, r'platform: "onnxruntime_onnx"\n', ""),
    "the back end": edit(NAME, r'backend: "onnxruntime"\n', ""),
    "back end and file": edit(
        NAME, r'(?s)platform.*?\n(max.*?)default_model_filename: "model.onnx"\n', r"\1"
    ),
    "inputs and outputs": edit(NAME, r'(?s)input \{.*?label_filename: "labels.txt"\n\}\n', ""),
    "the configuration": _without_configuration,
    "nothing, with a reshape": edit(
        NAME, r"dims: \[3, 64, 64\]", "dims: [3, 64, 64]\n  reshape { shape: [3, 64, 64] }"
    ),
    "nothing, with an option": edit(
        NAME, "max_batch_size", "optimization { graph { level: 1 } }\nmax_batch_size"
    ),
}
