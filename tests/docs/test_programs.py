"""Outputs that the pages record of programs beside ``dinat-deploy``: their form is the programs'."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.docs.pages import FOLDER, ROOT, Block, blocks
from tests.docs.recorded import mismatch
from tests.examples.conftest import cpp_build
from tests.examples.cpp_site import Site
from tests.gpu import engines
from tests.plugins.conftest import TargetBuilder, native_build, native_target

__all__ = ["cpp_build", "native_build", "native_target"]  # fixtures, used by name


def block_with(page: str, command: str) -> Block:
    (found,) = (b for b in blocks(FOLDER / page, "sh") if b.text.startswith(command))
    return found


def compare(block: Block, printed: str) -> None:
    assert block.output is not None
    found = mismatch(block.output, printed)
    assert found is None, f"{block}: {found}"


def test_the_runner_in_cpp_prints_what_its_page_shows(cpp_build: Path, tmp_path: Path) -> None:
    """On the stand-ins for TensorRT and the driver; names of classes and pictures are others."""
    site = Site(tmp_path, cpp_build, which="10")
    pictures = [site.picture(1), site.picture(2)]
    done = site.run("--top", "2", *pictures)
    assert done.returncode == 0, done.stderr
    block = block_with("cpp.md", "build/dinat_run")
    assert block.output is not None
    recorded, printed = block.output.splitlines(), done.stdout.splitlines()
    assert len(recorded) == len(printed)
    for picture, line in ((0, 0), (1, 3)):
        assert printed[line] == str(pictures[picture])
        assert recorded[line] == block.commands[0].split()[-2:][picture]
    for place in (1, 2, 4, 5):  # the same columns
        assert printed[place].index("%") == recorded[place].index("%")
    words = [line.replace("on Orin", "on Stand-in GPU") for line in recorded[-1:]]
    assert mismatch("\n".join(words), printed[-1]) is None


@pytest.mark.slow
def test_the_benchmark_of_the_operator_on_the_cpu_runs(
    native_build: Path, native_target: TargetBuilder
) -> None:
    native_target("dinat_cpu")
    native_target("dinat_onnxruntime")
    script = ROOT / "benchmarks" / "op_cpu.py"
    words = [
        "--build",
        native_build,
        "--stages",
        "1",
        "--rounds",
        "2",
        "--threads",
        "1",
        "--models",
    ]
    done = subprocess.run(
        [sys.executable, script, *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "| DiNAT-T | 56x56, 2, 7, 1 |" in done.stdout


@pytest.fixture
def gpu_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script, on a machine with a GPU where every step passes at once."""
    spec = importlib.util.spec_from_file_location("gpu_report", ROOT / "tools" / "gpu_report.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_report", script)  # dataclasses look their module up
    spec.loader.exec_module(script)

    def passed(name: str) -> Any:
        def run(context: Any, seconds: float) -> Any:
            context.library = tmp_path
            return script.Step(name, "passed")

        return run

    monkeypatch.setattr(script, "RUNNERS", {name: passed(name) for name in script.STEPS})
    monkeypatch.setattr(script, "environment", lambda: {script.GPU: "a GPU"})
    monkeypatch.chdir(tmp_path)
    return script


@pytest.mark.parametrize("command", ["--output", "--plan"])
def test_the_report_of_a_gpu_prints_what_its_page_shows(
    command: str, gpu_report: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    block = block_with("gpu-results.md", f"python tools/gpu_report.py {command}")
    assert gpu_report.main(block.commands[0].split()[2:]) == 0
    compare(block, capsys.readouterr().out.replace(f"{tmp_path}/", ""))


def test_the_script_for_engines_prints_what_its_page_shows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engines, "run", lambda step, _: engines.Outcome(step, "passed", 12.0))
    monkeypatch.chdir(tmp_path)
    block = block_with("gpu-results.md", "tests/gpu/engines.sh")
    assert engines.main(block.commands[0].split()[1:]) == 0
    compare(block, capsys.readouterr().out)
