"""The command line: what it prints, its exit codes, and its errors."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinat_deploy.cli.export import _STAGES
from tests.cli.conftest import Command


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_models_prints_a_table_and_json(command: Command) -> None:
    shown = command("models")
    assert shown.status == 0
    assert "dinat_large_384_11x11" in shown.out
    assert "1,8,1 (1,4)x2 (1,2)x9 1x5" in shown.out
    rows = json.loads(command("models", "--json").out)
    assert {row["name"] for row in rows} >= {"nat_mini", "vitrpb_base"}
    assert rows[0]["parameters"] == 19_984_174


def test_export_verify_infer_inspect_in_a_row(
    command: Command, tiny_config_file: Path, photo: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "b"
    made = command("export", "--config", tiny_config_file, "--output", bundle)
    assert made.status == 0
    assert "3 neighborhood attention nodes, opset 20" in made.out
    assert "Verified: ONNX Runtime" in made.out
    assert "Note: No checkpoint given: the weights are random" in made.err
    stages = re.findall(r"^(.+) \.\.\. [\d.]+ s$", made.err, re.MULTILINE)
    assert stages[:3] == ["Loading PyTorch", "Building the model", "Tracing the PyTorch model"]
    assert len(stages) == _STAGES + 1  # what the progress bar counts to

    checked = command("verify", bundle, "--images", photo, "--layers")
    assert checked.status == 0
    assert "Verified: every error is within 0.0001 + 0.0001 x largest value." in checked.out
    assert "levels.1.blocks.0" in checked.out

    guessed = command("infer", "--bundle", bundle, photo, photo, "--top", 2)
    assert guessed.status == 0
    assert guessed.out.count("class ") == 4
    assert "random weights; its predictions mean nothing" in guessed.err

    seen = command("inspect", bundle)
    assert seen.status == 0
    assert "levels.0.blocks.1.attn/NeighborhoodAttention2D" in seen.out
    assert "4x4" in seen.out


def test_every_command_speaks_json(
    command: Command, tiny_bundle: Path, tiny_config_file: Path, photo: Path, tmp_path: Path
) -> None:
    made = command("export", "--config", tiny_config_file, "-o", tmp_path / "b", "--json")
    assert json.loads(made.out)["manifest"]["verification"]["passed"] is True
    assert json.loads(command("verify", tiny_bundle, "--json").out)["passed"] is True
    guessed = json.loads(command("infer", "-b", tiny_bundle, photo, "--json").out)
    assert len(guessed[0]["predictions"]) == 5
    assert len(json.loads(command("inspect", tiny_bundle, "--json").out)["op_nodes"]) == 3
    names = [check["name"] for check in json.loads(command("doctor", "--json").out)]
    assert "onnxruntime" in names


def test_doctor_prints_and_succeeds_here(command: Command) -> None:
    shown = command("doctor")
    assert shown.status == 0
    assert "Everything that export, verify and infer need is here." in shown.out


def test_a_failed_comparison_exits_with_1(command: Command, tiny_bundle: Path) -> None:
    failed = command("verify", tiny_bundle, "--atol", 0, "--rtol", 0)
    assert failed.status == 1
    assert "FAILED" in failed.out
    layers = command("verify", tiny_bundle, "--atol", 0, "--rtol", 0, "--layers")
    assert "FAILED: patch_embed is the first layer off" in layers.out


def test_mistakes_exit_with_2_and_say_cause_and_cure(command: Command, tmp_path: Path) -> None:
    unknown = command("export", "--model", "dinat_tyni", "--output", tmp_path / "b")
    assert unknown.status == 2
    assert unknown.err.splitlines()[-2:] == [
        "Error: Unknown model 'dinat_tyni'.",
        "       Did you mean dinat_tiny or dinat_mini or dinat_s_tiny? "
        "`dinat-deploy models` lists them all.",
    ]
    assert "Traceback" not in unknown.err
    assert list(tmp_path.iterdir()) == []
    missing = command("verify", tmp_path / "nowhere", "--json")
    assert missing.status == 2
    assert json.loads(missing.out)["error"]["cause"].startswith("There is no bundle")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "--image-size", "big"], "is not a size; write 224"),
        (["export", "--depths", "3,x"], "is not a list of numbers"),
        (["export", "--dynamic", "time"], "is none of batch, size"),
        (["export", "--size-range", "224"], "is not a range like 224:1024"),
        (["export", "--atol", "-1"], "-1.0 is not in the range x>=0"),
        (["verify", "b", "--rtol", "-1"], "-1.0 is not in the range x>=0"),
        (["export", "--opset", "16"], "16 is not in the range 17<=x<=21"),
        (["infer", "photo.png"], "Missing option '--bundle'"),
        (["frobnicate"], "No such command 'frobnicate'"),
    ],
)
def test_malformed_arguments_exit_with_2(
    arguments: list[str], message: str, command: Command
) -> None:
    outcome = command(*arguments)
    assert outcome.status == 2
    assert message in outcome.err


def test_malformed_arguments_have_a_cure_for_machines_too(command: Command) -> None:
    error = json.loads(command("export", "--depths", "3,x", "--json").out)["error"]
    assert "is not a list of numbers" in error["cause"]
    assert error["cure"] == "`dinat-deploy export --help` lists the arguments and options."


def test_options_reach_the_export(command: Command, tmp_path: Path) -> None:
    made = command(
        "export", "-m", "dinat_mini", "--depths", "1,1", "--num-heads", "2,4", "--dilations", "1/2",
        "--image-size", "64x96", "--num-classes", "3", "--kernel-size", "3", "--task", "backbone",
        "--dynamic", "batch", "--opset", "17", "--no-verify", "-o", tmp_path / "b", "--json",
    )  # fmt: skip
    manifest = json.loads(made.out)["manifest"]
    assert manifest["config"]["dilations"] == [[1], [2]]
    assert manifest["config"]["image_size"] == [64, 96]
    assert manifest["graph"]["opset"] == 17
    assert manifest["graph"]["inputs"][0]["shape"] == ["batch", 3, 64, 96]
    assert [o["name"] for o in manifest["graph"]["outputs"]] == ["stage1", "stage2"]
    assert manifest["verification"] is None


def test_the_default_output_is_named_after_the_model(
    command: Command, tiny_config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command("export", "--config", tiny_config_file, "--no-verify")
    assert (tmp_path / "out" / "tiny" / "model.onnx").exists()


@pytest.mark.parametrize("name", ["export", "verify", "infer", "inspect", "models", "doctor"])
def test_every_command_explains_itself(name: str, command: Command) -> None:
    shown = command(name, "--help")
    assert shown.status == 0
    assert shown.out.startswith(f"Usage: dinat-deploy {name}")
    assert "--json" in shown.out


def test_version(command: Command) -> None:
    assert command("--version").out.startswith("dinat-deploy, version ")


HEAVY = ("torch", "onnx", "onnxruntime", "onnxscript", "numpy", "pydantic", "rich", "PIL")


@pytest.mark.parametrize(
    "code",
    [
        "import dinat_deploy",
        "import dinat_deploy.cli",
        "from click.testing import CliRunner\nfrom dinat_deploy.cli import cli\n"
        "assert CliRunner().invoke(cli, ['--help']).exit_code == 0",
        "from click.testing import CliRunner\nfrom dinat_deploy.cli import cli\n"
        "assert CliRunner().invoke(cli, ['export', '--help']).exit_code == 0",
    ],
)
def test_importing_and_help_load_nothing_heavy(code: str) -> None:
    check = f"\nimport sys\nprint([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code + check], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("arguments", [["models"], ["doctor"], ["inspect", "BUNDLE"]])
def test_commands_that_need_no_torch_do_not_load_it(
    arguments: list[str], tiny_bundle: Path
) -> None:
    arguments = [str(tiny_bundle) if argument == "BUNDLE" else argument for argument in arguments]
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom dinat_deploy.cli import cli\n"
        f"result = CliRunner().invoke(cli, {arguments!r}, standalone_mode=False)\n"
        "assert result.exception is None, result.exception\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_package_is_named_with_the_way_to_get_it(tiny_config_file: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        f"sys.argv = ['dinat-deploy', 'export', '--json', '--config', {str(tiny_config_file)!r}]\n"
        "from dinat_deploy.cli import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "needs the package torch" in done.stderr
    assert "pip install 'dinat-deploy[export]'" in done.stderr
    assert "needs the package torch" in json.loads(done.stdout)["error"]["cause"]
    assert "Traceback" not in done.stderr


def test_infer_and_verify_run_where_torch_and_onnx_cannot_be_imported(
    tiny_bundle: Path, photo: Path
) -> None:
    """As on a device that only runs what another machine exported."""
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxscript', 'onnx_ir', 'safetensors', 'huggingface_hub'):\n"
        "    sys.modules[name] = None\n"
        "from dinat_deploy.pipeline import verifying\n"
        "verifying._has_torch = lambda: False\n"
        "from dinat_deploy import infer, verify\n"
        f"assert verify({str(tiny_bundle)!r}).passed\n"
        f"assert len(infer({str(tiny_bundle)!r}, [{str(photo)!r}])) == 1\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
