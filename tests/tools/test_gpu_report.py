"""The one script for GPU machines: its limits, its reading of test results, its files."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "gpu_report.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_report", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_report"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_all_steps_together_stay_below_nine_minutes(script: ModuleType) -> None:
    """Whatever each step takes of what it may, the ones after it get what was kept for them."""
    limit = script.arguments([]).seconds
    assert limit < 9 * 60
    left = limit
    for name in script.STEPS:
        seconds = script.allowed(name, left)
        assert seconds >= 25, name
        left -= seconds
    assert left >= 0
    # A quick build leaves the benchmark more.
    assert script.allowed("benchmark", 500) > script.allowed("benchmark", 200)


def test_a_step_out_of_time_is_stopped_with_all_it_started(
    script: ModuleType, tmp_path: Path
) -> None:
    child = "import subprocess, sys; print('begun', flush=True); "
    child += "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
    child += "print(p.pid, flush=True); p.wait()"
    started = time.monotonic()
    ended = script.run([sys.executable, "-c", child], 3, tmp_path / "log")
    assert time.monotonic() - started < 20
    assert ended.outcome == "out of time"
    lines = ended.output.splitlines()
    assert "begun" in lines
    grandchild = int(lines[-1])
    for _ in range(100):
        if not _alive(grandchild):
            break
        time.sleep(0.05)
    assert not _alive(grandchild)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process}/status")
    return "State:\tZ" not in status.read_text() if status.exists() else True


def test_a_command_that_is_missing_fails_and_says_so(script: ModuleType, tmp_path: Path) -> None:
    ended = script.run(["no-such-program"], 5, tmp_path / "log")
    assert ended.outcome == "failed"
    assert "no-such-program" in ended.output


def test_results_are_read_from_pytests_xml(script: ModuleType) -> None:
    found = script.of_junit(
        """<testsuites><testsuite>
        <testcase classname="tests.gpu.test_kernels" name="a"/>
        <testcase classname="tests.gpu.test_kernels" name="b">
            <failure message="AssertionError: tactic tile8: relative error 1.0e+00&#10;more"/>
        </testcase>
        <testcase classname="tests.gpu.test_kernels" name="c"><error message="boom"/></testcase>
        <testcase classname="tests.gpu.test_kernels" name="d"><skipped message="why"/></testcase>
        <testcase classname="tests.gpu.test_kernels" name="e"><skipped message="why"/></testcase>
        </testsuite></testsuites>"""
    )
    assert (found["passed"], found["failed"], found["skipped"]) == (1, 2, 2)
    assert found["skips"] == {"why": 2}
    assert found["failures"] == [
        ["tests.gpu.test_kernels::b", "AssertionError: tactic tile8: relative error 1.0e+00"],
        ["tests.gpu.test_kernels::c", "boom"],
    ]


def test_results_are_read_from_a_log_that_breaks_off(script: ModuleType) -> None:
    found = script.of_log(
        "tests/gpu/test_kernels.py::test_a[packed-float16-x y] PASSED [ 1%]\n"
        "tests/gpu/test_kernels.py::test_b FAILED [ 2%]\n"
        "tests/gpu/test_kernels.py::test_c SKIPPED (no room) [ 3%]\n"
        "tests/gpu/test_kernels.py::test_d "
    )
    assert (found["passed"], found["failed"], found["skipped"]) == (1, 1, 1)
    assert found["failures"] == [["tests/gpu/test_kernels.py::test_b", "see the log"]]


def test_a_machine_without_a_gpu_is_told_so_before_anything_is_built(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "environment", lambda: {script.GPU: script.MISSING})
    assert script.main(["--output", str(tmp_path), "--build", str(tmp_path / "build")]) == 2
    assert not list(tmp_path.iterdir())


def test_without_kernels_the_steps_that_need_them_are_not_run(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "environment", lambda: {script.GPU: "NVIDIA Test, 8.6"})
    words = ["--output", str(tmp_path / "out"), "--build", str(tmp_path / "none")]
    assert script.main([*words, "--steps", "tests", "benchmark", "sanitizers"]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [step["outcome"] for step in report["steps"]] == ["not run"] * 3
    assert "There is no libdinat_kernels.so." in (tmp_path / "out" / "report.md").read_text()
    assert not list((tmp_path / "out").glob("*.partial"))


@pytest.mark.slow
def test_a_dry_run_goes_through_the_steps(script: ModuleType, tmp_path: Path) -> None:
    names = ["build", "benchmark"]
    assert script.main(["--dry-run", "--output", str(tmp_path), "--steps", *names]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["dry_run"] is True
    outcomes = {step["name"]: step["outcome"] for step in report["steps"]}
    assert list(outcomes) == names
    assert outcomes["benchmark"] == "passed"
    steps = {step["name"]: step["findings"] for step in report["steps"]}
    assert steps["benchmark"]["rows"]
    assert "nothing measured" in (tmp_path / "report.md").read_text()


def test_a_plan_needs_its_reference(script: ModuleType) -> None:
    with pytest.raises(SystemExit):
        script.arguments(["--plan", "model.plan"])
