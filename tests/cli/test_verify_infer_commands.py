"""verify and infer on more than bundles: options, output and errors of the command line."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinat_deploy.engine import checks
from dinat_deploy.engine.builder import Gpu
from dinat_deploy.pipeline import inferring
from tests.cli.conftest import Command
from tests.session.simulator.machine import SimulatedMachine, simulated_gpu

__all__ = ["simulated_gpu"]  # a fixture, used by name


@pytest.fixture
def photo(tmp_path: Path, rng: np.random.Generator) -> Path:
    Image.fromarray(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(tmp_path / "p.png")
    return tmp_path / "p.png"


@pytest.fixture
def engine(
    simulated_gpu: SimulatedMachine,
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """An engine in a copy of the tiny bundle, on a machine with a simulated GPU."""
    gpu = Gpu(name="NVIDIA Simulated 4090", capability="89", driver="13.0")
    monkeypatch.setattr(checks, "current_gpu", lambda: gpu)
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    return simulated_gpu.engine(bundle, bundle / "engines" / "tensorrt-body")


def test_an_engine_is_verified_and_classifies(
    command: Command, engine: Path, photo: Path, tmp_path: Path
) -> None:
    shown = command("verify", engine, "--images", photo)
    assert shown.status == 0, shown.err
    assert f"{engine}: TensorRT 10.13" in shown.out
    assert "on NVIDIA Simulated 4090 against PyTorch" in shown.out
    assert "Verified: every error is within 0.0001 + 0.0001 x largest value." in shown.out
    data = json.loads(command("verify", engine, "--json", "--rtol", "0.01").out)
    assert data["device"] == "NVIDIA Simulated 4090"
    assert (data["atol"], data["rtol"]) == (1e-4, 0.01)
    assert data["cases"][0]["shapes"] == {"image": [1, 3, 64, 64]}

    by_engine = json.loads(command("infer", "--model", engine, photo, "--json").out)
    by_bundle = json.loads(command("infer", "-b", engine.parents[1], photo, "--json").out)
    assert by_engine[0]["predictions"][0]["index"] == by_bundle[0]["predictions"][0]["index"]
    outside = Path(shutil.copytree(engine, tmp_path / "elsewhere"))
    lonely = command("infer", "--model", outside, photo)
    assert lonely.status == 2
    assert "Name the bundle that it was built from with --bundle." in lonely.err
    named = command("infer", "--model", outside, "--bundle", engine.parents[1], photo)
    assert named.status == 0


def test_a_missing_gpu_is_one_sentence(
    command: Command, tiny_bundle: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dinat_deploy.session.onnxruntime_providers.gpu_names", list)
    for arguments in (
        ("verify", f"onnxruntime-cuda:{tiny_bundle}"),
        ("infer", "--model", f"onnxruntime-cuda:{tiny_bundle}", photo),
    ):
        failed = command(*arguments)
        assert failed.status == 2
        assert failed.err.splitlines()[-2:] == [
            "Error: ONNX Runtime's CUDA provider needs an NVIDIA GPU with its driver, and this "
            "machine has none.",
            "       Run it on a machine with a GPU, or in ONNX Runtime on the CPU.",
        ]


@pytest.mark.parametrize(
    ("options", "left"),
    [([], "Nothing was written."), (["--output", "o"], "drawn of earlier pictures is kept.")],
)
def test_ctrl_c_says_what_is_left(
    options: list[str], left: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def infer(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(inferring, "infer", infer)
    monkeypatch.setattr("os._exit", sys.exit)
    stopped = command("infer", "-b", "bundle", "a.png", *options)
    assert stopped.status == 130
    assert left in stopped.err


def test_shapes_of_made_up_inputs_can_be_named(command: Command, dynamic_bundle: Path) -> None:
    done = command(
        "verify", dynamic_bundle, "--shapes", "image=2x3x48x80", "--shapes", "image=1x3x96x96",
        "--json",
    )  # fmt: skip
    cases = json.loads(done.out)["cases"]
    made_up = [case["shapes"]["image"] for case in cases if case["origin"] == "random"]
    assert made_up == [[2, 3, 48, 80], [1, 3, 96, 96]]
    wrong = command("verify", dynamic_bundle, "--shapes", "image=2x3x48")
    assert wrong.status == 2
    assert "takes image=batchx3xheightxwidth" in wrong.err


def test_everything_that_is_missing_is_named_at_once(
    command: Command, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import util

    find = util.find_spec
    monkeypatch.setattr(
        util, "find_spec", lambda name, *rest: None if name in ("torch", "onnx") else find(name)
    )
    failed = command("verify", tiny_bundle, "--layers")
    assert failed.status == 2
    assert "needs PyTorch and onnx, which are not installed." in failed.err
    assert "pip install torch onnx" in failed.err
