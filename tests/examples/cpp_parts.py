"""Calls the parts of the C++ runner one by one: the other end of ``examples/cpp/tests/parts.cpp``."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dinat_deploy.models.preprocessing import Preprocessing

Pixels = npt.NDArray[np.uint8]


class Parts:
    """A process that answers commands; a context manager that checks that it ends well."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=-1
        )

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()
        assert self._process.returncode == 0, "the sanitizers found something; see its output"

    def sha256(self, data: bytes) -> str:
        return self._ask(f"sha256 {len(data)}", data)

    def resize(self, pixels: Pixels, height: int, width: int, filter_name: str) -> Pixels:
        """Resize ``[H, W, C]`` pixels."""
        channels = pixels.shape[2]
        shape = " ".join(map(str, (*pixels.shape, height, width)))
        self._send(f"resize {shape} {filter_name}", pixels.tobytes())
        return self._array(np.uint8, height, width, channels)

    def orientation(self, file: bytes) -> int:
        return int(self._ask(f"orientation {len(file)}", file))

    def picture(self, path: Path, channels: int) -> Pixels | str:
        """Pixels ``[H, W, C]`` of a picture file, or what is wrong with it."""
        answer = self._ask(f"picture {channels} {path}")
        if not answer.startswith("picture "):
            return answer
        _, height, width = answer.split()
        return self._array(np.uint8, int(height), int(width), channels)

    def preprocess(self, path: Path, how: Preprocessing) -> tuple[Pixels, npt.NDArray[np.float32]]:
        """Pixels and normalised values that ``how`` makes of a picture file: ``[C, H, W]``."""
        numbers = [*how.resize, *how.crop]
        words: list[object] = ["preprocess", path, how.resize_mode, *numbers, how.interpolation]
        self._send(" ".join(map(str, [*words, len(how.mean), *how.mean, *how.std])))
        shape = len(how.mean), *how.crop
        return self._array(np.uint8, *shape), self._array(np.float32, *shape)

    def convert(
        self, values: npt.NDArray[np.float32], dtype: str
    ) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.float32]]:
        """Bits of values in ``float16`` or ``bfloat16``, and those as floats again."""
        self._send(f"convert {dtype} {values.size}", values.tobytes())
        return self._array(np.uint16, values.size), self._array(np.float32, values.size)

    def _send(self, line: str, data: bytes = b"") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n" + data)
        self._process.stdin.flush()

    def _ask(self, line: str, data: bytes = b"") -> str:
        self._send(line, data)
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode().rstrip("\n")

    def _array(self, dtype: type, *shape: int) -> npt.NDArray[np.generic]:
        assert self._process.stdout is not None
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        data = self._process.stdout.read(size)
        assert len(data) == size, "the process ended; see its output"
        return np.frombuffer(data, dtype).reshape(shape)
