"""Watts of Jetsons, read from made-up trees in the layouts of JetPack 4 to 7."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dinat_deploy.measurement.power.monitors import open_hwmon, open_iio
from dinat_deploy.measurement.power.source import ReadingFailed, SourceMissing
from tests.measurement.power import trees
from tests.measurement.power.trees import AGX_ORIN_JP5, I2C, ORIN_NANO_JP6, THOR_JP7, plant

CHIP = f"{I2C}/1-0040/hwmon/hwmon3"


def test_the_input_of_an_orin_nano_is_its_total(tmp_path: Path) -> None:
    source = open_hwmon(plant(tmp_path, ORIN_NANO_JP6))
    # 4968 mV x 1000 mA = 4.968 W, and so on; neither the sum of shunts nor its current counts.
    assert source.read().watts == pytest.approx(
        {"VDD_IN": 4.968, "VDD_CPU_GPU_CV": 1.24, "VDD_SOC": 1.488}
    )
    assert source.total.rails == ("VDD_IN",)
    assert source.total.words == "VDD_IN, the input of the module"
    assert (source.notes, source.scope, source.read().joules) == ([], "device", None)
    source.close()


def test_the_inputs_of_an_agx_orin_are_added_and_the_memory_s_rail_is_not(tmp_path: Path) -> None:
    source = open_hwmon(plant(tmp_path, AGX_ORIN_JP5))
    assert source.read().watts == pytest.approx(
        {"VDD_GPU_SOC": 8.0, "VDD_CPU_CV": 1.5, "VIN_SYS_5V0": 3.5, "VDDQ_VDD2_1V8AO": 1.0}
    )
    assert source.total.rails == ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
    source.close()


def test_the_board_s_input_is_the_total_of_a_thor_kit(tmp_path: Path) -> None:
    source = open_hwmon(plant(tmp_path, THOR_JP7))
    # The INA238 says 23.85 W in uW; a GPU at rest may read below zero.
    assert source.read().watts == pytest.approx(
        {"VDD_GPU": -0.384, "VDD_CPU_SOC_MSS": 6.0, "VIN_SYS_5V0": 6.5, "VIN": 23.85}
    )
    assert source.total.rails == ("VIN",)
    assert "the input of the carrier board" in source.total.words
    source.close()


def test_a_thor_without_the_kit_s_monitor_adds_its_inputs(tmp_path: Path) -> None:
    files = {name: text for name, text in THOR_JP7.items() if "hwmon4" not in name}
    source = open_hwmon(plant(tmp_path, files))
    assert source.total.rails == ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0")
    source.close()


def test_power_that_a_chip_computes_is_taken_instead_of_the_product(tmp_path: Path) -> None:
    source = open_hwmon(plant(tmp_path, ORIN_NANO_JP6 | {f"{CHIP}/power1_input": "5000000"}))
    assert source.read().watts["VDD_IN"] == pytest.approx(5.0)
    source.close()


def test_a_chip_that_is_reached_by_two_ways_is_read_once(tmp_path: Path) -> None:
    root = plant(tmp_path, ORIN_NANO_JP6)
    link = root / "sys/class/hwmon/hwmon3"
    link.symlink_to(root / CHIP)
    source = open_hwmon(root)
    assert source.rails == ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")
    source.close()


def test_a_jetson_nano_with_jetpack_4(tmp_path: Path) -> None:
    source = open_iio(plant(tmp_path, trees.NANO_JP4))
    # in_power0_input is in mW; the second rail has none: 5064 mV x 250 mA = 1.266 W.
    assert source.read().watts == pytest.approx({"POM_5V_IN": 2.532, "POM_5V_GPU": 1.266})
    assert source.total.rails == ("POM_5V_IN",)
    source.close()


def test_an_agx_xavier_with_jetpack_4_is_the_sum_of_six_rails(tmp_path: Path) -> None:
    source = open_iio(plant(tmp_path, trees.XAVIER_JP4))
    assert sum(source.read().watts[name] for name in source.total.rails) == pytest.approx(21.0)
    assert len(source.total.rails) == 6
    source.close()


def test_readings_follow_the_files(tmp_path: Path) -> None:
    source = open_hwmon(plant(tmp_path, ORIN_NANO_JP6))
    (tmp_path / CHIP / "curr1_input").write_text("2500\n")
    assert source.read().watts["VDD_IN"] == pytest.approx(12.42)
    source.close()


def test_a_rail_that_is_switched_off_is_left_out(tmp_path: Path) -> None:
    source = open_hwmon(plant(tmp_path, ORIN_NANO_JP6 | {f"{CHIP}/in2_enable": "0"}))
    assert source.rails == ("VDD_IN", "VDD_SOC")
    source.close()


def test_without_one_of_its_inputs_an_agx_orin_has_rails_but_no_total(tmp_path: Path) -> None:
    missing = {
        name: text for name, text in AGX_ORIN_JP5.items() if "1-0040/hwmon/hwmon3/curr3" not in name
    }
    source = open_hwmon(plant(tmp_path, missing))
    assert source.rails == ("VDD_GPU_SOC", "VDD_CPU_CV", "VDDQ_VDD2_1V8AO")
    assert not source.total.known
    assert source.total.words.startswith("VIN_SYS_5V0 cannot be read, without which the module")
    source.close()


def test_unknown_rails_have_no_total(tmp_path: Path) -> None:
    files = trees.ina3221(f"{I2C}/1-0040", ("VDD_ONE", 5000, 100), ("VDD_TWO", 5000, 200))
    source = open_hwmon(plant(tmp_path, files))
    assert source.read().watts == pytest.approx({"VDD_ONE": 0.5, "VDD_TWO": 1.0})
    assert source.total.words == (
        "which of the rails VDD_ONE, VDD_TWO contain which is not known, so they have no total"
    )
    source.close()


def test_a_chip_without_labels_is_named_by_its_place(tmp_path: Path) -> None:
    files = {n: t for n, t in ORIN_NANO_JP6.items() if not n.endswith("_label")}
    source = open_hwmon(plant(tmp_path, files))
    assert source.rails[0] == "ina3221 hwmon3 channel 1"
    assert not source.total.known
    source.close()


def refuse(monkeypatch: pytest.MonkeyPatch, *endings: str) -> None:
    """Refuse to open files, as the kernel does to users; root, as which tests may run, is not."""
    real = os.open

    def guarded(path: Any, *rest: Any, **more: Any) -> int:
        if str(path).endswith(endings):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "open", guarded)


def test_a_rail_that_may_not_be_read_is_named_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, "curr2_input")
    source = open_hwmon(plant(tmp_path, ORIN_NANO_JP6))
    path = tmp_path / CHIP / "curr2_input"
    assert source.rails == ("VDD_IN", "VDD_SOC")
    assert source.notes == [
        f"The rail VDD_CPU_GPU_CV is not measured: {path} may not be read (Permission denied). Run "
        f"it with sudo, or let everyone read it: `sudo chmod a+r {path}`."
    ]
    source.close()


def test_no_rail_that_may_be_read_is_a_source_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, "_input")
    with pytest.raises(SourceMissing) as missing:
        open_hwmon(plant(tmp_path, ORIN_NANO_JP6))
    assert "in1_input may not be read (Permission denied)" in missing.value.reason
    assert "sudo chmod a+r" in missing.value.cure
    assert missing.value.present


def test_files_that_are_no_files_and_numbers_that_are_none_are_said(tmp_path: Path) -> None:
    root = plant(tmp_path, ORIN_NANO_JP6)
    broken = root / CHIP / "in2_input"
    broken.unlink()
    broken.mkdir()
    (root / CHIP / "curr3_input").write_text("unknown\n")
    source = open_hwmon(root)
    assert source.rails == ("VDD_IN",)
    second, third = source.notes
    assert "in2_input cannot be read (Is a directory)" in second
    assert "curr3_input holds no number" in third
    source.close()


def test_a_monitor_that_stops_answering_fails_that_reading(tmp_path: Path) -> None:
    source = open_hwmon(plant(tmp_path, ORIN_NANO_JP6))
    (tmp_path / CHIP / "curr1_input").write_text("")
    with pytest.raises(ReadingFailed):
        source.read()
    (tmp_path / CHIP / "curr1_input").write_text("1000")
    assert source.read().watts["VDD_IN"] == pytest.approx(4.968)
    source.close()


@pytest.mark.parametrize("opener", [open_hwmon, open_iio])
def test_a_machine_without_monitors_says_where_they_would_be(opener: Any, tmp_path: Path) -> None:
    fan = {"sys/class/hwmon/hwmon0/name": "pwmfan", "sys/class/hwmon/hwmon0/in1_input": "5"}
    with pytest.raises(
        SourceMissing, match=r"^no INA3221.* in /sys/.* or /sys/bus/i2c/"
    ) as missing:
        opener(plant(tmp_path, fan))
    assert not missing.value.present


def test_nothing_stays_open(tmp_path: Path) -> None:
    root = plant(tmp_path, ORIN_NANO_JP6)
    (root / CHIP / "curr3_input").write_text("unknown")
    before = len(list(Path("/proc/self/fd").iterdir()))
    open_hwmon(root).close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
