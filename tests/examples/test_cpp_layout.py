"""The C++ runner's declaration of TensorRT's classes against TensorRT's own.

- ``TENSORRT_INCLUDE_DIR`` names the folders of official headers, of one or more versions, separated
  by ``:``.
- The Python bindings of TensorRT carry the layout that they were compiled with. An installed
  TensorRT-RTX is checked by them, and so are those in ``TENSORRT_BINDINGS``: files
  ``tensorrt.so`` of unpacked wheels, separated by ``:``.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.examples.conftest import EXAMPLE, missing

HEADERS = [Path(p) for p in os.environ.get("TENSORRT_INCLUDE_DIR", "").split(":") if p]
BINDINGS = [Path(p) for p in os.environ.get("TENSORRT_BINDINGS", "").split(":") if p]
CUDA_STUB = EXAMPLE.parents[1] / "plugins" / "tensorrt" / "tests" / "cuda_stub"
STRICT = ("-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wno-invalid-offsetof")


def compile_with(source: Path, *options: str | Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        missing("g++ was not found: install it")
    command = [compiler, *STRICT, f"-I{EXAMPLE / 'src'}", *options, source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def facts(folder: Path, layout: int, *options: str) -> dict[str, str]:
    """What ``layout.cpp`` prints: functions with their slots, sizes, values."""
    program = folder / f"layout{layout}"
    compile_with(
        EXAMPLE / "tests" / "layout.cpp",
        f"-DDINAT_TENSORRT_LAYOUT={layout}",
        *options,
        "-o",
        program,
    )
    printed = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    return dict(line.rsplit(" ", 1) for line in printed.splitlines())


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, str]]:
    folder = tmp_path_factory.mktemp("ours")
    return {layout: facts(folder, layout) for layout in (10, 11)}


# Read off the official headers of 10.0 to 10.16 and of 11.0 and 11.1, for machines without them.
SLOTS = {
    "deserializeCudaEngine": (3, 3),
    "setDLACore": (5, 4),
    "getNbDLACores": (7, 6),
    "getPluginRegistry": (18, 17),
    "setEngineHostCodeAllowed": (21, 20),
    "getEngineHostCodeAllowed": (22, 21),
    "createExecutionContext": (5, 5),
    "getNbOptimizationProfiles": (10, 8),
    "getTensorShape": (19, 15),
    "getTensorDataType": (20, 16),
    "getTensorLocation": (21, 17),
    "getTensorIOMode": (23, 19),
    "getProfileShape": (29, 25),
    "getNbIOTensors": (30, 26),
    "getIOTensorName": (31, 27),
    "setOptimizationProfileAsync": (17, 16),
    "setInputShape": (21, 20),
    "context getTensorShape": (22, 21),
    "setTensorAddress": (24, 23),
    "enqueueV3": (37, 36),
    "loadLibrary": (10, 6),
    "log": (0, 4),  # behind the versioned interface since 11
}


def test_functions_stand_where_both_layouts_have_them(ours: dict[int, dict[str, str]]) -> None:
    both = {name: (int(ours[10][name]), int(ours[11][name])) for name in list(ours[10])[:22]}
    assert both == SLOTS


@pytest.fixture(
    params=HEADERS
    or [pytest.param(None, marks=pytest.mark.skip("TENSORRT_INCLUDE_DIR is not set"))],
    ids=str,
)
def headers(request: pytest.FixtureRequest) -> tuple[int, tuple[str, ...]]:
    """The layout of official headers and the options to compile with them."""
    folder: Path = request.param
    text = (folder / "NvInferVersion.h").read_text()
    found = re.search(r"#define (?:NV_TENSORRT_MAJOR|TRT_MAJOR_ENTERPRISE) (\d+)", text)
    assert found is not None
    options = ("-DDINAT_TENSORRT_HEADERS", f"-isystem{folder}", f"-isystem{CUDA_STUB}")
    return int(found[1]), options


def test_places_types_and_values_are_the_official_ones(
    ours: dict[int, dict[str, str]], headers: tuple[int, tuple[str, ...]], tmp_path: Path
) -> None:
    layout, options = headers
    theirs = facts(tmp_path, layout, *options)
    assert len(theirs) >= 52
    assert "-1" not in theirs.values()
    assert ours[layout] == theirs


@pytest.mark.parametrize("source", ["tensorrt_layout", "tensorrt"])
def test_the_program_compiles_with_official_headers(
    headers: tuple[int, tuple[str, ...]], source: str
) -> None:
    compile_with(EXAMPLE / "src" / f"{source}.cpp", *headers[1], "-fsyntax-only")


def installed_rtx() -> Path | None:
    found = importlib.util.find_spec("tensorrt_rtx_bindings")
    folders = list(found.submodule_search_locations or []) if found else []
    file = Path(folders[0]) / "tensorrt_rtx.so" if folders else None
    return file if file is not None and file.is_file() else None


@pytest.mark.parametrize("bindings", [installed_rtx(), *BINDINGS], ids=str)
def test_tensorrts_own_python_bindings_run_the_stand_in(
    cpp_build: Path, tmp_path: Path, rng: np.random.Generator, bindings: Path | None
) -> None:
    """They call it as TensorRT: so it has TensorRT's layout, and so has the program that runs it."""
    if bindings is None:
        pytest.skip("TensorRT-RTX is not installed: pip install tensorrt-rtx")
    stand_ins, rest = cpp_build / "stand_ins", cpp_build / "stand_ins" / "librest.so"
    needed = re.findall(
        r"lib(?:nv|tensorrt)\w*\.so\.(?:1[01]|1)\b", bindings.read_bytes().decode("latin-1")
    )
    for name in set(needed):
        runtime = re.fullmatch(r"libnvinfer\.so\.(1[01])|libtensorrt_rtx\.so\.1", name)
        source = stand_ins / f"libnvinfer.so.{runtime[1] or 11}" if runtime else rest
        shutil.copy(source, tmp_path / name)
    shutil.copy(stand_ins / "libcuda.so.1", tmp_path)

    weights = rng.standard_normal((6, 48)).astype(np.float32)
    lines = ["stand-in plan", "input image float32 -1 3 4 4", "output logits float32 6"]
    lines += [
        "profile 1 3 4 4 2 3 4 4",
        "profile 4 3 4 4 8 3 4 4",
        "plugin 1",
        "host_code 1",
        "end",
    ]
    plan = tmp_path / "model.plan"
    plan.write_bytes("\n".join([*lines, ""]).encode() + weights.tobytes())
    pixels = rng.standard_normal((5, 3, 4, 4)).astype(np.float32)
    pixels.tofile(tmp_path / "pixels")
    driver = Path(__file__).with_name("bindings_driver.py")
    environment = {
        "LD_LIBRARY_PATH": str(tmp_path),
        "LD_PRELOAD": str(rest),
        "STAND_IN_LEAKS": str(tmp_path / "leaks"),
    }
    if bindings.stem == "tensorrt_rtx":
        environment["STAND_IN_VERSION"] = "1.7.1.116"
    files = [tmp_path / "pixels", tmp_path / "logits"]
    done = subprocess.run(
        [sys.executable, driver, bindings, plan, plan, *files],
        env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "this is no plan" in done.stdout + done.stderr  # the logger was called
    logits = np.fromfile(tmp_path / "logits", np.float32).reshape(5, 6)
    np.testing.assert_allclose(logits, pixels.reshape(5, -1) @ weights.T, atol=1e-4)
    assert "tensorrt=0" in (tmp_path / "leaks").read_text()
