"""The worker process: whatever happens to it, its parent lives, says what happened, leaves nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dinat_deploy.engine.process import run_worker
from dinat_deploy.errors import EngineError

WORKER = "tests.engine.faulty_worker"
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _tests_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def run(task: str, tmp_path: Path, **environment: str) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    run_worker(WORKER, task, tmp_path / "log", messages.append, environment)
    return messages


def gone(pid: int) -> bool:
    """Whether a process has ended, within five seconds."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_messages_arrive_in_order_and_variables_reach_the_worker(tmp_path: Path) -> None:
    messages = run("DINAT_TEST", tmp_path, DINAT_TEST="seen")
    assert messages == [
        {"kind": "stage", "name": "Trying"},
        {"kind": "done", "outcome": {"environment": "seen"}},
    ]


@pytest.mark.parametrize(
    ("task", "cause", "cure"),
    [
        ("segfault", r"The builder crashed \(SIGSEGV\)", "--verbose-log FILE"),
        ("SIGABRT", r"The builder crashed \(SIGABRT\)", "--no-plugin shows"),
        ("SIGKILL", r"The builder was killed \(SIGKILL\)", "memory runs out"),
        ("exit", "ended early with status 7", "--verbose-log FILE"),
        ("exception", "ended early with status 1", "--verbose-log FILE"),
        ("junk", "ended early with status 0", "--verbose-log FILE"),
    ],
)
def test_an_end_without_a_last_message_is_an_error(
    task: str, cause: str, cure: str, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match=cause) as caught:
        run(task, tmp_path)
    assert cure in caught.value.cure
    assert "Its last words:\n  warming up" in caught.value.cause
    if task == "exception":
        assert "RuntimeError: a bug in the worker" in caught.value.cause
    if task == "exit":
        assert caught.value.cause.endswith("gone without a word")


def test_a_worker_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="No module named dinat_deploy.engine.no_such_worker"):
        run_worker(
            "dinat_deploy.engine.no_such_worker", "x" * 1_000_000, tmp_path / "log", lambda _: None
        )


def test_a_crash_after_the_result_does_not_matter(tmp_path: Path) -> None:
    assert run("crash after done", tmp_path)[-1]["kind"] == "done"


@pytest.mark.parametrize("error", [KeyboardInterrupt, EngineError("stop", "")])
def test_an_exception_here_ends_the_worker(error: BaseException, tmp_path: Path) -> None:
    pids = []

    def stop(message: dict[str, Any]) -> None:
        if message["kind"] == "sleeping":
            pids.append(message["pid"])
            raise error

    with pytest.raises((KeyboardInterrupt, EngineError)):
        run_worker(WORKER, "sleep", tmp_path / "log", stop)
    assert gone(pids[0])


PARENT = """
import sys
from pathlib import Path
from dinat_deploy.engine.process import run_worker
run_worker({worker!r}, "sleep", Path({log!r}), lambda m: print(m.get("pid", ""), flush=True))
"""


def test_the_worker_ends_with_a_killed_parent(tmp_path: Path) -> None:
    code = PARENT.format(worker=WORKER, log=str(tmp_path / "log"))
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert parent.stdout is not None
    pid = int(next(line for line in parent.stdout if line.strip()))
    assert not gone_now(pid)
    parent.kill()
    parent.wait()
    assert gone(pid)


def gone_now(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_file_in_the_working_directory_does_not_replace_a_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.version_info < (3, 11):
        pytest.skip("Python 3.10 always searches the working directory")
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    monkeypatch.chdir(tmp_path)
    assert run("HOME", tmp_path)[-1]["kind"] == "done"
