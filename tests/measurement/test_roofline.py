"""Work of a run, and the least time that devices need for it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dinat_deploy.measurement import cpu_limits, gpu_table, roofline
from dinat_deploy.measurement.cpu_limits import CpuLimits
from dinat_deploy.measurement.gpu_table import gpu_figures
from dinat_deploy.measurement.records import Work
from dinat_deploy.measurement.roofline import count_work, floor
from dinat_deploy.models.complexity import cost, parameter_count
from dinat_deploy.models.zoo import get_variant
from tests.conftest import TINY

WORK = Work(
    macs=10**9, attention_macs=10**7, weight_bytes=10**8, io_bytes=10**6, counted_from="config"
)

# name: multiprocessors, boost clock in MHz, FP32 operations and FP16 operations per clock and
# multiprocessor, width of the memory bus in bits, data rate of a line in Gbit/s
CHIPS = {
    "Tesla T4": (40, 1590, 128, 1024, 256, 10),
    "NVIDIA A2": (10, 1770, 256, 1024, 128, 12.5),
    "NVIDIA A10": (72, 1695, 256, 1024, 384, 12.5),
    "NVIDIA A30": (56, 1440, 128, 2048, 3072, 2.43),
    "NVIDIA A40": (84, 1740, 256, 1024, 384, 14.5),
    "NVIDIA A100-PCIE-40GB": (108, 1410, 128, 2048, 5120, 2.43),
    "NVIDIA A100-SXM4-40GB": (108, 1410, 128, 2048, 5120, 2.43),
    "NVIDIA A100 80GB PCIe": (108, 1410, 128, 2048, 5120, 3.02),
    "NVIDIA A100-SXM4-80GB": (108, 1410, 128, 2048, 5120, 3.186),
    "NVIDIA L4": (58, 2040, 256, 1024, 192, 12.5),
    "NVIDIA L40": (142, 2490, 256, 512, 384, 18),
    "NVIDIA L40S": (142, 2520, 256, 1024, 384, 18),
    # Tensor cores of Hopper have a lower boost clock: 1620, 1545 and 1830 MHz.
    "NVIDIA H100 PCIe": (114, 1755, 256, 4096 * 1620 / 1755, 5120, 3.125),
    "NVIDIA H100 NVL": (132, 1785, 256, 4096 * 1545 / 1785, 6144, 5.1),
    "NVIDIA H100 80GB HBM3": (132, 1980, 256, 4096 * 1830 / 1980, 5120, 5.23),
    "NVIDIA H200": (132, 1980, 256, 4096 * 1830 / 1980, 6144, 6.25),
    "NVIDIA RTX A4000": (48, 1560, 256, 1024, 256, 14),
    "NVIDIA RTX A5000": (64, 1695, 256, 1024, 384, 16),
    "NVIDIA RTX A6000": (84, 1800, 256, 1024, 384, 16),
    "NVIDIA RTX 6000 Ada Generation": (142, 2505, 256, 1024, 384, 20),
    "NVIDIA GeForce RTX 2080 Ti": (68, 1635, 128, 1024, 352, 14),
    "NVIDIA GeForce RTX 3060": (28, 1777, 256, 1024, 192, 15),
    "NVIDIA GeForce RTX 3070": (46, 1725, 256, 1024, 256, 14),
    "NVIDIA GeForce RTX 3080 Ti": (80, 1665, 256, 1024, 384, 19),
    "NVIDIA GeForce RTX 3090": (82, 1695, 256, 1024, 384, 19.5),
    "NVIDIA GeForce RTX 3090 Ti": (84, 1860, 256, 1024, 384, 21),
    "NVIDIA GeForce RTX 4060": (24, 2460, 256, 1024, 128, 17),
    "NVIDIA GeForce RTX 4060 Ti": (34, 2535, 256, 1024, 128, 18),
    "NVIDIA GeForce RTX 4070": (46, 2475, 256, 1024, 192, 21),
    "NVIDIA GeForce RTX 4070 Ti": (60, 2610, 256, 1024, 192, 21),
    "NVIDIA GeForce RTX 4080": (76, 2505, 256, 1024, 256, 22.4),
    "NVIDIA GeForce RTX 4080 SUPER": (80, 2550, 256, 1024, 256, 23),
    "NVIDIA GeForce RTX 4090": (128, 2520, 256, 1024, 384, 21),
    "NVIDIA GeForce RTX 5070": (48, 2512, 256, 1024, 192, 28),
    "NVIDIA GeForce RTX 5070 Ti": (70, 2452, 256, 1024, 256, 28),
    "NVIDIA GeForce RTX 5080": (84, 2617, 256, 1024, 256, 30),
    "NVIDIA GeForce RTX 5090": (170, 2407, 256, 1024, 512, 28),
}


def device_tree(folder: Path, compatible: str) -> Path:
    (folder / "compatible").write_bytes(compatible.replace(" ", "\0").encode() + b"\0")
    return folder


# --- work ------------------------------------------------------------------------------------------


def test_work_of_a_published_model() -> None:
    config = get_variant("dinat_mini").config
    found = count_work({"image": (8, 3, 224, 224)}, config=config)
    assert found is not None
    # The paper says 2.7 G for an image.
    assert found.macs / 8e9 == pytest.approx(2.7, abs=0.05)
    assert found.macs == 8 * cost(config).macs
    assert found.weight_bytes == 4 * parameter_count(config)
    assert found.io_bytes == 4 * 8 * (3 * 224 * 224 + 1000)


@pytest.mark.parametrize(
    ("precision", "size"),
    [(None, 4), ("float32", 4), ("float16", 2), ("bfloat16+float32", 2), ("int8+float16", 1)],
)
def test_weights_take_the_bytes_of_their_type(precision: str | None, size: int) -> None:
    found = count_work({"image": (1, 3, 64, 64)}, config=TINY, precision=precision)
    assert found is not None and found.weight_bytes == size * parameter_count(TINY)


def test_no_work_is_made_up() -> None:
    assert count_work({"image": (1, 3, 64, 64)}) is None
    assert count_work({"a": (1, 3, 64, 64), "b": (1,)}, config=TINY) is None
    assert count_work({"image": (64, 64)}, config=TINY) is None
    assert count_work({"image": (1, 3, 2, 2)}, config=TINY.replace(architecture="isotropic",
        depths=(2,), num_heads=(2,))) is None  # fmt: skip


# --- GPUs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHIPS)
def test_figures_follow_from_the_chip(name: str) -> None:
    count, mhz, single, half, bits, gbits = CHIPS[name]
    found = gpu_figures(name)
    assert found is not None
    assert found.fp32 == pytest.approx(count * mhz * single / 1e6, rel=0.015)
    assert found.half == pytest.approx(count * mhz * half / 1e6, rel=0.015)
    assert found.bandwidth == pytest.approx(bits / 8 * gbits, rel=0.015)


def test_every_gpu_of_the_table_was_checked_against_its_chip() -> None:
    desktop = {name for name in gpu_table._FIGURES if not name.startswith("Jetson")}
    assert desktop == {name.removeprefix("NVIDIA ") for name in CHIPS}


@pytest.mark.parametrize("name", gpu_table._FIGURES)
def test_rates_double_with_every_halving_of_the_type(name: str) -> None:
    found = gpu_table._FIGURES[name]
    assert found.half is not None and found.half > found.fp32
    if found.int8 is not None:
        assert found.int8 == pytest.approx(2 * found.half, rel=0.02)
    if found.tf32 is not None:
        # A half on data-centre chips, a quarter on the others, which count the faster accumulator.
        assert round(found.half / found.tf32, 1) in (2.0, 4.0)


@pytest.mark.parametrize(
    ("compatible", "name", "half", "bandwidth"),
    [
        ("nvidia,p3768-0000+p3767-0005-super nvidia,p3767-0005 nvidia,tegra234", "Orin Nano 8GB", 16.7, 102),
        ("nvidia,p3768-0000+p3767-0004 nvidia,tegra234", "Orin Nano 4GB", 8.4, 51),
        ("nvidia,p3768-0000+p3767-0000 nvidia,p3767-0000 nvidia,tegra234", "Orin NX 16GB", 19.2, 102),
        ("nvidia,p3737-0000+p3701-0004 nvidia,tegra234", "AGX Orin 32GB", 26.7, 205),
        ("nvidia,p3737-0000+p3701-0005 nvidia,tegra234", "AGX Orin 64GB", 42.6, 205),
        ("nvidia,p3737-0000+p3701-0000 nvidia,tegra234", "AGX Orin 64GB", 42.6, 205),
    ],
)  # fmt: skip
def test_a_jetson_is_known_by_its_module(
    compatible: str, name: str, half: float, bandwidth: float, tmp_path: Path
) -> None:
    found = gpu_figures("Orin", device_tree(tmp_path, compatible))
    assert found is not None and found.name == f"Jetson {name}"
    assert found.half == pytest.approx(half, rel=0.01)
    assert found.fp32 == pytest.approx(half / 8, rel=0.01)
    assert found.bandwidth == pytest.approx(bandwidth, rel=0.01)


def test_thor(tmp_path: Path) -> None:
    tree = device_tree(tmp_path, "nvidia,p4071-0000+p3834-0008 nvidia,p3834-0008 nvidia,tegra264")
    found = gpu_figures("NVIDIA Thor", tree)
    assert found is not None
    assert found.half == pytest.approx(259, rel=0.01)
    assert found.fp32 == pytest.approx(8.1, rel=0.01)
    assert floor(WORK, "NVIDIA Thor", "int8+float16", device_tree=tree) is None


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA H200 NVL",
        "NVIDIA GeForce RTX 3080",
        "A GPU of tomorrow",
        "Orin",  # without a device tree
        "",
    ],
)
def test_unknown_gpus_are_not_guessed(name: str, tmp_path: Path) -> None:
    assert gpu_figures(name, tmp_path) is None
    assert floor(WORK, name, "float16", device_tree=tmp_path) is None


def test_a_module_that_is_not_in_the_table_is_not_guessed(tmp_path: Path) -> None:
    assert gpu_figures("Orin", device_tree(tmp_path, "nvidia,p3701-0008 nvidia,tegra234")) is None


@pytest.mark.parametrize(
    ("precision", "tf32", "peak"),
    [
        ("float32", False, 82.6),
        (None, False, 82.6),
        ("float16", False, 330.3),
        ("bfloat16", False, 330.3),
        ("float32+float16", False, 330.3),
        ("int8+float16", False, 660.6),
        ("int8+float16", True, 660.6),
    ],
)
def test_the_fastest_type_gives_the_peak(precision: str | None, tf32: bool, peak: float) -> None:
    found = floor(WORK, "NVIDIA GeForce RTX 4090", precision, tf32=tf32)
    assert found is not None
    assert (found.peak_tflops, found.bandwidth_gbs) == (peak, 1008)
    assert found.compute == pytest.approx(2 / peak)  # 2e9 operations, in milliseconds
    assert found.memory == pytest.approx(0.101e9 / 1008e9 * 1e3)
    assert found.total == max(found.compute, found.memory)
    assert (found.device, found.source) == ("GeForce RTX 4090", "specification")


def test_tf32_counts_only_where_it_is_allowed_and_there() -> None:
    a100 = "NVIDIA A100-SXM4-40GB"
    for device, tf32, peak in ((a100, False, 19.5), (a100, True, 156), ("Tesla T4", True, 8.1)):
        found = floor(WORK, device, "float32", tf32=tf32)
        assert found is not None and found.peak_tflops == peak


def test_types_without_a_figure_have_no_floor() -> None:
    assert floor(WORK, "Tesla T4", "bfloat16") is None
    assert floor(WORK, "NVIDIA A100-SXM4-40GB", "float8e4m3fn") is None


# --- the CPU -----------------------------------------------------------------------------------------


def test_the_floor_of_a_cpu_comes_from_its_measured_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def limits(threads: int, megabytes: int) -> CpuLimits:
        asked.append((threads, megabytes))
        return CpuLimits(0.2, 20)

    monkeypatch.setattr(roofline, "cpu_limits", limits)
    found = floor(WORK, "CPU", "float32", threads=2)
    assert found is not None
    assert (found.compute, found.memory) == (pytest.approx(10), pytest.approx(5.05))
    assert (found.total, found.source) == (found.compute, "measured")
    assert asked == [(2, 96)]  # the size of the weights in MiB
    assert floor(WORK, "CPU", "float16") is None
    assert floor(WORK, "CPU", "int8") is None


def test_measured_rates_are_those_of_this_machine_and_kept() -> None:
    found = cpu_limits.cpu_limits(1, 4)
    assert found is not None
    started = time.perf_counter()
    assert cpu_limits.cpu_limits(1, 4) == found
    assert time.perf_counter() - started < 0.1
    # The same product here, whatever threads it has, is no faster than all cores at that rate; and
    # a rate that plain Python would reach would be a mistake of units.
    left = np.ones((384, 384), np.float32)
    best = min(_seconds(left) for _ in range(20))
    here = 2 * 384**3 / best / 1e12
    cores = max(1, cpu_limits.available_cores())
    assert here / (4 * cores) < found.tflops < 4 * here + 1
    assert 0.5 < found.bandwidth_gbs < 5000


def _seconds(matrix: np.ndarray) -> float:
    started = time.perf_counter()
    matrix @ matrix
    return time.perf_counter() - started


def test_a_failed_measurement_gives_no_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_limits._measured.cache_clear()
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    assert cpu_limits.cpu_limits(1, 4) is None
    assert floor(WORK, "CPU", "float32", threads=1) is None
    cpu_limits._measured.cache_clear()
