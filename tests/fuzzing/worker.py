"""A process that reads one case after the other, so that a crash is that of one case.

    python -m tests.fuzzing.worker SEEDS ROOT RESULTS [PLUGIN ...]

Every line on stdin is a case, in JSON; every line on the file descriptor RESULTS what became of one.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import shutil
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.fuzzing import guard
from tests.fuzzing.cases import Case, digest, make_case
from tests.fuzzing.readers import KINDS, Kind, Reader

# How far below the root the input lies, so that names with ../ stay below it.
_DEPTH = ("case", "a", "b")


def main(seeds: Path, root: Path, results: int, plugins: list[str]) -> None:
    if not plugins:
        _load_all()
    for name in plugins:  # of the fuzzer's own tests, with readers of their own
        importlib.import_module(name)
    output, errors = (root / name for name in ("stdout", "stderr"))
    for number, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND), number)
    # As Python sets them up itself.
    for name, number, kind in (("stdout", 1, "strict"), ("stderr", 2, "backslashreplace")):
        stream = os.fdopen(number, "w", buffering=1, encoding="utf-8", errors=kind, closefd=False)
        setattr(sys, name, stream)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's business
    guard.install()
    guard.limit_memory()
    with os.fdopen(results, "w", buffering=1) as answers:
        answers.write("ready\n")
        for line in sys.stdin:
            for path in (output, errors):
                os.truncate(path, 0)
            case, outcome, made = _run(json.loads(line), seeds, root)
            answer = {"case": asdict(case), "outcome": asdict(outcome), "input": made}
            answers.write(json.dumps(answer) + "\n")


def _load_all() -> None:
    """What commands import when they run, so that no case pays for it, or is blamed for its files."""
    import dinat_deploy.cli

    for name in ("onnxruntime", "onnx", "onnx.shape_inference", "torch", "safetensors.torch",
                 "onnx_ir", "onnxscript", "plotly.offline", "dinat_deploy.exporter",
                 "dinat_deploy.pipeline.converting", "dinat_deploy.pipeline.sources",
                 "dinat_deploy.pipeline.verifying", "dinat_deploy.pipeline.rebuild",
                 "dinat_deploy.pipeline.evaluating", "dinat_deploy.measurement.page",
                 "rich.table", "PIL.Image"):  # fmt: skip
        importlib.import_module(name)
    importlib.import_module("PIL.Image").init()
    importlib.import_module("torch").set_num_threads(1)
    assert dinat_deploy.cli.cli.commands


def _run(task: dict[str, Any], seeds: Path, root: Path) -> tuple[Case, guard.Outcome, str]:
    """Make the input of a case, or take one that was kept, and read it."""
    place = root.joinpath(*_DEPTH, "input")
    shutil.rmtree(root / _DEPTH[0], ignore_errors=True)
    place.parent.mkdir(parents=True)
    if "kept" in task:
        shutil.copytree(task["kept"], place, symlinks=True)
        case = Case(**task["case"])
    else:
        case = make_case(seeds, task["seed"], task["number"], place)
    made = digest(place) if task.get("digest") else ""
    kind: Kind = KINDS[case.kind]
    reader: Reader = next(each for each in kind.readers if each.name == case.reader)
    out, cwd = place.parent / "output", place.parent / "cwd"
    out.mkdir()
    cwd.mkdir()
    os.chdir(cwd)
    allowed = [out, root / "home", root / "tmp"]
    allowed += [place / "bundle"] if reader.writes else []
    if case.kind == "text":
        allowed.append(place)  # the record of trusted plans is put where it is looked for
    faulthandler.dump_traceback_later(task["seconds"] * 0.9, file=sys.__stderr__)
    try:
        outcome = guard.watched(
            lambda: reader.read(place, out), root / _DEPTH[0], tuple(allowed), root / "stderr",
            may_start=reader.starts,
        )  # fmt: skip
    finally:
        faulthandler.cancel_dump_traceback_later()
        os.chdir(root)
    for path in (*(root / "tmp").iterdir(), *Path("/tmp").glob("dinat-fuzz-outside*")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return case, outcome, made


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
