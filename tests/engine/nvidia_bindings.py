"""NVIDIA's own Python bindings of TensorRT, on machines without TensorRT.

The wheels ``tensorrt-cu12-bindings`` and ``tensorrt-cu13-bindings`` (1 MB each) hold the Python
module without the libraries of several GB that it needs. Over a shim (``nvidia_shim.c``) it can be
imported, so that what it has can be asked; and bindings of TensorRT 11 over the libraries of
TensorRT-RTX really parse and build.

pip downloads the wheels, into ``DINAT_BINDINGS_DIR`` if that is set. A test that needs one which
cannot be had is skipped, or fails with ``DINAT_REQUIRE_BINDINGS=1``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from functools import cache
from importlib import util
from pathlib import Path
from typing import NoReturn

import pytest
from filelock import FileLock

# First and last release of every line that matters, JetPack's 10.3, and the neighbours of every
# version in which something that we use came or went.
RELEASES = {
    "10.0": "10.0.1",
    "10.3": "10.3.0",
    "10.7": "10.7.0",
    "10.8": "10.8.0.43",
    "10.9": "10.9.0.34",
    "10.13": "10.13.3.9",
    "10.14": "10.14.1.48.post1",
    "10.16": "10.16.1.11",
    "11.0": "11.0.0.114",
    "11.4": "11.4.0.106",
}
# Those whose interface in C++ is TensorRT-RTX's, too.
BUILDING = ("11.0", "11.4")
_SHIM = Path(__file__).with_name("nvidia_shim.c")
# As TensorRT's own package does.
_FRONT = "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"
# Prints every class with its attributes, and what is said of them.
_LIST = """
import importlib, json, sys
surface = {}
def describe(name, entry, depth):
    described = surface[name] = {}
    for attribute in dir(entry):
        value = getattr(entry, attribute, None)
        described[attribute] = str(getattr(value, "__doc__", None) or "")
        if isinstance(value, type) and depth < 2 and not attribute.startswith("_"):
            describe(f"{name}.{attribute}".strip("."), value, depth + 1)
describe("", importlib.import_module(sys.argv[1]), 0)
print(json.dumps(surface))
"""


@dataclass(frozen=True)
class Bindings:
    """One release, unpacked, with libraries to load it over.

    Attributes:
        version: as the module says it.
        site: directory that holds the module ``tensorrt`` and its metadata.
        libraries: directory with what the module links to.
    """

    version: str
    site: Path
    libraries: Path

    def environment(self) -> dict[str, str]:
        """Variables with which ``import tensorrt`` finds this one."""
        path = [str(self.site), *filter(None, [os.environ.get("PYTHONPATH")])]
        search = [str(self.libraries), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
        return {"PYTHONPATH": os.pathsep.join(path), "LD_LIBRARY_PATH": os.pathsep.join(search)}


Surface = dict[str, dict[str, str]]  # class, "" for the module -> attribute -> its docstring


def unavailable(reason: str) -> NoReturn:
    """Skip the running test, or fail it where the bindings are required."""
    if os.environ.get("DINAT_REQUIRE_BINDINGS") == "1":
        pytest.fail(f"DINAT_REQUIRE_BINDINGS=1, and {reason}")
    pytest.skip(reason)


def bindings(release: str, folder: Path, *, building: bool = False) -> Bindings:
    """A release, downloaded and unpacked once for all test processes.

    Args:
        folder: that they share.
        building: put it over TensorRT-RTX's libraries, so that it parses and builds.
    """
    version = RELEASES[release]
    if sys.platform != "linux" or shutil.which("gcc") is None:
        unavailable("NVIDIA's bindings are tested on Linux with gcc")
    with FileLock(folder / f"{version}.lock"):
        site = folder / version
        if not (site / "complete").exists():
            _unpack(_download(version, folder), site, version)
            (site / "complete").touch()
        libraries = folder / f"{version.partition('.')[0]}{'-rtx' if building else ''}"
        with FileLock(f"{libraries}.lock"):
            if not (libraries / "complete").exists():
                _compile(libraries, version.partition(".")[0], building)
                (libraries / "complete").touch()
    return Bindings(version, site, libraries)


def _download(version: str, folder: Path) -> Path:
    cuda = "cu12" if version.startswith("10.") else "cu13"
    distribution = f"tensorrt-{cuda}-bindings"
    pattern = f"{distribution.replace('-', '_')}-{version}-*.whl"
    if not list(folder.glob(pattern)):
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            folder,
        ]
        done = subprocess.run(
            [*command, "--only-binary", ":all:", f"{distribution}=={version}"],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            unavailable(f"pip cannot download {distribution} {version}: {reason}")
    return next(folder.glob(pattern))


def _unpack(wheel: Path, site: Path, version: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    package, metadata = site / "tensorrt", site / f"tensorrt-{version}.dist-info"
    package.mkdir(exist_ok=True)
    metadata.mkdir(exist_ok=True)
    (package / "__init__.py").write_text(_FRONT)
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: tensorrt\nVersion: {version}\n"
    )


def _compile(folder: Path, major: str, building: bool) -> None:
    folder.mkdir(exist_ok=True)
    defines = []
    if building:
        core, parser = rtx_libraries()
        defines = [f'-DCORE="{core}"', f'-DPARSER="{parser}"']
        # For the parser, which looks for this name when it meets a plugin.
        (folder / "libtensorrt_rtx.so").unlink(missing_ok=True)
        (folder / "libtensorrt_rtx.so").symlink_to(core)
    for name, source in (
        ("libnvinfer", _SHIM),
        ("libnvonnxparser", os.devnull),  # one library has all functions
        ("libnvinfer_plugin", os.devnull),
    ):
        soname = f"{name}.so.{major}"
        subprocess.run(
            ["gcc", "-shared", "-fPIC", *defines, "-x", "c", source, "-o", folder / soname,
             f"-Wl,-soname,{soname}", "-ldl"],
            check=True,
        )  # fmt: skip


def rtx_libraries() -> tuple[Path, Path]:
    """TensorRT-RTX's library and its parser's; the test is skipped if it is not installed."""
    found = util.find_spec("tensorrt_rtx_libs")
    if found is None or found.origin is None:
        pytest.skip("tensorrt-rtx is not installed")
    folder = Path(found.origin).parent
    return folder / "libtensorrt_rtx.so.1", folder / "libtensorrt_onnxparser_rtx.so.1"


@cache
def surface(found: Bindings) -> Surface:
    """All classes of a release with their attributes; nested classes as ``Outer.Inner``."""
    kept = found.site / "surface.json"
    if not kept.exists():
        partial = found.site / f"surface.{os.getpid()}"
        partial.write_text(_list("tensorrt", found.environment()))
        partial.replace(kept)
    described: Surface = json.loads(kept.read_text())
    return described


@cache
def rtx_surface() -> Surface:
    """The same of the TensorRT-RTX that is installed; the test is skipped if none is."""
    rtx_libraries()
    described: Surface = json.loads(_list("tensorrt_rtx", {}))
    return described


def _list(module: str, environment: dict[str, str]) -> str:
    listed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _LIST, module],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert listed.returncode == 0, listed.stderr
    return listed.stdout
