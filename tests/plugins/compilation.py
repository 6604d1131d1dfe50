"""Compiles the emulated kernels by plain calls of the C++ compiler: few instances, any flags."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

PLUGINS = Path(__file__).parents[2] / "plugins"


@dataclass(frozen=True)
class Unit:
    """One translation unit; ``source`` is relative to the folder ``plugins``."""

    name: str
    source: str
    defines: tuple[str, ...] = ()


EMULATION = (
    Unit("launch", "emulation/launch.cpp"),
    Unit("memory", "emulation/memory.cpp"),
    Unit("scheduler", "emulation/scheduler.cpp"),
    Unit("warp", "emulation/warp.cpp"),
    Unit("problem", "common/problem.cpp"),
)
HOST = (
    Unit("attention", "emulation/attention.cpp"),
    Unit("dispatch", "kernels/dispatch.cpp"),
    Unit("kernel_table", "kernels/kernel_table.cpp"),
    Unit("launch_plan", "kernels/launch_plan.cpp"),
)
EXPORTS = Unit("exports", "emulation/exports.cpp")
PORTABLE = Unit("portable", "kernels/instances/portable.cu")
GROUP = Unit("group", "kernels/instances/group.cu")


def tile(head_dim: int, kernel_size: int) -> Unit:
    """The tile kernel for one head dim and kernel size."""
    return Unit(
        f"tile_{head_dim}_{kernel_size}",
        "kernels/instances/tile.cu",
        (f"-DDINAT_HEAD_DIM={head_dim}", f"-DDINAT_KERNEL_SIZE={kernel_size}"),
    )


def compiler() -> str:
    """The C++ compiler that CMake would take."""
    found = shutil.which(os.environ.get("CXX", "c++"))
    assert found is not None, "there is no C++ compiler: set CXX"
    return found


class Compilation:
    """Objects in one folder.

    Args:
        folder: where the objects go.
        instances: (head dim, kernel size) of the tile kernels that the build has.
        flags: further options of the compiler.
        plugins: the folder of the sources.
    """

    def __init__(
        self,
        folder: Path,
        instances: Sequence[tuple[int, int]],
        flags: Iterable[str] = (),
        plugins: Path = PLUGINS,
    ) -> None:
        self.folder = folder
        self.plugins = plugins
        table = " ".join(f"X({head_dim}, {kernel_size})" for head_dim, kernel_size in instances)
        self._flags = [
            "-std=c++17",
            "-fPIC",
            "-DDINAT_EMULATION",
            f"-DDINAT_TILE_INSTANCES(X)={table}",
        ]
        self._flags += flags

    def objects(self, units: Iterable[Unit]) -> list[Path]:
        """Compile units, two at a time."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(self._object, units))

    def _object(self, unit: Unit) -> Path:
        target = self.folder / f"{unit.name}.o"
        source = self.plugins / unit.source
        _run(
            [
                *self._flags,
                *unit.defines,
                f"-I{self.plugins}",
                "-x",
                "c++",
                "-c",
                source,
                "-o",
                target,
            ]
        )
        return target

    def link(self, name: str, objects: Iterable[Path], *options: str) -> Path:
        """A program, or with ``-shared`` a library, of objects."""
        target = self.folder / name
        _run([*self._flags, *options, *objects, "-o", target])
        return target


def _run(arguments: Sequence[str | Path]) -> None:
    done = subprocess.run([compiler(), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
