"""One row: make inputs, check every contestant against a reference, time those that pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from dinat_deploy.ops.functional import neighborhood_attention_qkv_2d
from gpu.clocks import Clock, Timing, interleaved
from gpu.floors import COPY, mixed
from gpu.rivals import Contestant, Maker, UnavailableError
from gpu.shapes import Row

TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest difference from float64, relative to the largest output: whether a contestant computes
the operator at all. Some rivals keep scores in 16 bits; ``tests/gpu`` asks more of the kernels."""


class DeviceLostError(RuntimeError):
    """The GPU refuses all further work in this process."""


@dataclass
class Settings:
    """How carefully to measure.

    Attributes:
        clock: for contestants that can be captured in a CUDA graph.
        eager_clock: for the others.
        rounds: samples of each contestant.
        least_ms: the least that a sample takes.
        cache_bytes: size of the L2 cache, or 0 for no rotation of buffers.
        largest_rotation: most sets of buffers.
    """

    device: torch.device
    clock: Clock
    eager_clock: Clock
    rounds: int = 7
    least_ms: float = 1.0
    cache_bytes: int = 0
    largest_rotation: int = 512


@dataclass
class Result:
    """A row's outcome, as it goes into the JSON file.

    Attributes:
        rotation, footprint_bytes: sets of buffers rotated through, and their size.
        timings: of one call, by contestant.
        errors: against float64, relative to the largest output, by contestant.
        left_out: why a contestant was not timed, by name.
        complete: contestants that start and end as a model needs it.
        notes: what preparing a contestant took.
    """

    row: Row
    rotation: int
    footprint_bytes: int
    timings: dict[str, Timing] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    complete: list[str] = field(default_factory=list)
    notes: dict[str, dict[str, float | str]] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        found = asdict(self) | {"name": self.row.name, "goal": self.row.is_goal}
        # JSON has no infinity and no NaN.
        found["errors"] = {
            name: error if math.isfinite(error) else None for name, error in self.errors.items()
        }
        return found


def rotation(row: Row, settings: Settings) -> int:
    """How many sets of buffers are rotated through: together at least twice the L2 cache."""
    if settings.cache_bytes == 0:
        return 1
    needed = math.ceil(2 * settings.cache_bytes / row.bytes_moved)
    return max(1, min(needed, settings.largest_rotation))


def reference(qkv: Tensor, rpb: Tensor, row: Row) -> Tensor:
    """The operator in float64 for the given images of a batch."""
    return neighborhood_attention_qkv_2d(
        qkv.double(),
        rpb.double(),
        num_heads=row.heads,
        kernel_size=row.kernel,
        dilation=row.dilation,
    )


def check(contestant: Contestant, qkv: Tensor, out: Tensor, row: Row, expected: Tensor) -> float:
    """Largest difference from the reference on the first and the last image, relative.

    The output buffer is filled with NaN first, so that what is not written is seen.
    """
    out.fill_(torch.nan)
    found = contestant.restore(contestant.run(contestant.feed(qkv), out))
    ends = torch.cat([found[:1], found[-1:]])
    if contestant.name == COPY:
        return 0.0 if torch.equal(_bits(ends), _bits(expected)) else math.inf
    error = (ends.double() - expected).abs().max() / expected.abs().max()
    value = float(error)
    return math.inf if math.isnan(value) else value


def _bits(tensor: Tensor) -> Tensor:
    return tensor.view({2: torch.int16, 4: torch.int32}[tensor.element_size()])


def measure(
    row: Row,
    ours: Callable[[Row, Tensor], Sequence[Contestant]],
    floor: Callable[[Row], Contestant],
    rivals: dict[str, Maker],
    settings: Settings,
) -> Result:
    """Check and time all contestants of a row.

    Args:
        ours: makes this project's contestants from the row and its bias.
        floor: makes the copy floor.
        rivals: makers by name; one that raises is left out, with its words.
    """
    device, dtype = settings.device, getattr(torch, row.dtype)
    sets = rotation(row, settings)
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device, dtype=dtype)

    qkv = random(sets, row.batch, *row.size, 3 * row.channels)
    out = torch.empty(sets, row.batch, *row.size, row.channels, device=device, dtype=dtype)
    rpb = random(row.heads, 2 * row.kernel - 1, 2 * row.kernel - 1)
    result = Result(row, sets, sets * row.bytes_moved)

    contestants = [floor(row), *ours(row, rpb)]
    for name, maker in rivals.items():
        try:
            contestants.append(maker(row, rpb))
        except UnavailableError as reason:
            result.left_out[name] = str(reason)
        except Exception as error:  # a rival's failure is a finding, not the end
            result.left_out[name] = _first_line(error)

    ends = torch.cat([qkv[0, :1], qkv[0, -1:]])
    expected, moved = reference(ends, rpb, row), mixed(ends)
    samplers = {}
    for contestant in contestants:
        name = contestant.name
        try:
            error = check(contestant, qkv[0], out[0], row, moved if name == COPY else expected)
            result.errors[name] = error
            if not error <= TOLERANCE[row.dtype]:
                result.left_out[name] = f"wrong: relative error {error:.1e}"
                continue
            samplers[name] = _sampler(contestant, qkv, out, settings)
        except Exception as failure:
            result.left_out[name] = _first_line(failure)
            _require_alive(device, name, row)
            continue
        if contestant.notes:
            result.notes[name] = contestant.notes
        if contestant.complete:
            result.complete.append(name)
    for name, samples in interleaved(samplers, settings.rounds).items():
        result.timings[name] = Timing.of(samples)
    return result


def _require_alive(device: torch.device, name: str, row: Row) -> None:
    """A kernel that faults takes every later launch of the process with it."""
    if device.type != "cuda":
        return
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        raise DeviceLostError(f"{name} on {row.name}: {_first_line(error)}") from error


def _sampler(
    contestant: Contestant, qkv: Tensor, out: Tensor, settings: Settings
) -> Callable[[], float]:
    sets = qkv.shape[0]
    fed = [contestant.feed(qkv[index]) for index in range(sets)]

    def call(index: int) -> None:
        contestant.run(fed[index % sets], out[index % sets])

    if contestant.capturable:
        return settings.clock.sampler(call, max(sets, 4), settings.least_ms)
    # Launching from Python takes longer than the caches matter.
    return settings.eager_clock.sampler(call, 16, settings.least_ms)


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no message'}"[:300]
