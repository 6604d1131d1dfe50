"""This project's contestants: the heuristic's choice, every tactic, and a stand-in for dry runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from gpu.rivals import Contestant, torch_reference
from gpu.shapes import Row
from gpu.verdicts import HEURISTIC, TACTIC_PREFIX
from tests.gpu.binding import Kernels, problem_of, unpack
from tests.plugins.abi import Operands


class CudaKernels:
    """Contestants over ``libdinat_kernels.so``."""

    def __init__(self, library: Path, every_tactic: bool = True) -> None:
        self._kernels = Kernels(library)
        self._every_tactic = every_tactic

    def __call__(self, row: Row, rpb: Tensor) -> Sequence[Contestant]:
        kernels = self._kernels
        window = {
            "kernel_size": (row.kernel, row.kernel),
            "dilation": (row.dilation, row.dilation),
        }
        packed = (row.batch, *row.size)
        like_qkv = torch.empty(*packed, 3 * row.channels, dtype=rpb.dtype, device="meta")
        like_out = torch.empty(*packed, row.heads, row.head_dim, dtype=rpb.dtype, device="meta")
        problem = problem_of(unpack(like_qkv, row.heads)[0], like_out, **window)
        step = row.channels * rpb.element_size()

        def contestant(name: str, tactic: int) -> Contestant:
            def run(qkv: Tensor, out: Tensor) -> Tensor:
                first = qkv.data_ptr()
                operands = Operands(
                    first, first + step, first + 2 * step, rpb.data_ptr(), out.data_ptr()
                )
                kernels.launch(problem, operands, tactic)
                return out

            return Contestant(name, run)

        chosen = contestant(HEURISTIC, 0)
        made = [chosen]
        if self._every_tactic:
            made += [
                contestant(TACTIC_PREFIX + kernels.tactic_name(tactic), tactic)
                for tactic in kernels.tactics(problem)
            ]
        if row.batch == 1:
            eager = f"{HEURISTIC}, launched one by one"
            made.append(replace(chosen, name=eager, complete=False, capturable=False))
        return made


def stand_in(row: Row, rpb: Tensor) -> Sequence[Contestant]:
    """The PyTorch operator in the kernels' place."""
    return [replace(torch_reference(row, rpb), name=HEURISTIC)]
