"""The machine, read from made-up file systems: a desktop, a Jetson, one that says nothing."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path

import pytest

from dinat_deploy.measurement import environment
from dinat_deploy.measurement.environment import concerns, describe, slowed

Files = dict[str, str]
CPUS = "sys/devices/system/cpu"
DESKTOP: Files = {
    "proc/cpuinfo": "processor : 0\nmodel name\t: Some CPU @ 3.00GHz\nflags : avx2\n",
    "proc/meminfo": "MemTotal:       33554432 kB\nMemFree: 1 kB\n",
    "proc/loadavg": "0.05 0.10 0.20 1/200 3000\n",
    "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 24.04 LTS"\n',
    f"{CPUS}/cpu0/cpufreq/scaling_governor": "performance\n",
    f"{CPUS}/cpu1/cpufreq/scaling_governor": "performance\n",
    f"{CPUS}/intel_pstate/no_turbo": "0\n",
}
JETSON: Files = {
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n",
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "var/lib/nvpmodel/status": "pmode:0002 fmode:quiet\n",
    "etc/nvpmodel.conf": (
        "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n"
    ),
    "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "612000000\n",
    "sys/class/devfreq/15480000.nvdec/min_freq": "1\n",
    f"{CPUS}/cpu0/cpufreq/scaling_governor": "schedutil\n",
}


@pytest.fixture
def system(tmp_path: Path) -> Callable[[Files], Path]:
    def make(files: Files) -> Path:
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return tmp_path

    return make


@pytest.fixture(autouse=True)
def _four_cores_and_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr("shutil.which", lambda _: None)


def nvidia_smi(
    place: Path, monkeypatch: pytest.MonkeyPatch, answers: dict[str, str], status: int = 0
) -> Path:
    """A program that answers by the fields it is asked for, and keeps its arguments."""
    tool, kept = place / "nvidia-smi", place / "arguments"
    cases = "".join(f"  *{fields}*) echo '{answer}';;\n" for fields, answer in answers.items())
    tool.write_text(
        f'#!/bin/sh\necho "$@" >> {kept}\ncase "$1" in\n{cases}  *) exit 2;;\nesac\nexit {status}\n'
    )
    tool.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda name: str(tool) if name == "nvidia-smi" else None)
    return kept


def test_a_desktop(system: Callable[[Files], Path]) -> None:
    found = describe(system(DESKTOP))
    assert found["processor"] == "Some CPU @ 3.00GHz"
    assert found["cores"] == "4"
    assert (found["governor"], found["turbo"]) == ("performance", "on")
    assert found["memory"] == "32.0 GiB"
    assert found["load"] == "0.05"
    assert found["system"].startswith("Ubuntu 24.04 LTS, ")
    assert found["Python"] == platform.python_version()
    assert found["onnxruntime"]
    assert not {"Jetson", "L4T", "power mode", "GPU", "GPU clock"} & set(found)
    assert concerns(system({})) == []


def test_a_jetson(system: Callable[[Files], Path]) -> None:
    root = system(JETSON)
    found = describe(root)
    assert found["Jetson"] == "NVIDIA Jetson Orin Nano Developer Kit"
    assert found["L4T"] == "36.4.3"
    assert found["power mode"] == "2 (MAXN_SUPER)"
    assert found["GPU clock"] == "612 MHz of 1020 MHz"
    assert found["governor"] == "schedutil"
    governor, clocks = concerns(root)
    assert "governor is schedutil" in governor
    assert "between 306 and 1020 MHz; `sudo jetson_clocks`" in clocks


@pytest.mark.parametrize("device", ["17000000.gpu", "17000000.ga10b", "gpu-gpc-0"])
def test_locked_clocks_of_a_jetson_are_no_concern(
    device: str, system: Callable[[Files], Path]
) -> None:
    """The names that the GPU has on JetPack 5, 6 and 7, and on Thor."""
    folder = f"sys/class/devfreq/{device}"
    root = system({f"{folder}/{which}_freq": "1020000000\n" for which in ("min", "max", "cur")})
    assert describe(root)["GPU clock"] == "1020 MHz, locked"
    assert concerns(root) == []


def test_a_system_that_says_nothing_is_described_all_the_same(tmp_path: Path) -> None:
    found = describe(tmp_path)
    assert found["cores"] == "4"
    assert found["processor"]
    assert "" not in found.values()
    assert concerns(tmp_path) == []
    assert slowed() == []


def test_nonsense_in_the_files_does_no_harm(system: Callable[[Files], Path]) -> None:
    nonsense = dict.fromkeys(DESKTOP | JETSON, "\x00\n=:,%\n")
    root = system(nonsense | {"sys/fs/cgroup/cpu.max": "max 100000\n"})
    assert describe(root)["cores"] == "4"
    assert "load" not in describe(root)


def test_limits_of_a_container_are_told(
    system: Callable[[Files], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    root = system({"sys/fs/cgroup/cpu.max": "150000 100000\n"})
    assert describe(root)["cores"] == "2 of 4, limited to the time of 1.5"


@pytest.mark.parametrize(("load", "busy"), [("0.90", False), ("1.10", True)])
def test_other_load_is_a_concern_from_a_quarter_of_the_cores_on(
    load: str, busy: bool, system: Callable[[Files], Path]
) -> None:
    found = concerns(system({"proc/loadavg": f"{load} 0 0 1/2 3"}))
    assert [f"load average was {load} on 4 cores" in words for words in found] == [True] * busy


def test_boost_of_amd_processors(system: Callable[[Files], Path]) -> None:
    assert describe(system({f"{CPUS}/cpufreq/boost": "0"}))["turbo"] == "off"


def test_the_gpu_is_asked_of_the_driver_s_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = "NVIDIA H100, 570.86.10, 81559 MiB, 1980 MHz, [N/A]"
    kept = nvidia_smi(tmp_path, monkeypatch, {"name,driver": answer})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1234,GPU-5678")
    found = describe(tmp_path / "empty")
    assert found["GPU"] == "NVIDIA H100"
    assert found["GPU driver"] == "570.86.10"
    assert found["GPU memory"] == "81559 MiB"
    assert found["GPU clock limit"] == "1980 MHz"
    assert "GPU power limit" not in found
    assert "--id=GPU-1234" in kept.read_text()


def test_a_driver_s_tool_that_fails_is_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia_smi(tmp_path, monkeypatch, {"name,driver": "a, b, c, d, e"}, status=9)
    assert "GPU" not in describe(tmp_path / "empty")
    monkeypatch.setattr("shutil.which", lambda _: str(tmp_path / "not there"))
    assert "GPU" not in describe(tmp_path / "empty")


@pytest.mark.parametrize("field", environment._REASONS)
def test_what_holds_the_clocks_down_is_named_by_old_and_new_drivers(
    field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia_smi(tmp_path, monkeypatch, {field: "0x0000000000000064"})
    assert slowed() == ["The GPU ran slower than it can: its power limit and heat held it back."]
    # Idle, clocks set by the user, synchronised boost: nothing to warn of.
    nvidia_smi(tmp_path, monkeypatch, {field: "0x0000000000000013"})
    assert slowed() == []
