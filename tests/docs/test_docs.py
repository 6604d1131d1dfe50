"""Every command and every Python block in the documentation runs, in the order of its page.

pages.py has the rules, and test_conventions.py checks that the pages keep them.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dinat_deploy.cli import cli
from dinat_deploy.cli.console import run as run_cli
from tests.conftest import TINY
from tests.docs.device import simulated_device
from tests.docs.exports import Exports
from tests.docs.models_table import updated
from tests.docs.pages import FOLDER, ON_A_DEVICE, PAGES, README, ROOT, blocks, elsewhere
from tests.docs.recorded import mismatch
from tests.golden import model_case
from tests.models import upstream

# Where a user has the cache that the tests have in their directory.
CACHE = "~/.cache/dinat-deploy"
# Run in less time than as written: what is replaced in a line, and by what.
SHORTER = (
    (r"^(python examples/shapes/train.py.*)", r"\1 --scenes 16 --epochs 1"),
    (r"^(python examples/digits/train.py.*)", r"\1 --epochs 1"),
    (r"--model dinat_tiny --checkpoint dinat_tiny_in1k_224.pth --precision", "--config my_model.json --output out/dinat_tiny --precision"),
    # Fewer layers, where a page shows options of the graph.
    (r"^(dinat-deploy export --model dinat_mini(?!.*--(dilations|depths|checkpoint|task)).*)", r"\1 --depths 1,1,1,1 --dilations 1/1/1/1"),
)  # fmt: skip


def shorter(line: str) -> str:
    for pattern, words in SHORTER:
        line = re.sub(pattern, words, line)
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


def run(command: str | list[str], place: Path) -> str:
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
    return done.stdout


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return Exports(tmp_path_factory)


@pytest.fixture
def run_command(
    place: Path,
    exports: Exports,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Callable[[str], str]:
    """Run a line and return what it printed; our own command in this process, which spares importing
    PyTorch each time."""
    monkeypatch.chdir(place)
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def execute(line: str) -> str:
        program, *arguments = shlex.split(line)
        if program != "dinat-deploy" or set(line) & set("|><&;$*"):
            return run(line, place)
        monkeypatch.setattr(sys, "argv", [program, *arguments])
        with pytest.raises(SystemExit) as stopped:
            run_cli(cli)
        shown = capfd.readouterr()
        assert not stopped.value.code, f"{line}\n{shown.out}\n{shown.err}"
        return shown.out

    return lambda line: exports.run(line, place, execute)


def with_something_to_run() -> list[Path]:
    return [page for page in PAGES if blocks(page, "bash", "sh", "python")]


@pytest.mark.slow
@pytest.mark.parametrize("page", with_something_to_run(), ids=lambda page: page.name)
def test_a_page_runs_as_written_and_prints_what_it_says(
    page: Path, place: Path, run_command: Callable[[str], str]
) -> None:
    """In one test, because a block uses what those before it made."""
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page, "bash", "sh", "python"):
        if block.language == "python":
            exec(compile(block.text, str(block), "exec"), names)
            continue
        flavor = ON_A_DEVICE.get(block.title or "")
        if block.language == "sh" and flavor is None:
            continue
        printed = ""
        with simulated_device(place, flavor) if flavor else nullcontext():
            for line in block.commands:
                if elsewhere(line) is None:
                    printed += run_command(shorter(line))
        if block.output is not None:
            found = mismatch(block.output, printed.replace(str(place / "cache"), CACHE))
            assert found is None, f"{block}: {found}"


def test_every_page_is_reachable_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/[^)#]+)\)", README.read_text()))
    assert linked == {f"docs/{page.name}" for page in PAGES if page.parent == FOLDER}


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
