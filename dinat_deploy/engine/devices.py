"""The GPUs in this machine, asked of their driver without any other package."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from dinat_deploy.engine.builder import Gpu

LIBRARIES = ("libcuda.so.1", "nvcuda.dll")
# CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_MAJOR, _MINOR = 75, 76
_NAME_BYTES = 256

DEVICE_TREE = Path("/proc/device-tree")


def gpus() -> list[Gpu]:
    """The GPUs that CUDA programs see here, in its order; none without a driver.

    ``CUDA_VISIBLE_DEVICES`` applies, as it does to what will run on them.
    """
    driver = _driver()
    if driver is None or driver.cuInit(0) != 0:
        return []
    count, version = ctypes.c_int(), ctypes.c_int()
    if driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    cuda = None
    if driver.cuDriverGetVersion(ctypes.byref(version)) == 0:  # 13010 is 13.1
        cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    found = (_gpu(driver, number, cuda) for number in range(count.value))
    return [gpu for gpu in found if gpu is not None]


def current_gpu() -> Gpu | None:
    """The first GPU, which sessions and builders use; None without one."""
    return next(iter(gpus()), None)


def current_capability() -> str | None:
    """Compute capability of the first GPU, like ``89``; None without a GPU or its driver."""
    gpu = current_gpu()
    return gpu.capability if gpu else None


def dla_cores(tree: Path = DEVICE_TREE) -> int | None:
    """Number of deep learning accelerators: 0 unless this is a Jetson that has some.

    Args:
        tree: the system's device tree, which is where a Jetson describes itself.

    Returns:
        None if this is a Jetson whose description says nothing of them.
    """
    try:
        system = (tree / "compatible").read_bytes()
    except OSError:
        return 0
    if b"nvidia,tegra" not in system:
        return 0
    if b"nvidia,tegra264" in system:  # Thor has none
        return 0
    nodes = [node for depth in ("*/*/nvdla*", "*/nvdla*") for node in tree.glob(depth)]
    if not nodes:
        return None
    return sum(_enabled(node) for node in nodes)


def _enabled(node: Path) -> bool:
    """A module without an accelerator, like Orin Nano, has its node disabled."""
    try:
        status = (node / "status").read_bytes().rstrip(b"\0")
    except OSError:
        return True
    return status in (b"okay", b"ok")


def _driver() -> Any:
    for name in LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _gpu(driver: Any, number: int, cuda: str | None) -> Gpu | None:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    memory = ctypes.c_size_t()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    if driver.cuDeviceGet(ctypes.byref(device), number) != 0:
        return None
    statuses = (
        driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device),
        driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device),
        driver.cuDeviceGetName(name, _NAME_BYTES, device),
        driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device),
    )
    if any(statuses):
        return None
    return Gpu(
        name=name.value.decode(errors="replace"),
        capability=f"{major.value}{minor.value}",
        driver=cuda,
        memory=memory.value,
    )
