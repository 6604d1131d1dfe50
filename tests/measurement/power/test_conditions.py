"""Temperatures, clocks and what held them down, from made-up trees."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinat_deploy.measurement.power.conditions import observe, throttled
from dinat_deploy.measurement.power.source import Observation
from tests.measurement.power import trees
from tests.measurement.power.trees import AGX_ORIN_JP5, I2C, ORIN_NANO_JP6, THOR_JP7, plant

COOLING = "sys/class/thermal/cooling_device2"


@pytest.mark.parametrize("files", [ORIN_NANO_JP6, AGX_ORIN_JP5, THOR_JP7])
def test_zones_and_clocks_have_their_units(files: trees.Files, tmp_path: Path) -> None:
    seen = observe(plant(tmp_path, files))
    # The zone at -256 degrees is a sensor that is switched off.
    assert seen.temperatures == {"cpu": 51.25, "gpu": 49.5}
    assert seen.clocks == {"CPU (fastest)": 1510.4, "GPU": 612.0}
    assert seen.held == ()


def test_events_count_from_before_to_after(tmp_path: Path) -> None:
    root = plant(tmp_path, ORIN_NANO_JP6)
    before = observe(root)
    assert before.counters == {"oc1": 0, "oc2": 15, "oc3": 37}
    assert throttled(before, before) == []
    plant(root, trees.events(0, 15, 40))
    (sentence,) = throttled(before, observe(root))
    assert sentence.startswith("The over-current protection held the clocks down 3 times")
    assert "oc3: too high a current for a moment" in sentence


@pytest.mark.parametrize(
    ("device", "slows"),
    [
        ("devfreq-17000000.gpu", True),
        ("cpufreq-cpu0", True),
        ("thermal-cpufreq-4", True),
        ("gpu-throttle-alert", True),
        ("GPU-throttle-alert", True),
        ("Processor", True),
        ("pwm-fan", False),
        ("hot-surface-alert", False),
        ("TCC Offset", False),
    ],
)
def test_a_cooling_device_that_slows_something_is_heat(
    device: str, slows: bool, tmp_path: Path
) -> None:
    root = plant(tmp_path, {f"{COOLING}/type": device, f"{COOLING}/cur_state": "2"})
    found = throttled(Observation(), observe(root))
    assert found == (
        [f"Heat held the clocks down: the cooling device {device} was at step 2."] * slows
    )


def test_a_rail_over_its_critical_current_is_said(tmp_path: Path) -> None:
    files = trees.ina3221("sys/class", ("VDD_IN", 5000, 9000), alarm=1)
    root = plant(tmp_path, {n.replace("hwmon3/", "hwmon7/"): t for n, t in files.items()})
    assert throttled(Observation(), observe(root)) == [
        "The current of VDD_IN was over its critical limit, at which the clocks are held down."
    ]


def test_a_machine_that_says_nothing(tmp_path: Path) -> None:
    assert observe(tmp_path) == Observation({}, {}, {}, ())
    garbage = {name: "\x00?" for name in ORIN_NANO_JP6 if not name.startswith(I2C)}
    assert observe(plant(tmp_path, garbage)) == Observation({}, {}, {}, ())
