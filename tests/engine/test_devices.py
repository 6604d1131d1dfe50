"""What the driver and the device tree say of a machine's accelerators."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dinat_deploy.engine import devices
from dinat_deploy.engine.builder import Gpu
from dinat_deploy.native import find_cuda
from tests.plugins.compilation import compiler

SOURCE = Path(__file__).with_name("stand_in_driver.cpp")


def compiled(folder: Path, *flags: str) -> Path:
    library = folder / "libcuda_stand_in.so"
    command = [compiler(), "-shared", "-fPIC", "-Wall", "-Werror", *flags, SOURCE, "-o", library]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return library


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "LIBRARIES", ("not_here.so", str(compiled(tmp_path))))


@pytest.mark.usefixtures("driver")
def test_the_driver_tells_of_the_gpus_that_can_be_asked() -> None:
    expected = Gpu(name="NVIDIA Stand-In 3000", capability="121", driver="13.1", memory=24 << 30)
    assert devices.gpus() == [expected]
    assert devices.current_gpu() == expected
    assert devices.current_capability() == "121"


@pytest.mark.usefixtures("driver")
def test_a_driver_without_gpus_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DINAT_STAND_IN_NO_DEVICE", "1")
    assert devices.gpus() == []
    assert devices.current_gpu() is None


def test_no_driver_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "LIBRARIES", ("not_here.so",))
    assert devices.gpus() == []
    assert devices.current_capability() is None


def test_the_stand_in_has_the_functions_of_the_real_driver(tmp_path: Path) -> None:
    """Compiled against NVIDIA's header: another signature or number would be an error."""
    cuda = find_cuda()
    toolkits = [cuda.nvcc.resolve().parents[1]] if cuda else []
    toolkits += [
        Path("/usr/local/cuda"),
        *Path(sys.prefix).glob("lib/python*/site-packages/nvidia/cu*"),
    ]
    include = next(
        (kit / "include" for kit in toolkits if (kit / "include/cuda.h").is_file()), None
    )
    if include is None:
        pytest.skip("needs NVIDIA's cuda.h")
    compiled(tmp_path, "-DDINAT_CUDA_HEADER", f"-I{include}")


def tree(folder: Path, compatible: str, **nodes: str | None) -> Path:
    """A device tree; ``nodes`` are accelerators with their status, None for no such property."""
    (folder / "bus@0" / "host1x@13e00000").mkdir(parents=True)
    (folder / "compatible").write_bytes(compatible.encode() + b"\0")
    for name, status in nodes.items():
        node = folder / "bus@0" / "host1x@13e00000" / f"{name}@15880000"
        node.mkdir()
        if status is not None:
            (node / "status").write_bytes(status.encode() + b"\0")
    return folder


ORIN = "nvidia,p3737-0000+p3701-0005\0nvidia,tegra234"


@pytest.mark.parametrize(
    ("compatible", "nodes", "cores"),
    [
        (ORIN, {"nvdla0": "okay", "nvdla1": "okay"}, 2),
        (ORIN, {"nvdla0": None, "nvdla1": "disabled"}, 1),
        (ORIN, {"nvdla0": "disabled"}, 0),
        (ORIN, {}, None),
        ("nvidia,p3971-0089+p3834-0008\0nvidia,tegra264", {}, 0),
        ("raspberrypi,5-model-b\0brcm,bcm2712", {"nvdla0": "okay"}, 0),
    ],
    ids=["Orin", "one core", "without", "not described", "Thor", "another computer"],
)
def test_the_device_tree_tells_of_deep_learning_accelerators(
    compatible: str, nodes: dict[str, str | None], cores: int | None, tmp_path: Path
) -> None:
    assert devices.dla_cores(tree(tmp_path / "tree", compatible, **nodes)) == cores


def test_a_machine_without_a_device_tree_has_no_accelerator(tmp_path: Path) -> None:
    assert devices.dla_cores(tmp_path / "none") == 0
