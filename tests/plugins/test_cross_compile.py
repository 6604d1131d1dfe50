"""The libraries for a Jetson, compiled on another machine by ``dinat-deploy plugin build``.

Skipped without the cross compiler or nvcc; ``DINAT_REQUIRE_CROSS=1`` makes that a failure.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

import dinat_deploy
from dinat_deploy.native import LibraryInfo, find_cuda, library_info
from tests.plugins.conftest import SOURCE, shared_folder

pytestmark = [pytest.mark.slow, pytest.mark.cuda]
PREFIX = "aarch64-linux-gnu-"
NAMES = ("onnxruntime", "tensorrt")
# Ubuntu 22.04, which JetPack 6 is made of, has glibc 2.35.
NEWEST_GLIBC = (2, 35)


def _missing(what: str) -> None:
    if os.environ.get("DINAT_REQUIRE_CROSS") == "1":
        pytest.fail(f"DINAT_REQUIRE_CROSS=1, and {what}")
    pytest.skip(what)


def _sources_digest() -> str:
    digest = hashlib.sha256()
    files = [SOURCE / "CMakeLists.txt", *(SOURCE / "cmake").rglob("*")]
    files += (path for path in (SOURCE / "plugins").rglob("*") if "tests" not in path.parts)
    for path in sorted(path for path in files if path.is_file()):
        digest.update(str(path).encode() + path.read_bytes())
    return digest.hexdigest()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The libraries; built once for all test processes, and again when a source changes."""
    if shutil.which(f"{PREFIX}g++") is None:
        _missing(f"{PREFIX}g++ is missing; apt-get install g++-aarch64-linux-gnu")
    if find_cuda() is None:
        _missing("there is no CUDA compiler")
    made = shared_folder(tmp_path_factory) / "aarch64"
    stamp = made.with_suffix(".digest")
    digest = _sources_digest()
    with FileLock(f"{made}.lock"):
        if stamp.exists() and stamp.read_text() == digest:
            return made
        done = subprocess.run(
            [sys.executable, "-m", "dinat_deploy", "plugin", "build", "--cross", "aarch64",
             "--arch", "87,110", "--output", made, "--jobs", "2", "--json"],
            cwd=SOURCE, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode and "could not be downloaded" in done.stdout:
            _missing(json.loads(done.stdout)["error"]["cause"])
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert report["found"] is False
        assert [Path(library["path"]).parent for library in report["libraries"]] == [made, made]
        stamp.write_text(digest)
    return made


@pytest.fixture(params=NAMES)
def library(request: pytest.FixtureRequest, folder: Path) -> LibraryInfo:
    return library_info(folder / f"libdinat_{request.param}.so")


def _tool(name: str, *arguments: str | Path) -> str:
    command = [f"{PREFIX}{name}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_code_is_for_a_jetsons_processor_and_gpus(library: LibraryInfo) -> None:
    assert "AArch64" in _tool("readelf", "-h", library.path)
    assert library.machine == "aarch64"
    assert library.cuda_code == ["sm_87", "sm_110", "compute_110"]
    assert library.version == dinat_deploy.__version__


def test_only_entry_points_are_exported(folder: Path) -> None:
    wanted = {"onnxruntime": {"RegisterCustomOps"}, "tensorrt": {"getCreators", "setLoggerFinder"}}
    for name, entries in wanted.items():
        symbols = set(library_info(folder / f"libdinat_{name}.so").symbols)
        assert entries <= symbols
        assert all(symbol.startswith("dinat_") for symbol in symbols - entries)


def test_it_loads_on_jetpack_6(library: LibraryInfo) -> None:
    """Nothing newer than Ubuntu 22.04's C library, and no other library of the system."""
    needs = [need.split("_") for need in library.needs]
    assert {family for family, _ in needs} == {"GLIBC"}
    versions = [tuple(int(part) for part in version.split(".")) for _, version in needs]
    assert max(versions) <= NEWEST_GLIBC
    needed = set(re.findall(r"NEEDED.*\[(.*?)\]", _tool("readelf", "-d", library.path)))
    assert needed <= {"libc.so.6", "libm.so.6", "ld-linux-aarch64.so.1"}


def test_the_cpu_operator_uses_neon(folder: Path) -> None:
    code = _tool("objdump", "-d", "--no-show-raw-insn", folder / "libdinat_onnxruntime.so")
    assert len(re.findall(r"\bfmla\s+v\d+\.4s", code)) > 100
