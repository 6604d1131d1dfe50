"""Peak rates and memory bandwidths of GPUs whose figures are sure, by the name the driver gives.

Rates are dense, at the boost clock, in 10^12 operations a second (a multiply-accumulate is two);
bandwidths in 10^9 bytes a second. ``half`` is the rate of FP16 and BF16 on tensor cores with the
faster of the two accumulator types that the GPU offers, so that no kernel can beat it.

Sources: NVIDIA's architecture white papers (Turing, Ampere GA102, Ada, Blackwell RTX) for GeForce
and RTX cards, data sheets for data-centre cards. For Jetson: multiprocessors x clock (the highest
of the module's power modes) x operations per clock and multiprocessor (FP32 256, TF32 1024, FP16
2048, INT8 4096), which gives NVIDIA's advertised sparse INT8 figures when doubled.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_DEVICE_TREE = Path("/proc/device-tree")


@dataclass(frozen=True)
class GpuFigures:
    """What a GPU can do at most; None where it has no such unit, or no sure figure is published.

    Attributes:
        fp32: of the CUDA cores.
        tf32, half, int8: of the tensor cores.
        bandwidth: of the memory.
    """

    name: str
    fp32: float
    tf32: float | None
    half: float | None
    int8: float | None
    bandwidth: float

    def peak(self, precision: str) -> float | None:
        """Rate for ``float32``, ``tf32``, ``float16``, ``bfloat16`` or ``int8``."""
        if precision == "tf32":
            return self.tf32 or self.fp32
        rates = {"float32": self.fp32, "float16": self.half, "int8": self.int8}
        rates["bfloat16"] = None if self.tf32 is None else self.half  # both since Ampere
        return rates.get(precision)


def jetson_figures(
    name: str, multiprocessors: int, mhz: float, bandwidth: float, *, int8: bool = True
) -> GpuFigures:
    """Figures of a Jetson module at a clock of its GPU.

    Args:
        int8: whether a rate of INT8 is published.
    """

    def rate(per_clock: int) -> float:
        return multiprocessors * mhz * per_clock / 1e6

    half = 8192 if name.startswith("Jetson Thor") else 2048
    return GpuFigures(
        name, rate(256), rate(half // 2), rate(half), rate(2 * half) if int8 else None, bandwidth
    )


_FIGURES = {
    figures.name: figures
    for figures in (
        # Data centre
        GpuFigures("Tesla T4", 8.1, None, 65, 130, 320),
        GpuFigures("A2", 4.5, 9, 18, 36, 200),
        GpuFigures("A10", 31.2, 62.5, 125, 250, 600),
        GpuFigures("A30", 10.3, 82, 165, 330, 933),
        GpuFigures("A40", 37.4, 74.8, 149.7, 299.3, 696),
        GpuFigures("A100-PCIE-40GB", 19.5, 156, 312, 624, 1555),
        GpuFigures("A100-SXM4-40GB", 19.5, 156, 312, 624, 1555),
        GpuFigures("A100 80GB PCIe", 19.5, 156, 312, 624, 1935),
        GpuFigures("A100-SXM4-80GB", 19.5, 156, 312, 624, 2039),
        GpuFigures("L4", 30.3, 60, 121, 242, 300),
        GpuFigures("L40", 90.5, 90.5, 181, 362, 864),
        GpuFigures("L40S", 91.6, 183, 362, 733, 864),
        GpuFigures("H100 PCIe", 51.2, 378, 756, 1513, 2000),
        GpuFigures("H100 NVL", 60, 417.5, 835, 1670, 3900),
        GpuFigures("H100 80GB HBM3", 67, 494.5, 989, 1979, 3350),
        GpuFigures("H200", 67, 494.5, 989, 1979, 4800),
        # Workstation
        GpuFigures("RTX A4000", 19.2, 38.3, 76.7, 153.4, 448),
        GpuFigures("RTX A5000", 27.8, 55.6, 111.1, 222.2, 768),
        GpuFigures("RTX A6000", 38.7, 77.4, 154.8, 309.7, 768),
        GpuFigures("RTX 6000 Ada Generation", 91.1, 182.1, 364.2, 728.5, 960),
        # GeForce. (The RTX 3080 exists with two different chips under one name.)
        GpuFigures("GeForce RTX 2080 Ti", 14.2, None, 113.8, 227.7, 616),
        GpuFigures("GeForce RTX 3060", 12.7, 12.7, 51, 102, 360),
        GpuFigures("GeForce RTX 3070", 20.3, 20.3, 81.3, 162.6, 448),
        GpuFigures("GeForce RTX 3080 Ti", 34.1, 34.1, 136.4, 272.8, 912),
        GpuFigures("GeForce RTX 3090", 35.6, 35.6, 142, 284, 936),
        GpuFigures("GeForce RTX 3090 Ti", 40, 40, 160, 320, 1008),
        GpuFigures("GeForce RTX 4060", 15.1, 15.1, 60.5, 121, 272),
        GpuFigures("GeForce RTX 4060 Ti", 22.1, 22.1, 88.2, 176.5, 288),
        GpuFigures("GeForce RTX 4070", 29.1, 29.1, 116.6, 233.2, 504),
        GpuFigures("GeForce RTX 4070 Ti", 40.1, 40.1, 160.4, 320.7, 504),
        GpuFigures("GeForce RTX 4080", 48.7, 48.7, 194.9, 389.9, 717),
        GpuFigures("GeForce RTX 4080 SUPER", 52.2, 52.2, 208.9, 417.7, 736),
        GpuFigures("GeForce RTX 4090", 82.6, 82.6, 330.3, 660.6, 1008),
        GpuFigures("GeForce RTX 5070", 30.9, 30.9, 123.5, 246.9, 672),
        GpuFigures("GeForce RTX 5070 Ti", 43.9, 43.9, 175.8, 351.5, 896),
        GpuFigures("GeForce RTX 5080", 56.3, 56.3, 225.1, 450.2, 960),
        GpuFigures("GeForce RTX 5090", 104.8, 104.8, 419, 838, 1792),
        # Jetson. INT8 of Thor is not published by itself.
        jetson_figures("Jetson Orin Nano 4GB", 4, 1020, 51.2),
        jetson_figures("Jetson Orin Nano 8GB", 8, 1020, 102.4),
        jetson_figures("Jetson Orin NX 8GB", 8, 1173, 102.4),
        jetson_figures("Jetson Orin NX 16GB", 8, 1173, 102.4),
        jetson_figures("Jetson AGX Orin 32GB", 14, 930, 204.8),
        jetson_figures("Jetson AGX Orin 64GB", 16, 1300, 204.8),
        jetson_figures("Jetson Thor T5000", 20, 1575, 273, int8=False),
    )
}

# All Jetsons of one generation give the same name; the part number of the module tells them apart.
_MODULES = {
    "p3767-0004": "Jetson Orin Nano 4GB",
    "p3767-0003": "Jetson Orin Nano 8GB",
    "p3767-0005": "Jetson Orin Nano 8GB",
    "p3767-0001": "Jetson Orin NX 8GB",
    "p3767-0000": "Jetson Orin NX 16GB",
    "p3701-0004": "Jetson AGX Orin 32GB",
    "p3701-0005": "Jetson AGX Orin 64GB",
    # The first developer kit: 32 GB, but all 16 multiprocessors.
    "p3701-0000": "Jetson AGX Orin 64GB",
    "p3834-0008": "Jetson Thor T5000",
}
_JETSONS = ("Orin", "Thor", "Jetson Orin", "Jetson Thor")


def known_gpus() -> list[GpuFigures]:
    """All GPUs in the table."""
    return list(_FIGURES.values())


def gpu_figures(name: str, device_tree: Path | None = None) -> GpuFigures | None:
    """Figures of a GPU.

    Args:
        name: as the driver gives it, such as ``NVIDIA GeForce RTX 4090`` or ``Orin``.
        device_tree: where the system describes the hardware of a Jetson.

    Returns:
        None for a GPU that is not in the table: laptop variants and slices of a GPU (MIG) have
        names of their own, and are not guessed from their relatives.
    """
    short = name.strip().removeprefix("NVIDIA ")
    if short in _JETSONS:
        return _module_figures(device_tree or _DEVICE_TREE)
    return _FIGURES.get(short)


def _module_figures(device_tree: Path) -> GpuFigures | None:
    try:
        compatible = (device_tree / "compatible").read_bytes().decode(errors="replace")
    except OSError:
        return None
    for part in re.findall(r"p\d{4}-\d{4}", compatible):
        if part in _MODULES:
            return _FIGURES[_MODULES[part]]
    return None
