"""The site is built without a warning and without a network, and has everything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dinat_deploy
from dinat_deploy.cli import cli
from tests.docs.pages import FOLDER, ROOT

pytest.importorskip("material", reason="mkdocs-material is not installed: pip install '.[docs]'")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", output],
        cwd=ROOT,
        # Nobody answers at this address: whatever asks the network fails.
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "HTTPS_PROXY": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return output


def ids(page: Path) -> set[str]:
    return set(re.findall(r' id="([^"]+)"', page.read_text()))


@pytest.mark.slow
def test_every_page_command_and_function_is_there_and_nothing_is_loaded(site: Path) -> None:
    pages = {path.stem for path in site.glob("*.html")}
    assert {path.stem for path in FOLDER.glob("*.md")} <= pages
    assert {"index", "contributing", "changelog", "security"} <= pages

    reference = (site / "cli.html").read_text()
    for name, command in cli.commands.items():
        assert f"dinat-deploy {name}" in reference
        for parameter in command.params:
            for option in parameter.opts:
                assert option in reference or not option.startswith("--"), option
    assert "\b" not in reference and "Sentinel" not in reference

    described = ids(site / "api.html")
    for name in dinat_deploy.__all__:
        assert any(entry.endswith(f".{name}") for entry in described), name

    for page in (*site.rglob("*.html"), *site.rglob("*.css")):
        loaded = re.findall(
            r"""<(?:script|link|img|iframe)\b[^>]*(?:src|href)="(https?://[^"]+)""",
            page.read_text(),
        )
        loaded += re.findall(
            r"""url\(["']?(https?://[^)]+)\)|@import ["'](https?:)""", page.read_text()
        )
        assert not loaded, f"{page}: {loaded}"
