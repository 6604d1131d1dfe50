"""Our declaration of TensorRT's plugin interface against the official headers.

``TENSORRT_INCLUDE_DIR`` names the folder of one or more versions, separated by ``:``. Without it
only our declaration is looked at, and the plugin's sources are held to it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

PLUGINS = Path(__file__).parents[2] / "plugins"
SOURCE = PLUGINS / "tensorrt" / "tests" / "layout.cpp"
OFFICIAL = [Path(p) for p in os.environ.get("TENSORRT_INCLUDE_DIR", "").split(":") if p]
PLUGIN = "dinat::tensorrt::Plugin"
CREATOR = "dinat::tensorrt::Creator"
PROBES = ("{anonymous}::DimensionProbe", "{anonymous}::BuilderProbe")


@dataclass(frozen=True)
class Interface:
    """What the compiler made of a header.

    Attributes:
        facts: lines that ``layout.cpp`` prints: sizes, offsets, values, versions.
        tables: entries of each class's virtual table, in order.
        layouts: bases of each class with their offsets.
    """

    facts: list[str]
    tables: dict[str, list[str]]
    layouts: dict[str, list[str]]


def sections(dump: str, title: str) -> dict[str, list[str]]:
    """Paragraphs of g++'s class dump by the class they are about."""
    found = {}
    for paragraph in dump.split("\n\n"):
        lines = paragraph.strip().splitlines()
        if lines and lines[0].startswith(title):
            found[lines[0].removeprefix(title)] = lines[1:]
    return found


def read(dump: str, facts: str) -> Interface:
    # Some versions keep the same classes in a nested namespace; addresses differ between runs.
    dump = dump.replace("v_1_0::", "").replace("5v_1_0", "")
    dump = re.sub(r" \(0x0x[0-9a-f]+\)", "", dump)
    tables = sections(dump, "Vtable for ")
    entry = re.compile(r"^\d+ +\(int \(\*\)\(\.\.\.\)\)")  # offset and type of every entry
    return Interface(
        facts=facts.splitlines(),
        # The first line of a table is its symbol and length.
        tables={
            name: [entry.sub("", line) for line in lines[1:]] for name, lines in tables.items()
        },
        layouts=sections(dump, "Class "),
    )


def compiler() -> str:
    """g++, whose dumps the test reads; the calling test is skipped without it."""
    found = shutil.which("g++")
    if found is None:
        pytest.skip("g++ was not found: install it")
    return found


def interface_of(folder: Path, headers: Path | None) -> Interface:
    """Compile and run ``layout.cpp`` with official headers, or with ours."""
    options = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wno-invalid-offsetof"]
    tensorrt = PLUGINS / "tensorrt"
    options += [
        f"-I{folder}" for folder in (PLUGINS, tensorrt / "tests", tensorrt / "tests" / "cuda_stub")
    ]
    options += [f"-fdump-lang-class={folder / 'dump'}"]
    if headers is not None:
        options += ["-DDINAT_TENSORRT_HEADERS", f"-isystem{headers}"]
    # The dump of the last source that is compiled remains.
    sources = [
        *(
            tensorrt / f"{name}.cpp"
            for name in ("attributes", "creator", "logging", "plugin", "tensors")
        ),
        PLUGINS / "common" / "problem.cpp",
        tensorrt / "tests" / "fake_runner.cpp",
        SOURCE,
    ]
    program = folder / "layout"
    subprocess.run([compiler(), *options, *map(str, sources), "-o", str(program)], check=True)
    facts = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout
    return read((folder / "dump").read_text(), facts)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Interface:
    return interface_of(tmp_path_factory.mktemp("ours"), None)


@pytest.fixture(
    scope="module",
    params=OFFICIAL
    or [pytest.param(None, marks=pytest.mark.skip("TENSORRT_INCLUDE_DIR is not set"))],
    ids=str,
)
def official(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Interface:
    return interface_of(tmp_path_factory.mktemp("official"), request.param)


def entries(table: list[str]) -> list[str]:
    """Functions of a virtual table without the classes they belong to."""
    return [re.sub(r".*::", "", re.sub(r"::~.*", "::~", entry)) for entry in table]


def test_the_plugin_overrides_the_functions_in_the_order_of_the_interface(ours: Interface) -> None:
    table = ours.tables[PLUGIN]
    # One part per base class, each after an offset and the type; the first has all overrides.
    parts = "\n".join(table).split("(& _ZTIN5dinat8tensorrt6PluginE)\n")[1:]
    firsts = [entries(part.splitlines())[:2] for part in parts]
    assert firsts == [["getAPILanguage", "getInterfaceInfo"]] * 4  # plugin, core, build, runtime
    assert not [entry for entry in table if "pure" in entry]


def test_the_two_loggers_stand_at_different_places(ours: Interface) -> None:
    before = entries(ours.tables["{anonymous}::LoggerBefore11"])
    since = entries(ours.tables["{anonymous}::LoggerSince11"])
    assert before[2] == "log"
    assert since[2:7] == ["getAPILanguage", "getInterfaceInfo", "~", "~", "log"]


def test_structures_enumerations_and_versions_are_the_official_ones(
    ours: Interface, official: Interface
) -> None:
    assert len(ours.facts) > 80
    assert ours.facts == official.facts


@pytest.mark.parametrize("name", [PLUGIN, CREATOR, *PROBES])
def test_virtual_tables_are_the_official_ones(
    ours: Interface, official: Interface, name: str
) -> None:
    assert len(ours.tables[name]) > 6
    assert ours.tables[name] == official.tables[name]


@pytest.mark.parametrize("name", [PLUGIN, CREATOR, *PROBES])
def test_class_layouts_are_the_official_ones(
    ours: Interface, official: Interface, name: str
) -> None:
    assert ours.layouts[name] == official.layouts[name]


@pytest.mark.parametrize("name", ["Logger", "LoggerFinder"])
def test_loggers_are_the_official_ones_of_one_side_of_version_11(
    ours: Interface, official: Interface, name: str
) -> None:
    theirs = entries(official.tables[f"{{anonymous}}::Official{name}"])
    versioned = "getInterfaceInfo" in theirs
    mine = f"{{anonymous}}::{name}{'Since11' if versioned else 'Before11'}"
    assert entries(ours.tables[mine])[2:] == theirs[2:]  # the first two name the class itself
    base = next(
        line
        for line in official.layouts[f"{{anonymous}}::Official{name}"]
        if line.startswith(f"nvinfer1::I{name} ")
    )
    assert base  # the name by which logging.cpp recognises the finder
