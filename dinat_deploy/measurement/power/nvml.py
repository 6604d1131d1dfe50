"""The power of a graphics card, from NVIDIA's driver (NVML) through the package nvidia-ml-py.

What the driver calls the power is that of the card: GPU, its memory and voltage converters. On
most cards from Ampere on it is an average over a second, so where there is a counter of energy
(Volta and later) that is used instead.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

from dinat_deploy.measurement.environment import slowed_by
from dinat_deploy.measurement.power.rails import Total
from dinat_deploy.measurement.power.source import (
    Observation,
    Reading,
    ReadingFailed,
    Scope,
    SourceMissing,
)

RAIL = "GPU"
_INTERVAL = 0.05
_INSTALL = "pip install nvidia-ml-py"
# NVML's numbers of clocks and sensors.
_CLOCKS = {"GPU (SM)": 1, "GPU memory": 2}
_SENSOR = 0
# The driver renamed the question in release 535.
_REASONS = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")


class NvmlSource:
    """The GPU that programs see first.

    Raises:
        SourceMissing: the package or the driver is missing, or the GPU does not tell its power, as
            that of a Jetson does not.
    """

    name = "NVML"
    interval = _INTERVAL
    scope: Scope = "gpu"
    rails: tuple[str, ...] = (RAIL,)

    def __init__(self) -> None:
        try:
            self._nvml: Any = import_module("pynvml")
        except ImportError:
            raise SourceMissing("nvidia-ml-py is not installed", _INSTALL) from None
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as error:
            raise SourceMissing(f"the driver does not answer ({error})") from None
        self.notes: list[str] = []
        try:
            self._handle = self._find(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
            self._told = self._supported()
        except self._nvml.NVMLError as error:
            self.close()
            raise SourceMissing(f"the GPU that programs see cannot be asked ({error})") from None
        except SourceMissing:
            self.close()
            raise
        self.total = Total((RAIL,), "the graphics card alone, without processor and main memory")

    def read(self) -> Reading:
        power, energy = self._told
        try:
            joules = None if energy is None else energy(self._handle) / 1e3
            watts = {} if power is None else {RAIL: power(self._handle) / 1e3}
        except self._nvml.NVMLError as error:
            raise ReadingFailed(str(error)) from None
        return Reading(watts, joules)

    def observe(self) -> Observation:
        nvml, handle = self._nvml, self._handle
        temperatures, clocks, held = {}, {}, []
        with suppress(nvml.NVMLError):
            temperatures["GPU"] = float(nvml.nvmlDeviceGetTemperature(handle, _SENSOR))
        for name, kind in _CLOCKS.items():
            with suppress(nvml.NVMLError):
                clocks[name] = float(nvml.nvmlDeviceGetClockInfo(handle, kind))
        for question in _REASONS:
            ask = getattr(nvml, question, None)
            if ask is not None:
                with suppress(nvml.NVMLError):
                    held = slowed_by(ask(handle))
                    break
        return Observation(temperatures, clocks, held=tuple(held))

    def close(self) -> None:
        with suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()

    def _find(self, visible: str) -> Any:
        """The first of CUDA_VISIBLE_DEVICES, which names GPUs by number or by (part of a) UUID."""
        nvml, first = self._nvml, visible.partition(",")[0].strip()
        if not first or first.isdigit():
            return nvml.nvmlDeviceGetHandleByIndex(int(first or 0))
        if first.startswith("MIG-"):
            raise SourceMissing(f"the driver tells no power of a part of a GPU ({first})")
        for number in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(number)
            uuid = nvml.nvmlDeviceGetUUID(handle)
            if (uuid.decode() if isinstance(uuid, bytes) else uuid).startswith(first):
                return handle
        raise SourceMissing(f"CUDA_VISIBLE_DEVICES names {first}, which the driver does not have")

    def _supported(self) -> tuple[Callable[[Any], int] | None, Callable[[Any], int] | None]:
        """The questions for power (mW) and energy (mJ) that the GPU answers."""
        found: list[Callable[[Any], int] | None] = []
        reason = ""
        for question in ("nvmlDeviceGetPowerUsage", "nvmlDeviceGetTotalEnergyConsumption"):
            ask = getattr(self._nvml, question, None)
            try:
                if ask is not None:
                    ask(self._handle)
            except self._nvml.NVMLError as error:
                ask, reason = None, str(error)
            found.append(ask)
        power, energy = found
        if power is None and energy is None:
            raise SourceMissing(f"the GPU does not tell its power ({reason})")
        return power, energy
