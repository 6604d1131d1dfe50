"""Read ``.npz`` files of unknown origin."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class DamagedError(ValueError):
    """A file is no archive of plain arrays; the message says why, without a full stop."""


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of a file by name, all of them in memory.

    Raises:
        FileNotFoundError: there is none.
        DamagedError: it holds anything else than plain arrays, or more than fits into memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                info.filename.removesuffix(".npy"): _read(archive, info)
                for info in archive.infolist()
            }
    except FileNotFoundError:
        raise
    except MemoryError:
        raise DamagedError("it holds more than fits into memory") from None
    except Exception as error:  # zipfile and NumPy let through whatever they stumble over
        said = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise DamagedError(said.rstrip(".")) from None


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    with archive.open(info) as stream:
        shape, _, dtype = read_header(stream)
        # What is said must be there: memory for it is taken before it is read.
        if dtype.itemsize * math.prod(shape) != info.file_size - stream.tell():
            raise ValueError(f"{info.filename} has not the size that it says")
        stream.seek(0)
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))


def read_header(stream: BinaryIO | Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order (whether columns come first) and type of an array in NumPy's format.

    Raises:
        ValueError: and others, if it is none of plain numbers.
    """
    version = np.lib.format.read_magic(stream)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if any(size < 0 for size in shape):
        raise ValueError(f"the shape {shape} is none")
    return shape, fortran, dtype
