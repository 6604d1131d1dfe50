"""The HTML page: whole, harmless whatever names it shows, and drawn by a browser."""

from __future__ import annotations

import builtins
import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from dinat_deploy.errors import MissingDependencyError
from dinat_deploy.measurement import page
from dinat_deploy.measurement.page import to_html
from dinat_deploy.measurement.plots import Plot, label, plots
from tests.measurement import reports
from tests.measurement.browser import Outline, open_page

EVIL = "</script><script>document.title = 'pwned'</script><img src=x onerror=alert(1)>"
EXPECTED = {
    "plot-distribution": 2,
    "plot-time": 4,
    "plot-macs": 1,
    "plot-floor": 2,
    "plot-kinds": 2,
    "plot-layers-0": 1,
    "plot-layers-1": 1,
}


def written(text: str, folder: Path) -> Path:
    path = folder / "page.html"
    path.write_text(text, encoding="utf-8")
    return path


def by_key(found: list[Plot]) -> dict[str, Plot]:
    return {plot.key: plot for plot in found}


def test_a_browser_draws_every_plot_without_an_error_and_without_the_network(
    tmp_path: Path,
) -> None:
    rendered = open_page(written(to_html(reports.full()), tmp_path), tmp_path)
    outline = Outline(rendered.dom)
    assert rendered.console == []
    assert outline.traces == EXPECTED
    assert f'data-drawn="{len(EXPECTED)}"' in rendered.dom
    # Only what lies inside the page: parts of its drawings.
    assert [where for where in outline.loaded if not where.startswith("#")] == []
    assert "50%" in outline.text and "neighborhood attention" in outline.text


def test_a_browser_runs_nothing_that_a_name_brings(tmp_path: Path) -> None:
    names = (EVIL, "<b>bold</b> & <a href='javascript:alert(1)'>link</a>")
    made = to_html(reports.full(names))
    rendered = open_page(written(made, tmp_path), tmp_path)
    outline = Outline(rendered.dom)
    assert rendered.console == []
    assert outline.traces == EXPECTED
    assert outline.tags["script"] == 3
    assert "img" not in outline.tags and "a" not in outline.tags
    assert outline.handlers == []
    assert outline.text.count(EVIL) >= 3  # its card, the summary, its layers
    assert "<title>Benchmark: &lt;/script&gt;" in rendered.dom
    # As written in the plots, too: their texts know tags.
    assert "<b>bold</b> & <a href='javascript:alert(1)'>link</a>" in outline.text
    assert label(names[0]).startswith("&lt;/script&gt;")


def test_errors_on_a_page_and_missing_plots_would_be_seen(tmp_path: Path) -> None:
    broken = to_html(reports.full()).replace("id='plot-floor'", "id='plot-flor'")
    scripts = {
        "deliberate": "throw new Error('deliberate')",
        "rejected": "Promise.reject(new Error('rejected'))",
        "nowhere": "Plotly.newPlot('nowhere', [])",
        "Content Security Policy": "new Image().src = 'https://example.org/x.png'",
    }
    added = "".join(f"<script>{script}</script>" for script in scripts.values())
    broken = broken.replace("</body>", f"{added}</body>")
    rendered = open_page(written(broken, tmp_path), tmp_path)
    for complaint in scripts:
        assert any(complaint in line for line in rendered.console), complaint
    assert Outline(rendered.dom).traces != EXPECTED


def test_plots_are_valid_for_plotly() -> None:
    graph_objects = pytest.importorskip("plotly.graph_objects")
    found = plots(reports.full())
    assert [f"plot-{plot.key}" for plot in found] == list(EXPECTED)
    for plot in found:
        figure = graph_objects.Figure({"data": plot.traces, "layout": plot.layout})
        assert len(figure.data) == EXPECTED[f"plot-{plot.key}"]


def test_plots_without_figures_are_left_out() -> None:
    only = reports.result("a", 3.0)
    assert list(by_key(plots(reports.report(only)))) == ["distribution", "time"]


