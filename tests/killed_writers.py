"""Writes a directory over and over in processes that kill themselves, each a line of code later.

    python -m tests.killed_writers TARGET fresh|exchange|steps clean|litter

Every process ends by SIGKILL at the n-th line of dinat_deploy/files.py that it runs, for n = 1, 2, ...
until one gets through. After each, the target must be whole, old or new; where there was none
(``fresh``) it may be missing, and where directories cannot change places in one step (``steps``) too,
but then the next process brings it back. That one meets what the killed one left (``litter``), or not
(``clean``: so that it runs the same lines). Prints how many were killed, what was seen, and what is
left in the end.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

from dinat_deploy import files


def whole(directory: Path) -> bool:
    """Whether a directory has what ``write`` puts in, or what was there before."""
    names = {path.name for path in directory.iterdir()}
    texts = {path.read_text() for path in directory.iterdir()}
    return names == {"first", "second"} and texts in ({"old"}, {"new"})


def write(target: Path) -> None:
    with files.whole_directory(target, replaceable=lambda path: (path / "first").exists()) as made:
        (made / "first").write_text("new")
        (made / "second").write_text("new")


def die_at(line: int) -> None:
    """Kill this process before the given line of files.py that it comes to."""
    seen = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal seen
        if frame.f_code.co_filename != files.__file__:
            return None
        if event == "line":
            seen += 1
            if seen == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


def main(target: Path, how: str, litter: bool) -> None:
    if how == "steps":
        files.exchange = lambda first, second: False  # type: ignore[assignment]
    seen: Counter[str] = Counter()
    killed = 0
    while True:
        if how == "fresh":
            shutil.rmtree(target, ignore_errors=True)
        elif not target.exists():
            target.mkdir()
            for name in ("first", "second"):
                (target / name).write_text("old")
        child = os.fork()
        if child == 0:
            die_at(killed + 1)
            write(target)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        killed += 1
        if target.exists():
            assert whole(target), sorted(target.iterdir())
            seen[(target / "first").read_text()] += 1
            for name in ("first", "second"):
                (target / name).write_text("old")
        else:
            assert how != "exchange"
            seen["missing"] += 1
            if how == "steps":
                files._clean(target)
                assert whole(target) and (target / "first").read_text() == "old"
        if not litter:
            files._clean(target)
    assert whole(target) and (target / "first").read_text() == "new"
    left = sorted(path.name for path in target.parent.iterdir())
    print(killed, dict(seen), left)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "litter")
