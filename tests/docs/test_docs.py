"""Every command and every Python block in the documentation runs, in the order of its page."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dinat_deploy.cli import cli
from dinat_deploy.cli.console import run as run_cli
from tests.conftest import TINY
from tests.docs.models_table import README, updated
from tests.golden import model_case
from tests.models import upstream

ROOT = README.parent
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
# Run by .ci/run in fresh virtual environments, as written, or longer than a test should take.
ELSEWHERE = (
    "pip install", "python -m pytest", "python benchmarks/", "dinat-deploy plugin build", "cmake ",
    "ctest ",
)  # fmt: skip
# Run in less time than as written: lines that begin so get these words as well.
SHORTER = {"python examples/shapes/train.py": "--scenes 16 --epochs 1"}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    lines = [line for block in blocks(page, "bash") for line in block.splitlines() if line.strip()]
    return [shorter(line) for line in lines if not line.startswith(ELSEWHERE)]


def shorter(line: str) -> str:
    for begin, words in SHORTER.items():
        if line.startswith(begin):
            return f"{line} {words}"
    return line


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the files that the pages speak of."""
    place = tmp_path_factory.mktemp("docs")
    rng = np.random.default_rng(0)
    for name in ("cat.jpg", "dog.png"):
        pixels = rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / name)
    (place / "images").mkdir()
    for number in range(12):
        pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / "images" / f"{number:02}.png")
    tiny = upstream.original_shapes(64, (3, 4, 18, 5), (2, 4, 8, 16))
    torch.save(upstream.drawn(tiny), place / "dinat_tiny_in1k_224.pth")
    mini = upstream.original_shapes(64, (3, 4, 6, 5), (2, 4, 8, 16))
    torch.save(upstream.drawn(mini), place / "dinat_mini_in1k_224.pth")
    backbone = upstream.original_shapes(64, (3, 4, 18, 5), (2, 4, 8, 16), classes=None, norms=True)
    detector = {f"backbone.{name}": tensor for name, tensor in upstream.drawn(backbone).items()}
    detector["roi_head.bias"] = torch.zeros(1)
    torch.save({"state_dict": detector}, place / "maskrcnn_dinat_tiny.pth")
    case = model_case("b_k5")
    upstream.write_hugging_face(
        place / "my_dinat",
        upstream.hugging_face_config(case.kwargs),
        upstream.to_hugging_face(upstream.drawn(case.shapes)),
    )
    (place / "my_model.json").write_text(TINY.model_dump_json())
    for folder in ("benchmarks", "examples"):
        shutil.copytree(ROOT / folder, place / folder)
    return place


def run(command: str | list[str], place: Path) -> None:
    environment = os.environ | {
        # The script and the package under test, wherever the tests were started.
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        command,
        cwd=place,
        env=environment,
        shell=isinstance(command, str),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.fixture
def run_command(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[[str], None]:
    """Run a line; our own command in this process, which spares importing PyTorch each time."""
    monkeypatch.chdir(place)
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def call(line: str) -> None:
        program, *arguments = shlex.split(line)
        if program != "dinat-deploy" or set(line) & set("|><&;$*"):
            run(line, place)
            return
        monkeypatch.setattr(sys, "argv", [program, *arguments])
        with pytest.raises(SystemExit) as stopped:
            run_cli(cli)
        shown = capfd.readouterr()
        assert not stopped.value.code, f"{line}\n{shown.out}\n{shown.err}"

    return call


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_python_run_as_written(page: Path, run_command: Callable[[str], None]) -> None:
    """In one test, because Python uses what the commands of its page made."""
    for command in commands(page):
        run_command(command)
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), {"__name__": "__main__"})


def test_every_page_is_reachable_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/[^)]+)\)", README.read_text()))
    assert linked == {f"docs/{page.name}" for page in PAGES[1:]}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_the_table_of_models_is_up_to_date() -> None:
    """Otherwise: python -m tests.docs.models_table"""
    assert README.read_text() == updated(README.read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", ["lowering.py --stages 2 --rounds 2", "export_cost.py dinat_mini"]
)
def test_benchmarks_run(script: str, place: Path) -> None:
    run(f"{sys.executable} benchmarks/{script}", place)
