"""The pages keep the rules of pages.py: each command runs, or says what it needs and what it gives."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import dinat_deploy
from dinat_deploy.cli import cli
from tests.docs.pages import (
    ELSEWHERE,
    FOLDER,
    FOR_THE_PAGE,
    NEEDS,
    OURS,
    PAGES,
    PROGRAMS,
    ROOT,
    Block,
    Elsewhere,
    blocks,
    elsewhere,
    inline,
    prose,
    words,
)

# Options in the text that are other programs' own, by what stands before them in the backticks.
FOREIGN = re.compile(
    r"^(sudo )?(-o addopts|trtexec|nvidia-smi|pip|cmake|python|python3|docker|git|tritonserver|perf_analyzer)\b|^--(model-repository$|backend-config)"
)
# NVIDIA's programs write theirs so: --saveEngine.
CAMEL = re.compile(r"--[a-z]+[A-Z]")
# Programs of this repository; an option alone in backticks may be theirs.
SCRIPTS = [
    ROOT / "examples" / "cpp" / "src" / "arguments.cpp",
    ROOT / "tests" / "gpu" / "engines.py",
    *(ROOT / "tools").glob("*.py"),
    *(ROOT / "benchmarks").glob("*.py"),
]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def parse(line: str) -> None:
    """Let the real command line take this line; nothing runs.

    Raises:
        click.UsageError: an option or an argument that it does not take.
    """
    command: click.Command = cli
    rest = words(line)[1:]
    context = click.Context(cli, info_name="dinat-deploy")
    while isinstance(command, click.Group) and rest and rest[0] not in ("--help", "--version"):
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command, context = found, click.Context(found, parent=context, info_name=name)
    if {"--help", "-h", "--version"} & set(rest):
        return
    command.make_context(context.info_name, rest, parent=context.parent)


def all_blocks(*languages: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page, *languages)]


def options() -> set[str]:
    """All options of all commands."""

    def of(command: click.Command) -> Iterator[str]:
        for parameter in command.params:
            yield from (*parameter.opts, *parameter.secondary_opts)
        for inner in getattr(command, "commands", {}).values():
            yield from of(inner)

    return {*of(cli), "--help", "--version"}


@each_page
def test_commands_stand_in_blocks_for_commands(page: Path) -> None:
    for block in blocks(page):
        assert block.language in ("bash", "sh", "text", "python", "json", "cpp", "xml"), block
        if block.language == "text":  # an output may show commands, but does not begin with one
            assert not block.text.lstrip().startswith(PROGRAMS), (
                f"{block}: commands in a text block"
            )
    indented = re.findall(r"^ {4}\$? ?(\S.*)$", prose(page), re.MULTILINE)
    if page.parent != ROOT / "examples" / "cpp":  # whose commands docs/cpp.md has
        assert not [line for line in indented if line.startswith(PROGRAMS)], page


@pytest.mark.parametrize("block", all_blocks("sh"), ids=str)
def test_what_is_not_run_says_what_it_needs_and_what_to_expect(block: Block) -> None:
    if block.title is None:
        text = " ".join(block.page.read_text().split())
        assert FOR_THE_PAGE in text, f"{block} needs a title, such as {NEEDS}"
    else:
        assert block.title.startswith(NEEDS), f"{block}: unknown need {block.title!r}"
    if any(line.startswith(OURS) for line in block.commands):
        assert block.output, f"{block}: the output to expect must follow in a text block"


@pytest.mark.parametrize("block", all_blocks("bash", "sh"), ids=str)
def test_the_command_line_takes_every_command(block: Block) -> None:
    for line in block.commands:
        if line.startswith("dinat-deploy"):
            try:
                parse(line)
            except click.UsageError as error:
                pytest.fail(f"{block}: {line}: {error.format_message()}")


@each_page
def test_commands_in_the_text_exist(page: Path) -> None:
    """The command and every option; what they are given may be left out there."""
    for code in inline(page):
        if not code.startswith("dinat-deploy "):
            continue
        command: click.Command = cli
        for word in words(code)[1:]:
            if isinstance(command, click.Group) and not word.startswith("-"):
                found = command.commands.get(word) or (None if word.isupper() else command)
                assert found is not command and (found or word.isupper()), f"{page.name}: {code}"
                command = found or command
        known = {opt for p in command.params for opt in (*p.opts, *p.secondary_opts)}
        for word in words(code)[1:]:
            if word.startswith("--"):
                name = word.partition("=")[0]
                assert name in known | {"--help", "--version"}, f"{page.name}: {code}"


@each_page
def test_options_in_the_text_exist(page: Path) -> None:
    known = options()
    scripts = "".join(path.read_text() for path in SCRIPTS)
    for code in inline(page):
        if FOREIGN.search(code) or (page.name == "cpp.md" and code in scripts):
            continue
        for name in re.findall(r"(?<![\w-])--[a-z][a-zA-Z0-9-]*", code):
            ours = name in known or f'"{name}"' in scripts or f'"{name[2:]}"' in scripts
            assert ours or CAMEL.match(name), f"{page.name}: {code}"


@pytest.mark.parametrize("entry", ELSEWHERE, ids=lambda entry: entry.pattern)
def test_what_runs_elsewhere_runs_there(entry: Elsewhere) -> None:
    files = list(ROOT.glob(entry.place))
    assert any(entry.words in path.read_text() for path in files), entry
    lines = [line for block in all_blocks("bash") for line in block.commands]
    assert any(elsewhere(line) is entry for line in lines), f"no page has {entry.pattern}"


def test_what_pip_is_asked_for_exists() -> None:
    """Packages are not installed by tests; their extras and settings are looked up."""
    project = (ROOT / "pyproject.toml").read_text()
    extras = project.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    known = set(re.findall(r"^(\w+) = \[", extras, re.MULTILINE))
    cmake = "".join(
        path.read_text() for path in [ROOT / "CMakeLists.txt", *(ROOT / "cmake").iterdir()]
    )
    lines = [line for block in all_blocks("bash", "sh") for line in block.commands]
    lines += [code for page in PAGES for code in inline(page)]
    asked = [line for line in lines if line.startswith("pip install")]
    assert asked
    for line in asked:
        for group in re.findall(r"(?:dinat-deploy|\.)\[([\w,]+)\]", line):
            assert set(group.split(",")) <= known, line
        for name in re.findall(r"cmake\.define\.(\w+)", line):
            assert name in cmake, line


def test_the_python_page_has_every_public_name() -> None:
    page = (FOLDER / "api.md").read_text()
    missing = [name for name in dinat_deploy.__all__ if f"dinat_deploy.{name}\n" not in page]
    assert [name for name in missing if f"`{name}`" not in page] == []


def test_the_page_on_architecture_has_the_layers_that_are_checked() -> None:
    contract = (ROOT / "pyproject.toml").read_text().partition("\nlayers = [\n")[2]
    checked = [set(re.findall(r"\w+", line)) for line in contract.partition("\n]")[0].splitlines()]
    page = (FOLDER / "architecture.md").read_text().partition("## Layers")[2]
    table = page.partition("| layer |")[2].partition("\n\n")[0].splitlines()[2:]
    assert [set(re.findall(r"`(\w+)`", row.split("|")[1])) for row in table] == checked
    package = Path(dinat_deploy.__file__).parent
    modules = {path.stem for path in package.glob("*.py")} | {
        path.parent.name for path in package.glob("*/__init__.py")
    }
    assert set.union(*checked) == modules - {"__init__", "__main__"}
