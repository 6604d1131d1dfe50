"""The calibration cache of TensorRT up to 10, from which its implicit INT8 mode takes scales.

    TRT-100300-EntropyCalibration2
    image: 3caa54fc
    levels.0.blocks.0.attn.qkv/MatMul:0: 3d5c11b5

The first line names TensorRT's version (``major * 10000 + minor * 100 + patch``, before 10
``major * 1000 + minor * 100 + patch``) and the calibrator; TensorRT calibrates anew if they are not
its own. Then, for each tensor, the bits of its scale, a float32, as a hexadecimal number without
leading zeros. The scale is the range over 127, and 0 if the tensor has none. Names may contain
colons and spaces.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from dinat_deploy.errors import ConversionError
from dinat_deploy.files import write_whole

Algorithm = Literal["EntropyCalibration2", "MinMaxCalibration"]
ALGORITHMS: tuple[str, ...] = get_args(Algorithm)
_LARGEST = 127.0
_HEADER = re.compile(r"TRT-(\d+)-(\w+)")
_LINE = re.compile(r"(?P<name>.+):\s+(?P<bits>[0-9a-fA-F]{1,8})\s*")
_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?(?:\.\d+)*(?:[.+-]?[a-z]\w*)?")


@dataclass(frozen=True)
class CalibrationCache:
    """Content of a cache.

    Attributes:
        version: TensorRT's, as in the file.
        algorithm: of the calibrator.
        ranges: tensor -> 127 times its scale, without those that have none.
    """

    version: int
    algorithm: str
    ranges: dict[str, float]


def version_number(version: str) -> int:
    """TensorRT's version as in a cache: 100300 for 10.3.0, 8601 for 8.6.1.

    Raises:
        ConversionError: it is no version with a cache: those have two numbers or more, and from 11
            on there are no calibrators.
    """
    found = _VERSION.fullmatch(version)
    if found is None:
        raise ConversionError(f"{version!r} is no version of TensorRT.", "Write it like 10.3.0.")
    major, minor, patch = (int(number or 0) for number in found.groups())
    if major > 10:
        raise ConversionError(
            f"TensorRT {version} reads no calibration cache; 10 was the last version that did.",
            "Build from the INT8 model: its scales are in the graph.",
        )
    return major * (10000 if major >= 10 else 1000) + minor * 100 + patch


def write_cache(
    path: Path,
    ranges: Mapping[str, float],
    *,
    version: str,
    algorithm: Algorithm = "EntropyCalibration2",
) -> None:
    """Write a cache that appears whole or not at all; an older one is replaced.

    Args:
        ranges: tensor -> largest absolute value that its scale must reach.
        version: of the TensorRT that is to read it, like ``10.3.0``.
        algorithm: of the calibrator that is to read it; what it would have found does not matter.

    Raises:
        ConversionError: a range is no positive number of float32, a name has a line break, or the
            version has no such cache.
        OutputError: the place cannot be written to.
    """
    lines = [f"TRT-{version_number(version)}-{algorithm}"]
    for name, found in ranges.items():
        with np.errstate(over="ignore", under="ignore"):
            scale = np.float32(found / _LARGEST)
        if not (math.isfinite(scale) and scale > 0):
            raise ConversionError(
                f"The range of {name} is {found:g}, which gives no float32 scale.",
                "Calibrate again.",
            )
        if name.splitlines() != [name]:
            raise ConversionError(
                f"The name {name!r} has a line break, and a calibration cache has a line a tensor.",
                "Rename the tensor.",
            )
        lines.append(f"{name}: {int(scale.view(np.uint32)):x}")
    write_whole(path, "\n".join(lines) + "\n")


def read_cache(path: Path) -> CalibrationCache:
    """Read a cache that TensorRT or :func:`write_cache` wrote.

    Raises:
        ConversionError: the file is missing or damaged; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConversionError(
            f"{path} cannot be read: {error.strerror}.", "Name a calibration cache."
        ) from None
    except UnicodeDecodeError:
        raise ConversionError(
            f"{path} is no text, as a calibration cache of TensorRT is.",
            "Name one, such as calibration.cache.",
        ) from None
    header = _HEADER.fullmatch(lines[0].strip()) if lines else None
    if header is None:
        raise _damaged(path, 1, lines[0] if lines else "", "TRT-<version>-<calibrator>")
    ranges: dict[str, float] = {}
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        found = _LINE.fullmatch(line)  # greedy: up to the last colon
        if found is None:
            raise _damaged(path, number, line, "<tensor>: <8 hexadecimal digits>")
        name, scale = found["name"], float(np.uint32(int(found["bits"], 16)).view(np.float32))
        if not math.isfinite(scale) or scale < 0:
            raise ConversionError(
                f"{path}, line {number}: the scale of {name} is {scale}.", _WRITE_AGAIN
            )
        if name in ranges:
            raise ConversionError(f"{path}, line {number}: {name} is there twice.", _WRITE_AGAIN)
        if scale:
            ranges[name] = scale * _LARGEST
    return CalibrationCache(int(header[1]), header[2], ranges)


_WRITE_AGAIN = "Write the calibration cache again."


def _damaged(path: Path, number: int, line: str, expected: str) -> ConversionError:
    shown = line if len(line) <= 60 else f"{line[:57]}..."
    return ConversionError(
        f"{path}, line {number}: {shown!r}, and {expected} is expected.", _WRITE_AGAIN
    )
