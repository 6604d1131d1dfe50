"""Runs many cases in worker processes, and keeps the inputs that something is wrong with."""

from __future__ import annotations

import json
import os
import queue
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzzing.cases import Case, make_case
from tests.fuzzing.guard import FINDINGS, Outcome

ROOT = Path(__file__).parents[2]
SECONDS = 30.0
_START_SECONDS = 180.0


@dataclass(frozen=True)
class Finding:
    """An input that something is wrong with.

    Attributes:
        kept: folder with the input, ``case.json`` and ``said.txt``.
    """

    number: int
    case: Case
    outcome: Outcome
    kept: Path

    @property
    def replay(self) -> str:
        return f"python tools/fuzz.py --replay {shlex.quote(str(self.kept))}"


@dataclass
class Summary:
    """What became of all cases.

    Attributes:
        counts: kind and status -> how many.
        refusals: the first words of refusals, and how often they were said.
    """

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def table(self) -> list[list[str]]:
        """A row for each kind: cases, accepted, refused, findings."""
        kinds = sorted({kind for kind, _ in self.counts})
        rows = []
        for kind in [*kinds, "all"]:
            own = {s: n for (k, s), n in self.counts.items() if kind in (k, "all") for n in [n]}
            if kind == "all":
                own = Counter()
                for (_, status), count in self.counts.items():
                    own[status] += count
            bad = sum(own.get(status, 0) for status in FINDINGS)
            numbers = (sum(own.values()), own.get("accepted", 0), own.get("refused", 0), bad)
            rows.append([kind, *map(str, numbers)])
        return rows


class Worker:
    """One worker process; a new one takes the place of one that died."""

    def __init__(self, seeds: Path, root: Path, plugins: tuple[str, ...] = ()) -> None:
        self._seeds, self._root, self._plugins = seeds, root, plugins
        self.input = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._results = -1

    def run(self, task: dict[str, Any]) -> tuple[Case | None, Outcome]:
        """What became of a case; the case is None if the worker did not live to say which."""
        process = self._alive()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(task).encode() + b"\n")
            process.stdin.flush()
            line = self._line(float(task["seconds"]))
        except BrokenPipeError:
            line = b""
        if line is None:
            said = self._last_words()
            self.stop()
            return None, Outcome("hang", said, f"hang {_frame(said)}")
        if not line:
            status = process.wait()
            said = self._last_words()
            self.stop()
            name = signal.Signals(-status).name if status < 0 else f"status {status}"
            return None, Outcome("crash", f"{name}\n{said}", f"crash {name} {_frame(said)}")
        answer = json.loads(line)
        self.input = answer["input"]
        return Case(**answer["case"]), Outcome(**answer["outcome"])

    def stop(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()
            if self._process.stdin is not None:
                with suppress(BrokenPipeError):
                    self._process.stdin.close()
            os.close(self._results)
            self._process = None

    def _alive(self) -> subprocess.Popen[bytes]:
        if self._process is not None:
            return self._process
        home, scratch = self._root / "home", self._root / "tmp"
        for folder in (home, scratch):
            folder.mkdir(parents=True, exist_ok=True)
        self._results, theirs = os.pipe()
        environment = {
            **os.environ, "PYTHONFAULTHANDLER": "1", "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0",
            "HOME": str(home), "XDG_DATA_HOME": str(home / "data"), "TMPDIR": str(scratch),
            "XDG_CACHE_HOME": str(home / "cache"), "DINAT_CACHE_DIR": str(home / "cache"),
            "TORCHINDUCTOR_CACHE_DIR": str(home / "inductor"),
        }  # fmt: skip
        with (self._root / "start").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzzing.worker", str(self._seeds), str(self._root),
                 str(theirs), *self._plugins],
                stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=ROOT, env=environment,
                pass_fds=[theirs],
            )  # fmt: skip
        os.close(theirs)
        if self._line(_START_SECONDS) != b"ready\n":
            log_text = (self._root / "start").read_text(errors="replace")
            self.stop()
            raise RuntimeError(f"A worker did not start:\n{log_text[-3000:]}")
        return self._process

    def _line(self, seconds: float) -> bytes | None:
        """The next line; empty if the process is gone, None if it says nothing for so long."""
        parts = []
        with selectors.DefaultSelector() as selector:
            selector.register(self._results, selectors.EVENT_READ)
            while not parts or not parts[-1].endswith(b"\n"):
                if not selector.select(seconds):
                    return None
                part = os.read(self._results, 1 << 16)
                if not part:
                    return b""
                parts.append(part)
        return b"".join(parts)

    def _last_words(self) -> str:
        with suppress(OSError):
            return (self._root / "stderr").read_text(errors="replace")[-3000:]
        return ""


