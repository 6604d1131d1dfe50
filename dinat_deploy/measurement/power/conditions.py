"""Temperatures and clocks from files of Linux, and what held the clocks down."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from dinat_deploy.measurement.power.source import Observation
from dinat_deploy.measurement.power.sysfs import number_of, text_of

_ZONES, _COOLING = "sys/class/thermal/thermal_zone*", "sys/class/thermal/cooling_device*"
_HWMON = "sys/class/hwmon/hwmon*"
# A sensor that is switched off, as a GPU's at rest, gives nonsense far below zero.
_COLDEST = -100.0
# Cooling devices that slow something down. Fans do not, nor does the alert that the surface is hot.
_SLOWING = re.compile(r"^(thermal-)?(cpufreq|devfreq)-|throttle-alert$|^Processor$", re.IGNORECASE)
# The GPU's names on JetPack 5, 6 and 7, and the memory controller's.
_DEVFREQ = {
    "GPU": re.compile(r"\.(gpu|ga10b|gv11b|gp10b)$|^gpu-gpc-\d+$"),
    "GPU (NVD)": re.compile(r"^gpu-nvd-\d+$"),
    "memory": re.compile(r"(^|[.-])emc$|memory-controller$"),
}
# Of Jetson Orin; other modules have the counters too.
_EVENTS = {
    "oc1": "too low a voltage at the input",
    "oc2": "too high an average current",
    "oc3": "too high a current for a moment",
}


def observe(root: Path = Path("/")) -> Observation:
    """How the device is doing right now; what it does not have is left out.

    Args:
        root: where the file system begins.
    """
    return Observation(
        dict(_temperatures(root)), dict(_clocks(root)), dict(_counters(root)), tuple(_held(root))
    )


def throttled(before: Observation, after: Observation) -> list[str]:
    """What held the clocks down between two observations, or still does at the second."""
    found = []
    for name, count in after.counters.items():
        more = count - before.counters.get(name, count)
        if more > 0:
            meaning = _EVENTS.get(name)
            found.append(
                f"The over-current protection held the clocks down {more} "
                f"time{'s' * (more != 1)} during the measurement ({name}"
                + (f": {meaning}" if meaning else "")
                + "); a stronger power supply or a lower power mode avoids that."
            )
    return [*found, *after.held]


def _temperatures(root: Path) -> Iterator[tuple[str, float]]:
    for zone in sorted(root.glob(_ZONES), key=_numbered):
        millidegrees = number_of(zone / "temp")
        name = re.sub(r"[-_]?therm(al)?$", "", text_of(zone / "type"))
        if name and millidegrees is not None and millidegrees / 1e3 > _COLDEST:
            yield name, millidegrees / 1e3


def _clocks(root: Path) -> Iterator[tuple[str, float]]:
    policies = sorted(root.glob("sys/devices/system/cpu/cpufreq/policy*"), key=_numbered)
    kilohertz = [number_of(policy / "scaling_cur_freq") for policy in policies]
    known = [clock for clock in kilohertz if clock]
    if known:
        yield "CPU (fastest)", max(known) / 1e3
    devices = sorted(root.glob("sys/class/devfreq/*"))
    for name, pattern in _DEVFREQ.items():
        for device in devices:
            hertz = number_of(device / "cur_freq")
            if hertz and pattern.search(device.name):
                yield name, hertz / 1e6
                break
    memory = number_of(root / "sys/kernel/debug/bpmp/debug/clk/emc/rate")  # root alone
    if memory:
        yield "memory", memory / 1e6


def _counters(root: Path) -> Iterator[tuple[str, int]]:
    for file in sorted(root.glob(f"{_HWMON}/oc*_event_cnt")):
        count = number_of(file)
        if count is not None:
            yield file.name.removesuffix("_event_cnt"), count


def _held(root: Path) -> Iterator[str]:
    for device in sorted(root.glob(_COOLING), key=_numbered):
        name, state = text_of(device / "type"), number_of(device / "cur_state")
        if state and state > 0 and _SLOWING.search(name):
            yield f"Heat held the clocks down: the cooling device {name} was at step {state}."
    for alarm in sorted(root.glob(f"{_HWMON}/curr*_crit_alarm")):
        if number_of(alarm) == 1:
            rail = text_of(alarm.parent / f"in{alarm.name[4]}_label") or alarm.parent.name
            yield (
                f"The current of {rail} was over its critical limit, at which the clocks are held "
                "down."
            )


def _numbered(path: Path) -> tuple[int, str]:
    number = re.search(r"\d+$", path.name)
    return (int(number[0]) if number else 0, path.name)
