"""The page of a report: whole, clear without colour, harmless whatever names it shows."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

from dinat_deploy.measurement.plots import Plot
from dinat_deploy.reporting import tables
from dinat_deploy.reporting.cells import block_bars, heat_maps
from dinat_deploy.reporting.markdown import to_markdown
from dinat_deploy.reporting.page import to_html
from dinat_deploy.reporting.plots import plots
from dinat_deploy.reporting.verdicts import MARKS
from tests.measurement import reports
from tests.measurement.browser import Outline, open_page
from tests.reporting import collected

EVIL = "</script><script>document.title = 'pwned'</script><img src=x onerror=alert(1)>"
EXPECTED = {
    "plot-loss": 1,
    "plot-trade": 2,
    "plot-latency": 5,
    "plot-energy": 1,
    "plot-size": 1,
    "plot-roofline": 2,
    "plot-kinds": 2,
    "plot-sensitivity-0": 2,
}


@pytest.fixture(scope="module")
def page() -> str:
    return to_html(collected.full())


def drawn() -> Iterator[Plot]:
    for group in plots(collected.full()).values():
        yield from group


def by_key() -> dict[str, Plot]:
    return {plot.key: plot for plot in drawn()}


def visible(page: str) -> str:
    """The text of a page without its scripts and styles."""
    return Outline(page).text


def test_a_browser_draws_everything_and_runs_nothing_that_a_name_brings(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(to_html(collected.full((EVIL, "<b>y</b> & z"))), encoding="utf-8")
    rendered = open_page(path, tmp_path)
    outline = Outline(rendered.dom)
    assert rendered.console == []
    assert outline.traces == EXPECTED
    assert f'data-drawn="{len(EXPECTED)}"' in rendered.dom
    assert outline.tags["script"] == 3
    assert "img" not in outline.tags
    assert outline.handlers == []
    assert [where for where in outline.loaded if not where.startswith("#")] == []
    assert f"{EVIL} int8" in outline.text  # as it was written
    assert "<title>Report: &lt;/script&gt;" in rendered.dom


def test_nothing_of_a_user_is_markup(page: str) -> None:
    """Every text that the data hold, in place of each of them."""
    found = collected.full()
    words = {"name", "path", "why", "command", "weights", "model", "task", "origin", "runtime"}
    words |= {"case", "data", "verdict", "reference", "what", "protocol", "started", "mode"}

    def spoilt(value: object, key: str = "") -> object:
        if isinstance(value, dict):
            return {k: spoilt(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [spoilt(entry, key) for entry in value]
        known = key in words or key in ("facts", "notes", "warnings", "environment", "processor")
        return f"{value}{EVIL}" if isinstance(value, str) and known else value

    evil = type(found).model_validate(spoilt(found.model_dump()))
    made = to_html(evil)
    assert "<img" not in made.replace(html.escape(EVIL), "")
    assert visible(made).count("onerror=alert(1)") > 40
    assert made.count("<script") == page.count("<script")


def test_the_verdicts_stand_before_the_figures(page: str) -> None:
    shown = visible(page)
    order = ["1 artefact failed", "Verdicts", "Bundles side by side", "Warnings", "Accuracy"]
    order += ["Latency", "Power", "Size and memory", "Roofline", "Blocks", "Parity of the layers"]
    order += ["Not measured here", "How it was measured"]
    places = [shown.index(text) for text in order]
    assert places == sorted(places)
    assert f"{MARKS['bad']}top-1 79.50 %, loses 2.30 points (1.00 to 3.60), 0.5 allowed" in shown


def test_published_accuracy_is_labelled_so(page: str) -> None:
    shown = visible(page)
    assert "published (not measured)81.8 % top-1 on ImageNet-1k, dinat_mini" in shown
    assert "random: accuracy means nothing" in shown


def test_each_shade_of_the_heat_map_has_its_number_and_failures_a_mark() -> None:
    made = heat_maps(collected.full())
    cells = re.findall(r"<td class='number ([a-z ]*)' style='--level: (\d+)%'>([^<]+)</td>", made)
    assert len(cells) == 2 * 3 * len(collected.BLOCKS)
    shades = {text: int(level) for _, level, text in cells}
    assert shades["1.0e-06"] < shades["3.0e-05"]
    # Not finite, and beyond the limit: as strong as can be, with a mark.
    outside = [(level, text) for kind, level, text in cells if "outside" in kind]
    assert outside == [("75", "✗ 0.010"), ("75", "✗ not finite"), ("75", "✗ 0.0050")]


def test_blocks_have_a_bar_for_their_work_and_one_for_each_run() -> None:
    made = block_bars(collected.full())
    rows = re.findall(r"<tr><th scope='row'>([^<]+)</th>(.*?)</tr>", made)
    # The layers of the drawn profile are all named levels.N.attn, which is no block.
    assert [name for name, _ in rows] == [*collected.BLOCKS, "other"]
    assert rows[0][1].count("<div class='bar'>") == 1
    assert rows[-1][1].count("<div class='bar'>") == 2
    widths = re.findall(
        r"part attention' style='width: ([\d.]+)%'></i><i class='part' style='width: ([\d.]+)%",
        rows[3][1],
    )
    assert widths == [("2.5", "97.5")]


def test_light_and_dark_define_the_same_colours(page: str) -> None:
    style = (resources.files("dinat_deploy.reporting") / "assets" / "report.css").read_text()
    light, dark, printed = re.findall(r":root \{([^}]*)\}", style)
    names = [re.findall(r"--[a-z]+", block) for block in (light, dark, printed)]
    assert names[0] == names[1] == names[2] != []
    used = set(re.findall(r"var\((--[a-z]+)", style)) - {"--level"}
    assert used <= set(re.findall(r"(--[a-z-]+):", page.partition("</style>")[0]))
    assert "prefers-color-scheme: dark" in style


def test_plots_are_told_apart_without_colour() -> None:
    found = by_key()
    for key in ("latency", "trade", "roofline"):
        marks = [t["marker"]["symbol"] for t in found[key].traces if t["mode"] == "markers"]
        assert len(set(marks)) == len(marks)
    for key in ("kinds", "sensitivity-0"):
        patterns = [trace["marker"]["pattern"]["shape"] for trace in found[key].traces]
        assert len(set(patterns)) == len(patterns) > 1


def test_plots_are_valid_for_plotly() -> None:
    graph_objects = pytest.importorskip("plotly.graph_objects")
    shown = list(drawn())
    assert {f"plot-{plot.key}" for plot in shown} == set(EXPECTED)
    for plot in shown:
        graph_objects.Figure({"data": plot.traces, "layout": plot.layout})


def test_a_mark_of_the_roofline_lies_where_work_and_time_put_it() -> None:
    roof, mark = by_key()["roofline"].traces
    (run,) = [run for run in collected.full().runs if run.result.work]
    work, floor = run.result.work, run.result.floor
    assert work is not None and floor is not None
    assert mark["x"] == [pytest.approx(2 * work.macs / 80_600_000, rel=1e-5)]
    seconds = run.result.latency.median / 1e3
    assert mark["y"] == [pytest.approx(2 * work.macs / seconds / 1e12, rel=1e-5)]
    ridge = roof["x"][1]
    assert roof["y"][1] == floor.peak_tflops
    assert ridge * floor.bandwidth_gbs / 1e3 == pytest.approx(floor.peak_tflops, rel=1e-5)


def test_times_that_differ_much_get_a_logarithmic_axis_with_whole_numbers() -> None:
    slow = collected.artefact("b", runs=[collected.run("b", 900.0)])
    fast = collected.artefact("a", runs=[collected.run("a", 1.0)])
    (shown,) = plots(collected.data(collected.bundle("x", fast, slow)))["latency"]
    axis = shown.layout["xaxis"]
    assert axis["type"] == "log"
    assert axis["ticktext"] == ["1", "2", "5", "10", "20", "50", "100", "200", "500", "1000"]
    assert "logarithmic" in shown.caption


def test_accuracies_on_different_data_are_not_plotted_together() -> None:
    kept = [
        collected.artefact(
            name, accuracy=[collected.score(data=where)], runs=[collected.run(name, 3.0)]
        )
        for name, where in (("a", "one"), ("b", "another"))
    ]
    shown = plots(collected.data(collected.bundle("x", *kept)))["accuracy"]
    assert [plot.key for plot in shown] == []


def test_columns_in_which_all_rows_agree_become_a_sentence() -> None:
    found = tables.latency(collected.full())
    assert found is not None
    kept, told = tables.without_shared(found)
    assert "run by" in found.heads and "run by" not in kept.heads
    assert "run by: ONNX Runtime 1.32.0" in told and "batch: 1" in told
    assert all(len(row) == len(kept.heads) for row in kept.rows)


def test_energy_is_that_of_an_image() -> None:
    used = collected.run("a", 3.0, batch=4, power=collected.use(0.4))
    table = tables.power(
        collected.data(
            collected.bundle("x", collected.artefact("a", runs=[used])),
            sessions=[collected.session()],
        )
    )
    assert table is not None
    assert dict(zip(table.heads, table.rows[0], strict=True)) == {
        "artefact": "a", "W": "20.0", "W at rest": "8.00", "mJ an image": "100",
        "mJ above rest": "50.0", "source": "NVML",
    }  # fmt: skip


def test_what_is_missing_for_the_same_reason_shares_a_row(page: str) -> None:
    (row,) = tables.missing(collected.full()).rows
    assert row == [
        "latency, layers",
        "theirs fp32",
        "There is no GPU.",
        "dinat-deploy bench out/y\ndinat-deploy verify out/y",
    ]
    assert "<code>dinat-deploy bench out/y</code><br><code>dinat-deploy verify out/y</code>" in page


def test_a_report_without_any_figures_says_what_makes_them() -> None:
    bare = collected.data(collected.bundle("x", collected.artefact("x fp32", bytes=None)))
    shown = visible(to_html(bare))
    assert "Nothing was measured." in shown
    assert "dinat-deploy report --data DATA" in shown and "dinat-deploy report --power" in shown


def test_markdown_has_the_tables_and_escapes_names() -> None:
    text = to_markdown(collected.full(("a|b", "<i>")))
    assert "| a\\|b int8 | ✗ top-1 79.50 %" in text
    assert "<i>" not in text
    assert "## Sensitivity of a|b" in text
    assert "dinat-deploy bench out/y; dinat-deploy verify out/y" in text


def test_json_has_everything_but_single_latencies() -> None:
    data = collected.full()
    found = json.loads(json.dumps(data.to_dict(), allow_nan=False))
    result = found["bundles"][0]["artefacts"][0]["runs"][0]["result"]
    assert "samples" not in result and result["latency"]["count"] == 40
    assert found["bundles"][0]["artefacts"][1]["layers"]["layers"][2]["max_abs"] is None
    assert data.runs[0].result.samples == reports.result("x", 30.0).samples  # still there


def test_markdown_has_the_doubts_about_single_runs() -> None:
    made = to_markdown(collected.full())
    assert "- ours int8: latencies are unsteady" in made
    assert "- ours fp32: did without something" in made
