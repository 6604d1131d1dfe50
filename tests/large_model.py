"""Exports ``dinat_large`` once for all test processes, by the command and in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

_ENVIRONMENT = dict(os.environ)  # before any test changes it


@dataclass(frozen=True)
class LargeExport:
    """What ``dinat-deploy export --model dinat_l --json`` did.

    Attributes:
        bundle: its directory. Engines may be built into it; do not change it otherwise.
        report: what it printed, ``messages`` on stderr.
        kilobytes: most memory that it took.
    """

    bundle: str
    report: dict[str, Any]
    messages: str
    kilobytes: int


def exported(folder: Path) -> LargeExport:
    """The export in a folder that the test processes share; the first that asks makes it."""
    record = folder / "dinat_large.json"
    with FileLock(folder / "dinat_large.lock"):
        if not record.exists():
            record.write_text(json.dumps(asdict(_export(folder / "dinat_large"))))
    return LargeExport(**json.loads(record.read_text()))


def _export(bundle: Path) -> LargeExport:
    command = [sys.executable, "-m", "dinat_deploy", "export", "--model", "dinat_l", "--json"]
    process = subprocess.Popen(
        [*command, "--output", str(bundle)],
        env=_ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = process.stdout, process.stderr
    assert out is not None
    assert err is not None
    printed, messages = out.read().decode(), err.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, messages
    return LargeExport(str(bundle), json.loads(printed), messages, usage.ru_maxrss)
