"""What a run was made on."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Any

import torch


def describe(device: torch.device, root: Path) -> dict[str, Any]:
    """Names and versions, as the report prints them."""
    found: dict[str, Any] = {
        "commit": _command(["git", "-C", str(root), "rev-parse", "HEAD"]) or "unknown",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": platform.machine(),
    }
    if device.type != "cuda":
        return found | {"device": "CPU"}
    properties = torch.cuda.get_device_properties(device)
    driver = _command(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    return found | {
        "device": properties.name,
        "compute capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "L2 MB": round(properties.L2_cache_size / 1e6, 1),
        "memory GiB": round(properties.total_memory / 2**30, 1),
        "CUDA of torch": str(torch.version.cuda),
        "driver": driver.splitlines()[0] if driver else "unknown",
    }


def _command(arguments: list[str]) -> str:
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
