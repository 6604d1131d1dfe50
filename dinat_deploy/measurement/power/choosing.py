"""The first source of power that works on this machine, or why none does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dinat_deploy.measurement.power.jtop import JtopSource
from dinat_deploy.measurement.power.monitors import open_hwmon, open_iio
from dinat_deploy.measurement.power.nvml import NvmlSource
from dinat_deploy.measurement.power.source import (
    PowerSource,
    PowerUnavailableError,
    SourceMissing,
)
from dinat_deploy.measurement.power.tegrastats import TegrastatsSource


def find_source(root: Path = Path("/")) -> PowerSource:
    """What tells the power here, the most exact source first.

    Args:
        root: where the file system begins.

    Raises:
        PowerUnavailableError: names every source that was tried, and why it failed.
    """
    tried: list[tuple[str, SourceMissing]] = []
    for name, source in _sources(root):
        try:
            return source()
        except SourceMissing as missing:
            tried.append((name, missing))
    reasons = "; ".join(f"{name}: {missing.reason}" for name, missing in tried)
    raise PowerUnavailableError(f"Nothing here tells the power: {reasons}.", _cure(tried, root))


def _sources(root: Path) -> list[tuple[str, Callable[[], PowerSource]]]:
    return [
        ("INA3221 and INA238 (hwmon)", lambda: open_hwmon(root)),
        ("INA3221 (iio)", lambda: open_iio(root)),
        ("tegrastats", TegrastatsSource),
        ("jtop", JtopSource),
        ("NVML", NvmlSource),
    ]


def _cure(tried: list[tuple[str, SourceMissing]], root: Path) -> str:
    """That of a source that is here and only has to be made readable, else of the GPU's driver."""
    for _, missing in tried:
        if missing.present and missing.cure:
            return missing.cure
    if (root / "proc/driver/nvidia/version").exists():
        for _, missing in tried:
            if missing.cure.startswith("pip install"):
                return f"{missing.cure}, which asks the NVIDIA driver that is here."
    return "Leave --power out; --power=auto measures it where it can be read."
