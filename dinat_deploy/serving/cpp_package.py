"""A package for the runner in C++: its sources, an engine with all that it needs, one command."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from dinat_deploy import __version__
from dinat_deploy.bundle import MANIFEST as BUNDLE_MANIFEST
from dinat_deploy.bundle import open_bundle
from dinat_deploy.engine.builder import PLAN
from dinat_deploy.engine.checks import check_plugin
from dinat_deploy.engine.manifest import MANIFEST, Engine, open_engine
from dinat_deploy.errors import BundleError, EngineError
from dinat_deploy.native import source_directory
from dinat_deploy.progress import Progress
from dinat_deploy.serving.network import Network
from dinat_deploy.serving.problems import PackageError, Problem
from dinat_deploy.serving.record import PackageRecord, packaged, write_record
from dinat_deploy.session.tensorrt_api import TITLES

ENGINE, LIBRARIES, SOURCES, PROGRAM = "engine", "lib", "source", "bin/dinat_run"
RUN = "run.sh"
_TAKEN = ("CMakeLists.txt", "src")


def runner_sources() -> Path:
    """The sources of ``dinat_run``, in a checkout or in the installed package.

    Raises:
        PackageError: they are in neither.
    """
    root = source_directory()
    found = root / "examples" / "cpp" if root is not None else None
    if found is None or not all((found / name).exists() for name in _TAKEN):
        raise PackageError(
            "The sources of the runner in C++ were not found, neither in a checkout nor in the "
            "installed package.",
            "Install dinat-deploy again, or run it from a checkout.",
        )
    return found


def write_cpp_package(
    place: Path, network: Network, progress: Progress, *, compile_runner: bool = False
) -> PackageRecord:
    """Fill an empty directory.

    Args:
        compile_runner: build the program, too.

    Raises:
        PackageError: there is no engine or no bundle, the sources are missing, or do not compile.
        EngineError: the engine is not what its manifest says, or its plugin is missing.
    """
    engine, bundle = network.engine, network.bundle
    if engine is None:
        raise PackageError(
            f"{network.source} is an ONNX file, and the runner in C++ runs engines.",
            "Build one with `dinat-deploy build`, or use --format triton.",
        )
    if bundle is None:
        raise PackageError(
            f"Nothing says which bundle {engine.path} was built from, and so not how pictures "
            "become its input.",
            "Name the bundle with --bundle.",
        )
    if not network.classifies:
        raise PackageError(
            f"{bundle.manifest.name} is no classifier, and the runner in C++ shows classes.",
            "Use --format triton, or run the engine from Python.",
        )
    engine.check_plan()
    check_plugin(engine, network.library)
    with progress.stage("Copying the engine"):
        folder = place / ENGINE
        folder.mkdir()
        for name in (PLAN, MANIFEST):
            shutil.copyfile(engine.path / name, folder / name)
        # The runner looks for it there: preprocessing, and the names of the classes.
        shutil.copyfile(bundle.path / BUNDLE_MANIFEST, folder / BUNDLE_MANIFEST)
        if network.library is not None and network.library_name is not None:
            (place / LIBRARIES).mkdir()
            shutil.copyfile(network.library, place / LIBRARIES / network.library_name)
    with progress.stage("Copying the sources"):
        sources = runner_sources()
        (place / SOURCES).mkdir()
        shutil.copyfile(sources / "CMakeLists.txt", place / SOURCES / "CMakeLists.txt")
        shutil.copytree(sources / "src", place / SOURCES / "src")
    if compile_runner:
        with progress.stage("Compiling the runner"):
            _compile(place)
    (place / RUN).write_text(
        _run_script(network.library_name, bool(engine.manifest.host_code)), "utf-8"
    )
    (place / RUN).chmod(0o755)
    (place / "README.md").write_text(_readme(engine), encoding="utf-8")
    with progress.stage("Recording what is in the package"):
        record = write_record(place, "cpp", [packaged(network)])
    for problem in check_cpp_package(place):
        raise problem.to_error()
    return record


def _compile(place: Path) -> None:
    """Build the program into ``bin``, and leave nothing else of it."""
    if shutil.which("cmake") is None:
        raise PackageError(
            "--compile needs CMake, and there is none.", "pip install cmake, or leave it out."
        )
    build = place / "build"
    commands = (
        ["cmake", "-S", str(place / SOURCES), "-B", str(build), "-DCMAKE_BUILD_TYPE=Release"],
        ["cmake", "--build", str(build), "--target", "dinat_run", "--parallel"],
    )
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise PackageError(
                f"The runner does not compile here: {' '.join(said[-6:])}",
                "apt-get install g++ libstb-dev nlohmann-json3-dev, or leave --compile out: "
                f"{RUN} compiles it where the package is used.",
            )
    target = place / PROGRAM
    target.parent.mkdir()
    shutil.copy(build / "dinat_run", target)
    shutil.rmtree(build)


def _run_script(library: str | None, host_code: bool) -> str:
    plugin = f' --plugin "$here/{LIBRARIES}/{library}"' if library else ""
    lines = [
        "#!/bin/sh",
        "# Classifies pictures: sh run.sh cat.jpg. Compiles the runner first, unless it is there.",
        "set -e",
        'here=$(cd "$(dirname "$0")" && pwd)',
        f'program="$here/{PROGRAM}"',
        'if [ ! -x "$program" ]; then',
        f'  cmake -S "$here/{SOURCES}" -B "$here/build" >&2',
        '  cmake --build "$here/build" --target dinat_run >&2',
        '  mkdir -p "$here/bin"',
        '  cp "$here/build/dinat_run" "$program"',
        "fi",
    ]
    if host_code:
        lines.append("# The plan holds host code: add --trust if you know where it comes from.")
    lines.append(f'exec "$program" --engine "$here/{ENGINE}"{plugin} "$@"')
    return "\n".join(lines) + "\n"


def _readme(engine: Engine) -> str:
    manifest = engine.manifest
    title = TITLES[manifest.runtime.flavor]
    lines = [
        f"# {manifest.model or 'A model'} for C++",
        "",
        f"Written by dinat-deploy {__version__}. One command classifies pictures:",
        "",
        f"    sh {RUN} cat.jpg",
        "",
        "The first time it compiles the runner, unless `bin/dinat_run` is there. That takes",
        "`apt-get install g++ cmake libstb-dev nlohmann-json3-dev`; neither TensorRT's nor CUDA's",
        "development packages are needed.",
        "",
        f"To run it needs {title} {manifest.runtime.version} and a GPU of compute capability "
        f"{', '.join(manifest.architectures)}.",
        "TensorRT's library is looked for where the loader looks (`LD_LIBRARY_PATH`), or named by",
        "`--tensorrt`.",
        "",
        "| | |",
        "|---|---|",
        "| `engine` | the plan, `engine.json` (what it needs) and `model.json` (preprocessing, "
        "names of the classes) |",
        "| `source` | the runner; the program is an example to start from |",
    ]
    if manifest.plugin is not None and not manifest.plugin.embedded:
        lines.append(f"| `lib` | {manifest.plugin.library}, the plugin that the plan calls |")
    lines += ["| `package.json` | digests of all files |", ""]
    if manifest.host_code:
        lines += [
            f"The plan holds host code ({'; '.join(manifest.host_code)}), which runs with your",
            "rights when it is loaded. If you trust whom it comes from:",
            "",
            f"    sh {RUN} --trust cat.jpg",
            "",
        ]
    return "\n".join(lines)


def check_cpp_package(place: Path) -> Iterator[Problem]:
    """What does not go together in a package for C++, beside files that were changed."""
    missing = [name for name in (RUN, SOURCES) if not (place / name).exists()]
    for name in missing:
        yield Problem(name, "It is missing.", "Package again.")
    try:
        engine = open_engine(place / ENGINE)
        engine.check_plan()
        plugin = engine.manifest.plugin
        check_plugin(engine, place / LIBRARIES / plugin.library if plugin else None)
        manifest = open_bundle(place / ENGINE).manifest
    except (EngineError, BundleError) as error:
        yield Problem(ENGINE, error.cause, error.cure)
        return
    known = {manifest.graph.sha256, *(one.sha256 for one in manifest.variants.values())}
    if engine.manifest.onnx.sha256 not in known:
        yield Problem(
            ENGINE,
            f"{MANIFEST} is of an engine of the ONNX file {engine.manifest.onnx.sha256[:12]}..., "
            f"and {BUNDLE_MANIFEST} of a model with other ones.",
            "Package again.",
        )
    program = place / PROGRAM
    if program.exists() and not os.access(program, os.X_OK):
        yield Problem(PROGRAM, "It may not be executed.", f"chmod +x {program}")
