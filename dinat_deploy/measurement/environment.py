"""The machine that a measurement ran on, and what about it makes latencies unsteady.

Everything is read from files of Linux, so that it costs nothing, works without packages, and can be
tried on a made-up file system; only the GPU is asked through the driver's own tool. What a machine
does not have is left out.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import numpy as np

from dinat_deploy import __version__

# Programs that measure at the same time as others on the machine measure these, too.
_BUSY_SHARE = 0.25
_CPUS = "sys/devices/system/cpu"
_PACKAGES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "torch",
    "tensorrt",
    "tensorrt_cu12",
    "tensorrt_cu13",
    "tensorrt_rtx",
    "cuda-python",
    "pycuda",
)
_GPU_FIELDS = {
    "GPU": "name",
    "GPU driver": "driver_version",
    "GPU memory": "memory.total",
    "GPU clock limit": "clocks.max.sm",
    "GPU power limit": "power.limit",
}
# Bits of NVML's reasons for lower clocks that a benchmark must know of.
_SLOWED = {
    0x04: "its power limit",
    0x08: "a hardware slowdown",
    0x20: "heat",
    0x40: "heat",
    0x80: "the power supply",
}
# The driver renamed them in release 535.
_REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
_JETSON_GPU = re.compile(r"\.(gpu|ga10b|gv11b|gp10b)$|^gpu-gpc-\d+$")


def describe(root: Path = Path("/")) -> dict[str, str]:
    """What the machine is: processor, memory, system, versions, GPU, clocks.

    Args:
        root: where the file system begins.
    """
    found = {
        "processor": _processor(root),
        "cores": _cores(root),
        "governor": ", ".join(_governors(root)),
        "turbo": _turbo(root),
        "memory": _memory(root),
        "load": _load(root),
        "system": _system(root),
        "Jetson": _line(root / "proc/device-tree/model") if _is_jetson(root) else "",
        "L4T": _l4t(root),
        "power mode": power_mode(root),
        "GPU clock": _jetson_clock(root),
        **_gpu(),
        "Python": platform.python_version(),
        "dinat-deploy": __version__,
        "NumPy": np.__version__,
        **_versions(),
    }
    return {name: value for name, value in found.items() if value}


def concerns(root: Path = Path("/")) -> list[str]:
    """What about this machine, right now, makes latencies unsteady; one sentence each."""
    found = []
    slow = [name for name in _governors(root) if name != "performance"]
    if slow:
        found.append(
            f"The processor's frequency governor is {', '.join(slow)}, which changes clocks with "
            "the load; `sudo cpupower frequency-set -g performance` keeps them up."
        )
    load, cores = _load(root), os.cpu_count() or 1
    if load and float(load) > _BUSY_SHARE * cores:
        found.append(
            f"Other programs were running when the measurement began: the load average was {load} "
            f"on {cores} cores."
        )
    clocks = _jetson_clocks(root)
    if clocks and clocks[0] < clocks[1]:
        found.append(
            f"The GPU's clock moves between {clocks[0]} and {clocks[1]} MHz; `sudo jetson_clocks` "
            "locks it."
        )
    return found


def slowed() -> list[str]:
    """What keeps the GPU's clocks down right now; to be asked right after it has worked."""
    for field in _REASONS:
        answer = _ask([field])
        if answer and re.fullmatch(r"0x[0-9a-fA-F]+", answer[0]):
            return slowed_by(int(answer[0], 16))
    return []


def slowed_by(bits: int) -> list[str]:
    """What NVML's reasons for lower clocks say that a benchmark must know of; a sentence or none.

    Args:
        bits: the mask of reasons.
    """
    reasons = dict.fromkeys(words for bit, words in _SLOWED.items() if bits & bit)
    if not reasons:
        return []
    return [f"The GPU ran slower than it can: {' and '.join(reasons)} held it back."]


def _processor(root: Path) -> str:
    named = re.search(r"^model name\s*:\s*(.+)$", _text(root / "proc/cpuinfo"), re.MULTILINE)
    return named[1].strip() if named else platform.processor() or platform.machine()


