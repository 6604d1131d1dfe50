"""From a bare Jetson and a bundle to an engine that is verified and measured, with its power.

    python3 tools/jetson.py out/for_the_jetson --mode MAXN_SUPER

Runs on the device, with the Python that comes with JetPack and nothing else; dinat-deploy itself it
installs, into an environment of its own. docs/jetson.md explains each step. What is there already
is used, and the device's power mode and clocks are put back at the end, also after a failure or
Ctrl-C. `--dry-run` says what would be done.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# L4T's major version: JetPack's, and the compute capabilities of its modules.
# JetPack 6.0 (L4T 36.3) has TensorRT 8.6, which cannot load the plugin; 6.1 (36.4) has 10.3.
OLDEST = (36, 4)
RELEASES = {
    36: ("JetPack 6", ("87",)),
    38: ("JetPack 7", ("110",)),
    39: ("JetPack 7", ("87", "110")),
}
# With less memory than this the builder is kept small.
PLENTY_MB = 12_000
# With less of it free than this there is a word of warning: builders are killed on such devices.
SCARCE_MB = 3_000
INSTALLED = "dinat-deploy[gpu]"

Run = Callable[[Sequence[str]], None]


class SetupError(Exception):
    """What is wrong, and what to do about it."""

    def __init__(self, cause: str, cure: str) -> None:
        super().__init__(f"{cause}\n{cure}")


@dataclass(frozen=True)
class Device:
    """What this Jetson is.

    Attributes:
        l4t: such as ``36.4.3``.
        compute_capability: of its GPU, such as ``87``; empty if the module is unknown.
        memory_mb: of CPU and GPU together.
        free_mb: of it, now.
    """

    l4t: str
    jetpack: str
    module: str
    compute_capability: str
    memory_mb: int
    free_mb: int

    @classmethod
    def read(cls, root: Path) -> Device:
        """From the files of the system under ``root``.

        Raises:
            SetupError: this is no Jetson, or one whose TensorRT cannot run these engines.
        """
        release = re.search(
            r"R(\d+) \(release\), REVISION: ([\d.]+)", text(root / "etc/nv_tegra_release")
        )
        if not release:
            raise SetupError(
                "This is no Jetson: there is no release of L4T in /etc/nv_tegra_release.",
                "On another machine, `pip install dinat-deploy` and `dinat-deploy deploy`.",
            )
        major, l4t = int(release[1]), f"{release[1]}.{release[2]}"
        older = (major, int(release[2].split(".")[0])) < OLDEST
        if older or major not in RELEASES:
            raise SetupError(
                f"This device has L4T {l4t}; this script knows 36.4 and later, 38 and 39.",
                "Install JetPack 6.1 or later: its TensorRT (10.3) can load the plugin."
                if older
                else "Take a newer dinat-deploy, or the steps of docs/jetson.md.",
            )
        jetpack, capabilities = RELEASES[major]
        module = text(root / "proc/device-tree/model").strip("\0\n ")
        known = {"Orin": "87", "Thor": "110"}
        named = [capability for name, capability in known.items() if name in module]
        capability = named[0] if named else capabilities[0] if len(capabilities) == 1 else ""
        memory = dict(re.findall(r"^(\w+):\s+(\d+) kB", text(root / "proc/meminfo"), re.MULTILINE))
        return cls(
            l4t,
            jetpack,
            module or "unknown module",
            capability,
            int(memory.get("MemTotal", 0)) // 1024,
            int(memory.get("MemAvailable", 0)) // 1024,
        )


def modes(root: Path) -> dict[str, int]:
    """nvpmodel's modes by name. Their numbers differ from module to module and vendor to vendor."""
    found = re.findall(
        r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=([^\s>]+)",
        text(root / "etc/nvpmodel.conf"),
        re.MULTILINE,
    )
    return {name: int(number) for number, name in found}


def current_mode(root: Path) -> int | None:
    kept = re.search(r"pmode:(\d+)", text(root / "var/lib/nvpmodel/status"))
    return int(kept[1]) if kept else None


