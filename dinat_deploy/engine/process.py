"""Runs a builder in a worker process.

TensorRT can end its process: a parser that aborts, a segmentation fault in a plugin, the system's
killer when memory runs out. In a worker that is an error message with the last lines of its log.

The worker reads one line of JSON, the task, from its standard input and writes one line of JSON per
event to its standard output (:mod:`dinat_deploy.engine.messages`); its standard error goes to a
file. Its input stays open as long as this process lives, so that the worker sees it end.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import dinat_deploy
from dinat_deploy.engine.builder import BuildOutcome, BuildTask
from dinat_deploy.engine.messages import ProgressReceiver
from dinat_deploy.errors import EngineError
from dinat_deploy.files import scratch_directory
from dinat_deploy.progress import Progress

Message = dict[str, Any]
_TAIL_LINES = 12


def run_build(
    module: str,
    task: BuildTask,
    progress: Progress,
    environment: Mapping[str, str] | None = None,
) -> BuildOutcome:
    """Run a build in a worker process.

    Args:
        module: that is run as the worker.
        environment: variables to set for it in addition.

    Raises:
        EngineError: what the worker says, or that it ended without a word.
    """
    outcome: dict[str, Any] = {}
    with (
        scratch_directory() as directory,
        ProgressReceiver(progress) as receiver,
    ):

        def on_message(message: Message) -> None:
            if message["kind"] == "failed":
                raise EngineError(message["cause"], message["cure"])
            if message["kind"] == "done":
                outcome.update(message["outcome"])
            receiver.receive(message)

        log = directory / "stderr"
        run_worker(module, task.model_dump_json(), log, on_message, environment)
    return BuildOutcome.model_validate(outcome)


def run_worker(
    module: str,
    task: str,
    log: Path,
    on_message: Callable[[Message], None],
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run ``python -m module`` on a task and pass on what it says, until it ends.

    On any exception, Ctrl-C included, the worker is killed before this function returns.

    Args:
        task: one line of JSON.
        log: file for the worker's standard error.
        on_message: called with every message, the last of which is ``done`` or ``failed``.
        environment: variables to set in addition.

    Raises:
        EngineError: the worker ended without a last message.
    """
    finished = False
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=_environment(environment or {}),
            # Ctrl-C in a terminal reaches this process only, which then ends the worker.
            start_new_session=True,
        )
        assert process.stdin is not None and process.stdout is not None
        try:
            with suppress(BrokenPipeError):  # it ended at once; its status and its log say why
                process.stdin.write(task.encode() + b"\n")
                process.stdin.flush()
            for line in process.stdout:
                message = _decode(line)
                if message is not None:
                    finished |= message["kind"] in ("done", "failed")
                    on_message(message)
            status = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(BrokenPipeError):
                    pipe.close()
    if not finished:
        raise EngineError(f"The builder {_manner(status)}.{_tail(log)}", _advice(status))


def _environment(additional: Mapping[str, str]) -> dict[str, str]:
    # The worker must find the very package that this process runs, installed or not.
    root = str(Path(dinat_deploy.__file__).parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    # SAFEPATH: a file in the working directory must not take the place of a module.
    own = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
    return {**os.environ, **own, **additional}


def _decode(line: bytes) -> Message | None:
    """A message, or None for a line that is none (cut off by a crash)."""
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) and "kind" in message else None


def _manner(status: int) -> str:
    if status >= 0:
        return f"ended early with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"crashed ({name})" if -status != signal.SIGKILL else "was killed (SIGKILL)"


def _advice(status: int) -> str:
    if -status == signal.SIGKILL:
        return "The system does that when memory runs out; close other programs or add swap."
    return (
        "--verbose-log FILE records what it did last; --no-plugin shows whether the plugin is "
        "involved."
    )


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = [line.rstrip() for line in lines if line.strip()][-_TAIL_LINES:]
    return " Its last words:\n" + "\n".join(f"  {line}" for line in kept) if kept else ""