def _frame(said: str) -> str:
    """The innermost frame of ours in what faulthandler wrote."""
    own = [line for line in said.splitlines() if "/dinat_deploy/" in line]
    return own[0].rpartition("/")[2].strip() if own else ""


class Campaign:
    """Runs cases and keeps findings.

    Args:
        seeds: as :func:`tests.fuzzing.seeds.make_seeds` wrote them.
        output: folder for findings and for the workers' own folders.
        seconds: that one case may take.
        tell: called after every case, with its outcome.
        digest: keep digests of the inputs in ``inputs``, by number.
    """

    def __init__(
        self,
        seeds: Path,
        output: Path,
        *,
        jobs: int = 1,
        seconds: float = SECONDS,
        tell: Callable[[Outcome], object] = lambda outcome: None,
        digest: bool = False,
    ) -> None:
        self.inputs: dict[int, str] = {}
        self._digest = digest
        self._seeds, self._output = seeds.resolve(), output.resolve()
        self._jobs, self._seconds, self._tell = jobs, seconds, tell
        self._lock = threading.Lock()
        self.summary = Summary()

    def run(self, seed: int, numbers: Iterable[int]) -> Summary:
        """Run the cases with these numbers."""
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in numbers:
            waiting.put(number)
        failures: list[BaseException] = []

        def work(index: int) -> None:
            worker = Worker(self._seeds, self._output / "work" / str(index))
            try:
                while not failures:
                    number = waiting.get_nowait()
                    task = {"seed": seed, "number": number, "seconds": self._seconds,
                            "digest": self._digest}  # fmt: skip
                    self._judge(seed, number, *worker.run(task))
                    self.inputs[number] = worker.input
            except queue.Empty:
                pass
            except BaseException as error:
                failures.append(error)
            finally:
                worker.stop()

        threads = [threading.Thread(target=work, args=(index,)) for index in range(self._jobs)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except KeyboardInterrupt:
            failures.append(KeyboardInterrupt())
            for thread in threads:
                thread.join()
        shutil.rmtree(self._output / "work", ignore_errors=True)
        if failures:
            raise failures[0]
        self.summary.findings.sort(key=lambda finding: finding.number)
        return self.summary

    def replay(self, kept: Path) -> Outcome:
        """Read an input that was kept again."""
        case = json.loads((kept / "case.json").read_text())["case"]
        worker = Worker(self._seeds, self._output / "work" / "replay")
        task = {"kept": str((kept / "input").resolve()), "case": case, "seconds": self._seconds}
        try:
            return worker.run(task)[1]
        finally:
            worker.stop()
            shutil.rmtree(self._output / "work", ignore_errors=True)

    def _judge(self, seed: int, number: int, case: Case | None, outcome: Outcome) -> None:
        with self._lock:
            if outcome.is_finding or case is None:
                case = self._keep(seed, number, outcome)
            self.summary.counts[case.kind, outcome.status] += 1
            if outcome.status == "refused":
                self.summary.refusals[" ".join(outcome.said.split()[:6])] += 1
            self._tell(outcome)

    def _keep(self, seed: int, number: int, outcome: Outcome) -> Case:
        """Make the input once more and keep it, with what is wrong with it."""
        folder = self._output / "findings" / f"{seed}-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        # As deep below a folder of its own as it was for the worker.
        place = folder / "input"
        place.parent.mkdir(parents=True)
        case = make_case(self._seeds, seed, number, folder / "at" / "a" / "input")
        (folder / "at" / "a" / "input").rename(place)
        shutil.rmtree(folder / "at")
        for decoy in (*folder.glob("outside.*"), *place.glob("outside.*")):
            decoy.unlink()
        record = {"seed": seed, "number": number, "case": asdict(case), "outcome": asdict(outcome)}
        (folder / "case.json").write_text(json.dumps(record, indent=2))
        (folder / "said.txt").write_text(outcome.said)
        self.summary.findings.append(Finding(number, case, outcome, folder))
        return case
