"""Trees of /sys as Jetsons have them, made from the documented layouts: a path and what it holds.

hwmon's units are mV, mA and uW, those of JetPack 4's iio driver mV, mA and mW.
"""

from __future__ import annotations

from pathlib import Path

Files = dict[str, str]


def ina3221(
    folder: str, *channels: tuple[str, int, int] | None, number: int = 3, alarm: int = 0
) -> Files:
    """A chip with up to three rails (label, mV, mA); None for one that the board leaves open.

    Channels 4 to 6 are shunt voltages and 7 is their sum, all in mV, with labels of their own.
    """
    place = f"{folder}/hwmon/hwmon{number}"
    files = {f"{place}/name": "ina3221"}
    for index, channel in enumerate(channels, 1):
        label, millivolts, milliamperes = channel or ("NC", 4968, 777)
        files |= {
            f"{place}/in{index}_label": label,
            f"{place}/in{index}_enable": "1",
            f"{place}/in{index}_input": str(millivolts),
            f"{place}/curr{index}_input": str(milliamperes),
            f"{place}/curr{index}_crit_alarm": str(alarm),
            f"{place}/in{index + 3}_input": "12",
        }
    files |= {
        f"{place}/in7_label": "sum of shunt voltages",
        f"{place}/in7_input": "36",
        f"{place}/curr4_input": "9999",
    }
    return files


def general(release: str, model: str, mode: int, names: dict[int, str], gpu: str) -> Files:
    """What is not about rails: versions, the power mode, temperatures, clocks, cooling."""
    models = "".join(f"< POWER_MODEL ID={n} NAME={name} >\n" for n, name in names.items())
    thermal, devfreq = "sys/class/thermal", f"sys/class/devfreq/{gpu}"
    return {
        "etc/nv_tegra_release": release,
        "proc/device-tree/model": model,
        "var/lib/nvpmodel/status": f"pmode:{mode:04} fmode:quiet",
        "etc/nvpmodel.conf": models,
        f"{thermal}/thermal_zone0/type": "cpu-thermal",
        f"{thermal}/thermal_zone0/temp": "51250",
        f"{thermal}/thermal_zone1/type": "gpu-thermal",
        f"{thermal}/thermal_zone1/temp": "49500",
        f"{thermal}/thermal_zone2/type": "cv0-thermal",
        f"{thermal}/thermal_zone2/temp": "-256000",  # its part of the chip is switched off
        f"{thermal}/cooling_device0/type": "pwm-fan",
        f"{thermal}/cooling_device0/cur_state": "3",
        f"{thermal}/cooling_device1/type": "hot-surface-alert",
        f"{thermal}/cooling_device1/cur_state": "1",
        f"{thermal}/cooling_device2/type": f"devfreq-{gpu}",
        f"{thermal}/cooling_device2/cur_state": "0",
        f"{devfreq}/cur_freq": "612000000",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "729600",
        "sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq": "1510400",
    }


def events(one: int, two: int, three: int, number: int = 5) -> Files:
    place = f"sys/class/hwmon/hwmon{number}"
    counts = {f"{place}/oc{n}_event_cnt": str(c) for n, c in enumerate((one, two, three), 1)}
    return {f"{place}/name": "soctherm_oc", **counts}


I2C = "sys/bus/i2c/devices"

# JetPack 6 on an Orin Nano: 4.968 V x 1.000 A at the input, which contains the other two.
ORIN_NANO_JP6 = (
    general(
        "# R36 (release), REVISION: 4.3, GCID: 1",
        "NVIDIA Jetson Orin Nano Developer Kit",
        2,
        {0: "15W", 1: "25W", 2: "MAXN_SUPER"},
        "17000000.gpu",
    )
    | ina3221(
        f"{I2C}/1-0040",
        ("VDD_IN", 4968, 1000),
        ("VDD_CPU_GPU_CV", 4960, 250),
        ("VDD_SOC", 4960, 300),
    )
    | events(0, 15, 37)
)

# JetPack 5 on an AGX Orin: two chips; of the second only the memory's rail is connected.
AGX_ORIN_JP5 = (
    general(
        "# R35 (release), REVISION: 4.1, GCID: 1",
        "NVIDIA Jetson AGX Orin Developer Kit",
        0,
        {0: "MAXN", 1: "15W"},
        "17000000.ga10b",
    )
    | ina3221(
        f"{I2C}/1-0040",
        ("VDD_GPU_SOC", 10000, 800),
        ("VDD_CPU_CV", 10000, 150),
        ("VIN_SYS_5V0", 5000, 700),
    )
    | ina3221(f"{I2C}/1-0041", None, ("VDDQ_VDD2_1V8AO", 5000, 200), None, number=4)
)

# JetPack 7 on Thor: an INA238 at the input of the board, which gives uW and has no label.
THOR_JP7 = (
    general(
        "# R38 (release), REVISION: 4.0, GCID: 1",
        "NVIDIA Jetson AGX Thor Developer Kit",
        1,
        {0: "MAXN", 1: "120W"},
        "gpu-gpc-0",
    )
    | ina3221(
        f"{I2C}/2-0040",
        ("VDD_GPU", 12000, -32),
        ("VDD_CPU_SOC_MSS", 12000, 500),
        ("VIN_SYS_5V0", 5000, 1300),
    )
    | {
        f"{I2C}/2-0044/hwmon/hwmon4/name": "ina238",
        f"{I2C}/2-0044/hwmon/hwmon4/in0_input": "5",
        f"{I2C}/2-0044/hwmon/hwmon4/in1_input": "19875",
        f"{I2C}/2-0044/hwmon/hwmon4/curr1_input": "1200",
        f"{I2C}/2-0044/hwmon/hwmon4/power1_input": "23850000",
    }
)

# JetPack 4 on a Nano and on an AGX Xavier, whose third chip driver gives no power of its own.
_IIO = "sys/bus/i2c/drivers/ina3221x"
NANO_JP4: Files = {
    f"{_IIO}/6-0040/iio:device0/rail_name_0": "POM_5V_IN",
    f"{_IIO}/6-0040/iio:device0/in_power0_input": "2532",
    f"{_IIO}/6-0040/iio:device0/in_voltage0_input": "5064",
    f"{_IIO}/6-0040/iio:device0/in_current0_input": "500",
    f"{_IIO}/6-0040/iio:device0/rail_name_1": "POM_5V_GPU",
    f"{_IIO}/6-0040/iio:device0/in_voltage1_input": "5064",
    f"{_IIO}/6-0040/iio:device0/in_current1_input": "250",
}
XAVIER_JP4: Files = {
    f"{_IIO}/1-004{chip}/iio:device{chip}/{name}": value
    for chip, rails in enumerate((("GPU", "CPU", "SOC"), ("CV", "VDDRQ", "SYS5V")))
    for index, rail in enumerate(rails)
    for name, value in (
        (f"rail_name_{index}", rail),
        (f"in_power{index}_input", str(1000 * (3 * chip + index + 1))),
    )
}


def plant(root: Path, files: Files) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return root
