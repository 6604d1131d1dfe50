"""The least time that a device needs for a model, kernel by kernel (a roofline).

A kernel takes the longer of two times: its operations (a multiply-accumulate is two) at the peak
rate of the precision, and its bytes at the memory's bandwidth. The sum over all kernels is the
*floor*. The *estimate* also lets no kernel take less than the device needs to launch one. Both are
calculated; nothing was measured. What a cache keeps from one kernel to the next does not go through
the memory: on GPUs with a large cache, small models at batch 1 can beat the floor.

For neighborhood attention the floor is ``4 * tokens * channels`` values at the bandwidth, whatever
the kernel size and dilation: at 24.5 operations a byte (FP16, kernel size 7) its products hide
behind the memory on every GPU with tensor cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dinat_deploy.choosing.devices import Device
from dinat_deploy.choosing.parts import Kind, Part, parts
from dinat_deploy.errors import ConfigError
from dinat_deploy.models.config import ModelConfig

Precision = Literal["fp32", "tf32", "fp16", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "fp16", "bf16", "int8")

_WIDE = 4  # bytes of float32
# Of maps and of everything that is not quantized.
_BYTES: dict[Precision, int] = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 2}
_RATES: dict[Precision, str] = {
    "fp32": "float32",
    "tf32": "tf32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "int8": "int8",
}


@dataclass(frozen=True)
class Time:
    """Of one or several kernels, in milliseconds.

    Attributes:
        compute: operations at the peak rate.
        memory: bytes at the bandwidth.
        floor: the longer of both, kernel by kernel.
        total: the same, with no kernel below the time of a launch.
        kernels: how many there are.
    """

    macs: int
    bytes: int
    compute: float
    memory: float
    floor: float
    total: float
    kernels: int

    @property
    def bound(self) -> Literal["compute", "memory", "launch"]:
        """What most of the time goes into."""
        if self.total > 2 * self.floor:
            return "launch"
        return "compute" if self.compute > self.memory else "memory"


@dataclass(frozen=True)
class Row:
    """Kernels of one kind in one stage."""

    stage: str
    kind: Kind
    time: Time


@dataclass(frozen=True)
class Estimate:
    """A model on a device.

    Attributes:
        rows: in the order in which the kinds of kernels first run.
    """

    device: Device
    precision: Precision
    batch: int
    image_size: tuple[int, int]
    rows: tuple[Row, ...]

    @property
    def whole(self) -> Time:
        """All kernels."""
        return _sum([row.time for row in self.rows])

    @property
    def attention(self) -> Time:
        """All kernels of neighborhood attention."""
        return _sum([row.time for row in self.rows if row.kind == "attention"])

    @property
    def attention_share(self) -> float:
        """Of the estimate."""
        return self.attention.total / self.whole.total


def estimate(
    config: ModelConfig,
    device: Device,
    precision: Precision,
    *,
    batch: int = 1,
    image_size: tuple[int, int] | None = None,
    launch_us: float | None = None,
) -> Estimate:
    """The time of one pass.

    Args:
        config: of a classifier or backbone.
        precision: ``int8`` quantizes weights and inputs of convolutions and Linears; the rest, and
            what they write, is FP16.
        image_size: (height, width) in place of the configuration's.
        launch_us: least time of a kernel, in place of the device's.

    Raises:
        ConfigError: the image is too small, or the device's rate in this precision is not known.
    """
    if image_size is not None:
        config = config.replace(image_size=image_size)
    config.check_image_size(config.image_size)
    launch = (device.launch_us if launch_us is None else launch_us) / 1e3
    grouped: dict[tuple[str, Kind], list[Time]] = {}
    for part in parts(config, batch):
        time = part_time(part, device, precision, launch)
        grouped.setdefault((part.stage, part.kind), []).append(time)
    rows = tuple(Row(stage, kind, _sum(times)) for (stage, kind), times in grouped.items())
    return Estimate(device, precision, batch, config.image_size, rows)


def part_time(part: Part, device: Device, precision: Precision, launch: float = 0.0) -> Time:
    """The time of one kernel.

    Args:
        launch: least milliseconds.

    Raises:
        ConfigError: the device's rate in this precision is not known.
    """
    moved = _bytes(part, precision)
    compute = 2 * part.macs / _rate(part, device, precision) / 1e9
    memory = moved / device.figures.bandwidth / 1e6
    floor = max(compute, memory)
    return Time(part.macs, moved, compute, memory, floor, max(floor, launch), 1)


def _bytes(part: Part, precision: Precision) -> int:
    plain = _BYTES[precision]
    quantized = precision == "int8" and part.kind in ("convolution", "linear")
    inner = 1 if quantized else plain  # of weights and factors
    values = part.read - part.residual
    total = inner * (values + part.weights) + plain * (part.residual + part.written)
    if part.wide:
        # The image or the outputs: read by a convolution, otherwise written.
        total += part.wide * (_WIDE - (inner if part.kind == "convolution" else plain))
    return total


def _rate(part: Part, device: Device, precision: Precision) -> float:
    attention = part.kind == "attention" and precision == "int8"
    rate = device.figures.peak("float16" if attention else _RATES[precision])
    if not rate:
        raise ConfigError(
            f"{device.figures.name} has no tensor cores for {precision}, or no rate is published.",
            "Choose --precision fp16, which all devices have.",
        )
    return rate


def _sum(times: Sequence[Time]) -> Time:
    return Time(
        sum(time.macs for time in times),
        sum(time.bytes for time in times),
        sum(time.compute for time in times),
        sum(time.memory for time in times),
        sum(time.floor for time in times),
        sum(time.total for time in times),
        sum(time.kernels for time in times),
    )
