"""Read the ``.pkl`` files of detectron2's model zoo: NumPy arrays by name, in a plain pickle.

A pickle can run any code when it is loaded as usual. Here nothing of a file's choice is called:
the few names that arrays are made of stand for functions of this module, and every other name is
refused.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dinat_deploy.errors import CheckpointError

_ORDERS = ("<", "|", "=")  # of bytes: little endian, or none
_KINDS = "fiub"


class _RefusedError(Exception):
    """A pickle holds something else than arrays."""


class _Type:
    """Stands for ``numpy.dtype``."""

    def __init__(self, code: object = None, *_: object) -> None:
        if not isinstance(code, str) or code.lstrip("<|=")[:1] not in tuple(_KINDS):
            raise _RefusedError(f"arrays of type {code!r}")
        self.code = code.lstrip("<|=")

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in _ORDERS:
            raise _RefusedError("arrays in big-endian order")


class _Array:
    """Stands for ``numpy.ndarray``."""

    value: Tensor | None = None

    def __setstate__(self, state: object) -> None:
        match state:
            case (_, tuple() as shape, _Type() as kind, fortran, bytes() as data):
                flat = torch.from_numpy(np.frombuffer(bytearray(data), np.dtype(kind.code)))
                sizes = [int(size) for size in shape]
                # Columns first is rows first of the transpose.
                array = flat.reshape(sizes[::-1] if fortran else sizes)
                self.value = array.permute(*range(len(sizes))[::-1]) if fortran else array
            case _:
                raise _RefusedError("an array of unknown form")


def _array(*_: object) -> _Array:
    return _Array()


def _bytes(text: object, encoding: object = "latin1") -> bytes:
    """Pickles of protocol 2 write bytes as text."""
    if not isinstance(text, str) or encoding != "latin1":
        raise _RefusedError("bytes of unknown form")
    return text.encode("latin1")


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("numpy.core.multiarray", "_reconstruct"): _array,
    ("numpy._core.multiarray", "_reconstruct"): _array,
    ("_codecs", "encode"): _bytes,
    ("collections", "OrderedDict"): OrderedDict,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise _RefusedError(f"{module}.{name}") from None


def read_pickled_arrays(path: Path) -> dict[str, Any]:
    """The content of a file, its arrays as tensors of the same type.

    Raises:
        CheckpointError: it holds anything else than arrays, numbers and text by name, or is
            damaged.
    """
    try:
        with path.open("rb") as stream:
            content = _Reader(stream, encoding="latin1").load()
    except _RefusedError as error:
        raise CheckpointError(
            f"{path} holds more than arrays of numbers ({error}); loading it could run code.",
            "Pass a file with the weights alone.",
        ) from None
    except FileNotFoundError:
        raise CheckpointError(f"There is no checkpoint {path}.", "Check the path.") from None
    except Exception as error:  # a damaged pickle raises anything
        text = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read: {text.rstrip('.')}.",
            "The file is damaged or incomplete; copy it again.",
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds no weights ({type(content).__name__}).",
            "Pass a file with arrays under 'model'.",
        )
    try:
        return _plain(content)
    except RecursionError:  # a dictionary can also hold itself
        raise CheckpointError(
            f"{path} holds dictionaries in dictionaries without end.",
            "Pass a file with arrays under 'model'.",
        ) from None


def _plain(content: dict[Any, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            plain[str(name)] = _plain(value)
        else:
            plain[str(name)] = value.value if isinstance(value, _Array) else value
    return plain
