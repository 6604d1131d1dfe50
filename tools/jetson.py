"""From a bare Jetson and a bundle to an engine that is verified and measured, with its power.

    python3 tools/jetson.py out/for_the_jetson --mode MAXN_SUPER

Runs on the device, with the Python that comes with JetPack and nothing else; dinat-deploy itself it
installs, into an environment of its own. docs/jetson.md explains each step. What is there already
is used, and the device's power mode and clocks are put back at the end, also after a failure,
Ctrl-C or a lost connection. `--dry-run` says what would be done.

It keeps to what Python 3.8 runs, so that it can tell JetPack 5 that it is too old.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import TextIO

    Run = Callable[[Sequence[str]], None]

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
PLUGIN = "libdinat_tensorrt.so"
AARCH64 = 183  # ELF's e_machine
# A child gets so many seconds to end before it is killed.
PATIENCE = 10.0
ENDING = (signal.SIGTERM, signal.SIGHUP)  # SIGHUP: the connection to the device was lost


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


def seconds(word: str) -> float:
    number = float(word)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError
    return number


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
    parser.add_argument("--duration", type=seconds, default=10.0, help="seconds of measured runs")
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
    native = native_folder(options.native) if options.native else None
    cuda_major = "12" if device.jetpack == "JetPack 6" else "13"
    install: list[tuple[str, list[str]]] = []
    missing = [
        package
        for package, there in {
            "nvidia-jetpack": has("tensorrt"),
            "python3-venv": has("ensurepip"),
            **({} if native else {"g++": has("g++")}),
        }.items()
        if not there
    ]
    if missing:
        install.append(("Packages of the system", ["sudo", "apt-get", "update"]))
        install.append(("Packages of the system", ["sudo", "apt-get", "install", "-y", *missing]))
    # Where pip is missing, an earlier attempt ended early; venv completes it.
    if not (place / "bin/pip").exists():
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
    if native:
        settings["DINAT_NATIVE_DIR"] = str(native)
        settings["CMAKE_ARGS"] = "-DDINAT_CUDA=OFF"  # it is there
    elif device.compute_capability:
        settings["DINAT_CUDA_ARCHITECTURES"] = device.compute_capability
    return Plan(install, work, settings)


def source(package: str) -> str:
    """What pip is to install: the given, else the sources around this script, else by name.

    Raises:
        SetupError: nothing is at the given place.
    """
    if package:
        given = Path(package).expanduser().resolve()
        if not given.exists():
            raise SetupError(
                f"There is no {given} to install dinat-deploy from.",
                "Name a wheel or a folder of sources with --package, or leave it out.",
            )
        return f"{given}[gpu]"
    here = Path(__file__).resolve().parents[1]
    return f"{here}[gpu]" if (here / "pyproject.toml").exists() else INSTALLED


def native_folder(folder: Path) -> Path:
    """The folder of cross-compiled libraries, whole.

    Raises:
        SetupError: the plugin is not there, or is for another processor.
    """
    folder = folder.expanduser().resolve()
    try:
        with (folder / PLUGIN).open("rb") as file:
            header = file.read(20)
    except OSError:
        raise SetupError(
            f"{folder} has no {PLUGIN} that can be read.",
            "Copy the folder here that `dinat-deploy plugin build --cross aarch64` wrote, or leave "
            "--native out to compile here.",
        ) from None
    if header[:4] != b"\x7fELF" or int.from_bytes(header[18:20], "little") != AARCH64:
        raise SetupError(
            f"{folder / PLUGIN} is no library for aarch64, which this device is.",
            "Build it with `dinat-deploy plugin build --cross aarch64`, or leave --native out to "
            "compile here.",
        )
    return folder


def number_of(mode: str, root: Path) -> int:
    """The number of a power mode on this device.

    Raises:
        SetupError: it has no such mode.
    """
    known = modes(root)
    if mode not in known:
        raise SetupError(
            f"This device has no power mode {mode}, only {', '.join(known) or 'none at all'}.",
            "Name one of these with --mode.",
        )
    return known[mode]


@contextlib.contextmanager
def mode_and_clocks(
    mode: str | None, lock: bool, root: Path, run: Run, store: Path
) -> Iterator[None]:
    """The device in a power mode and with locked clocks; afterwards as it was.

    Args:
        store: where the clocks are kept meanwhile. If it is there already, an earlier run could not
            put them back: then it has what they were before that one.
    """
    before = current_mode(root)
    number = before if mode is None else number_of(mode, root)
    try:
        if number != before:
            run(["sudo", "nvpmodel", "-m", str(number)])
            if current_mode(root) != number:
                raise SetupError(
                    f"The device did not change to power mode {mode}: it must start anew for that.",
                    f"Run `sudo nvpmodel -m {number}`, say yes, and then this script again.",
                )
        if lock:
            if not store.exists():
                run(["sudo", "jetson_clocks", "--store", str(store)])
            run(["sudo", "jetson_clocks"])
        yield
    finally:
        put_back(before, lock, root, run, store)


def put_back(before: int | None, lock: bool, root: Path, run: Run, store: Path) -> None:
    """Restore clocks, then the mode that they belong to; one that fails does not keep the other.

    What could not be done is printed as a command, and the failure before it stays the reason of
    the end.
    """
    commands = []
    if lock and store.exists():
        commands.append(["sudo", "jetson_clocks", "--restore", str(store)])
    if before is not None and current_mode(root) != before:
        commands.append(["sudo", "nvpmodel", "-m", str(before)])
    # A second Ctrl-C must not end this; the commands take seconds.
    kept = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, *ENDING)}
    try:
        for command in commands:
            try:
                run(command)
                if "--restore" in command:
                    with contextlib.suppress(OSError):
                        store.unlink()
            except SetupError as trouble:
                say(f"Error: {trouble}\nStill to be put back: {shlex.join(command)}", sys.stderr)
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def say(words: str, file: TextIO | None = None) -> None:
    """Print, or go on without: the terminal may be gone."""
    with contextlib.suppress(OSError):
        print(words, file=file or sys.stdout, flush=True)


def show(todo: Plan, options: argparse.Namespace, root: Path) -> None:
    """Print what would be done."""
    for name, value in todo.environment.items():
        print(f"export {name}={shlex.quote(value)}")
    number = number_of(options.mode, root) if options.mode else None
    device = [
        *([] if number is None else [["sudo", "nvpmodel", "-m", str(number)]]),
        *([["sudo", "jetson_clocks"]] if options.clocks == "locked" else []),
    ]
    commands = [command for _, command in (*todo.install, *todo.work)]
    for command in [*commands[: len(todo.install)], *device, *commands[len(todo.install) :]]:
        print(shlex.join(command))


def runner(settings: dict[str, str]) -> Run:
    def run(command: Sequence[str]) -> None:
        say(f"+ {shlex.join(command)}")
        status = finished(command, {**os.environ, **settings})
        if status == -signal.SIGKILL:
            raise SetupError(
                f"{shlex.join(command)} was killed, as happens when memory is short.",
                "Stop the desktop (sudo systemctl isolate multi-user.target) and try again.",
            )
        if status:
            raise SetupError(
                f"{shlex.join(command)} failed with status {status}.",
                "What it said is above. Run again when it is mended: what is there is used.",
            )

    return run


def finished(command: Sequence[str], environment: dict[str, str]) -> int:
    """Run a command to its end, also where that is asked for early; its exit status."""
    try:
        child = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, text=True)
    except OSError as error:
        raise SetupError(
            f"{command[0]} cannot be started: {error.strerror}.",
            "Is it installed, and on the PATH? Run again when it is.",
        ) from None
    try:
        # nvpmodel asks whether to start anew: not while this runs.
        child.communicate("no\n")
    except BaseException as reason:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            if not isinstance(reason, KeyboardInterrupt):  # which reached the child, too
                child.terminate()
            try:
                child.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait(PATIENCE)
        raise
    return child.returncode


def probe(thing: str) -> bool:
    """Whether there is such a program, or such a module for the system's Python."""
    if thing == "g++":
        return shutil.which(thing) is not None
    code = f"import importlib.util as u, sys; sys.exit(u.find_spec({thing!r}) is None)"
    return subprocess.run(["python3", "-c", code], check=False).returncode == 0


