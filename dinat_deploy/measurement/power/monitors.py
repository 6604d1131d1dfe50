"""INA3221 and INA238, the power monitors of Jetson modules and boards, through the kernel.

Units of the kernel's interfaces: hwmon gives mV, mA and, where a chip computes power itself, uW;
iio, as the driver of JetPack 4 fills it, gives mV, mA and mW. A product of mV and mA is in uW.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dinat_deploy.measurement.power.rails import total_of
from dinat_deploy.measurement.power.source import (
    Observation,
    Reading,
    ReadingFailed,
    Scope,
    SourceMissing,
)
from dinat_deploy.measurement.power.sysfs import NumberFile, number_of, refusal, text_of

# Twenty readings a second: three rails take one to three milliseconds of I2C, mostly waiting.
INTERVAL = 0.05

_MICRO, _MILLI = 1e-6, 1e-3
# Channels of an INA3221 that have a rail; further ones are shunt voltages and their sum.
_CHANNELS = (1, 2, 3)
# Thor's INA238 sits at the input of its carrier board; mainline Linux gives that chip no label.
_THOR_RAIL, _THOR_INPUT = "VDD_CPU_SOC_MSS", "VIN"


@dataclass(frozen=True)
class Rail:
    """A rail: the files whose numbers are multiplied, and what makes watts of the product."""

    name: str
    files: tuple[NumberFile, ...]
    scale: float

    def watts(self) -> float:
        product = self.scale
        for file in self.files:
            product *= file.read()
        return product


class MonitorSource:
    """Rails that the kernel's drivers read."""

    scope: Scope = "device"
    interval = INTERVAL

    def __init__(self, name: str, rails: list[Rail], notes: list[str]) -> None:
        self.name, self.notes = name, notes
        self._rails = rails
        self.rails = tuple(rail.name for rail in rails)
        self.total = total_of(self.rails)

    def read(self) -> Reading:
        try:
            return Reading({rail.name: rail.watts() for rail in self._rails})
        except (OSError, ValueError, IndexError) as error:
            raise ReadingFailed(str(error)) from None

    def observe(self) -> Observation:
        return Observation()

    def close(self) -> None:
        for rail in self._rails:
            for file in rail.files:
                with suppress(OSError):
                    file.close()


@dataclass(frozen=True)
class _Found:
    """A rail that a directory speaks of, before its files are opened."""

    name: str
    paths: tuple[Path, ...]
    scale: float


def open_hwmon(root: Path = Path("/")) -> MonitorSource:
    """Monitors of JetPack 5 and later.

    Raises:
        SourceMissing: there are none, or none can be read.
    """
    found = [rail for folder in _folders(root, _HWMON) for rail in _hwmon_rails(folder)]
    names = {rail.name for rail in found}
    if _THOR_RAIL in names and _THOR_INPUT not in names:
        found = [
            _Found(_THOR_INPUT, rail.paths, rail.scale) if rail.name.startswith("ina238 ") else rail
            for rail in found
        ]
    return _opened("INA3221 and INA238 (hwmon)", found, "no INA3221 or INA238 in", _HWMON)


def open_iio(root: Path = Path("/")) -> MonitorSource:
    """Monitors of JetPack 4.

    Raises:
        SourceMissing: there are none, or none can be read.
    """
    found = [rail for folder in _folders(root, _IIO) for rail in _iio_rails(folder)]
    return _opened("INA3221 (iio)", found, "no INA3221 in", _IIO)


_HWMON = ("sys/class/hwmon/hwmon*", "sys/bus/i2c/devices/*/hwmon/hwmon*")
_IIO = ("sys/bus/i2c/devices/*/iio:device*", "sys/bus/i2c/drivers/ina3221x/*/iio:device*")


def _folders(root: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    """Directories that match; one that is reached by several ways comes once."""
    seen = set()
    for pattern in patterns:
        for folder in sorted(root.glob(pattern)):
            real = os.path.realpath(folder)
            if real not in seen:
                seen.add(real)
                yield folder


def _hwmon_rails(folder: Path) -> Iterator[_Found]:
    chip = text_of(folder / "name")
    channels = _CHANNELS if chip.startswith("ina3221") else (1,) if chip == "ina238" else ()
    for channel in channels:
        power = folder / f"power{channel}_input"
        pair = (folder / f"in{channel}_input", folder / f"curr{channel}_input")
        there = power.exists()
        if not there and not all(path.exists() for path in pair):
            continue
        labels = (f"power{channel}_label", f"in{channel}_label", "label")
        name = next(filter(None, (text_of(folder / label) for label in labels)), "")
        # Not connected, or switched off: numbers would be there all the same.
        if name == "NC" or number_of(folder / f"in{channel}_enable") == 0:
            continue
        name = name or f"{chip} {folder.name} channel {channel}"
        yield _Found(name, (power,) if there else pair, _MICRO)


def _iio_rails(folder: Path) -> Iterator[_Found]:
    for label in sorted(folder.glob("rail_name_*")):
        number = re.fullmatch(r"rail_name_(\d+)", label.name)
        name = text_of(label)
        if number is None or name in ("", "NC"):
            continue
        power = folder / f"in_power{number[1]}_input"
        if power.exists():
            yield _Found(name, (power,), _MILLI)
            continue
        pair = tuple(folder / f"in_{what}{number[1]}_input" for what in ("voltage", "current"))
        if all(path.exists() for path in pair):
            yield _Found(name, pair, _MICRO)


def _opened(
    name: str, found: list[_Found], nothing: str, patterns: tuple[str, ...]
) -> MonitorSource:
    """Open and read every rail once; those that do not work become notes."""
    rails: list[Rail] = []
    problems: list[tuple[str, SourceMissing]] = []
    for entry in found:
        opened: list[NumberFile] = []
        try:
            for path in entry.paths:
                _read_first(path, opened)
        except SourceMissing as problem:
            problems.append((entry.name, problem))
            for file in opened:
                file.close()
            continue
        rails.append(Rail(entry.name, tuple(opened), entry.scale))
    if rails:
        notes = [
            f"The rail {rail} is not measured: {problem.reason}. {problem.cure}".rstrip()
            for rail, problem in problems
        ]
        return MonitorSource(name, rails, notes)
    if problems:
        raise min((problem for _, problem in problems), key=lambda problem: not problem.cure)
    where = " or ".join(f"/{pattern.partition('*')[0].rpartition('/')[0]}" for pattern in patterns)
    raise SourceMissing(f"{nothing} {where}")


def _read_first(path: Path, opened: list[NumberFile]) -> None:
    try:
        file = NumberFile(path)
        opened.append(file)
        file.read()
    except OSError as error:
        raise refusal(path, error) from None
    except (ValueError, IndexError):
        raise SourceMissing(f"{path} holds no number", present=True) from None
