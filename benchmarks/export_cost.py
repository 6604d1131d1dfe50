"""Time and peak memory of whole exports, verification included, each in a process of its own.

python benchmarks/export_cost.py dinat_mini dinat_large
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import track


def measure(model: str, directory: Path) -> tuple[float, float, float, float]:
    """Seconds, peak GB, file MB and largest error of one export."""
    command = [sys.executable, "-m", "dinat_deploy", "export", "--model", model, "--json"]
    started = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--output", str(directory / model)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    report = json.load(process.stdout)
    # Peak memory of just this child, which subprocess itself does not tell.
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    assert os.waitstatus_to_exitcode(status) == 0
    error = report["manifest"]["verification"]["max_abs_error"]
    return seconds, usage.ru_maxrss / 1e6, report["file_size"] / 1e6, error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        for model in track(options.models, "Exporting", console=Console(stderr=True)):
            rows.append((model, *measure(model, Path(directory))))
    print("| model | seconds | peak GB | file MB | largest error |\n|---|---|---|---|---|")
    for model, seconds, memory, size, error in rows:
        print(f"| {model} | {seconds:.0f} | {memory:.1f} | {size:.0f} | {error:.1e} |")


if __name__ == "__main__":
    main()
