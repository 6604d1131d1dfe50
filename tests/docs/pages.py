"""The pages, their blocks, and the rules for what stands in them.

    ```bash     runs as written, in the order of its page (test_docs.py), or is in ELSEWHERE
    ```sh       needs what the tests' machine lacks; its title says what
    ```text     output. Right after commands it is theirs, and compared with what they print
    ```python   runs

Commands of ours in an ``sh`` block are followed by the output that they are expected to give. Where
the title names a GPU, the tests run them on a simulated one (device.py); where all such blocks of a
page are for one device, a sentence of the page may say so in place of titles.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from dinat_deploy.session.tensorrt_api import Flavor

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
FOLDER = ROOT / "docs"
PAGES = [
    README,
    *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]
# What begins a line that somebody is meant to type.
PROGRAMS = (
    ". ", "apt-get ", "build/", "cmake ", "ctest ", "curl ", "dinat-deploy ", "docker ", "export ", "git ",
    "lint-imports", "mypy", "pip ", "pytest ", "python ", "python3 ", "ruff ", "sudo ", "tests/", "tools/", "trtexec ",
)  # fmt: skip
OURS = ("build/dinat_run", "dinat-deploy", "python tools/", "tests/gpu/")

# What an sh block may need, as its title says it. Those on a device run on the simulated one.
ON_A_DEVICE: dict[str, Flavor] = {
    "Needs a GPU with TensorRT": "tensorrt",
    "Needs a GPU with TensorRT-RTX": "tensorrt-rtx",
}
NEEDS = (
    *ON_A_DEVICE, "Needs a GPU", "Needs a Jetson", "Needs a CUDA compiler", "Needs a network",
    "Needs Docker", "Needs Triton",
)  # fmt: skip
# A sentence that says it for all sh blocks of a page.
FOR_THE_PAGE = "What needs a device is in blocks that the tests of this documentation leave out."


@dataclass(frozen=True)
class Elsewhere:
    """Commands that another place runs.

    Attributes:
        pattern: of the line.
        place: file that runs it, relative to the repository, or a pattern of such.
        words: what must stand in it: the command, or what its test calls.
    """

    pattern: str
    place: str
    words: str


ELSEWHERE = (
    Elsewhere(r"pip install \.$", ".ci/run", "as_written \"$(readme_block 'Quick start')\""),
    Elsewhere(r"pip install '\.\[test\]'$", ".ci/run", 'as_written "$(readme_block Tests | head'),
    Elsewhere(r"python -m pytest$", ".ci/run", 'as_written "$(readme_block Tests | tail'),
    Elsewhere(r"ruff check \.$", ".ci/run", "ruff check ."),
    Elsewhere(r"ruff format --check \.$", ".ci/run", "ruff format --check ."),
    Elsewhere(r"mypy$", ".ci/run", "\nmypy\n"),
    Elsewhere(r"lint-imports$", ".ci/run", "\nlint-imports\n"),
    Elsewhere(r"cmake -B build -G Ninja$", ".ci/run", "cmake -S . -B"),
    Elsewhere(r"cmake --build build$", ".ci/run", "cmake --build"),
    Elsewhere(r"cmake -B build && cmake --build build$", ".ci/run", "cmake --build"),
    Elsewhere(r"ctest --test-dir build$", ".ci/run", "ctest --test-dir"),
    Elsewhere(r"dinat-deploy plugin build", "tests/cli/test_plugin_command.py", 'plugin("build")'),
    # The same with smaller models, through the function that the command calls.
    Elsewhere(r"dinat-deploy evaluate .* --workers 4$", "tests/pipeline/test_evaluate.py", "workers=2"),
    Elsewhere(r"dinat-deploy evaluate .* --ray ", "tests/pipeline/test_evaluate_ray.py", 'ray="local"'),
    Elsewhere(r"dinat-deploy export --hf \w+_dinat_large/", "tests/hf/test_export.py", '"export", "--hf", directory'),
    Elsewhere(r"dinat-deploy export .* upernet_dinat_mini\.pth$", "tests/models/test_upernet.py", 'checkpoint=path, task="semantic"'),
    Elsewhere(r"dinat-deploy export .* --task panoptic ", "tests/models/test_mask2former.py", "return export(ModelRequest("),
    Elsewhere(r"dinat-deploy export .* --task instance ", "tests/models/test_mask_rcnn.py", "export(ModelRequest("),
    Elsewhere(r"dinat-deploy infer --bundle out/(panoptic|detector) ", "tests/pipeline/test_infer.py", "DECODERS ="),
    Elsewhere(r"python examples/shapes/data.py --seed 1 ", "tests/test_shapes_example.py", "data.write_folder("),
    Elsewhere(r"dinat-deploy calibrate out/shapes ", "tests/test_shapes_example.py", '"calibrate",'),
    Elsewhere(r"dinat-deploy evaluate out/shapes ", "tests/test_shapes_example.py", '"evaluate", *names'),
    Elsewhere(r"python tools/fuzz\.py", "tests/fuzzing/test_*.py", "Campaign("),
    # Minutes of measuring.
    Elsewhere(r"python benchmarks/op_cpu\.py", "tests/docs/test_programs.py", '"op_cpu.py"'),
    Elsewhere(r"python benchmarks/(lowering|export_cost)\.py", "tests/docs/test_docs.py", "benchmarks/{script}"),
    Elsewhere(r"python benchmarks/peers\.py", "tests/benchmarks/test_peers.py", '"peers.py"'),
)  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        info: what stands behind the language, such as a title.
        output: the ``text`` block that follows at once, if one does.
        line: its number in the page, from 1.
    """

    page: Path
    language: str
    info: str
    text: str
    output: str | None
    line: int

    @property
    def commands(self) -> list[str]:
        """Its lines, those that end in a backslash joined."""
        whole = self.text.replace("\\\n", " ")
        return [re.sub(" {2,}", " ", line) for line in whole.splitlines() if line.strip()]

    @property
    def title(self) -> str | None:
        found = re.fullmatch(r'title="([^"]+)"', self.info)
        return found[1] if found else None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


_BLOCK = re.compile(r"^```(\w*) *([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NEXT = re.compile(r"\s*^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, *languages: str) -> list[Block]:
    """The blocks of a page, of these languages or all."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        language, info, content = match.groups()
        after = _NEXT.match(text, match.end()) if language in ("bash", "sh") else None
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(page, language, info, content, after[1] if after else None, line))
    return [block for block in found if not languages or block.language in languages]


def elsewhere(line: str) -> Elsewhere | None:
    """What else runs this line."""
    return next((entry for entry in ELSEWHERE if re.match(entry.pattern, line)), None)


def prose(page: Path) -> str:
    """The page without its blocks."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))


def inline(page: Path) -> list[str]:
    """What stands between backticks in the text, in one line each."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))]


def words(line: str) -> list[str]:
    """The words of a command line of ours; without variables, redirections and what follows."""
    return shlex.split(re.split(r" [|><&;]+ ", line)[0])
