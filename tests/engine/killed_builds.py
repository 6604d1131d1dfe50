"""Builds a small model over and over, and kills the building process at random moments.

    python -m tests.engine.killed_builds MODEL TARGET SEED COUNT

Whatever the moment, what stands at the target is a whole engine or none. Prints as JSON what was found
after each kill, and what is left beside the target and in the system's temporary folder after last
builds that nobody kills.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from dinat_deploy.engine.manifest import open_engine
from dinat_deploy.pipeline.building import build


def start(model: Path, target: Path) -> int:
    """Build in a process of its own."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        build(
            model, target, backend="tensorrt-rtx", plugin=False,
            architectures=["86"], optimization_level=0,
        )  # fmt: skip
        status = 0
    finally:
        os._exit(status)


def timed(model: Path, target: Path) -> float:
    """Seconds that a build takes that nobody kills."""
    began = time.monotonic()
    assert wait(start(model, target)) == 0
    return time.monotonic() - began


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def whole(target: Path) -> bool:
    """Whether there is an engine; raises if there is half of one."""
    if not target.exists():
        return False
    assert {path.name for path in target.iterdir()} == {"engine.json", "model.plan"}
    open_engine(target).check_plan()
    return True


def main(model: Path, target: Path, seed: int, count: int) -> None:
    draw = random.Random(seed)
    seconds = min(timed(model, target) for _ in range(2))
    first = shutil.copytree(target, target.parent / "first")
    seen: Counter[str] = Counter()
    for number in range(count):
        shutil.rmtree(target, ignore_errors=True)
        there = number % 2 == 1
        if there:
            shutil.copytree(first, target)
        child = start(model, target)
        # The end is where files move.
        time.sleep(seconds * draw.uniform(0.8 if number % 4 > 1 else 0.0, 1.1))
        os.kill(child, signal.SIGKILL)
        finished = wait(child) == 0
        found = whole(target)
        assert found or not (there or finished), "an engine was lost"
        seen[f"{'had' if there else 'none'}, {'finished' if finished else 'killed'}, {found}"] += 1
    children = [start(model, target) for _ in range(2)]
    assert [wait(child) for child in children] == [0, 0]
    assert whole(target)
    left = sorted(path.name for path in target.parent.iterdir())
    temporary = sorted(path.name for path in Path(tempfile.gettempdir()).iterdir())
    print(json.dumps({"seen": seen, "left": left, "temporary": temporary}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
