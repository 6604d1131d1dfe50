"""The GPU benchmark's shapes, timing loop, verdicts, files and limits, all without a GPU."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import op_gpu
import pytest
import torch
from gpu import clocks, measure, report, rivals, shapes, verdicts
from gpu.clocks import Timing, WallClock
from gpu.floors import COPY, cpu_copy
from gpu.measure import Result, Settings
from gpu.ours import stand_in
from gpu.report import Run
from gpu.rivals import Contestant
from gpu.shapes import Row, all_rows

# Compiling takes longer than these small problems.
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")

GOAL = Row("512", 1, (128, 128), 2, 7, 1, 1)
OTHER = Row("224", 1, (56, 56), 2, 7, 1, 1)


def result(row: Row, complete: Sequence[str] = ("dinat",), **microseconds: float) -> Result:
    """A result with these timings."""
    names = {"floor": COPY, "tile8": "dinat:tile8", "portable": "dinat:portable"}
    timings = {names.get(name, name): Timing(value, 0.1, 7) for name, value in microseconds.items()}
    return Result(row, 1, row.bytes_moved, timings, complete=list(complete))


# --- shapes ----------------------------------------------------------------------------------------


def test_stages_are_those_of_the_models() -> None:
    assert [shapes.stage_size((224, 224), stage) for stage in (1, 2, 3, 4)] == [
        (56, 56),
        (28, 28),
        (14, 14),
        (7, 7),
    ]
    assert [shapes.stage_size((800, 1333), stage) for stage in (1, 2, 3, 4)] == [
        (200, 334),
        (100, 167),
        (50, 84),
        (25, 42),
    ]


def test_rows_cover_all_combinations_once_and_are_valid_problems() -> None:
    rows = all_rows()
    assert len(set(rows)) == len(rows)
    half = [row for row in rows if row.dtype == "float16"]
    assert {(row.image, row.kernel, row.batch) for row in half} == {
        (image, kernel, batch)
        for image in shapes.IMAGES
        for kernel in (7, 11)
        for batch in (1, 8, 64)
    }
    for row in rows:
        assert row.kernel * row.dilation <= min(row.size)
        assert row.kernel * (row.dilation + 1) > min(row.size) or row.dilation == 1
    assert {row.dtype for row in rows} == {"float16", "bfloat16", "float32"}


def test_the_goals_rows_come_first() -> None:
    rows = all_rows()
    goals = [row for row in rows if row.is_goal]
    assert rows[: len(goals)] == goals
    assert {(row.image, row.batch) for row in goals} == {
        ("512", 1),
        ("800x1333", 1),
        ("1024", 1),
        ("224", 64),
    }
    assert all(row.kernel == 7 and row.dtype == "float16" for row in goals)


def test_bytes_are_three_reads_and_a_write() -> None:
    assert Row("224", 1, (56, 56), 2, 7, 1, 1).bytes_moved == 56 * 56 * 64 * 4 * 2
    assert Row("224", 1, (56, 56), 2, 7, 1, 8, "float32").bytes_moved == 8 * 56 * 56 * 64 * 4 * 4


# --- measuring -------------------------------------------------------------------------------------

SETTINGS = Settings(torch.device("cpu"), WallClock(), WallClock(), rounds=3, least_ms=0.01)
TINY = Row("tiny", 1, (7, 9), 1, 3, 2, 2, "float32", head_dim=8)


def test_a_wrong_contestant_is_left_out_and_named() -> None:
    def wrong(row: Row, rpb: torch.Tensor) -> Sequence[Contestant]:
        right = stand_in(row, rpb)[0]
        off = replace(right, name="dinat:off", run=lambda qkv, out: right.run(qkv, out) * 1.001)
        silent = Contestant("dinat:silent", lambda _, out: out)
        broken = Contestant("dinat:broken", lambda *_: 1 / 0)  # type: ignore[arg-type, return-value]
        return [right, off, silent, broken]

    found = measure.measure(TINY, wrong, cpu_copy, {}, SETTINGS)
    assert set(found.timings) == {COPY, "dinat"}
    assert found.left_out["dinat:off"].startswith("wrong: relative error")
    assert found.left_out["dinat:silent"] == "wrong: relative error inf"
    assert found.left_out["dinat:broken"] == "ZeroDivisionError: division by zero"
    assert op_gpu.any_wrong(found)
    assert verdicts.correctness_verdict([found], 9).met is False
    assert "dinat:off on tiny" in verdicts.correctness_verdict([found], 9).detail
    assert json.loads(json.dumps(found.json(), allow_nan=False))["errors"]["dinat:silent"] is None


def test_a_rival_that_cannot_be_made_is_named_and_the_row_goes_on() -> None:
    def failing(row: Row, rpb: torch.Tensor) -> Contestant:
        raise MemoryError("no room")

    makers = {"dense SDPA": rivals.dense, "unfold": failing}
    found = measure.measure(TINY, stand_in, cpu_copy, makers, SETTINGS)
    assert found.left_out == {"unfold": "MemoryError: no room"}
    assert set(found.timings) == {COPY, "dinat", "dense SDPA"}
    assert found.complete == ["dinat", "dense SDPA"]
    assert all(timing.median > 0 and timing.samples == 3 for timing in found.timings.values())


def test_buffers_rotate_through_twice_the_cache() -> None:
    settings = replace(SETTINGS, cache_bytes=50 << 20)
    small, large = Row("224", 4, (7, 7), 16, 7, 1, 1), Row("1024", 1, (256, 256), 2, 7, 1, 64)
    assert measure.rotation(OTHER, settings) * OTHER.bytes_moved >= 2 * settings.cache_bytes
    assert measure.rotation(small, settings) == settings.largest_rotation
    assert measure.rotation(large, settings) == 1
    assert measure.rotation(OTHER, SETTINGS) == 1


def test_contestants_take_turns_and_slow_ones_fewer() -> None:
    order: list[str] = []

    def sampler(name: str, seconds: float) -> clocks.Sampler:
        def sample() -> float:
            order.append(name)
            time.sleep(seconds)
            return 1.0

        return sample

    samples = clocks.interleaved(
        {"a": sampler("a", 0), "slow": sampler("slow", 0.02)}, rounds=5, slow_ms=10
    )
    assert order[:4] == ["a", "slow", "a", "slow"]
    assert {name: len(values) for name, values in samples.items()} == {"a": 5, "slow": 3}


def test_a_timing_is_the_median_with_the_spread_of_the_middle_half() -> None:
    timing = Timing.of([0.001, 0.002, 0.003, 0.004, 0.1])
    assert timing == Timing(pytest.approx(3.0), pytest.approx(2.0), 5)  # type: ignore[arg-type]


# --- verdicts --------------------------------------------------------------------------------------


def test_the_floor_goal_needs_every_planned_row() -> None:
    good, bad = result(GOAL, floor=7.0, dinat=9.9), result(GOAL, floor=7.0, dinat=10.1)
    assert verdicts.floor_verdict([good], 1).met is True
    assert verdicts.floor_verdict([good], 2).met is None
    assert verdicts.floor_verdict([good, bad], 5).met is False
    assert verdicts.floor_verdict([result(OTHER, floor=1.0, dinat=9.0)], 1).met is None
    assert "69%" in verdicts.floor_verdict([bad], 1).detail


def test_only_rivals_that_do_the_whole_job_count() -> None:
    both = ("dinat", "unfold")
    slower = result(OTHER, both, dinat=10.0, unfold=9.0)
    assert verdicts.rival_verdict([slower], 1).met is False
    partial = result(OTHER, ("dinat",), dinat=10.0, unfold=9.0)
    assert verdicts.rival_verdict([partial], 1).met is None
    tie = result(OTHER, both, dinat=10.0, unfold=9.85)
    assert verdicts.rival_verdict([tie], 1).met is True
    # The copy floor and our own tactics are no rivals.
    alone = result(OTHER, ("dinat", "dinat:tile8"), dinat=10.0, tile8=8.0, floor=1.0)
    assert verdicts.best_rival(alone) is None


def test_the_heuristic_is_held_to_the_fastest_tactic() -> None:
    good = result(OTHER, dinat=10.0, tile8=9.5, portable=30.0)
    assert verdicts.best_tactic(good) == ("tile8", 9.5)
    assert verdicts.choice_verdict([good], 1).met is True
    assert verdicts.correctness_verdict([good], 1).met is True
    assert verdicts.correctness_verdict([good], 2).met is None
    assert verdicts.choice_verdict([result(OTHER, dinat=10.0, tile8=8.0)], 1).met is False


def test_nothing_measured_decides_nothing() -> None:
    assert [verdict.met for verdict in verdicts.all_verdicts([], 10, 5)] == [None] * 4
    assert all("NOT DECIDED" in verdict.line for verdict in verdicts.all_verdicts([], 10, 5))


def test_geometric_mean() -> None:
    assert verdicts.geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert math.isnan(verdicts.geometric_mean([]))


def test_flex_timings_are_carried_over_by_the_kernels_own() -> None:
    first = result(OTHER, ("dinat", "unfold"), dinat=10.0, unfold=50.0)
    later = result(OTHER, ("dinat", "flex"), dinat=20.0, flex=30.0)
    joined = verdicts.merged([first], [later])[0]
    assert joined.timings["flex"].median == pytest.approx(15.0)
    assert joined.timings["dinat"].median == 10.0
    assert verdicts.best_rival(joined) == ("flex", pytest.approx(15.0))
    assert verdicts.merged([first], []) == [first]


# --- files and limits ------------------------------------------------------------------------------


def test_the_tables_show_ratios_and_shares() -> None:
    run = Run({"device": "Some GPU"}, planned=2, planned_goals=1)
    run.rows = [
        result(GOAL, ("dinat", "unfold"), floor=8.0, dinat=10.0, unfold=40.0, tile8=9.9),
        result(OTHER, ("dinat", "unfold"), floor=2.0, dinat=4.0, unfold=4.0),
    ]
    text = run.markdown()
    assert "| 80% | tile8 9.90 | 4.00 (unfold) |" in text
    assert "| unfold | 2 | 2.00 | 1.00 | 4.00 |" in text
    assert "MET: at least 70% of the copy floor" in text
    widths = {line.count("|") for line in report.table(run.rows)}
    assert len(widths) == 1
    assert len(report.summary(run).splitlines()) >= 5


def test_a_dry_run_computes_everything_and_judges_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = tmp_path / "out.json", tmp_path / "out.md"
    words = ["--dry-run", "--json", str(files[0]), "--markdown", str(files[1])]
    assert op_gpu.main(words) == 0
    found = json.loads(files[0].read_text())
    assert found["dry_run"] and found["verdicts"] == []
    assert found["sections"] == {"rows": "done, 4 rows", "flex": "done, 4 rows"}
    timed = {name for row in [*found["rows"], *found["flex"]] for name in row["timings"]}
    assert timed == {COPY, "dinat", *rivals.MAKERS, "flex", "flex, tiles"}
    for row in [*found["rows"], *found["flex"]]:
        assert max(row["errors"].values()) < 1e-5
        assert not any(reason.startswith("wrong") for reason in row["left_out"].values())
    assert "Dry run" in files[1].read_text()
    assert "no goal is judged" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.partial"))


def test_a_section_keeps_what_it_has_when_time_is_up() -> None:
    run, stored, into = Run({}), [], []

    def step(row: Row) -> Result:
        if row is OTHER:
            raise RuntimeError("lost")
        return result(row, dinat=1.0)

    now = time.monotonic()
    op_gpu.run_section(
        "rows", run, into, [GOAL, OTHER], step, now + 60, 1, lambda: stored.append(len(into))
    )
    assert [found.row for found in into] == [GOAL]
    assert run.sections["rows"].startswith("done, 2 rows; 1 failed: 224 s1")
    assert stored == [1]
    op_gpu.run_section("more", run, into, [GOAL], step, now + 0.5, 1, lambda: None)
    assert run.sections["more"] == "time was up after 0 of 1 rows"


def test_a_lost_device_ends_the_section() -> None:
    run, into = Run({}), []

    def step(row: Row) -> Result:
        raise measure.DeviceLostError("dinat:tile8 on a row: illegal address")

    until = time.monotonic() + 60
    op_gpu.run_section("rows", run, into, [GOAL, OTHER], step, until, 1, lambda: None)
    assert run.sections["rows"] == "ended by a fault of dinat:tile8 on a row: illegal address"


def test_arguments() -> None:
    options = op_gpu.arguments(
        ["--images", "224", "--batches", "1", "--kernels", "7", "--rows", "3"]
    )
    rows = all_rows(options.images, options.kernels, options.batches, options.dtypes)
    assert {row.image for row in rows} == {"224"}
    with pytest.raises(SystemExit):
        op_gpu.arguments(["--flex-share", "2"])


def test_what_is_missing_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert op_gpu.main([]) == 2
    assert "torch sees no CUDA device" in capsys.readouterr().out
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(op_gpu, "find_library", lambda: None)
    assert op_gpu.main([]) == 2
    assert "libdinat_kernels.so was not found" in capsys.readouterr().out


def test_flex_is_measured_on_the_goals_rows_undilated_first() -> None:
    rows = op_gpu.flex_rows(all_rows())
    assert all(row.is_goal for row in rows)
    dilated = [row.dilation > 1 for row in rows]
    assert dilated == sorted(dilated) and any(dilated) and not all(dilated)
