"""``dinat-deploy build``: its options, what it prints, its exit codes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from dinat_deploy.cli.console import BarProgress
from tests.cli.conftest import Command

pytestmark = [
    pytest.mark.rtx,
    pytest.mark.skipif(util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is missing"),
]
BUILD = ("build", "--backend", "tensorrt-rtx")
FAST = (*BUILD, "--arch", "86", "--optimization-level", "0")


@pytest.fixture(autouse=True)
def _no_plugin_library_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A test that wants a plugin names it; none is found by chance."""
    monkeypatch.setenv("DINAT_NATIVE_DIR", str(tmp_path_factory.mktemp("native")))


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def test_building_shows_stages_the_engine_and_where_attention_went(
    command: Command, bundle: Path
) -> None:
    shown = command(*FAST, bundle)
    assert shown.status == 0
    place = bundle / "engines" / "tensorrt-rtx-body"
    lines = shown.out.splitlines()
    assert lines[0].startswith(f"{place}: tensorrt-rtx 1")
    assert "engine for compute capability 86," in lines[0]
    assert lines[1:3] == ["  image: 1 x 3 x 64 x 64 float", "  logits: 1 x 10 float"]
    assert "layers before fusion: " in lines[3]
    assert lines[4] == "3 attention nodes built from the operator's body."
    assert lines[5].startswith("Built in ")
    assert "MB of memory)." in lines[5]
    for stage in ("Parsing the ONNX file", "Building the engine", "Writing the plan"):
        assert f"{stage} ... " in shown.err
    assert "Note: Attention is built from the operator's body" in shown.err
    assert (place / "model.plan").is_file()