def text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("bundle", type=Path, help="exported on another machine")
    parser.add_argument(
        "--precision",
        choices=["fp32", "fp16", "bf16", "int8", "fp8"],
        help="of the bundle's models [default: fp16 if the bundle has it, else fp32]",
    )
    parser.add_argument(
        "--package", default="", help="wheel or source folder of dinat-deploy [default: this one]"
    )
    parser.add_argument(
        "--native", type=Path, help="folder of cross-compiled libraries [default: compile here]"
    )
    parser.add_argument(
        "--environment", type=Path, default=Path("~/dinat"), help="virtual environment"
    )
    parser.add_argument("--mode", help="power mode, by name [default: as it is]")
    parser.add_argument(
        "--clocks", choices=["locked", "free"], default="locked", help="while measuring"
    )
    parser.add_argument("--duration", type=float, default=10.0, help="seconds of measured runs")
    parser.add_argument("--output", type=Path, default=Path("out/jetson"), help="of the reports")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    return parser.parse_args(words)


def model_of(bundle: Path, precision: str | None) -> Path:
    """The ONNX file to build from."""
    files = {"fp32": bundle / "model.onnx"}
    for file in sorted(bundle.glob("model.*.onnx")):
        files[file.name.split(".")[1]] = file
    if not (bundle / "model.json").is_file():
        raise SetupError(
            f"{bundle} is no bundle: it has no model.json.",
            "Export one on another machine: dinat-deploy export --model dinat_mini.",
        )
    wanted = precision or ("fp16" if "fp16" in files else "fp32")
    if wanted not in files:
        raise SetupError(
            f"{bundle} has no {wanted} model, only {', '.join(files)}.",
            f"On another machine: dinat-deploy convert {bundle} --precision {wanted}.",
        )
    return files[wanted]


@dataclass(frozen=True)
class Plan:
    """All that is to be done, in order: titles and commands."""

    install: list[tuple[str, list[str]]]
    work: list[tuple[str, list[str]]]
    environment: dict[str, str]


def plan(options: argparse.Namespace, device: Device, has: Callable[[str], bool]) -> Plan:
    """What this device needs.

    Args:
        has: whether the system's Python has a module, or the system a program.
    """
    place = options.environment.expanduser()
    cuda_major = "12" if device.jetpack == "JetPack 6" else "13"
    install: list[tuple[str, list[str]]] = []
    missing = [
        package
        for package, there in {
            "nvidia-jetpack": has("tensorrt"),
            "python3-venv": has("ensurepip"),
            **({} if options.native else {"g++": has("g++")}),
        }.items()
        if not there
    ]
    if missing:
        install.append(("Packages of the system", ["sudo", "apt-get", "update"]))
        install.append(("Packages of the system", ["sudo", "apt-get", "install", "-y", *missing]))
    if not (place / "bin/python").exists():
        # TensorRT's Python package is the system's.
        install.append(
            ("An environment", ["python3", "-m", "venv", "--system-site-packages", str(place)])
        )
    pip = [str(place / "bin/python"), "-m", "pip", "install"]
    # The binding of CUDA has to be of JetPack's major version, or older.
    wanted = [source(options.package), f"cuda-python=={cuda_major}.*"]
    install.append(("dinat-deploy", [*pip, *wanted]))
    program = str(place / "bin/dinat-deploy")
    model = model_of(options.bundle, options.precision)
    engine = options.output / "engine"
    small = ["--low-memory"] if device.memory_mb < PLENTY_MB else []
    work = [
        ("What there is", [program, "doctor"]),
        (
            "Build",
            [program, "build", str(model), "--backend=tensorrt", "--output", str(engine), *small],
        ),
        ("Verify", [program, "verify", str(engine), "--bundle", str(options.bundle)]),
        (
            "Measure",
            [
                program, "bench", str(engine), "--bundle", str(options.bundle),
                "--power=auto", "--duration", f"{options.duration:g}",
                "--json", str(options.output / "bench.json"),
                "--markdown", str(options.output / "bench.md"),
            ],
        ),
    ]  # fmt: skip
    settings = {}
    if options.native:
        settings["DINAT_NATIVE_DIR"] = str(options.native.resolve())
        settings["CMAKE_ARGS"] = "-DDINAT_CUDA=OFF"  # it is there
    elif device.compute_capability:
        settings["DINAT_CUDA_ARCHITECTURES"] = device.compute_capability
    return Plan(install, work, settings)


def source(package: str) -> str:
    """What pip is to install: the given, else the sources around this script, else by name."""
    if package:
        return f"{Path(package).resolve()}[gpu]"
    here = Path(__file__).resolve().parents[1]
    return f"{here}[gpu]" if (here / "pyproject.toml").exists() else INSTALLED


