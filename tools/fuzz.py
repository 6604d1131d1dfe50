"""Feeds damaged and hostile files to every reader, and says which of them was not up to it.

    python tools/fuzz.py --cases 5000 --seed 0
    python tools/fuzz.py --only onnx,picture --cases 500 --jobs 2
    python tools/fuzz.py --replay out/fuzz/findings/0-1234

A reader must take an input or refuse it with a cause and a cure. Anything else is a finding:
another exception, a crash, a hang, two gigabytes of memory, a file that was written outside of the
output directory or read outside of the input, a program that was started, pages of messages. Its
input is kept, with the command that reads it again. The same seed and number make the same case.
Exits with 1 if there are findings. Needs a checkout with the test dependencies; Linux only.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def count(word: str) -> int:
    number = int(word)
    if number < 1:
        raise ValueError
    return number


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=count, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, help="run this one case of the seed")
    parser.add_argument("--only", help="kinds of input, separated by commas")
    parser.add_argument("--jobs", type=count, default=max(1, (os.cpu_count() or 1) - 1))
    parser.add_argument("--seconds", type=float, default=30.0, help="that one case may take")
    parser.add_argument("--output", type=Path, default=Path("out/fuzz"))
    parser.add_argument("--replay", type=Path, metavar="DIR", help="an input that was kept")
    return parser.parse_args(given)


def main() -> int:
    options = arguments()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from tests.fuzzing.campaign import Campaign
    from tests.fuzzing.cases import numbers
    from tests.fuzzing.readers import KINDS

    only = None if options.only is None else frozenset(options.only.split(","))
    if only is not None and only - set(KINDS):
        print(f"There is no kind {', '.join(sorted(only - set(KINDS)))}, only {', '.join(KINDS)}.")
        return 2
    if options.replay is not None:
        if not (options.replay / "case.json").is_file():
            print(f"{options.replay} is no input that was kept: it has no case.json.")
            return 2
        outcome = Campaign(Path(), options.output, seconds=options.seconds).replay(options.replay)
        print(f"{outcome.status}: {outcome.said}")
        return int(outcome.is_finding)
    options.output.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(options.output / "findings", ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="dinat-fuzz-") as scratch:
        print("Making valid inputs ...", file=sys.stderr)
        seeds = make_seeds_in(Path(scratch))
        chosen: list[int] = (
            [options.number]
            if options.number is not None
            else list(itertools.islice(numbers(options.seed, only), options.cases))
        )
        started = time.monotonic()
        with Bar(len(chosen)) as bar:
            campaign = Campaign(
                seeds, options.output, jobs=options.jobs, seconds=options.seconds, tell=bar.tell
            )
            summary = campaign.run(options.seed, chosen)
    show(summary, options.seed, time.monotonic() - started)
    return int(bool(summary.findings))


def make_seeds_in(place: Path) -> Path:
    """All valid inputs; bundles of a classifier with a variant, and of a segmenter."""
    from dinat_deploy.pipeline.converting import convert
    from dinat_deploy.pipeline.exporting import export
    from dinat_deploy.pipeline.requests import ModelRequest
    from tests.fuzzing.seeds import CONFIGS, make_seeds

    made: dict[str, Path] = {}
    for name in ("classifier", "upernet", "mask2former"):
        config = place / f"{name}.json"
        config.write_text(CONFIGS[name].model_dump_json())
        made[name] = place / name
        export(ModelRequest(config=config), made[name], verify=False)
    convert(made["classifier"], "fp16", verify=False)
    make_seeds(place / "seeds", made.pop("classifier"), made)
    return place / "seeds"


class Bar:
    """Progress on stderr: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._bad = total, 0, 0
        self._started = time.monotonic()
        self._last = 0.0
        self._terminal = sys.stderr.isatty()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal:
            print(file=sys.stderr)

    def tell(self, outcome: object) -> None:
        self._done += 1
        self._bad += getattr(outcome, "is_finding", False)
        now = time.monotonic()
        if self._done < self._total and now - self._last < (0.2 if self._terminal else 15):
            return
        self._last = now
        filled = 30 * self._done // max(self._total, 1)
        elapsed = now - self._started
        left = elapsed / self._done * (self._total - self._done)
        print(
            f"\r[{'#' * filled}{'.' * (30 - filled)}] {self._done}/{self._total}, "
            f"{self._bad} findings, {elapsed:.0f} s, {left:.0f} s left ",
            end="" if self._terminal else "\n",
            file=sys.stderr,
            flush=True,
        )


def show(summary: object, seed: int, seconds: float) -> None:
    from tests.fuzzing.campaign import Summary

    assert isinstance(summary, Summary)
    rows = [["input", "cases", "accepted", "refused", "findings"], *summary.table()]
    for row in rows:
        print(f"{row[0]:<12}" + "".join(f"{cell:>10}" for cell in row[1:]))
    print(f"Seed {seed}, {summary.total} cases in {seconds:.0f} s.")
    if not summary.findings:
        print("No findings.")
        return
    groups: Counter[str] = Counter(found.outcome.signature for found in summary.findings)
    for signature, count in groups.most_common():
        first = next(f for f in summary.findings if f.outcome.signature == signature)
        print(f"\n{count} x {first.outcome.status}: {signature}")
        print(f"    {first.case.kind}, {first.case.reader}: {first.case.said[:200]}")
        print(f"    {first.replay}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("Interrupted. What was found until then is kept.", file=sys.stderr)
        sys.exit(130)  # 1 is for findings