def test_json_holds_the_manifest_and_the_measurements(
    command: Command, bundle: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    made = command(
        *FAST, bundle, "--json", "--no-plugin", "--workspace", "256", "--verbose-log", log,
        "--output", tmp_path / "engine",
    )  # fmt: skip
    report = json.loads(made.out)
    assert report["path"] == str(tmp_path / "engine")
    assert report["manifest"] == json.loads((tmp_path / "engine" / "engine.json").read_text())
    options = report["manifest"]["options"]
    assert (options["optimization_level"], options["workspace_mib"]) == (0, 256)
    assert report["seconds"] > report["build_seconds"] > 0
    assert report["peak_memory"] > 1e8
    assert log.stat().st_size > 1000


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(command: Command, bundle: Path) -> None:
    shown = command(*BUILD, bundle, "--dry-run")
    assert shown.status == 0
    assert (
        f"Would build {bundle / 'engines' / 'tensorrt-rtx-body'} with tensorrt-rtx 1" in shown.out
    )
    assert "input image [1 x 3 x 64 x 64] float" in shown.out
    assert "for compute capabilities 80, 86, 89, 120" in shown.out
    assert "3 attention nodes by the operator's body" in shown.out
    assert "Note: Attention is built from the operator's body" in shown.out
    assert not (bundle / "engines").exists()


def test_a_dry_run_in_json(command: Command, bundle: Path, tmp_path: Path) -> None:
    library = tmp_path / "lib.so"
    library.write_bytes(b"\x7fELF\x02\x01".ljust(18, b"\0") + b"\x3e\0")
    plan: dict[str, Any] = json.loads(
        command(
            *FAST, bundle / "model.onnx", "--dry-run", "--json", "--plugin-library", library,
            "--embed-plugin",
        ).out
    )  # fmt: skip
    assert plan["backend"] == "tensorrt-rtx"
    assert plan["bundle"] == str(bundle)
    assert plan["architectures"] == ["86"]
    assert plan["options"]["optimization_level"] == 0
    assert plan["op_nodes"] == 3
    assert plan["plugin"]["library"] == str(library)
    assert plan["plugin"]["embed"] is True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--arch", "87"], "Error: TensorRT-RTX does not build for compute capability 87."),
        (["--arch", "current"], "Error: --arch current needs an NVIDIA GPU with its driver"),
        (["--plugin"], "Error: The plugin library for TensorRT was not found."),
        (["--no-plugin", "--embed-plugin"], "Error: --no-plugin contradicts"),
        (["--profile", "image"], "Error: 'image' is not a profile."),
        (["--profile", "x=1"], "Error: The profile names an input x; the model has image [1 x 3"),
        (["--profile", "image=2x3x64x64"], "has 2 at dimension 0; the input image"),
        (["--verbose-log", "/no/where/log"], "/no/where/log cannot be written"),
        (["--timing-cache", "t.cache"], "Error: TensorRT-RTX has no timing cache: it times no"),
        (["--version-compatible"], "builds no version compatible plans"),
        (["--hardware-compatibility", "ampere+"], "has no hardware compatibility"),
        (["--dla-core", "0"], "has no DLA"),
        (["--refit"], "needs a GPU to build an engine whose weights can be replaced"),
        (["--strip-weights"], "needs a GPU to build an engine whose weights can be replaced"),
        (["--no-gpu-fallback"], "Error: --no-gpu-fallback is about what the deep learning"),
        (["--backend", "tensorrt"], "Error: This needs the Python package of TensorRT, tensorrt"),
    ],
)
def test_mistakes_exit_with_2_and_say_cause_and_cure(
    options: list[str],
    message: str,
    command: Command,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dinat_deploy.engine.tensorrt_rtx.current_capability", lambda: None)
    failed = command(*BUILD, bundle, *options)
    assert failed.status == 2
    assert message in failed.err
    assert "Traceback" not in failed.err
    assert not (bundle / "engines").exists()


def test_every_option_reaches_the_plan(command: Command, bundle: Path) -> None:
    shown = command(
        *FAST, bundle, "--dry-run", "--tf32", "--workspace", "64", "--taps", "debug",
        "--no-timing-cache",
    )  # fmt: skip
    assert shown.status == 0
    assert "options: optimization level 0, workspace mib 64, tf32 True" in shown.out
    assert "4 layers let out (debug)" in shown.out
    assert "tensorrt-rtx-body-debug" in shown.out


def test_without_a_backend_the_choice_is_said(command: Command, bundle: Path) -> None:
    shown = command("build", bundle, "--dry-run", "--json")
    plan = json.loads(shown.out)
    assert plan["backend"] == "tensorrt-rtx"
    assert plan["notes"][0].startswith("No --backend given: TensorRT-RTX 1.")


def test_mistakes_in_json(command: Command, tmp_path: Path) -> None:
    failed = command(*BUILD, tmp_path / "nothing.onnx", "--json")
    assert failed.status == 2
    assert json.loads(failed.out)["error"]["cause"].startswith("There is no ONNX file")


def test_malformed_arguments_in_json(command: Command) -> None:
    failed = command(*BUILD, "m.onnx", "--optimization-level", "6", "--json")
    assert failed.status == 2
    assert "6 is not in the range" in json.loads(failed.out)["error"]["cause"]


def test_names_that_the_system_refuses_are_errors_without_a_traceback(command: Command) -> None:
    failed = command(*BUILD, "x" * 300, "--json")
    assert failed.status == 2
    assert "File name too long" in json.loads(failed.out)["error"]["cause"]
    assert "Traceback" not in failed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*BUILD], "Missing argument 'BUNDLE|MODEL.onnx'"),
        ([*BUILD, "m.onnx", "--optimization-level", "6"], "6 is not in the range 0<=x<=5"),
        ([*BUILD, "m.onnx", "--workspace", "0"], "0 is not in the range x>=1"),
        (
            ["build", "m.onnx", "--backend", "openvino"],
            "'openvino' is not one of 'tensorrt', 'tensorrt-rtx'",
        ),
        ([*BUILD, "m.onnx", "--plugin", "--no-plugin"], "--plugin and --no-plugin contradict"),
        (
            [*BUILD, "m.onnx", "--timing-cache", "f", "--no-timing-cache"],
            "--timing-cache and --no-timing-cache contradict",
        ),
        ([*BUILD, "m.onnx", "--hardware-compatibility", "all"], "'all' is not one of 'none'"),
        ([*BUILD, "m.onnx", "--dla-core", "-1"], "-1 is not in the range x>=0"),
        ([*BUILD, "m.onnx", "--arch", ","], "',' names no compute capability; write 86, or 86,89"),
        ([*BUILD, "m.onnx", "--taps", "some"], "'some' is not one of 'none', 'outputs', 'debug'"),
    ],
)
def test_malformed_arguments_exit_with_2(
    arguments: list[str], message: str, command: Command
) -> None:
    failed = command(*arguments)
    assert failed.status == 2
    assert message in failed.err


def test_help_explains_profiles_and_targets(command: Command) -> None:
    shown = command("build", "--help")
    assert shown.status == 0
    for text in ("NAME=MIN:OPT:MAX[,...]", "--embed-plugin", "80,86,89,120", "engine.json"):
        assert text in shown.out
    for option in (
        "--optimization-level", "--workspace", "--hardware-compatibility", "--version-compatible",
        "--refit", "--strip-weights", "--tf32", "--dla-core", "--no-gpu-fallback", "--timing-cache",
        "--no-timing-cache", "--taps",
    ):  # fmt: skip
        assert f"{option} " in shown.out


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom dinat_deploy.cli import cli\n"
        "assert CliRunner().invoke(cli, ['build', '--help']).exit_code == 0\n"
        "heavy = ('torch', 'onnx', 'numpy', 'pydantic', 'rich', 'tensorrt_rtx')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_bar_shows_the_share_and_the_phase() -> None:
    bar = BarProgress(3)
    with bar.portion("Building the engine") as report:
        report(0.4, "Optimizing graph")
        stage, portion = bar._bar.tasks
        assert stage.description == "Building the engine"
        assert (portion.description, portion.completed, portion.total) == (
            "Optimizing graph",
            40,
            100,
        )
    assert [task.completed for task in bar._bar.tasks] == [1]
