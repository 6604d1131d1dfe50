"""Triton itself takes what is packaged, and refuses what our check refuses.

Runs where ``DINAT_TRITON`` is a command that starts ``tritonserver`` with its ONNX Runtime and Python
back ends; options are added to it.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.serving.broken import BREAKS, LEFT_OUT, Break

_COMMAND = os.environ.get("DINAT_TRITON", "")
_SECONDS = 60
pytestmark = pytest.mark.skipif(not _COMMAND, reason="DINAT_TRITON names no tritonserver")


def starts(package: Path, *, completing: bool = False) -> tuple[bool, str]:
    """Start a server on a package and stop it: whether all models were loaded, and what it said.

    Args:
        completing: whether it may add to configurations.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = package.parent / "triton.log"
    # Not a pipe: the Python back end's processes would hold it open if the server crashed.
    with log.open("w") as stream:
        server = subprocess.Popen(
            [
                *shlex.split(_COMMAND),
                f"--model-repository={package / 'models'}",
                *([] if completing else ["--disable-auto-complete-config"]),
                "--http-address=127.0.0.1",
                f"--http-port={port}",
                "--allow-grpc=false",
                "--allow-metrics=false",
            ],
            cwd=package,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + _SECONDS
    loaded = False
    while server.poll() is None and time.monotonic() < deadline and not loaded:
        time.sleep(0.1)
        loaded = "Started HTTPService" in log.read_text()
    gave_up = server.poll() is not None
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(10)
    said = log.read_text()
    assert loaded or gave_up, f"neither in {_SECONDS} seconds: {said[-2000:]}"
    return loaded, said


def test_it_takes_what_is_packaged(packaged: Path) -> None:
    loaded, said = starts(packaged)
    assert loaded, said


@pytest.mark.parametrize("broken", BREAKS, ids=str)
def test_it_refuses_what_the_check_refuses(packaged: Path, broken: Break) -> None:
    broken.do(packaged)
    loaded, said = starts(packaged)
    assert not loaded, said


@pytest.mark.parametrize("left_out", LEFT_OUT, ids=list(LEFT_OUT))
def test_it_completes_what_the_check_completes(packaged: Path, left_out: str) -> None:
    LEFT_OUT[left_out](packaged)
    loaded, said = starts(packaged, completing=True)
    assert loaded, said
