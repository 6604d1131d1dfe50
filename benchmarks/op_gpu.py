"""The CUDA kernels against what no kernel can beat and against other ways to compute the operator.

    python benchmarks/op_gpu.py --json out/op_gpu.json --markdown out/op_gpu.md
    python benchmarks/op_gpu.py --dry-run          on a CPU: do all code paths compute the same?

Needs an NVIDIA GPU, nvcc and the kernels (``cmake --build``); ``--library`` or the variable
DINAT_KERNELS names them. Every contestant is checked against float64 before it is timed. Both files
are rewritten after every few rows, so that an interrupted run loses nothing; a time limit drops the
least telling rows. docs/gpu-results.md says how to read the tables.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from gpu.clocks import EagerClock, GraphClock, WallClock  # noqa: E402
from gpu.environment import describe  # noqa: E402
from gpu.flex import make_flex  # noqa: E402
from gpu.floors import Floors, compile_floors, cpu_copy  # noqa: E402
from gpu.measure import DeviceLostError, Result, Settings, measure  # noqa: E402
from gpu.ours import CudaKernels, stand_in  # noqa: E402
from gpu.report import Run, save, summary  # noqa: E402
from gpu.rivals import MAKERS, Contestant, Maker  # noqa: E402
from gpu.shapes import BATCHES, DRY_ROWS, IMAGES, KERNELS, Row, all_rows  # noqa: E402
from torch import Tensor  # noqa: E402

from tests.gpu.binding import find_library  # noqa: E402

Ours = Callable[[Row, Tensor], Sequence[Contestant]]
Floor = Callable[[Row], Contestant]
# So long before the end of its time a section starts no further row.
ROW_SECONDS = 5.0
FLEX_SECONDS = 20.0


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--library", type=Path, default=find_library(), help="libdinat_kernels.so")
    parser.add_argument("--nvcc", help="compiler for the floors, default: the one on PATH")
    parser.add_argument("--seconds", type=float, default=330.0, help="time limit of everything")
    parser.add_argument("--flex-share", type=float, default=0.25, help="of the time, 0 for none")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", nargs="+", choices=list(IMAGES), default=list(IMAGES))
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--kernels", nargs="+", type=int, default=list(KERNELS))
    parser.add_argument(
        "--dtypes",
        nargs="+",
        choices=["float16", "bfloat16", "float32"],
        default=["float16", "bfloat16", "float32"],
    )
    parser.add_argument("--rows", type=int, help="only the first N")
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args(words)
    if not 0 <= options.flex_share < 1:
        parser.error("--flex-share must lie between 0 and 1")
    return options


def flex_rivals(compiled: bool) -> dict[str, Maker]:
    return {
        "flex": functools.partial(make_flex, tiled=False, compiled=compiled),
        "flex, tiles": functools.partial(make_flex, tiled=True, compiled=compiled),
    }


def flex_rows(rows: Sequence[Row]) -> list[Row]:
    """Compiling takes seconds for each: the goal's rows, where maps are large enough for blocks.

    Undilated rows and large maps, where it is strongest, come first.
    """
    chosen = [row for row in rows if row.is_goal and row.stage <= 3]
    return sorted(chosen, key=lambda row: (row.dilation > 1, row.stage))


def device_floors(floors: Floors, device: torch.device, rounds: int) -> dict[str, float]:
    """Launching an empty kernel, and a large copy."""
    empty = floors.empty
    found = {}
    for name, clock, calls in (
        ("launch floor, one by one, us", EagerClock(), 30),
        ("launch floor, in a graph of 30, us", GraphClock(), 30),
    ):
        sample = clock.sampler(lambda _: empty(), calls, 1.0)
        found[name] = 1e3 * statistics.median(sample() for _ in range(rounds))
    source = torch.empty(1 << 30, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    sample = EagerClock().sampler(lambda _: target.copy_(source), 4, 10.0)
    milliseconds = statistics.median(sample() for _ in range(rounds))
    found["large copy, GB/s read and written"] = 2 * source.numel() / milliseconds / 1e6
    return found


def run_section(
    name: str,
    run: Run,
    into: list[Result],
    rows: Sequence[Row],
    step: Callable[[Row], Result],
    until: float,
    margin: float,
    store: Callable[[], None],
) -> None:
    """Measure rows until the time is up; a row that fails is named and the next one tried."""
    failed: list[str] = []
    for count, row in enumerate(rows):
        if time.monotonic() + margin > until:
            run.sections[name] = f"time was up after {count} of {len(rows)} rows"
            break
        try:
            into.append(step(row))
        except DeviceLostError as error:
            run.sections[name] = f"ended by a fault of {error}"
            break
        except Exception as error:  # saved with the run; one row must not end it
            failed.append(f"{row.name}: {type(error).__name__}: {error}"[:300])
            if len(failed) > 3 and not into:
                run.sections[name] = "given up after these failures"
                break
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if count % 10 == 9:
            store()
        print(f"{name} {count + 1}/{len(rows)}: {row.name}", file=sys.stderr, flush=True)
    else:
        run.sections[name] = f"done, {len(rows)} rows"
    if failed:
        run.sections[name] += f"; {len(failed)} failed: " + "; ".join(failed[:5])
    store()


def main(words: Sequence[str] | None = None) -> int:
    options = arguments(words)
    if not options.dry_run and not torch.cuda.is_available():
        print("torch sees no CUDA device; --dry-run needs none.")
        return 2
    if not options.dry_run and options.library is None:
        print("libdinat_kernels.so was not found: build it, or pass --library.")
        return 2
    started = time.monotonic()
    device = torch.device("cpu" if options.dry_run else "cuda")
    run = Run(describe(device, ROOT), dry=options.dry_run)
    ours: Ours
    floor: Floor
    if options.dry_run:
        rows = list(DRY_ROWS)
        ours, floor = stand_in, cpu_copy
        settings = Settings(device, WallClock(), WallClock(), rounds=3, least_ms=0.1)
    else:
        rows = all_rows(options.images, options.kernels, options.batches, options.dtypes)
        ours = CudaKernels(options.library)
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        settings = Settings(
            device, GraphClock(), EagerClock(), rounds=options.rounds, cache_bytes=cache
        )
    rows = rows[: options.rows]
    run.planned = len(rows)
    run.planned_goals = sum(row.is_goal for row in rows)

    def store() -> None:
        save(run, options.json, options.markdown)

    if not options.dry_run:
        with tempfile.TemporaryDirectory() as folder:
            library = compile_floors(
                Path(folder), torch.cuda.get_device_capability(device), options.nvcc
            )
            floors = Floors(library)
        floor = floors.copy
        run.floors = device_floors(floors, device, settings.rounds)
        run.sections["floors"] = "done"
        store()

    chosen_flex = rows if options.dry_run else flex_rows(rows)
    share = options.flex_share if chosen_flex else 0.0
    with torch.no_grad():
        run_section(
            "rows",
            run,
            run.rows,
            rows,
            lambda row: measure(row, ours, floor, MAKERS, settings),
            started + options.seconds * (1 - share),
            ROW_SECONDS,
            store,
        )
        if share:
            rivals = flex_rivals(compiled=not options.dry_run)
            few = ours if options.dry_run else CudaKernels(options.library, every_tactic=False)

            def with_flex(row: Row) -> Result:
                torch.compiler.reset()
                return measure(row, few, floor, rivals, settings)

            run_section(
                "flex",
                run,
                run.flex,
                chosen_flex,
                with_flex,
                started + options.seconds,
                0.0 if options.dry_run else FLEX_SECONDS,
                store,
            )
    print(summary(run))
    wrong = [result for result in [*run.rows, *run.flex] if any_wrong(result)]
    return 1 if wrong or not run.rows else 0


def any_wrong(result: Result) -> bool:
    """Whether our own contestants failed or computed something else."""
    return any(name.startswith("dinat") for name in result.left_out)


if __name__ == "__main__":
    sys.exit(main())
