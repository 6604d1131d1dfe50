"""The machine code of the tensor-core kernels: the instructions that make them fast are there."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tools.kernel_budget import load, readable

pytestmark = pytest.mark.cuda

Listing = dict[str, list[str]]  # kernel -> instructions, opcode first

_FUNCTION = re.compile(r"^\s*Function : (\S+)")
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][^;]*);")
_ARCHITECTURE = re.compile(r"sm_(\d+)")


@cache
def _architectures(library: Path, path: str) -> list[int]:
    command = ["cuobjdump", "-lelf", library]
    listed = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PATH": path}
    )
    return sorted({int(number) for number in _ARCHITECTURE.findall(listed.stdout)})


@cache
def _disassemble(library: Path, path: str, architecture: int) -> Listing:
    """Instructions of every tensor-core kernel for one architecture."""
    command = ["cuobjdump", "-sass", "-arch", f"sm_{architecture}", library]
    printed = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PATH": path}
    )
    functions: Listing = {}
    for line in printed.stdout.splitlines():
        if match := _FUNCTION.match(line):
            functions[match[1]] = []
        elif functions and (match := _INSTRUCTION.match(line)):
            functions[next(reversed(functions))].append(match[1])
    names = readable(functions)
    return {names[symbol]: code for symbol, code in functions.items()}


@pytest.fixture(scope="module")
def architecture(kernels_library: Path, disassembler_path: str) -> int:
    """The oldest that the library has, of those with tensor-core kernels."""
    return min(a for a in _architectures(kernels_library, disassembler_path) if a >= 80)


@pytest.fixture(scope="module")
def listing(kernels_library: Path, disassembler_path: str, architecture: int) -> Listing:
    return _disassemble(kernels_library, disassembler_path, architecture)


def _opcodes(code: list[str]) -> Counter[str]:
    return Counter(instruction.split(".")[0].split()[0] for instruction in code)


def _key_tiles(kernel: str) -> tuple[int, int]:
    """Tiles of 8 keys that a warp meets in all versions of its loop, and the head dim."""
    numbers = [int(number) for number in re.findall(r"\b\d+\b", kernel)]
    if kernel.startswith("groupKernel"):
        return 8, numbers[0]
    head_dim, size = numbers
    columns = (8 + size - 1 + 7) // 8
    return (size + 1) * (columns + columns - 1), head_dim  # one version has a column less


def test_every_tensor_core_kernel_is_there(listing: Listing) -> None:
    kernels = {
        f"tileKernel<{kind}, {head_dim}, {size}>"
        for kind in ("Float16", "BFloat16")
        for head_dim in (16, 32, 64)
        for size in (3, 5, 7, 9, 11, 13)
    }
    kernels |= {
        f"groupKernel<{kind}, {d}>" for kind in ("Float16", "BFloat16") for d in (16, 32, 64)
    }
    assert {name for name in listing if not name.startswith("portableKernel")} == kernels


def _tensor_core(listing: Listing) -> list[tuple[str, list[str]]]:
    return [(name, code) for name, code in listing.items() if not name.startswith("portable")]


def test_matrix_instructions_are_as_many_as_the_tiles_need(listing: Listing) -> None:
    for kernel, code in _tensor_core(listing):
        tiles, head_dim = _key_tiles(kernel)
        opcodes = _opcodes(code)
        # 16 channels of 8 keys for the scores; as many products for the values.
        assert opcodes["HMMA"] == tiles * head_dim // 16 * 2, kernel
        assert opcodes["LDSM"] == tiles * head_dim // 16, kernel
        assert all("16816" in i and ".F32" in i for i in code if i.startswith("HMMA")), kernel


def test_copies_and_stores_move_sixteen_bytes(listing: Listing) -> None:
    for kernel, code in _tensor_core(listing):
        copies = [instruction for instruction in code if instruction.startswith("LDGSTS")]
        assert len(copies) >= 2, kernel  # keys and values
        assert all(".128" in copy and "BYPASS" in copy for copy in copies), kernel
        stores = [instruction for instruction in code if instruction.startswith("STG")]
        assert stores and all(".128" in store for store in stores), kernel
        assert _opcodes(code)["ST"] == 0, kernel


def test_local_memory_is_used_only_where_the_budget_says_so(
    listing: Listing, architecture: int
) -> None:
    budget = load()
    for kernel, code in listing.items():
        stack = budget[kernel][architecture].stack
        offsets = [
            int(match[1] or "0", 16)
            for instruction in code
            if re.match(r"(LDL|STL)\b", instruction)
            and (match := re.search(r"\[R1(?:\+(0x[0-9a-f]+))?\]", instruction))
        ]
        local = [instruction for instruction in code if re.match(r"(LDL|STL)\b", instruction)]
        assert len(offsets) == len(local), f"{kernel} indexes local memory by a register"
        assert all(offset < stack for offset in offsets), kernel


def test_the_weights_use_the_fast_exponential(listing: Listing) -> None:
    for kernel, code in _tensor_core(listing):
        tiles, _ = _key_tiles(kernel)
        exponentials = sum(instruction.startswith("MUFU.EX2") for instruction in code)
        # A multiple where the compiler made several versions of the loop.
        assert exponentials > 0 and exponentials % (tiles * 4) == 0, kernel
