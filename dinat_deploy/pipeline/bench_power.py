"""The power of what ``bench`` measures: at rest first, after the latencies in runs of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from dinat_deploy.errors import DinatDeployError
from dinat_deploy.measurement import measuring
from dinat_deploy.measurement.measuring import Maker
from dinat_deploy.measurement.power import meter as metering
from dinat_deploy.measurement.power.choosing import find_source
from dinat_deploy.measurement.power.meter import Meter
from dinat_deploy.measurement.power.source import PowerUnavailableError
from dinat_deploy.measurement.records import BenchOptions, PowerUse
from dinat_deploy.progress import Progress


def open_meter(wanted: Literal["off", "auto", "on"], warnings: list[str]) -> Meter | None:
    """A meter, if power is to be measured and something tells it.

    Args:
        warnings: receives why there is none, where that is no error.

    Raises:
        PowerUnavailableError: it was asked for, and nothing tells it.
    """
    if wanted == "off":
        return None
    try:
        return Meter(find_source())
    except PowerUnavailableError as missing:
        if wanted == "on":
            raise
        warnings.append(f"The power was not measured. {missing.cause}")
        return None


def settle_and_rest(meter: Meter, progress: Progress) -> None:
    """Measure the power while everything is loaded and nothing runs."""
    with progress.stage("Power at rest"):
        measuring.settle()
        meter.idle(metering.IDLE_SECONDS)


def measure_power(
    meter: Meter,
    makers: Mapping[str, Maker],
    uses: dict[str, PowerUse],
    options: BenchOptions,
    progress: Progress,
) -> bool:
    """Run the artefacts once more, one after the other, and sample the power meanwhile.

    Args:
        makers: as of :func:`dinat_deploy.measurement.measuring.measure`.
        uses: receives the power of each by its name; one whose power cannot be told is left out,
            with a note of the meter.

    Returns:
        False if it was interrupted before all of them were measured.
    """
    seconds = max(options.duration, metering.LEAST_SECONDS)
    with progress.portion("Power") as report:
        for index, (name, make) in enumerate(makers.items()):
            report(index / len(makers), name)
            try:
                measuring.settle()
                run = make()
                try:
                    use = meter.use(name, run, seconds)
                finally:
                    run.close()
            except KeyboardInterrupt:
                return False
            except DinatDeployError as error:
                meter.notes.append(f"The power of {name} was not measured: {error}")
                continue
            if use is not None:
                uses[name] = use
        report(1.0, "measured")
    return True
