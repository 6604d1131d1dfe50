"""NVIDIA's Python bindings of CUDA, beside the environment: no driver is needed to ask what they have.

pip installs them into ``DINAT_BINDINGS_DIR`` if that is set. A test that needs one which cannot be
had is skipped, or fails with ``DINAT_REQUIRE_BINDINGS=1``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from tests.engine.nvidia_bindings import unavailable
from tests.plugins.conftest import shared_folder


def installed(requirement: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory to put on the path, filled once for all test processes."""
    chosen = os.environ.get("DINAT_BINDINGS_DIR")
    folder = Path(chosen) if chosen else shared_folder(tmp_path_factory) / "bindings"
    folder.mkdir(parents=True, exist_ok=True)
    site = folder / requirement.replace("==", "-")
    with FileLock(f"{site}.lock"):
        if not (site / "complete").exists():
            _install(requirement, site)
            (site / "complete").touch()
    return site


def _install(requirement: str, site: Path) -> None:
    # The old releases want Cython and the like, which only building them needs.
    extra = ["--no-deps"] if requirement.startswith("cuda-python") else []
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--only-binary", ":all:",
         "--target", site, *extra, requirement],
        capture_output=True,
        text=True,
    )  # fmt: skip
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        unavailable(f"pip cannot install {requirement}: {reason}")
