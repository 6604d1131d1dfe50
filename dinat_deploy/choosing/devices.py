"""Devices by short names, with what an estimate must know of them.

Figures are those of :mod:`dinat_deploy.measurement.gpu_table`; a Jetson has a name for each of its
clocks. Where rates of a device were measured, these are taken, as no data sheet's bandwidth is
reached. The time to launch a kernel is a judgement, for kernels of one CUDA graph: the middle of 1
to 1.5 us on cards, and of 3 to 6 us on Jetson.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace

from dinat_deploy.errors import ConfigError
from dinat_deploy.measurement.gpu_table import GpuFigures, jetson_figures, known_gpus

_LAUNCH_US, _LAUNCH_JETSON_US = 1.25, 4.5


@dataclass(frozen=True)
class Device:
    """A device to estimate for.

    Attributes:
        name: short, such as ``orin-nano-super``.
        figures: rates and bandwidth; their ``name`` is the driver's or the module's.
        launch_us: least time of a kernel in microseconds.
        measured: whether bandwidth and FP16 rate were measured instead of published.
    """

    name: str
    figures: GpuFigures
    launch_us: float
    measured: bool = False


def _jetsons() -> list[Device]:
    """Modules at the clocks of their modes: multiprocessors, MHz, 10^9 bytes a second."""
    modes = (
        ("orin-nano-4gb", "Jetson Orin Nano 4GB", 4, 625, 34),
        ("orin-nano", "Jetson Orin Nano 8GB", 8, 625, 68),
        ("orin-nx-8gb", "Jetson Orin NX 8GB", 8, 765, 102.4),
        ("orin-nx", "Jetson Orin NX 16GB", 8, 918, 102.4),
    )
    found = [
        Device(short, jetson_figures(name, count, mhz, bandwidth), _LAUNCH_JETSON_US)
        for short, name, count, mhz, bandwidth in modes
    ]
    # The table has the highest clock of each, which NVIDIA calls Super where there are two.
    highest = {
        "Jetson Orin Nano 4GB": "orin-nano-4gb-super",
        "Jetson Orin Nano 8GB": "orin-nano-super",
        "Jetson Orin NX 8GB": "orin-nx-8gb-super",
        "Jetson Orin NX 16GB": "orin-nx-super",
        "Jetson AGX Orin 32GB": "agx-orin-32gb",
        "Jetson AGX Orin 64GB": "agx-orin",
        "Jetson Thor T5000": "thor",
    }
    return found + [
        Device(highest[figures.name], figures, _LAUNCH_JETSON_US)
        for figures in known_gpus()
        if figures.name in highest
    ]


_SHORT = {
    "Tesla T4": "t4",
    "A100-PCIE-40GB": "a100-pcie",
    "A100-SXM4-40GB": "a100",
    "A100 80GB PCIe": "a100-80gb-pcie",
    "A100-SXM4-80GB": "a100-80gb",
    "H100 80GB HBM3": "h100",
    "RTX 6000 Ada Generation": "rtx-6000-ada",
}
# Of a copy kernel and of a matrix product; 10^9 bytes and 10^12 operations a second.
_MEASURED = {"H200": (4300.0, 790.0)}


def _cards() -> list[Device]:
    found = []
    for figures in known_gpus():
        if figures.name.startswith("Jetson"):
            continue
        plain = figures.name.removeprefix("GeForce ").lower().replace(" ", "-")
        device = Device(_SHORT.get(figures.name, plain), figures, _LAUNCH_US)
        if figures.name in _MEASURED:
            bandwidth, half = _MEASURED[figures.name]
            device = replace(
                device, figures=replace(figures, bandwidth=bandwidth, half=half), measured=True
            )
        found.append(device)
    return found


DEVICES: dict[str, Device] = {device.name: device for device in (*_jetsons(), *_cards())}


def get_device(name: str) -> Device:
    """Look a device up by its short name, in any spelling (``Orin Nano Super``).

    Raises:
        ConfigError: nothing of that name; the message suggests the nearest.
    """
    plain = re.sub(r"[\s_]+", "-", name.strip().lower())
    plain = plain.removeprefix("nvidia-").removeprefix("jetson-").removeprefix("geforce-")
    if plain in DEVICES:
        return DEVICES[plain]
    close = difflib.get_close_matches(plain, DEVICES, n=3, cutoff=0.5)
    hint = (
        f"Did you mean {' or '.join(close)}?" if close else "It is none that figures are sure of."
    )
    raise ConfigError(
        f"Unknown device {name!r}.", f"{hint} `dinat-deploy estimate --devices` lists them all."
    )


def device_of_gpu(name: str) -> list[Device]:
    """The devices that a name of :class:`~dinat_deploy.measurement.gpu_table.GpuFigures` is of.

    Returns:
        Several for a Jetson, one for each of its clocks.
    """
    return [device for device in DEVICES.values() if device.figures.name == name]
