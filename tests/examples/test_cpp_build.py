"""The C++ runner's build: for a Jetson, and where something is missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from filelock import FileLock

from tests.examples.conftest import EXAMPLE, cmake, compile_example, configure
from tests.plugins.conftest import shared_folder

PREFIX = "aarch64-linux-gnu-"
TOOLCHAIN = EXAMPLE.parents[1] / "cmake" / "aarch64-linux-gnu.cmake"
# Ubuntu 22.04, which JetPack 6 is made of.
NEWEST = {"GLIBC": (2, 35), "GLIBCXX": (3, 4, 30), "CXXABI": (1, 3, 13), "GCC": (12, 0, 0)}


@pytest.mark.slow
def test_it_is_compiled_for_a_jetson(tmp_path_factory: pytest.TempPathFactory) -> None:
    if shutil.which(f"{PREFIX}g++") is None:
        what = f"{PREFIX}g++ is missing; apt-get install g++-aarch64-linux-gnu"
        if os.environ.get("DINAT_REQUIRE_CROSS") == "1":
            pytest.fail(f"DINAT_REQUIRE_CROSS=1, and {what}")
        pytest.skip(what)
    build = shared_folder(tmp_path_factory) / "cpp_runner_aarch64"
    with FileLock(f"{build}.lock"):
        options = ("-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O0")
        configure(build, f"-DCMAKE_TOOLCHAIN_FILE={TOOLCHAIN}", *options)
        compile_example(build, "dinat_run")
    program = build / "dinat_run"
    assert "AArch64" in tool("readelf", "-h", program)
    needed = set(re.findall(r"NEEDED.*\[(.*?)\]", tool("readelf", "-d", program)))
    system = {"libstdc++.so.6", "libm.so.6", "libgcc_s.so.1", "libc.so.6", "ld-linux-aarch64.so.1"}
    assert needed <= system  # TensorRT and CUDA are found when it runs
    for family, version in re.findall(r"Name: ([A-Z]+)_([\d.]+)", tool("readelf", "-V", program)):
        assert tuple(map(int, version.split("."))) <= NEWEST[family], (family, version)


def tool(name: str, *arguments: str | Path) -> str:
    command = [f"{PREFIX}{name}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("-DSTB_INCLUDE_DIR=STB_INCLUDE_DIR-NOTFOUND",
         "The header stb_image.h was not found. apt-get install libstb-dev, or set STB_INCLUDE_DIR"),
        ("-DNLOHMANN_JSON_INCLUDE_DIR=NLOHMANN_JSON_INCLUDE_DIR-NOTFOUND",
         "The header nlohmann/json.hpp was not found. apt-get install nlohmann-json3-dev"),
        ("-DTENSORRT_ROOT=/nowhere", "There is no NvInferRuntime.h in /nowhere/include."),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(cpp_build: Path, tmp_path: Path, option: str, words: str) -> None:
    # Nothing is searched for: only what is given is there.
    given = (cpp_build / "CMakeCache.txt").read_text()
    found = re.findall(r"^((?:STB|NLOHMANN_JSON)_INCLUDE_DIR):\w+=(.*)$", given, re.MULTILINE)
    known = [f"-D{name}={folder}" for name, folder in found]
    nowhere = ["-DCMAKE_FIND_ROOT_PATH=/nowhere", "-DCMAKE_FIND_ROOT_PATH_MODE_INCLUDE=ONLY"]
    done = cmake("-S", EXAMPLE, "-B", tmp_path / "build", *known, *nowhere, option)
    assert done.returncode != 0
    assert words in " ".join(done.stderr.split())
