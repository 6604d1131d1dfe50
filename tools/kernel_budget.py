"""What every CUDA kernel takes of a multiprocessor, against the checked-in budget.

Reads machine code out of what a build has made (shared libraries, archives, objects, cubins), so
nothing is compiled for it::

    python tools/kernel_budget.py --check build/lib/libdinat_tensorrt.so
    python tools/kernel_budget.py --update build/lib/libdinat_tensorrt.so

Needs cuobjdump (``pip install nvidia-cuda-cuobjdump``) and c++filt (binutils). The budget,
``plugins/kernels/budget.json``, has for each kernel and architecture

- ``registers`` of a thread,
- ``stack``: bytes of local memory of a thread, which is where spilled registers go,
- ``shared``: bytes of statically allocated shared memory of a block, counted by the compiler; since
  9.0 that includes 1024 bytes which CUDA keeps for itself. What a launch adds is not in the code.

Numbers of other compilers than the one named in the table differ. ``launch_shared`` in the same
file, which --update keeps, is the shared memory that launches of the tensor-core kernels ask for; a
test compares it with the launch plan.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).parents[1] / "plugins" / "kernels" / "budget.json"

_ARCHITECTURE = re.compile(r"^arch = sm_(\d+)")
_FUNCTION = re.compile(r"^\s*Function ([^\s:]+):")
_RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)")


class BudgetError(Exception):
    """A sentence for the user."""


@dataclass(frozen=True, order=True)
class Usage:
    registers: int
    stack: int
    shared: int

    def describe(self) -> str:
        return f"{self.registers} registers, {self.stack} bytes of stack, {self.shared} of shared"


Table = dict[str, dict[int, Usage]]  # kernel -> architecture -> usage


def tool(name: str) -> str:
    """A program on PATH or in pip's CUDA packages."""
    packages = Path(sysconfig.get_path("purelib")).glob("nvidia/cu*/bin")
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, packages)])
    found = shutil.which(name, path=path)
    if found is None:
        source = "binutils" if name == "c++filt" else f"`pip install nvidia-cuda-{name}`"
        raise BudgetError(f"{name} was not found on PATH or in pip's packages; {source} has it.")
    return found


def _output(*command: str | Path, text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        raise BudgetError(f"{' '.join(map(str, command))} failed: {done.stderr.strip()}")
    return done.stdout


def readable(symbols: Iterable[str]) -> dict[str, str]:
    """Kernel names as in the source: without namespace, parameters and literal suffixes."""
    symbols = list(dict.fromkeys(symbols))
    names = _output(tool("c++filt"), text="\n".join(symbols)).splitlines() if symbols else []
    short = {}
    for symbol, name in zip(symbols, names, strict=True):
        name = re.sub(r"\((?!anonymous)[^()]*\)$", "", name)
        name = re.sub(r"(\w+|\(anonymous namespace\))::", "", name.removeprefix("void "))
        short[symbol] = re.sub(r"\(\w+\)", "", name)
    return short


def read(files: Iterable[Path]) -> Table:
    """Usage of every kernel in the files; raises BudgetError where there is none."""
    found: list[tuple[str, int, Usage]] = []
    for file in files:
        architecture, symbol = None, None
        for line in _output(tool("cuobjdump"), "-res-usage", file).splitlines():
            if match := _ARCHITECTURE.match(line):
                architecture, symbol = int(match[1]), None
            elif match := _FUNCTION.match(line):
                symbol = match[1]
            elif (match := _RESOURCES.search(line)) and symbol and architecture:
                found.append((symbol, architecture, Usage(*map(int, match.groups()))))
                symbol = None
    if not found:
        raise BudgetError(f"no GPU machine code in {', '.join(map(str, files))}")
    names = readable(symbol for symbol, _, _ in found)
    table: Table = {}
    for symbol, architecture, usage in found:
        known = table.setdefault(names[symbol], {}).setdefault(architecture, usage)
        if known != usage:
            raise BudgetError(
                f"{names[symbol]} for sm_{architecture} was found twice and differently: "
                f"{known.describe()}; {usage.describe()}"
            )
    return table


def load(path: Path = TABLE) -> Table:
    document = json.loads(path.read_text())
    return {
        kernel: {int(arch): Usage(*numbers) for arch, numbers in row.items()}
        for kernel, row in document["kernels"].items()
    }


def dump(table: Table, compiler: str, path: Path = TABLE) -> None:
    """Write the table, one line for each kernel; what else the file has stays."""

    def lines(rows: dict[str, object]) -> str:
        return ",\n".join(f"    {json.dumps(key)}: {json.dumps(row)}" for key, row in rows.items())

    kept = json.loads(path.read_text()).get("launch_shared", {}) if path.exists() else {}
    kernels: dict[str, object] = {
        kernel: {str(a): [u.registers, u.stack, u.shared] for a, u in sorted(table[kernel].items())}
        for kernel in sorted(table)
    }
    path.write_text(
        "{\n"
        f'  "compiler": {json.dumps(compiler)},\n'
        '  "columns": ["registers", "stack bytes", "static shared bytes"],\n'
        f'  "kernels": {{\n{lines(kernels)}\n  }},\n'
        f'  "launch_shared": {{\n{lines(kept)}\n  }}\n'
        "}\n"
    )


def faults(measured: Table, budget: Table) -> list[str]:
    """One sentence for each kernel that exceeds the budget, or is on one side only.

    Architectures that the build left out are not compared.
    """
    built = {architecture for row in measured.values() for architecture in row}
    sentences = []
    for kernel in sorted(measured.keys() | budget.keys()):
        for architecture in sorted(built):
            usage = measured.get(kernel, {}).get(architecture)
            limit = budget.get(kernel, {}).get(architecture)
            where = f"{kernel}, sm_{architecture}"
            if usage is None and limit is not None:
                sentences.append(f"{where}: in the budget, but not in the build")
            elif usage is not None and limit is None:
                sentences.append(f"{where}: in the build ({usage.describe()}), but not budgeted")
            elif usage is not None and limit is not None:
                sentences += [
                    f"{where}: {getattr(usage, field)} {unit}, budget {getattr(limit, field)}"
                    for field, unit in (
                        ("registers", "registers"),
                        ("stack", "bytes of stack"),
                        ("shared", "bytes of static shared memory"),
                    )
                    if getattr(usage, field) > getattr(limit, field)
                ]
    return sentences


def slack(measured: Table, budget: Table) -> int:
    """Entries that need less than the budget."""
    return sum(
        usage < budget[kernel][architecture]
        for kernel, row in measured.items()
        for architecture, usage in row.items()
        if architecture in budget.get(kernel, {})
    )


def _compiler_release() -> str:
    found = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    release = re.search(r"release [\d.]+, V([\d.]+)", _output(found, "--version"))
    return f"nvcc {release[1]}" if release else "nvcc"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", action="store_true", help="compare with the table")
    action.add_argument("--update", action="store_true", help="write the table")
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("files", type=Path, nargs="+", help="what the build has made")
    options = parser.parse_args(arguments)
    try:
        measured = read(options.files)
        if options.update:
            dump(measured, _compiler_release(), options.table)
            return 0
        budget = load(options.table)
        problems = faults(measured, budget)
    except BudgetError as error:
        print(error, file=sys.stderr)
        return 2
    for sentence in problems:
        print(sentence)
    if problems:
        print(f"{len(problems)} faults. If they are meant: --update, and say why in the commit.")
    elif spare := slack(measured, budget):
        print(f"{spare} entries need less than the table says; --update lowers it.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
