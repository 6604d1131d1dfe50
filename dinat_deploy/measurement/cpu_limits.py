"""What this machine's CPU can do: floating-point rate and memory bandwidth, measured with NumPy.

The measurement runs in a process of its own, in which NumPy's matrix library has a single thread
(it takes their number from the environment when it is loaded): with threads of its own it would
reach far less when another program takes one of the cores. Run as a program, the module prints one
of the two rates.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np

# The variables of OpenBLAS, MKL, OpenMP, BLIS and Apple's Accelerate.
_THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_MATRIX = 384  # fast enough that some products are not interrupted by other programs
_CHUNK = 1 << 17  # values read at a time, into a buffer that stays in the cache
_SECONDS, _LEAST_CALLS = 0.4, 5
_TIME_LIMIT = 60.0


@dataclass(frozen=True)
class CpuLimits:
    """Best of several runs: float32 operations a second in 10^12, read bytes a second in 10^9."""

    tflops: float
    bandwidth_gbs: float


def cpu_limits(threads: int, megabytes: int) -> CpuLimits | None:
    """Measure, or take what was measured before in this process; each rate takes half a second.

    Args:
        threads: to measure with; 0 is one for each core.
        megabytes: size of what is read again and again, such as a model's weights: what fits a
            cache is read faster.

    Returns:
        None if the measurement fails.
    """
    threads = threads or available_cores()
    tflops = _measured("tflops", threads, 0)
    bandwidth = _measured("bandwidth", threads, max(1, megabytes))
    return CpuLimits(tflops, bandwidth) if tflops and bandwidth else None


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _measured(rate: str, threads: int, megabytes: int) -> float | None:
    environment = os.environ | dict.fromkeys(_THREAD_VARIABLES, "1")
    command = [sys.executable, "-m", __name__, rate, str(threads), str(megabytes)]
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_TIME_LIMIT,
            check=True,
        )
        return float(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _tflops(threads: int) -> float:
    """All threads multiply matrices of their own at the same time; their best rates add up."""
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(_products, range(threads)))


def _products(seed: int) -> float:
    rng = np.random.default_rng(seed)
    left, right = (rng.random((_MATRIX, _MATRIX), dtype=np.float32) for _ in range(2))
    result = np.empty_like(left)
    return 2 * _MATRIX**3 / _best(lambda: np.matmul(left, right, result)) / 1e12


def _bandwidth(threads: int, megabytes: int) -> float:
    """Every thread reads a part of its own; copies give up the interpreter's lock."""
    size = max(_CHUNK, megabytes * 1_000_000 // 4 // threads)
    parts = [np.ones(size, np.float32) for _ in range(threads)]
    buffers = [np.empty(_CHUNK, np.float32) for _ in range(threads)]

    def read(index: int) -> None:
        part, buffer = parts[index], buffers[index]
        for start in range(0, size - _CHUNK + 1, _CHUNK):
            np.copyto(buffer, part[start : start + _CHUNK])

    amount = threads * (size // _CHUNK * _CHUNK) * 4
    with ThreadPoolExecutor(threads) as pool:
        return amount / _best(lambda: list(pool.map(read, range(threads)))) / 1e9


def _best(call: Callable[[], object]) -> float:
    """Seconds of the fastest of several calls; the slower ones were disturbed by others."""
    times: list[float] = []
    call()
    started = time.perf_counter()
    while len(times) < _LEAST_CALLS or time.perf_counter() - started < _SECONDS:
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return min(times)


def _main(rate: str, threads: str, megabytes: str) -> None:
    print(_tflops(int(threads)) if rate == "tflops" else _bandwidth(int(threads), int(megabytes)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
