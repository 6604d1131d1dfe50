"""``dinat-deploy convert`` as a user types it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Command


@pytest.fixture(autouse=True)
def _no_library_of_this_machine(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DINAT_NATIVE_DIR", str(tmp_path_factory.mktemp("native")))


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def test_what_was_done_and_a_verdict_are_printed(command: Command, bundle: Path) -> None:
    done = command("convert", bundle, "--precision", "fp16")
    assert done.status == 0
    lines = done.out.splitlines()
    assert lines[0] == (
        f"{bundle}/model.fp16.onnx: 48 nodes in fp16, 11 in float32, 16 Casts between them"
    )
    assert "    9  LayerNormalization: its statistics are sums over many values: " in done.out
    assert "    1  the head of the output logits: head/Gemm" in done.out
    assert "% of float16's range" in done.out
    assert "Weights: 19,096 values rounded" in done.out
    assert "float16 simulated in ONNX Runtime" in done.out
    assert lines[-1].startswith("Accuracy kept: off by at most ")
    assert "the same best class for 100% of the images; 0.1 MB became 0.1 MB." in lines[-1]
    assert "Comparing 2 ..." in done.err


def test_json_for_machines(command: Command, bundle: Path) -> None:
    done = command(
        "convert", bundle / "model.onnx", "--precision", "bf16", "--io", "fp16", "--json",
        "--keep-float32", "levels.1.*", "--random", 0, "--rtol", 0.2, "--atol", 0.5,
    )  # fmt: skip
    assert done.status == 0
    report = json.loads(done.out)
    assert report["path"] == str(bundle / "model.bf16.onnx")
    variant = report["variant"]
    assert [tensor["dtype"] for tensor in (*variant["inputs"], *variant["outputs"])] == [
        "float16"
    ] * 2
    assert variant["float32"][0]["reason"] == "asked for (levels.1.*)"
    assert (variant["verification"]["atol"], variant["verification"]["rtol"]) == (0.5, 0.2)
    assert report["inputs"] == 2
    assert [run["passed"] for run in report["runs"]] == [True]
    assert report["verdict"].startswith("Accuracy kept")


def test_without_a_comparison_there_is_no_verdict_on_accuracy(
    command: Command, bundle: Path
) -> None:
    done = command("convert", bundle, "--precision", "fp16", "--no-verify")
    assert done.status == 0
    assert done.out.splitlines()[-1].startswith("Not verified; ")
    assert "Comparing" not in done.err


def test_errors_are_sentences(command: Command, bundle: Path, tmp_path: Path) -> None:
    lost = command("convert", bundle, "--precision", "fp16", "--rtol", "1e-6", "--atol", 0)
    assert lost.status == 2
    assert lost.err.splitlines()[-2].startswith("Error: The float16 model loses accuracy: ")
    assert "--keep-float32" in lost.err
    assert not (bundle / "model.fp16.onnx").exists()
    command("convert", bundle, "--precision", "fp16", "--no-verify")
    again = command("convert", bundle / "model.fp16.onnx", "--precision", "bf16")
    assert again.status == 2
    assert "model.fp16.onnx is in fp16 already." in again.err
    nowhere = command("convert", tmp_path / "nowhere", "--precision", "fp16")
    assert nowhere.status == 2
    assert "Error: There is no bundle" in nowhere.err
    assert command("convert", bundle).status == 2
    assert command("convert", bundle, "--precision", "fp8").status == 2
    assert command("convert", bundle, "--precision", "fp16", "--margin", 0).status == 2


def test_a_model_of_pixels_is_compared_with_the_float32_one_on_the_same(
    command: Command, bundle: Path
) -> None:
    done = command("convert", bundle, "--precision", "fp16", "--io", "uint8", "--random", 0)
    assert done.status == 0
    assert "  image: 1 x 3 x 64 x 64 uint8\n  logits: 1 x 10 float\n" in done.out
    assert "Against the float32 model on the same pixels, the worst of each" in done.out
    assert done.out.splitlines()[-1].startswith("Accuracy kept: off by at most ")
