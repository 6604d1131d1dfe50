"""A short run over all kinds of input, and that the fuzzer would notice a fault."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.fuzzing import cases, readers
from tests.fuzzing.campaign import ROOT, Campaign, Worker
from tests.fuzzing.cases import Case, digest, make_case, numbers
from tools import fuzz

CASES = 200


def test_every_reader_takes_or_refuses_whatever_it_gets(seeds: Path, tmp_path: Path) -> None:
    campaign = Campaign(seeds, tmp_path / "run", digest=True)
    summary = campaign.run(0, itertools.islice(numbers(0, None), CASES))
    said = [f"{found.case} {found.outcome.said}" for found in summary.findings]
    assert not said, "\n".join(said)
    assert summary.total == CASES
    assert {kind for kind, _ in summary.counts} == set(readers.KINDS)
    assert {status for _, status in summary.counts} == {"accepted", "refused"}
    # A number stands for the same input in every process.
    for number in range(40):
        place = tmp_path / "again" / "a" / "in"
        make_case(seeds, 0, number, place)
        assert digest(place) == campaign.inputs[number], number


FAULTS = {
    "traceback": "traceback", "crash": "crash", "write": "write", "quiet write": "write",
    "hang": "hang", "read": "read", "start": "start", "flood": "flood", "memory": "traceback",
    "silent": "traceback", "right": "accepted", "refusal": "refused",
}  # fmt: skip


def test_planted_faults_are_noticed(seeds: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "bench.json").write_text("{}")
    worker = Worker(seeds, tmp_path / "worker", ("tests.fuzzing.planted",))
    found = {}
    try:
        for name in FAULTS:
            case = asdict(Case("planted", name, "two", "nothing"))
            seconds = 3 if name == "hang" else 60
            found[name] = worker.run({"kept": str(kept), "case": case, "seconds": seconds})[1]
    finally:
        worker.stop()
    assert {name: outcome.status for name, outcome in found.items()} == FAULTS
    assert "nobody caught this" in found["traceback"].said
    assert found["crash"].said.startswith("SIGABRT")
    assert "planted.py" in found["crash"].said and "planted.py" in found["hang"].said
    assert "beside.txt" in found["write"].said and "bench.json" in found["quiet write"].said
    assert found["refusal"].said == "It is wrong. Mend it."


def test_every_seed_has_files_to_change(seeds: Path) -> None:
    for name, kind in readers.KINDS.items():
        for seed in sorted((seeds / name).iterdir()):
            assert list(readers.files_of(kind, seed)), f"nothing of {seed} is changed"


def test_kinds_can_be_chosen_without_changing_the_numbers() -> None:
    every = list(itertools.islice(numbers(0, None), 400))
    some = list(itertools.islice(numbers(0, frozenset({"onnx", "picture"})), 40))
    kinds = {cases._kind_of(0, number) for number in some}
    assert every == list(range(400)) and set(some) < set(every)
    assert kinds == {"onnx", "picture"}


def test_the_script_says_what_kinds_there_are() -> None:
    done = subprocess.run(
        [sys.executable, "tools/fuzz.py", "--only", "nothing"],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2
    assert "nothing" in done.stdout and "picture" in done.stdout


def test_the_script_refuses_what_it_cannot_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fuzz.py", "--replay", str(tmp_path)])
    assert fuzz.main() == 2
    assert "no input that was kept" in capsys.readouterr().out
    for option in ("--jobs", "--cases"):
        with pytest.raises(SystemExit):
            fuzz.arguments([option, "0"])


def test_a_finding_is_kept_with_the_command_that_repeats_it(
    seeds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.fuzzing.guard import Outcome

    monkeypatch.setattr(
        Worker, "run", lambda self, task: (None, Outcome("crash", "SIGSEGV", "crash"))
    )
    monkeypatch.setattr(Worker, "stop", lambda self: None)
    summary = Campaign(seeds, tmp_path).run(5, [7])
    (found,) = summary.findings
    assert found.replay == f"python tools/fuzz.py --replay {found.kept}"
    record = json.loads((found.kept / "case.json").read_text())
    assert record["seed"] == 5 and record["number"] == 7
    assert Case(**record["case"]) == found.case
    assert any((found.kept / "input").iterdir())
    assert [row[-1] for row in summary.table()] == ["1", "1"]