def test_the_distribution_rises_from_the_fastest_to_the_slowest_run() -> None:
    result = reports.result("a", 5.0, runs=2000, blocks=[100] * 20)
    (trace,) = by_key(plots(reports.report(result)))["distribution"].traces
    assert trace["x"] == sorted(trace["x"]) and trace["y"] == sorted(trace["y"])
    assert (trace["x"][0], trace["y"][0]) == (round(min(result.samples), 5), 0)
    assert (trace["x"][-1], trace["y"][-1]) == (round(max(result.samples), 5), 100)
    median = next(x for x, y in zip(trace["x"], trace["y"], strict=True) if y >= 50)
    assert median == pytest.approx(result.latency.median, rel=2e-3)


def test_no_outlier_is_lost_over_time_and_blocks_keep_their_place() -> None:
    result = reports.result("a", 5.0, runs=9000, blocks=[3000, 3000, 3000])
    samples = [*result.samples]
    samples[4321] = 50.0
    result = result.model_copy(update={"samples": samples})
    points, medians = by_key(plots(reports.report(result)))["time"].traces
    assert len(points["x"]) <= 1501
    where = points["x"][points["y"].index(50.0)]
    assert where == pytest.approx(1 + 1321.5 / 3000, abs=1e-3)
    assert medians["x"] == [0.5, 1.5, 2.5]


def test_the_floor_and_what_is_above_it_add_up_to_the_run() -> None:
    full = reports.full()
    floor, rest = by_key(plots(full))["floor"].traces
    for index, result in enumerate(full.results):
        total = floor["x"][index] + rest["x"][index]
        assert total == pytest.approx(result.latency.median, abs=1e-5)
    times = full.results[0].latency.median / 20.0
    assert rest["text"][0] == f"{times:.2f} x the floor"


def test_layers_are_sorted_and_attention_stands_out() -> None:
    (trace,) = by_key(plots(reports.full()))["layers-0"].traces
    assert trace["x"] == sorted(trace["x"], reverse=True)
    assert len(trace["x"]) == 15
    colours = trace["marker"]["color"]
    assert colours[0] != colours[1] and colours[0] == colours[2]


def test_time_by_type_adds_up_and_has_attention_first() -> None:
    full = reports.full()
    traces = by_key(plots(full))["kinds"].traces
    assert traces[0]["name"] == "neighborhood attention"
    for index, result in enumerate(full.results):
        shown = sum(trace["x"][index] for trace in traces)
        assert shown == pytest.approx(sum(layer.milliseconds for layer in result.layers))


def test_many_types_of_layers_are_gathered() -> None:
    listed = [
        layer.model_copy(update={"kind": f"Kind{i}", "attention": False})
        for i, layer in enumerate(reports.layers(12))
    ]
    found = by_key(plots(reports.report(reports.result("a", 80.0, layers=listed))))
    traces = found["kinds"].traces
    assert [trace["name"] for trace in traces][-1] == "5 other types"
    total = sum(trace["x"][0] for trace in traces)
    assert total == pytest.approx(sum(layer.milliseconds for layer in listed))


@pytest.mark.parametrize("name", ["<i>x</i>", "a&lt;b", "x" * 200, "two\nlines", ""])
def test_labels_are_escaped_and_short(name: str) -> None:
    shown = label(name)
    assert "<" not in shown and "\n" not in shown
    assert len(re.sub(r"&\w+;", "_", shown)) <= 42


def test_data_cannot_end_their_script_element() -> None:
    made = to_html(reports.full((EVIL, "\u2028 & </SCRIPT>")))
    start = made.index('id="figures">') + len('id="figures">')
    data = made[start : made.index("</script>", start)]
    assert "<" not in data and "\u2028" not in data
    figures: dict[str, Any] = json.loads(data)
    assert list(figures) == list(EXPECTED)


def test_without_plotly_the_page_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("plotly"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match="plotly.*dinat-deploy\\[report\\]"):
        to_html(reports.report(reports.result("a", 1.0)))


def test_importing_the_page_does_not_import_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [name for name in sys.modules if name.split(".")[0] == "plotly"]:
        monkeypatch.delitem(sys.modules, name)
    importlib.reload(page)
    assert "plotly" not in sys.modules
