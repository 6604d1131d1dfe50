#!/usr/bin/env python3
"""Everything that needs a GPU, in one go: build, tests, timings, sanitizers, a TensorRT-RTX engine.

    python tools/gpu_report.py --output out/gpu-report

From a source tree, on a machine with an NVIDIA GPU, the CUDA toolkit (nvcc), CMake, a C++ compiler,
torch, NumPy and pytest; nothing is downloaded. Takes less than 9 minutes: a step that does not end
in its time is stopped, and what it had found by then is kept. Writes ``report.json`` and
``report.md``, whole after every step, with the steps' logs beside them; docs/gpu-results.md says
how to read them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GPU, MISSING = "GPU, compute capability, driver, memory", "not found"
STEPS = ("build", "tests", "benchmark", "sanitizers", "engine")
# Seconds: the most that a step may take, and what is kept back for the steps after it.
MOST = {"build": 200, "tests": 130, "benchmark": 400, "sanitizers": 100, "engine": 90}
KEPT = {"build": 200, "tests": 150, "benchmark": 75, "sanitizers": 25, "engine": 0}
# The first one is libdinat_kernels.so, without which nothing else can be done.
TARGETS = ("dinat_kernels_c", "dinat_sanitize_driver", "dinat_tensorrt")
# The benchmark ends by itself so long before it would be stopped.
WIND_UP = 20


@dataclass
class Step:
    """What became of a step.

    Attributes:
        outcome: ``passed``, ``failed``, ``out of time`` or ``not run``.
        findings: what it found, for the JSON file.
        lines: the same for the Markdown file.
    """

    name: str
    outcome: str
    seconds: float = 0.0
    findings: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Ended:
    """A command that has ended, or was stopped (``status`` is None)."""

    status: int | None
    output: str

    @property
    def outcome(self) -> str:
        if self.status is None:
            return "out of time"
        return "passed" if self.status == 0 else "failed"


def run(command: Sequence[object], seconds: float, log: Path, **variables: str) -> Ended:
    """Run a command in the source tree; stop it and all that it started when its time is up.

    Standard output and error go to ``log``, which is appended to, and come back as text.
    """
    words = [str(word) for word in command]
    search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"PYTHONPATH": search, "PYTHONUNBUFFERED": "1"} | variables
    log.parent.mkdir(parents=True, exist_ok=True)
    begin = log.stat().st_size if log.exists() else 0
    with log.open("ab") as stream:
        stream.write(f"$ {' '.join(words)}\n".encode())
        stream.flush()
        try:
            process = subprocess.Popen(
                words,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            stream.write(f"{error}\n".encode())
            return Ended(127, str(error))
        status: int | None
        try:
            status = process.wait(max(seconds, 0.1))
        except subprocess.TimeoutExpired:
            status = None
        finally:
            # Also on Ctrl-C: nothing may keep the GPU busy behind our back.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    text = log.read_bytes()[begin:].decode(errors="replace")
    return Ended(status, text)


def tail(text: str, lines: int = 15) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])


# --- steps ---


@dataclass
class Context:
    """Where things are."""

    output: Path
    build: Path
    dry: bool
    library: Path | None
    plan: Path | None
    reference: Path | None

    def log(self, name: str) -> Path:
        return self.output / f"{name}.log"

    @property
    def variables(self) -> dict[str, str]:
        """What tells tests and benchmark where the built files are."""
        found: dict[str, str] = {}
        if self.library is not None:
            found["DINAT_KERNELS"] = str(self.library)
        if self.plan is not None and self.reference is not None:
            found["DINAT_RTX_PLAN"] = str(self.plan)
            found["DINAT_RTX_REFERENCE"] = str(self.reference)
        driver = next(self.build.rglob("dinat_sanitize_driver"), None)
        if driver is not None:
            found["DINAT_SANITIZE_DRIVER"] = str(driver)
        native = self.build / "lib"
        if native.is_dir():
            found["DINAT_NATIVE_DIR"] = str(native)
        return found


def build(context: Context, seconds: float) -> Step:
    """Configure and compile for the GPU in this machine; only the kernels must succeed."""
    if context.dry:
        return Step("build", "not run", lines=["Dry run: nothing is compiled."])
    if context.library is not None:
        return Step("build", "not run", lines=[f"Given: {context.library}"])
    until = time.monotonic() + seconds
    log = context.log("build")
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    configure = ["cmake", "-S", ROOT, "-B", context.build, *generator]
    configure += ["-DCMAKE_BUILD_TYPE=Release", "-DDINAT_CUDA=ON", "-DDINAT_TESTS=ON"]
    ended = run(configure, seconds, log)
    built: dict[str, str] = {}
    if ended.status == 0:
        for target in TARGETS:
            make = ["cmake", "--build", context.build, "--parallel", "--target", target]
            ended_target = run(make, until - time.monotonic(), log)
            built[target] = ended_target.outcome
            if target == TARGETS[0]:
                ended = ended_target
                if ended.status != 0:
                    break
    context.library = next(context.build.rglob("libdinat_kernels.so"), None)
    step = Step("build", ended.outcome, findings={"targets": built})
    step.lines = [f"- {target}: {outcome}" for target, outcome in built.items()]
    if ended.status == 0 and context.library is None:
        step.outcome = "failed"
        step.lines.append("- libdinat_kernels.so is not in the build directory")
    elif ended.status != 0:
        step.findings["output"] = tail(ended.output, 40)
        step.lines += ["```", tail(ended.output), "```"]
    return step


def pytest(context: Context, seconds: float, name: str, *files: str) -> Step:
    """Tests under tests/gpu, in one process and without the project's own settings of pytest.

    ``--confcutdir`` leaves out the fixtures of other tests, whose imports need more packages.
    """
    xml, log = context.output / f"{name}.xml", context.log(name)
    xml.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", *files, "-v", "--tb=short", "--color=no"]
    command += ["-o", "addopts=", "--confcutdir=tests/gpu", "-p", "no:cacheprovider"]
    command += ["--maxfail=60", f"--junitxml={xml}"]
    ended = run(command, seconds, log, **context.variables)
    findings = of_junit(xml.read_text()) if xml.exists() else of_log(ended.output)
    xml.unlink(missing_ok=True)
    step = Step(name, ended.outcome, findings=findings)
    counts = ", ".join(f"{findings[key]} {key}" for key in ("passed", "failed", "skipped"))
    step.lines = [counts]
    step.lines += [f"- failed: `{case}`: {why}" for case, why in findings["failures"][:20]]
    step.lines += [f"- skipped {count}: {why}" for why, count in findings["skips"].items()]
    if findings["passed"] + findings["failed"] == 0 and ended.status is not None:
        step.outcome = "not run" if findings["skipped"] else "failed"
        if not findings["skipped"]:
            step.lines += ["```", tail(ended.output), "```"]
    return step


def of_junit(text: str) -> dict[str, Any]:
    """Counts, failures with their first line, and reasons of skips from pytest's XML."""
    found: dict[str, Any] = {"passed": 0, "failed": 0, "skipped": 0, "failures": [], "skips": {}}
    for case in ElementTree.fromstring(text).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        fault = next((child for child in case if child.tag in ("failure", "error")), None)
        skip = case.find("skipped")
        if fault is not None:
            found["failed"] += 1
            said = (fault.get("message") or "").strip() or "no message"
            found["failures"].append([name, said.splitlines()[0][:300]])
        elif skip is not None:
            found["skipped"] += 1
            why = (skip.get("message") or "no reason")[:600]
            found["skips"][why] = found["skips"].get(why, 0) + 1
        else:
            found["passed"] += 1
    return found


