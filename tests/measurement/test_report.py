"""Measurements as JSON and Markdown."""

from __future__ import annotations

import json
import re

import pytest

from dinat_deploy.measurement.records import BenchOptions, BenchReport
from dinat_deploy.measurement.report import to_json, to_markdown
from dinat_deploy.measurement.tables import (
    details,
    kinds,
    per_gmac,
    ratio_per_mac,
    significant,
    summary,
)
from tests.measurement import reports


def rows(markdown: str) -> list[list[str]]:
    """Cells of the first table."""
    lines = markdown.splitlines()
    table = lines[: next(i for i, line in enumerate(lines) if not line.startswith("|"))]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table]
    return [[cell.strip() for cell in row] for row in cells]


def column(report: BenchReport, head: str) -> list[str]:
    table = summary(report)
    return [row[table.heads.index(head)] for row in table.rows]


def test_json_holds_the_whole_report() -> None:
    full = reports.full()
    assert BenchReport.model_validate_json(to_json(full)) == full


def test_json_keeps_lists_of_numbers_on_one_line() -> None:
    text = to_json(reports.full(("[\n  1,\n  2\n]", "b")))
    assert len(text.splitlines()) < 600
    assert json.loads(text)["results"][0]["name"] == "[\n  1,\n  2\n]"
    (line,) = [line for line in text.splitlines() if '"image"' in line][:1]
    assert line.strip() == '"image": [1, 3, 224, 224]'


def test_the_table_gives_ratios_to_the_first_artefact_per_image_and_per_mac() -> None:
    full = reports.full()
    assert column(full, "time ratio") == ["1.00", "2.00 (1.95 to 2.05)"]
    assert column(full, "GMAC") == ["2.70", "4.50"]
    # Twice the time for 4.5 / 2.7 of the work.
    assert column(full, "ratio per MAC") == ["1.00", "1.20"]


def test_the_ratio_per_mac_is_of_images_whatever_the_batch() -> None:
    base = reports.result("a", 10.0, work=reports.work(1.0))
    batch = reports.result("b", 30.0, batch=4, work=reports.work(4.0), ratio=reports.ratio(0.75))
    assert ratio_per_mac(batch, base) == pytest.approx(0.75)


def test_the_table_says_how_many_times_the_floor_a_run_takes() -> None:
    full = reports.full()
    expected = [r.latency.median / r.floor.total for r in full.results if r.floor]
    assert column(full, "x floor") == [f"{value:.2f}" for value in expected]


def test_overlapping_streams_are_judged_by_their_throughput() -> None:
    result = reports.result("a", 40.0, throughput=100.0, work=reports.work(2.0))
    assert per_gmac(result, streams=1) == pytest.approx(result.latency.median / 2)
    assert per_gmac(result, streams=4) == pytest.approx(5.0)


def test_figures_that_no_artefact_has_take_no_column() -> None:
    alone = reports.report(reports.result("a", 3.0))
    assert summary(alone).heads == ["artefact", "median ms", "p99 ms", "images/s"]
    heads = [row[0] for row in details(alone).rows]
    assert not [head for head in heads if "GPU" in head or "floor" in head or "GMAC" in head]


def test_figures_of_a_gpu_are_shown_where_there_are_some() -> None:
    times = reports.result("a", 2.0).latency
    gpu = reports.result(
        "a.engine", 3.0, kind="gpu", device="A GPU", precision="float16", enqueue=times,
        host_to_device=times, device_to_host=times, batch=8,
    )  # fmt: skip
    report = reports.report(gpu)
    assert column(report, "device") == ["A GPU"]
    assert column(report, "precision") == ["float16"]
    assert column(report, "batch") == ["8"]
    heads = [row[0] for row in details(report).rows]
    for expected in ("GPU compute", "copying inputs", "copying outputs", "enqueueing"):
        assert f"{expected} ms, median" in heads


def test_every_statistic_is_among_the_figures() -> None:
    full = reports.full()
    shown = {row[0]: row[1] for row in details(full).rows}
    latency = full.results[0].latency
    for name in ("min", "mean", "median", "max"):
        assert shown[f"{name} ms"] == significant(getattr(latency, name))
    for percentile, value in latency.percentiles.items():
        assert shown[f"p{percentile} ms"] == significant(value)
    assert shown["variation"] == f"{latency.coefficient_of_variation:.1%}"
    assert shown["memory, weights MiB"] == "80.0"


def test_markdown_is_a_table_with_a_row_for_each_artefact() -> None:
    heads, rule, *body = rows(to_markdown(reports.full()))
    assert [row[0] for row in body] == ["`ours`", "`theirs`"]
    assert {len(row) for row in (rule, *body)} == {len(heads)}
    assert rule[0] == "---" and set(rule[1:]) == {"---:"}


def test_markdown_says_where_and_how_it_was_measured_and_what_is_doubtful() -> None:
    text = to_markdown(reports.full())
    assert "- processor: A processor" in text
    assert "```bash\ndinat-deploy bench a b\n```" in text
    for remark in ("the machine was busy", "ours: did without something"):
        assert f"- {remark}" in text
    assert "- theirs: latencies are unsteady" in text


@pytest.mark.parametrize("name", ["a|b", "<script>", "x `y` z", "``", "a\nb", "*a*_b_[c](d)", ""])
def test_odd_names_do_not_break_the_table(name: str) -> None:
    text = to_markdown(reports.full((name, name)))
    heads, _, *body = rows(text)
    assert [len(row) for row in body] == [len(heads)] * 2
    outside = re.sub(r"(`+).*?\1", "", text, flags=re.DOTALL)
    assert "<script>" not in outside


def test_a_command_with_backticks_stays_in_its_block() -> None:
    text = to_markdown(reports.report(reports.result("a", 1.0), command="bench '```'"))
    assert "````bash\nbench '```'\n````" in text


def test_limits_of_one_device_are_told_once() -> None:
    floors = [
        reports.floor(20.0).model_copy(update={"bandwidth_gbs": speed}) for speed in (22, 30.5, 21)
    ]
    made = reports.report(*(reports.result(str(i), 30.0, floor=f) for i, f in enumerate(floors)))
    text = to_markdown(made)
    assert text.count("CPU: ") == 1
    assert "(CPU: 0.200 TFLOP/s, 21.0 to 30.5 GB/s, measured)" in text
    assert "0.200 TFLOP/s, 30.0 GB/s, measured)" in to_markdown(reports.full())


def test_layers_are_listed_and_summed_up_by_type() -> None:
    full = reports.full()
    text = to_markdown(full)
    assert "the longest 10 of 30" in text and "| `levels.0.attn` |" in text
    table = kinds(full.results)
    assert [row[0] for row in table.rows] == ["neighborhood attention", "Gemm"]
    attention = sum(layer.milliseconds for layer in full.results[0].layers if layer.attention)
    assert table.rows[0][1].startswith(f"{significant(attention)} ms, 51.6%")


def test_the_protocol_is_told() -> None:
    options = BenchOptions(streams=3, transfers=True, one_alive=True, idle_time=5)
    text = to_markdown(reports.report(reports.result("a", 1.0), options=options))
    for words in ("3 s and 10 runs", "3 streams", "copies to and from", "one artefact in memory"):
        assert words in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234.5, "1234"), (123.45, "123"), (12.345, "12.3"), (0.0123456, "0.0123"), (0.0, "0")],
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text
