"""Bugs put into the kernels on purpose: the emulation notices each of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from tests.plugins.compilation import EMULATION, EXPORTS, HOST, PLUGINS, Compilation
from tests.plugins.conftest import shared_folder
from tests.plugins.mutants import INSTANCE, MUTATIONS, UNITS, Mutation

FLAGS = ("-O1",)


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Objects of the unchanged sources, compiled once for all test processes."""
    folder = shared_folder(tmp_path_factory) / "originals"
    with FileLock(f"{folder}.lock"):
        if not (folder / "complete").exists():
            compilation = Compilation(folder, [INSTANCE], FLAGS)
            compilation.objects([*EMULATION, *HOST, EXPORTS, *UNITS.values()])
            (folder / "complete").touch()
    return folder


def verdict(library: Path, kernel: str) -> str:
    """What is wrong with a library's kernel; a crash is wrong too."""
    command = [sys.executable, "-m", "tests.plugins.mutants", library, kernel]
    root = PLUGINS.parent
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=300)
    return done.stdout.strip() if done.returncode == 0 else f"exit status {done.returncode}"


@pytest.mark.parametrize("kernel", UNITS)
def test_unchanged_sources_pass(originals: Path, tmp_path: Path, kernel: str) -> None:
    compilation = Compilation(tmp_path, [INSTANCE], FLAGS)
    library = compilation.link("libunchanged.so", sorted(originals.glob("*.o")), "-shared")
    assert verdict(library, kernel) == ""


@pytest.mark.parametrize(
    "mutation", MUTATIONS, ids=lambda mutation: mutation.name.replace(" ", "-")
)
def test_bug_is_noticed(originals: Path, tmp_path: Path, mutation: Mutation) -> None:
    plugins = tmp_path / "plugins"
    for folder in ("common", "emulation", "kernels"):
        shutil.copytree(PLUGINS / folder, plugins / folder)
    mutation.apply(plugins)
    compilation = Compilation(tmp_path / "objects", [INSTANCE], FLAGS, plugins)
    # What a source file changes, it changes alone; a header, the kernel and perhaps its launch.
    if mutation.file.endswith(".cpp"):
        units = [unit for unit in HOST if unit.source == mutation.file]
    elif mutation.file.endswith(".cuh"):
        units = [UNITS[mutation.kernel]]
    else:
        units = [*HOST, UNITS[mutation.kernel]]
    changed = compilation.objects(units)
    names = {path.name for path in changed}
    unchanged = [path for path in sorted(originals.glob("*.o")) if path.name not in names]
    library = compilation.link("libmutant.so", [*changed, *unchanged], "-shared")
    assert verdict(library, mutation.kernel) != ""