def of_log(text: str) -> dict[str, Any]:
    """The same from the lines of ``pytest -v`` that was stopped before it wrote its XML."""
    found: dict[str, Any] = {"passed": 0, "failed": 0, "skipped": 0, "failures": [], "skips": {}}
    outcomes = {"PASSED": "passed", "FAILED": "failed", "ERROR": "failed", "SKIPPED": "skipped"}
    for name, word in re.findall(
        r"^(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED)\b", text, re.MULTILINE
    ):
        found[outcomes[word]] += 1
        if outcomes[word] == "failed":
            found["failures"].append([name, "see the log"])
    return found


def tests(context: Context, seconds: float) -> Step:
    files = ["tests/gpu/test_kernels.py", "tests/gpu/test_launches.py"]
    return pytest(context, seconds, "tests", *files)


def sanitizers(context: Context, seconds: float) -> Step:
    return pytest(context, seconds, "sanitizers", "tests/gpu/test_sanitizers.py")


def engine(context: Context, seconds: float) -> Step:
    return pytest(context, seconds, "engine", "tests/gpu/test_rtx_engine.py")


def benchmark(context: Context, seconds: float) -> Step:
    """``benchmarks/op_gpu.py``; its files hold what it had measured when it was stopped."""
    found, text = context.output / "op_gpu.json", context.output / "op_gpu.md"
    for path in (found, text):
        path.unlink(missing_ok=True)
    command = [sys.executable, "benchmarks/op_gpu.py", "--json", found, "--markdown", text]
    command += ["--seconds", max(10, round(seconds - WIND_UP))]
    command += ["--dry-run"] if context.dry else []
    ended = run(command, seconds, context.log("benchmark"), **context.variables)
    step = Step("benchmark", ended.outcome)
    if found.exists():
        step.findings = json.loads(found.read_text())
        step.lines = text.read_text().splitlines()
        found.unlink()
        text.unlink()
    if ended.status != 0:
        step.lines += ["```", tail(ended.output), "```"]
    return step