def ended(number: int, _: object) -> None:
    """A signal that asks for the end, as an exception: what was changed is put back."""
    sys.exit(128 + number)


def main(words: Sequence[str] | None = None, root: Path = Path("/")) -> int:
    options = arguments(words)
    try:
        device = Device.read(root)
        say(
            f"{device.module}: {device.jetpack} (L4T {device.l4t}), "
            f"{device.free_mb} MB of {device.memory_mb} MB of memory free"
        )
        if options.mode:
            number_of(options.mode, root)  # before anything is installed
        todo = plan(options, device, probe)
        if options.dry_run:
            show(todo, options, root)
            return 0
        if device.free_mb < SCARCE_MB:
            say(
                "Warning: that is little for a builder. If it is killed, stop the desktop first: "
                "sudo systemctl isolate multi-user.target"
            )
        kept = {number: signal.signal(number, ended) for number in ENDING}
        try:
            carry_out(todo, options, root)
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)
    except SetupError as trouble:
        say(f"Error: {trouble}", sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    say(f"== Done: the engine and bench.md are in {options.output}")
    return 0


def carry_out(todo: Plan, options: argparse.Namespace, root: Path) -> None:
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(
            f"{options.output} cannot be made: {error.strerror}.", "Choose another --output."
        ) from None
    run = runner(todo.environment)
    for title, command in todo.install:
        say(f"== {title}")
        run(command)
    lock = options.clocks == "locked"
    with mode_and_clocks(options.mode, lock, root, run, options.output / "clocks_before"):
        for title, command in todo.work:
            say(f"== {title}")
            run(command)


if __name__ == "__main__":
    sys.exit(main())
