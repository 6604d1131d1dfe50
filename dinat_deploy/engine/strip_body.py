"""A copy of an ONNX file without the bodies of our operators.

Until 10.6 TensorRT's parser takes a node's body and never looks for a plugin. So the builder of
such a release gets a copy in which only the functions of our domain are missing.
"""

from __future__ import annotations

import mmap
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from dinat_deploy.engine.onnx_file import DOMAIN
from dinat_deploy.engine.protobuf import fields, spans, text
from dinat_deploy.errors import EngineError

_FUNCTIONS = 25  # ModelProto.functions
_DOMAIN = 10  # FunctionProto.domain
_CHUNK = 64 << 20


def strip_body(model: Path, directory: Path, external: Sequence[str]) -> Path:
    """Copy an ONNX file, leaving out the functions that are bodies of our operators.

    Every other byte stays as it is. The file is copied in pieces, so that its size does not matter.

    Args:
        directory: where the copy goes, under the same name.
        external: names of the files beside the model that hold weights; they are made available
            beside the copy, without copying them where the system can.

    Returns:
        The copy.

    Raises:
        EngineError: the file cannot be read, or the copy not be written.
    """
    copy = directory / model.name
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with model.open("rb") as stream:
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        # Not closed by hand: it goes when the last view of it does.
        with copy.open("wb") as target:
            _copy(memoryview(mapped), target)
        for name in external:
            _bring(model.parent / name, directory / name)
    except OSError as error:
        raise EngineError(
            f"The copy of {model} without its body cannot be made in {directory}: "
            f"{error.strerror or error}.",
            "Free disk space, or export with --body none.",
        ) from None
    except (IndexError, ValueError) as error:
        raise EngineError(f"{model} is not an ONNX file: {error}.", "Export again.") from None
    return copy


def _copy(view: memoryview, target: BinaryIO) -> None:
    kept = 0
    for number, value, start, end in spans(view):
        if number == _FUNCTIONS and isinstance(value, memoryview) and _is_ours(value):
            _write(view[kept:start], target)
            kept = end
    _write(view[kept:], target)


def _write(view: memoryview, target: BinaryIO) -> None:
    for start in range(0, len(view), _CHUNK):
        target.write(view[start : start + _CHUNK])


def _is_ours(function: memoryview) -> bool:
    return any(number == _DOMAIN and text(value) == DOMAIN for number, value in fields(function))


def _bring(source: Path, place: Path) -> None:
    """Make a file available elsewhere, by a link if the system has them.

    No hard link: the package onnx refuses files that have one, the original included.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        place.symlink_to(source.resolve())
    except OSError:
        shutil.copyfile(source, place)