@contextlib.contextmanager
def mode_and_clocks(
    mode: str | None, lock: bool, root: Path, run: Run, store: Path
) -> Iterator[None]:
    """The device in a power mode and with locked clocks; afterwards as it was."""
    before, known = current_mode(root), modes(root)
    changed = False
    if mode is not None:
        if mode not in known:
            raise SetupError(
                f"This device has no power mode {mode}, only {', '.join(known) or 'none at all'}.",
                "Name one of these with --mode.",
            )
        if known[mode] != before:
            run(["sudo", "nvpmodel", "-m", str(known[mode])])
            if current_mode(root) != known[mode]:
                raise SetupError(
                    f"The device did not change to power mode {mode}: it must start anew for that.",
                    f"Run `sudo nvpmodel -m {known[mode]}`, say yes, and then this script again.",
                )
            changed = before is not None
    try:
        if lock:
            run(["sudo", "jetson_clocks", "--store", str(store)])
            run(["sudo", "jetson_clocks"])
        yield
    finally:
        # One that fails must not keep the other from being put back.
        with contextlib.ExitStack() as stack:
            if changed:
                stack.callback(run, ["sudo", "nvpmodel", "-m", str(before)])
            if lock and store.exists():
                stack.callback(run, ["sudo", "jetson_clocks", "--restore", str(store)])


def show(todo: Plan, options: argparse.Namespace, root: Path) -> None:
    """Print what would be done."""
    for name, value in todo.environment.items():
        print(f"export {name}={shlex.quote(value)}")
    number = modes(root).get(options.mode) if options.mode else None
    device = [
        *([] if number is None else [["sudo", "nvpmodel", "-m", str(number)]]),
        *([["sudo", "jetson_clocks"]] if options.clocks == "locked" else []),
    ]
    commands = [command for _, command in (*todo.install, *todo.work)]
    for command in [*commands[: len(todo.install)], *device, *commands[len(todo.install) :]]:
        print(shlex.join(command))


def runner(settings: dict[str, str]) -> Run:
    def run(command: Sequence[str]) -> None:
        print(f"+ {shlex.join(command)}", flush=True)
        # nvpmodel asks whether to start anew: not while this runs.
        done = subprocess.run(
            command, env=os.environ | settings, input="no\n", text=True, check=False
        )
        if done.returncode == -signal.SIGKILL:
            raise SetupError(
                f"{shlex.join(command)} was killed, as happens when memory is short.",
                "Stop the desktop (sudo systemctl isolate multi-user.target) and try again.",
            )
        if done.returncode:
            raise SetupError(
                f"{shlex.join(command)} failed with status {done.returncode}.",
                "What it said is above; this script goes on where it stopped.",
            )

    return run


def probe(thing: str) -> bool:
    """Whether there is such a program, or such a module for the system's Python."""
    if thing == "g++":
        return shutil.which(thing) is not None
    code = f"import importlib.util as u, sys; sys.exit(u.find_spec({thing!r}) is None)"
    return subprocess.run(["python3", "-c", code], check=False).returncode == 0


def main(words: Sequence[str] | None = None, root: Path = Path("/")) -> int:
    options = arguments(words)
    try:
        device = Device.read(root)
        print(
            f"{device.module}: {device.jetpack} (L4T {device.l4t}), "
            f"{device.free_mb} MB of {device.memory_mb} MB of memory free"
        )
        todo = plan(options, device, probe)
        if options.dry_run:
            show(todo, options, root)
            return 0
        if device.free_mb < SCARCE_MB:
            print(
                "Warning: that is little for a builder. If it is killed, stop the desktop first: "
                "sudo systemctl isolate multi-user.target"
            )
        options.output.mkdir(parents=True, exist_ok=True)
        run = runner(todo.environment)
        for title, command in todo.install:
            print(f"== {title}")
            run(command)
        with (
            tempfile.TemporaryDirectory() as folder,
            mode_and_clocks(
                options.mode, options.clocks == "locked", root, run, Path(folder) / "clocks"
            ),
        ):
            for title, command in todo.work:
                print(f"== {title}")
                run(command)
    except SetupError as trouble:
        print(f"Error: {trouble}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(f"== Done: the engine and bench.md are in {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
