"""Opens pages in headless Chromium: what it made of them, and what it complained about."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# `"text", source: file (line)`; the text may have line breaks.
_CONSOLE = re.compile(r':CONSOLE[:(]\d+\)?\] "(.*?)", source: ', re.DOTALL)


@dataclass(frozen=True)
class Rendered:
    """A page after its scripts have run.

    Attributes:
        dom: the document as HTML.
        console: everything that was written to the console, errors of scripts included.
    """

    dom: str
    console: list[str]


def find_browser() -> str:
    """Path of the browser; skips the test without one, or fails it if one is required."""
    for name in _NAMES:
        if found := shutil.which(name):
            return found
    reason = f"needs a browser: none of {', '.join(_NAMES)} is installed"
    if os.environ.get("DINAT_REQUIRE_BROWSER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def open_page(page: Path, scratch: Path) -> Rendered:
    """Open a file without any network, and let its scripts come to an end."""
    command = [
        find_browser(),
        "--headless",
        "--no-sandbox",  # tests may run as root
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={scratch / 'browser'}",
        "--enable-logging=stderr",
        "--window-size=1200,900",
        "--virtual-time-budget=10000",
        "--dump-dom",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    dom = done.stdout.decode(errors="replace")
    assert dom.strip(), done.stderr.decode(errors="replace")
    return Rendered(dom, _CONSOLE.findall(done.stderr.decode(errors="replace")))


class Outline(HTMLParser):
    """What a test wants to know of a document.

    Attributes:
        tags: how often each element occurs.
        traces: id of a plot -> number of traces that plotly drew in it.
        text: all text outside of scripts and styles.
        loaded: addresses that elements refer to.
        handlers: attributes that would run code.
    """

    def __init__(self, dom: str) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.traces: dict[str, int] = {}
        self.text = ""
        self.loaded: list[str] = []
        self.handlers: list[str] = []
        self._plot = ""
        self._silent = False
        self.feed(dom)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self._silent = tag in ("script", "style")
        given = {name: value or "" for name, value in attrs}
        self.loaded += [given[name] for name in ("src", "href", "xlink:href") if name in given]
        self.handlers += [name for name in given if name.startswith("on")]
        classes = given.get("class", "").split()
        if "plot" in classes and "id" in given:
            self._plot = given["id"]
            self.traces[self._plot] = 0
        if "trace" in classes and self._plot:
            self.traces[self._plot] += 1

    def handle_endtag(self, tag: str) -> None:
        self._silent = False

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.text += data
