"""Seeded bugs: changes to the kernels' sources that the emulation must notice.

As a program, ``python -m tests.plugins.mutants LIBRARY KERNEL`` prints what is wrong with a library,
or nothing: in a process of its own, because a mutant may crash.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.plugins.abi import DataType
from tests.plugins.compilation import GROUP, PORTABLE, Unit, tile
from tests.plugins.emulator import TOLERANCE, Case, Emulator, Tactic, error

INSTANCE = (32, 7)
UNITS: dict[str, Unit] = {"tile": tile(*INSTANCE), "group": GROUP, "portable": PORTABLE}

# Ragged in rows and columns, with unequal groups, two images and two heads.
CASES = {
    "tile": [
        Case(2, (13, 18), 2, 32, (7, 7), (1, 1)),
        Case(1, (23, 15), 1, 32, (7, 7), (3, 2)),
    ],
    "group": [Case(2, (14, 13), 2, 32, (5, 6), (2, 2))],
    "portable": [Case(2, (9, 10), 2, 40, (5, 3), (1, 2))],
}
TACTICS = {
    "tile": [Tactic.TILE4, Tactic.TILE8],
    "group": [Tactic.GROUP],
    "portable": [Tactic.PORTABLE],
}


@dataclass(frozen=True)
class Mutation:
    """A textual change in one file of ``plugins``.

    Attributes:
        name: what the bug is.
        kernel: whose results it should spoil.
        file: relative to ``plugins``.
        old: text that is replaced; any run of blanks matches any other.
        new: what it becomes.
        which: the occurrence of ``old`` that is replaced, from 0.
    """

    name: str
    kernel: str
    file: str
    old: str
    new: str
    which: int = 0

    def apply(self, plugins: Path) -> None:
        """Change the file in a copy of the sources; the text must be there."""
        path = plugins / self.file
        text = path.read_text()
        pattern = r"\s+".join(re.escape(word) for word in self.old.split())
        found = list(re.finditer(pattern, text))
        assert len(found) > self.which, f"{self.file} does not have {self.old!r} any more"
        match = found[self.which]
        path.write_text(text[: match.start()] + self.new + text[match.end() :])


TENSOR_CORE, TILE = "kernels/tensor_core.cuh", "kernels/tile.cuh"
PLAN, PORTABLE_CUH = "kernels/launch_plan.cpp", "kernels/portable.cuh"
KEYS_ARRIVED = "device::waitCopies<1>();  // the keys'\n  device::synchronize();"
VALUES_ARRIVED = "device::waitCopies<0>();\n  device::synchronize();"

MUTATIONS = [
    # Synchronisation.
    Mutation("no barrier before the scores", "tile", TENSOR_CORE, KEYS_ARRIVED, "device::waitCopies<1>();"),
    Mutation("no wait for the keys", "tile", TENSOR_CORE, KEYS_ARRIVED, "device::synchronize();"),
    Mutation("no barrier before the values", "tile", TENSOR_CORE, VALUES_ARRIVED, "device::waitCopies<0>();"),
    Mutation("no wait for the values", "tile", TENSOR_CORE, VALUES_ARRIVED, "device::synchronize();"),
    Mutation("a wait that allows one group too many", "tile", TENSOR_CORE, "waitCopies<0>", "waitCopies<1>"),
    Mutation("keys and values in one group of copies", "tile", TENSOR_CORE, "device::commitCopies();", ""),
    Mutation("no commit of the values", "tile", TENSOR_CORE, "device::commitCopies();", "", which=1),
    Mutation("the group's keys read without barrier", "group", TENSOR_CORE, KEYS_ARRIVED, "device::waitCopies<1>();", which=1),
    Mutation("the group's values not waited for", "group", TENSOR_CORE, VALUES_ARRIVED, "device::synchronize();", which=1),
    Mutation("lanes that diverge at a matrix load", "tile", TENSOR_CORE, "if (queries.any()) {", "if (queries.live[1]) {"),
    Mutation("warps that skip a barrier", "tile", TENSOR_CORE, "device::waitCopies<0>();", "device::waitCopies<0>(); if (!queries.any()) return;"),
    # Windows, masks and bias.
    Mutation("no clamp at the far edge", "tile", "common/window.h", "return clamped > last ? last : clamped;", "return clamped + 0 * last;"),
    Mutation("no clamp at the near edge", "tile", "common/window.h", "centred < 0 ? 0 : centred", "centred"),
    Mutation("even windows that start one member late", "group", "common/window.h", "position - kernel_size / 2", "position - (kernel_size - 1) / 2"),
    Mutation("the bias of the row below", "tile", TENSOR_CORE, "(window_a - queries.row[0] + kKernel - 1)", "(window_a - queries.row[0] + kKernel)"),
    Mutation("the bias of the column to the left", "tile", TENSOR_CORE, "key - queries.column + kCentre", "key - queries.column + kCentre - 1"),
    Mutation("the first head's bias for all", "tile", TENSOR_CORE, "static_cast<uint64_t>(head) * rows", "static_cast<uint64_t>(0 * head) * rows"),
    Mutation("bias that is scaled", "tile", PLAN, "1.0f / problem_.scale", "1.0f"),
    Mutation("keys left of the window", "tile", TENSOR_CORE, "key >= window && key", "key"),
    Mutation("one key row too many at shifted windows", "tile", TENSOR_CORE, "row + 1 == kKernel && together ? -device::kInfinity : entry", "entry"),
    Mutation("the group's window one key row too tall", "group", TENSOR_CORE, "row < window[1] + p.kernel_size[0]", "row <= window[1] + p.kernel_size[0]"),
    # Lane layouts and reductions.
    Mutation("the wrong lanes address the values", "tile", TILE, "lane % 8 * kPitchBytes + lane / 16 * 16", "lane % 8 * kPitchBytes + lane / 8 % 2 * 16"),
    Mutation("the wrong lanes address the keys", "tile", TILE, "lane % 8 * kPitchBytes + lane / 8 * 16", "lane % 8 * kPitchBytes + lane / 16 * 16"),
    Mutation("a maximum of half the lanes", "tile", TILE, "maximum = fmaxf(maximum, device::shuffleXor(maximum, 2));", ""),
    Mutation("a sum of the wrong lanes", "tile", TILE, "sum + device::shuffleXor(sum, 2)", "sum + device::shuffleXor(sum, 1)"),
    # Memory.
    Mutation("shared memory without the last tile's tail", "tile", "kernels/shapes.h", "+ columns() * 8 - width()", ""),
    Mutation("no zeros outside the live rectangle", "tile", TILE, "device::copyAsync16(shared", "if (valid) device::copyAsync16(shared"),
    Mutation("keys copied from outside the map", "tile", TILE, "row < live_rows && column < live_columns", "column >= 0"),
    Mutation("queries loaded from outside the map", "tile", TILE, "column = smaller(own, place.members[1] - 1);", "column = own;"),
    Mutation("tokens off their 16-byte boundary", "tile", TILE, "token * kPitch<kDim> + chunk * 16", "token * kPitch<kDim> + chunk * 16 + 8"),
    # The launch.
    Mutation("the longer groups' last members left out", "tile", PLAN, "problem_.size[axis] % dilation", "0"),
    Mutation("the second image written over the first", "tile", TILE, "image * p.output_batch", "0 * p.output_batch"),
    Mutation("natural exponents of base-2 scores", "group", PLAN, "p.scale = problem_.scale * kLog2e;", "p.scale = problem_.scale;", which=1),
    # The portable kernel.
    Mutation("the table walked one entry short", "portable", PORTABLE_CUH, "wraps ? p.kernel_size[1] : 1", "1"),
    Mutation("a sum that is not rescaled", "portable", PORTABLE_CUH, "sum *= rescale;", ""),
    Mutation("the last keys counted twice", "portable", PORTABLE_CUH, "if (done + u >= count) entry[u] = -device::kInfinity;", ""),
    Mutation("dilation as if it were 1", "portable", PORTABLE_CUH, "wraps ? p.next_key_row : p.next_key;", "wraps ? p.next_key_row : p.input_column;"),
]  # fmt: skip


def verdict(library: Path, kernel: str) -> str:
    """The first thing wrong with a kernel of a library, or nothing."""
    emulator = Emulator(library)
    for case in CASES[kernel]:
        expected = case.expected(DataType.FLOAT16)
        for tactic in TACTICS[kernel]:
            for seed in (0, 1):
                call = case.call(DataType.FLOAT16)
                if fault := emulator.fault(call, tactic, seed):
                    return fault
                deviation = error(call, expected)
                if not deviation <= TOLERANCE[DataType.FLOAT16]:
                    unwritten = int(np.isnan(call.output).sum())
                    return f"wrong result: error {deviation:.2e}, {unwritten} elements are NaN"
    return ""


if __name__ == "__main__":
    print(verdict(Path(sys.argv[1]), sys.argv[2]))
