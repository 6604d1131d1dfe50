"""What the site is made of beside docs/.

README, CONTRIBUTING, CHANGELOG and SECURITY lie in the repository's root and are pages of the site
too, each written once. Links between pages are made to fit; a link to a file that is no page
becomes the file's name. The help of the commands comes from the program.
"""

from __future__ import annotations

import inspect
import posixpath
import re
from pathlib import Path
from typing import Any

import click
from mkdocs.structure.files import File, Files

from dinat_deploy.cli import cli

ROOT = Path(__file__).parents[2]
# File in the root -> page of the site.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
# A paragraph that click must not wrap: tables and examples.
_KEPT = re.compile(r"^\x08\n((?:.+\n?)+)", re.MULTILINE)
_LINK = re.compile(r"(!?)\[([^\]]+)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_config(config: Any) -> None:
    """Let what the commands' help shows line by line be shown so by the site."""
    pending: list[click.Command] = [cli]
    while pending:
        command = pending.pop()
        command.help = _KEPT.sub(r"```text\n\1\n```\n", inspect.cleandoc(command.help or ""))
        pending += getattr(command, "commands", {}).values()


def on_files(files: Files, config: Any) -> Files:
    """Add the pages whose source lies in the root."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=relinked(text, "")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Make links of the pages in docs/ fit."""
    if page.file.src_uri in PAGES.values():
        return markdown
    return relinked(markdown, "docs")


def relinked(text: str, folder: str) -> str:
    """Text of a page with the links that the site needs.

    Args:
        folder: where the page lies, relative to the root; what its links start from.
    """
    parts = _FENCE.split(text)
    return "".join(
        part if part.startswith("```") else _LINK.sub(lambda m: _link(m, folder), part)
        for part in parts
    )


def _link(match: re.Match[str], folder: str) -> str:
    picture, words, target = match.groups()
    if re.match(r"[a-z]+:|#", target):
        return match[0]
    path, _, anchor = target.partition("#")
    place = posixpath.normpath(posixpath.join(folder, path))
    if place in PAGES:
        place = PAGES[place]
    elif place.startswith("docs/"):
        place = place.removeprefix("docs/")
    else:
        name = f"`{place}`"
        return (
            name if words.strip("`") in (place, posixpath.basename(place)) else f"{words} ({name})"
        )
    return f"{picture}[{words}]({place}{'#' if anchor else ''}{anchor})"
