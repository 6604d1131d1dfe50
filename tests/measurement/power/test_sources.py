"""NVML, tegrastats and jtop by stand-ins, and what is said where none of them is there."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dinat_deploy.measurement.power.choosing import find_source
from dinat_deploy.measurement.power.jtop import JtopSource
from dinat_deploy.measurement.power.nvml import NvmlSource
from dinat_deploy.measurement.power.source import (
    PowerUnavailableError,
    ReadingFailed,
    SourceMissing,
)
from dinat_deploy.measurement.power.tegrastats import TegrastatsSource, parse
from tests.measurement.power.test_monitors import CHIP, refuse
from tests.measurement.power.trees import NANO_JP4, ORIN_NANO_JP6, plant

JP4 = "RAM 1985/3964MB (lfb 107x4MB) IRAM 0/252kB(lfb 252kB) CPU [9%@1428,off] EMC_FREQ 0% POM_5V_IN 2532/2601 POM_5V_GPU 123/120 POM_5V_CPU 450/440"
XAVIER = "SWAP 0/7975MB (cached 0MB) AO@30C GPU 0/0 CPU 310/310 SOC 776/776 CV 0/0 VDDRQ 310/310 SYS5V 1402/1402"
JP6 = "RAM 2/7620MB (lfb 1x4MB) SWAP 0/3810MB (cached 0MB) CPU [1%@729] GR3D_FREQ 0% cpu@51.2C tj@51C VDD_IN 4968mW/4960mW VDD_CPU_GPU_CV 1240mW/1230mW VDD_SOC 1488mW/1480mW"
THOR = "RAM 4/125772MB VDD_GPU -384mW/0mW/12000mW VDD_CPU_SOC_MSS 6000mW/6000mW/7000mW VIN_SYS_5V0 6500mW/6500mW/7000mW VIN 23850mW/23000mW/30000mW"


@pytest.mark.parametrize(
    ("line", "watts"),
    [
        (JP4, {"POM_5V_IN": 2.532, "POM_5V_GPU": 0.123, "POM_5V_CPU": 0.45}),
        (XAVIER, {"GPU": 0, "CPU": 0.31, "SOC": 0.776, "CV": 0, "VDDRQ": 0.31, "SYS5V": 1.402}),
        (JP6, {"VDD_IN": 4.968, "VDD_CPU_GPU_CV": 1.24, "VDD_SOC": 1.488}),
        (THOR, {"VDD_GPU": -0.384, "VDD_CPU_SOC_MSS": 6.0, "VIN_SYS_5V0": 6.5, "VIN": 23.85}),
        ("RAM 1985/7765MB (lfb 1x4MB) SWAP 0/3882MB", {}),
        ("", {}),
    ],
)
def test_the_present_power_is_taken_from_a_line_of_tegrastats(
    line: str, watts: dict[str, float]
) -> None:
    assert parse(line) == pytest.approx(watts)


def tool(place: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    script = place / "tegrastats"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(script) if name == script.name else None)


def test_tegrastats_runs_along_and_ends_with_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool(tmp_path, monkeypatch, f'echo "{JP6}" "$@"\nexec sleep 60')
    source = TegrastatsSource()
    assert source.total.rails == ("VDD_IN",)
    assert source.read().watts["VDD_IN"] == pytest.approx(4.968)
    source._when -= 2  # as if the line had come two seconds ago
    with pytest.raises(ReadingFailed, match="stopped printing"):
        source.read()
    source.close()
    assert source._process.poll() is not None
    assert not source._reader.is_alive()


@pytest.mark.parametrize("body", ["exit 1", 'echo "RAM 1/2MB"'])
def test_a_tegrastats_without_rails_is_no_source(
    body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool(tmp_path, monkeypatch, body)
    with pytest.raises(SourceMissing, match="prints no rails"):
        TegrastatsSource()


class Client:
    """What the package jtop gives."""

    rails: dict[str, dict[str, int]]
    failing = False

    def __init__(self, interval: float) -> None:
        self.closed = False

    def start(self) -> None:
        if self.failing:
            raise RuntimeError("no socket")

    @property
    def power(self) -> dict[str, Any]:
        return {"rail": self.rails, "tot": {"name": "VDD_IN", "power": 4968}}

    def close(self) -> None:
        self.closed = True


def test_jtop_s_rails_and_its_named_total(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jtop", SimpleNamespace(jtop=Client))
    monkeypatch.setattr(Client, "rails", {"VDD_SOC": {"power": 1488}}, raising=False)
    source = JtopSource()
    assert source.read().watts == pytest.approx({"VDD_SOC": 1.488, "VDD_IN": 4.968})
    assert source.total.rails == ("VDD_IN",)
    source.close()
    assert source._client.closed


def test_a_service_of_jtop_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jtop", SimpleNamespace(jtop=Client))
    monkeypatch.setattr(Client, "failing", True)
    with pytest.raises(SourceMissing, match="does not answer .no socket") as missing:
        JtopSource()
    assert "systemctl start jtop" in missing.value.cure


class Nvml:
    """The package pynvml with a GPU that answers some questions."""

    class NVMLError(Exception):
        pass

    def __init__(self, gpus: int = 1, **answers: Any) -> None:
        self.shut = 0
        self._gpus, self._answers = gpus, answers

    def nvmlInit(self) -> None:  # noqa: N802
        if "init" in self._answers:
            raise self.NVMLError(self._answers["init"])

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.shut += 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return self._gpus

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:  # noqa: N802
        if number >= self._gpus:
            raise self.NVMLError("Invalid Argument")
        return number

    def nvmlDeviceGetUUID(self, handle: int) -> bytes:  # noqa: N802
        return f"GPU-{handle}{handle}{handle}".encode()

    def _answer(self, what: str) -> Any:
        if what not in self._answers:
            raise self.NVMLError("Not Supported")
        return self._answers[what]

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:  # noqa: N802
        return self._answer("power") + handle

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:  # noqa: N802
        return self._answer("energy")

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:  # noqa: N802
        return self._answer("temperature")

    def nvmlDeviceGetClockInfo(self, handle: int, kind: int) -> int:  # noqa: N802
        return self._answer("clocks")[kind]

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: int) -> int:  # noqa: N802
        return self._answer("reasons")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def install(*arguments: Any, **answers: Any) -> Nvml:
        nvml = Nvml(*arguments, **answers)
        monkeypatch.setitem(sys.modules, "pynvml", nvml)  # type: ignore[arg-type]
        return nvml

    return install


def test_nvml_gives_milliwatts_millijoules_and_what_slows_the_gpu(gpu: Any) -> None:
    clocks = {1: 1980, 2: 2619}
    nvml = gpu(power=123_456, energy=5_000_250, temperature=61, clocks=clocks, reasons=0x44)
    source = NvmlSource()
    assert source.read().watts == {"GPU": 123.456}
    assert source.read().joules == 5000.25
    seen = source.observe()
    assert seen.temperatures == {"GPU": 61.0}
    assert seen.clocks == {"GPU (SM)": 1980.0, "GPU memory": 2619.0}
    assert seen.held == ("The GPU ran slower than it can: its power limit and heat held it back.",)
    assert (source.scope, source.total.known) == ("gpu", True)
    source.close()
    assert nvml.shut == 1


def test_a_gpu_that_has_one_of_both_figures_is_enough(gpu: Any) -> None:
    gpu(power=1000)
    assert NvmlSource().read().joules is None
    gpu(energy=1000)
    reading = NvmlSource().read()
    assert (reading.watts, reading.joules) == ({}, 1.0)
    assert NvmlSource().observe().held == ()


@pytest.mark.parametrize(
    ("visible", "watts"), [("", 0.1), ("1", 0.101), ("GPU-22", 0.102), ("2,0", 0.102)]
)
def test_the_gpu_that_programs_see_first_is_asked(
    visible: str, watts: float, gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu(3, power=100)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert NvmlSource().read().watts == {"GPU": watts}


@pytest.mark.parametrize(
    ("visible", "answers", "reason"),
    [
        ("", {}, "does not tell its power .Not Supported"),  # a Jetson
        ("", {"init": "NVML Shared Library Not Found"}, "Shared Library Not Found"),
        ("7", {"power": 1}, "cannot be asked .Invalid Argument"),
        ("GPU-x", {"power": 1}, "names GPU-x, which the driver does not have"),
        ("MIG-1", {"power": 1}, "no power of a part of a GPU"),
    ],
)
def test_what_nvml_does_not_tell_is_said(
    visible: str, answers: Any, reason: str, gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml = gpu(**answers)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(SourceMissing, match=reason):
        NvmlSource()
    assert nvml.shut == ("init" not in answers)


@pytest.fixture
def nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tegrastats, jtop or NVML, whatever this machine has."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    for name in ("jtop", "pynvml"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it fails


@pytest.mark.usefixtures("nothing_else")
def test_every_source_that_was_tried_is_named_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(PowerUnavailableError) as missing:
        find_source(tmp_path)
    assert missing.value.cause == (
        "Nothing here tells the power: INA3221 and INA238 (hwmon): no INA3221 or INA238 in "
        "/sys/class/hwmon or /sys/bus/i2c/devices; INA3221 (iio): no INA3221 in "
        "/sys/bus/i2c/devices or /sys/bus/i2c/drivers/ina3221x; tegrastats: it is not on PATH (it "
        "comes with JetPack); jtop: jetson-stats is not installed; NVML: nvidia-ml-py is not "
        "installed."
    )
    assert missing.value.cure.startswith("Leave --power out")


@pytest.mark.usefixtures("nothing_else")
def test_the_cure_is_that_of_a_source_which_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = plant(tmp_path / "desktop", {"proc/driver/nvidia/version": "NVRM 580"})
    with pytest.raises(PowerUnavailableError) as missing:
        find_source(driver)
    assert missing.value.cure.startswith("pip install nvidia-ml-py")
    refuse(monkeypatch, "_input")
    with pytest.raises(PowerUnavailableError) as refused:
        find_source(plant(tmp_path / "jetson", ORIN_NANO_JP6))
    path = tmp_path / "jetson" / CHIP / "in1_input"
    assert f"{path} may not be read (Permission denied)" in refused.value.cause
    assert refused.value.cure.endswith(f"`sudo chmod a+r {path}`.")


@pytest.mark.usefixtures("nothing_else")
def test_the_kernel_s_monitors_come_first_whichever_driver(tmp_path: Path) -> None:
    for files, name in (
        (ORIN_NANO_JP6, "INA3221 and INA238 (hwmon)"),
        (NANO_JP4, "INA3221 (iio)"),
    ):
        source = find_source(plant(tmp_path / name, files))
        assert source.name == name
        source.close()


def test_this_machine_without_nvml_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """For real: no stand-in is installed; with the package or a GPU there is nothing to see."""
    try:
        source = NvmlSource()
    except SourceMissing as missing:
        assert missing.reason.startswith(("nvidia-ml-py is not", "the driver does not answer"))
    else:
        before = source.read()
        time.sleep(0.01)
        assert before.watts or before.joules is not None
        source.close()