def _cores(root: Path) -> str:
    total = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    text = str(total) if usable == total else f"{usable} of {total}"
    quota = _text(root / "sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit() and quota[1].isdigit():
        text += f", limited to the time of {int(quota[0]) / int(quota[1]):g}"
    return text


def _governors(root: Path) -> list[str]:
    files = (root / _CPUS).glob("cpu[0-9]*/cpufreq/scaling_governor")
    return sorted({name for file in files if (name := _line(file))})


def _turbo(root: Path) -> str:
    off = {"1": "off", "0": "on"}.get(_line(root / _CPUS / "intel_pstate/no_turbo"), "")
    return off or {"1": "on", "0": "off"}.get(_line(root / _CPUS / "cpufreq/boost"), "")


def _memory(root: Path) -> str:
    total = re.search(r"^MemTotal:\s*(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    return f"{int(total[1]) / 2**20:.1f} GiB" if total else ""


def _load(root: Path) -> str:
    first = _text(root / "proc/loadavg").partition(" ")[0]
    return first if re.fullmatch(r"\d+(\.\d+)?", first) else ""


def _system(root: Path) -> str:
    name = re.search(r'^PRETTY_NAME="?([^"\n]+)', _text(root / "etc/os-release"), re.MULTILINE)
    kernel = f"{platform.system()} {platform.release()}, {platform.machine()}"
    return f"{name[1]}, {kernel}" if name else kernel


def _is_jetson(root: Path) -> bool:
    return (root / "etc/nv_tegra_release").exists()


def _l4t(root: Path) -> str:
    release = re.search(
        r"R(\d+) \(release\), REVISION: ([\d.]+)", _text(root / "etc/nv_tegra_release")
    )
    return f"{release[1]}.{release[2]}" if release else ""


def power_mode(root: Path = Path("/")) -> str:
    """Number and name of nvpmodel's mode, such as ``2 (MAXN_SUPER)``; empty without one.

    From the file in which it keeps the mode: asking the tool needs root. Names differ from device
    to device, so they come from its own configuration.
    """
    kept = re.search(r"pmode:(\d+)", _text(root / "var/lib/nvpmodel/status"))
    if not kept:
        return ""
    number = int(kept[1])
    models = re.findall(r"POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", _text(root / "etc/nvpmodel.conf"))
    names = {int(identity): name.rstrip(">") for identity, name in models}
    return f"{number} ({names[number]})" if number in names else str(number)


def _jetson_clocks(root: Path) -> tuple[int, int, int] | None:
    """Least, largest and current clock of a Jetson's GPU in MHz; they are equal if locked."""
    for device in sorted((root / "sys/class/devfreq").glob("*")):
        if not _JETSON_GPU.search(device.name):
            continue
        values = [_line(device / f"{which}_freq") for which in ("min", "max", "cur")]
        if all(value.isdigit() for value in values):
            least, largest, current = (int(value) // 1_000_000 for value in values)
            return least, largest, current
    return None


def _jetson_clock(root: Path) -> str:
    clocks = _jetson_clocks(root)
    if not clocks:
        return ""
    least, largest, current = clocks
    return f"{current} MHz, locked" if least == largest else f"{current} MHz of {largest} MHz"


def _gpu() -> dict[str, str]:
    answer = _ask(_GPU_FIELDS.values())
    if not answer:
        return {}
    return {
        name: value
        for name, value in zip(_GPU_FIELDS, answer, strict=True)
        if value and not value.startswith("[")  # [N/A], [Not Supported]
    }


def _ask(fields: Iterable[str]) -> list[str]:
    """What the driver's tool says of the GPU that programs see first; nothing without one."""
    fields = list(fields)
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0] or "0"
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, f"--query-gpu={','.join(fields)}", "--format=csv,noheader", f"--id={gpu}"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    values = [value.strip() for value in done.stdout.strip().partition("\n")[0].split(",")]
    return values if len(values) == len(fields) else []


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").replace("\0", "")
    except OSError:
        return ""


def _line(path: Path) -> str:
    return _text(path).strip().partition("\n")[0]