RUNNERS: dict[str, Callable[[Context, float], Step]] = {
    "build": build,
    "tests": tests,
    "benchmark": benchmark,
    "sanitizers": sanitizers,
    "engine": engine,
}


# --- report ---


def environment() -> dict[str, str]:
    """The machine, in names and versions that its own tools print; no host names."""

    def first(words: Sequence[str], pattern: str = "(.+)") -> str:
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return MISSING
        match = re.search(pattern, done.stdout)
        return match[1].strip() if done.returncode == 0 and match else MISSING

    query = "--query-gpu=name,compute_cap,driver_version,memory.total"
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    return {
        GPU: first(["nvidia-smi", query, "--format=csv,noheader"]),
        "nvcc": first([nvcc, "--version"], r"release ([\d.]+)"),
        "C++ compiler": first(["c++", "--version"]),
        "CMake": first(["cmake", "--version"], r"version (\S+)"),
        "Python": platform.python_version(),
        "processor": platform.machine(),
        "commit": first(["git", "-C", str(ROOT), "rev-parse", "HEAD"]),
    }


def write(output: Path, about: dict[str, str], steps: Sequence[Step], dry: bool) -> None:
    """Both files, each whole."""
    report = {"environment": about, "dry_run": dry, "steps": [asdict(step) for step in steps]}
    _whole(output / "report.json", json.dumps(report, indent=1) + "\n")
    _whole(output / "report.md", markdown(about, steps, dry))


def _whole(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def markdown(about: dict[str, str], steps: Sequence[Step], dry: bool) -> str:
    title = "# Dry run: no GPU, nothing measured" if dry else "# GPU report"
    lines = [title, "", *(f"- {name}: {value}" for name, value in about.items())]
    lines += ["", "| step | outcome | seconds |", "|---|---|---|"]
    lines += [f"| {step.name} | {step.outcome} | {step.seconds:.0f} |" for step in steps]
    for step in steps:
        lines += ["", f"## {step.name.capitalize()}", "", *step.lines]
    return "\n".join(lines) + "\n"


def allowed(step: str, left: float) -> float:
    """Seconds that a step may take when ``left`` remain for it and all that follow."""
    return min(MOST[step], left - KEPT[step])


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "out" / "gpu-report")
    parser.add_argument("--build", type=Path, default=ROOT / "build-gpu", help="build directory")
    parser.add_argument("--library", type=Path, help="a built libdinat_kernels.so: skip the build")
    parser.add_argument("--plan", type=Path, help="a TensorRT-RTX plan with the plugin inside")
    parser.add_argument("--reference", type=Path, help="reference.npz of the plan's bundle")
    parser.add_argument("--seconds", type=float, default=525, help="time limit of everything")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--dry-run", action="store_true", help="without a GPU: do all parts run?")
    options = parser.parse_args(words)
    if (options.plan is None) != (options.reference is None):
        parser.error("--plan and --reference belong together")
    return options


def main(words: Sequence[str] | None = None) -> int:
    options = arguments(words)
    started = time.monotonic()
    output = options.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    given = [
        None if path is None else path.resolve()
        for path in (options.library, options.plan, options.reference)
    ]
    context = Context(output, options.build.resolve(), options.dry_run, *given)
    about = environment()
    if not options.dry_run and about[GPU] == MISSING:
        print("This machine has no NVIDIA GPU (nvidia-smi finds none); see --dry-run.")
        return 2
    steps: list[Step] = []
    for name in STEPS:
        if name not in options.steps:
            continue
        context.log(name).unlink(missing_ok=True)
        seconds = allowed(name, options.seconds - (time.monotonic() - started))
        begun = time.monotonic()
        if seconds < 5:
            step = Step(name, "not run", lines=["No time was left for it."])
        elif name != "build" and not context.dry and context.library is None:
            step = Step(name, "not run", lines=["There is no libdinat_kernels.so."])
        else:
            step = RUNNERS[name](context, seconds)
        step.seconds = round(time.monotonic() - begun, 1)
        steps.append(step)
        write(output, about, steps, context.dry)
        print(f"{name}: {step.outcome}, {step.seconds:.0f} s", flush=True)
    print(f"{output / 'report.md'}\n{output / 'report.json'}")
    bad = ("failed", "out of time")
    return 1 if any(step.outcome in bad for step in steps) else 0


if __name__ == "__main__":
    sys.exit(main())
