"""``dilations``, ``receptive-field`` and ``estimate``: what they print, write and refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinat_deploy.measurement.records import BenchOptions, BenchReport, Floor, Work
from dinat_deploy.models.complexity import cost
from dinat_deploy.models.zoo import VARIANTS
from tests.cli.conftest import Command
from tests.measurement import reports

SMALL = {
    "embed_dim": 16, "depths": [2, 1], "num_heads": [1, 2], "kernel_size": 3,
    "dilations": [[1, 4], [2]], "num_classes": 10, "image_size": [64, 64],
}  # fmt: skip


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.json"
    path.write_text(json.dumps(SMALL))
    return path


def test_dilations_prints_bounds_schedules_and_the_warning(command: Command) -> None:
    shown = command("dilations", "--image-size", "512x1024", "--kernel-size", 7)
    assert shown.status == 0
    assert "128x256       18           18          36" in shown.out
    assert "no: level 1 (196 > 128)" in shown.out
    assert "1,18,1/1,5,1,9/1,2,1,3,1,4" in shown.out
    assert "Dilations belong to the weights" in shown.out


def test_dilations_as_json(command: Command) -> None:
    answer = command("dilations", "--architecture", "isotropic", "--kernel-size", 5, "--json")
    found = json.loads(answer.out)
    assert found["levels"] == [{"level": 1, "size": [14, 14], "bound_by_axis": [2, 2], "bound": 2}]
    assert {each["name"]: each["fits"] for each in found["published"]} == {"classification": True}
    assert [each["dilations"] for each in found["suggested"]] == [",".join(["1,2"] * 6)] * 2
    assert "5 is another model" in found["notes"][0]


def test_receptive_field_measures_draws_and_plots(
    command: Command, small: Path, tmp_path: Path
) -> None:
    picture, page = tmp_path / "seen.png", tmp_path / "field.html"
    shown = command(
        "receptive-field", "--config", small, "--measure", "--picture", picture, "--plot", page
    )
    assert shown.status == 0
    assert shown.out.count(" equal") == 3
    assert "the gradients of 3 of 3 layers are not zero at exactly" in shown.out
    pixels = np.asarray(Image.open(picture)).reshape(-1, 3)
    colors = {tuple(color) for color in np.unique(pixels, axis=0)}
    assert {(176, 58, 18), (86, 158, 212), (236, 238, 241)} <= colors
    text = page.read_text()
    assert "Level 2: growth by formula" in text
    assert "https://" not in text.partition("<script>")[0]  # needs nothing else
    assert not list(tmp_path.glob(".*"))


def test_receptive_field_without_gradients_needs_no_pytorch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "sys.argv = ['dinat-deploy', 'receptive-field', '-m', 'dinat_tiny', '--json']\n"
        "from dinat_deploy.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["measured"] is None
    second = found["layers"][1]
    assert second["tokens"]["formula"] == [55, 55]
    assert second["tokens"]["rows"] == {"first": 1, "last": 55, "count": 49}
    assert second["pixels"]["of"] == [224, 224]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["receptive-field"], "Neither --model nor --config says"),
        (["receptive-field", "-m", "dinat_mini", "--picture", "seen.jpg"], "does not end in .png"),
        (["receptive-field", "-m", "dinat_mini", "--plot", "none/x.html"], "directory is missing"),
        (["receptive-field", "-m", "vitrpb_base", "--image-size", "512"], "14x14 token grid"),
        (["receptive-field", "-m", "vitrpb_base", "--dilations", "1,2"], "mean nothing for it"),
        (["estimate", "--model", "dinat_mini"], "No device is named"),
        (["estimate", "-m", "dinat_mini", "--device", "gtx-1"], "Unknown device 'gtx-1'"),
        (["estimate", "-m", "dinat_mini", "--device", "l4", "--plot", "x.png"], "end in .html"),
        (["estimate", "--all", "-m", "dinat_mini"], "--all is about all models"),
        (["dilations", "-m", "vitrpb_small"], "nothing to dilate"),
    ],
)  # fmt: skip
def test_mistakes_are_explained(command: Command, arguments: list[str], message: str) -> None:
    answer = command(*arguments)
    assert answer.status == 2
    assert message in answer.err


def test_estimate_prints_stages_and_says_that_it_is_one(command: Command) -> None:
    shown = command(
        "estimate", "--model", "dinat_tiny", "--device", "orin-nano-super", "--precision", "fp16",
        "--image-size", 512,
    )  # fmt: skip
    assert shown.status == 0
    assert "dinat_tiny on Jetson Orin Nano 8GB (orin-nano-super), fp16" in shown.out
    assert "level 3       neighborhood attention         18    0.462    37.80" in shown.out
    assert "Neighborhood attention: 14.3% of the estimate" in shown.out
    assert "An estimate: calculated from published rates, nothing was measured." in shown.out


def test_estimate_of_all_models_and_its_page(command: Command, tmp_path: Path) -> None:
    page = tmp_path / "all.html"
    shown = command("estimate", "--all", "--image-size", 512, "--plot", page)
    assert shown.status == 0
    for name, variant in VARIANTS.items():
        left_out = variant.config.global_attention
        assert (f"Note: {name} is left out" in shown.out) == left_out
        assert (f"\n {name} " in shown.out) == (not left_out and variant.config.num_classes == 1000)
    assert "Models and devices" in page.read_text()
    rows = json.loads(command("estimate", "--all", "--precision", "int8", "--json").out)
    assert "thor" not in {each["device"] for each in rows["estimates"]}
    assert "No INT8 rate of Jetson Thor T5000 is published" in rows["notes"][0]


def test_devices_are_listed_with_their_figures(command: Command) -> None:
    shown = command("estimate", "--devices")
    assert "orin-nano-super       Jetson Orin Nano 8GB" in shown.out
    assert "H200 (measured)" in shown.out


def bench_file(tmp_path: Path, model: str = "dinat_tiny") -> Path:
    """As ``bench --json`` writes it: an engine on the board, and PyTorch on its CPU."""
    macs = cost(VARIANTS[model].config, (512, 512))
    work = Work(macs=macs.macs, attention_macs=1, weight_bytes=1, io_bytes=1, counted_from="config")
    floor = Floor(
        compute=1, memory=2, total=2, device="Jetson Orin Nano 8GB", source="specification",
        peak_tflops=16.7, bandwidth_gbs=102.4,
    )  # fmt: skip
    shapes = {"image": [1, 3, 512, 512]}
    gpu = {"device": "Orin", "kind": "gpu", "precision": "float16+float32", "shapes": shapes}
    engine = reports.result("engine", 11.6, **gpu, work=work, floor=floor, attention_share=0.25)
    report = BenchReport(
        created_by="test", started="2026-01-01T00:00:00+00:00", command="", environment={},
        options=BenchOptions(), results=[engine, reports.result("PyTorch", 900.0)],
    )  # fmt: skip
    path = tmp_path / "bench.json"
    path.write_text(report.model_dump_json())
    return path


def test_measured_figures_stand_beside_the_estimate(command: Command, tmp_path: Path) -> None:
    path = bench_file(tmp_path)
    arguments = ["estimate", "-m", "dinat_tiny", "--measured", path, "--json", "--device"]
    found = json.loads(command(*arguments, "orin-nano-super").out)
    (beside,) = found["measured"]
    assert (beside["precision"], beside["batch"], beside["image_size"]) == ("fp16", 1, [512, 512])
    assert beside["estimated"] == pytest.approx(5.82, rel=0.01)
    assert beside["ratio"] == pytest.approx(beside["measured"] / beside["estimated"])
    assert beside["attention_measured"] == 0.25
    assert beside["notes"] == []
    assert "PyTorch" in found["notes"][0]
    assert "ran on a CPU" in found["notes"][0]
    (other,) = json.loads(command(*arguments, "agx-orin").out)["measured"]
    assert "It ran on Jetson Orin Nano 8GB, and the estimate is for Jetson AGX" in other["notes"][0]


def test_measured_figures_of_another_model_are_doubted(command: Command, tmp_path: Path) -> None:
    path = bench_file(tmp_path, "dinat_base")
    shown = command(
        "estimate", "-m", "dinat_tiny", "--device", "orin-nano-super", "--measured", path
    )
    assert shown.status == 0
    assert "Its work is 71.4" in shown.out
    assert "it is another model, or one with a decoder" in shown.out
