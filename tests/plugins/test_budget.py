"""Registers, stack and shared memory of every compiled kernel, against the checked-in table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.plugins.abi import DataType
from tests.plugins.conftest import TargetBuilder, missing_cuda
from tests.plugins.emulator import Case, Emulator, Tactic
from tools import kernel_budget
from tools.kernel_budget import Table, Usage, faults, load

ARCHITECTURES = [80, 86, 87, 89, 90, 100, 110, 120]
HEAD_DIMS = [16, 32, 64]
KERNEL_SIZES = [3, 5, 7, 9, 11, 13]
HALVES = ["Float16", "BFloat16"]
TILES = [Tactic.TILE4, Tactic.TILE8, Tactic.TILE16]

# Of a multiprocessor: shared memory in KB and warps, by architecture (CUDA C++ programming guide).
SHARED = {80: 164, 86: 100, 87: 164, 89: 100, 90: 228, 100: 228, 110: 228, 120: 100}
WARPS = {80: 64, 86: 48, 87: 48, 89: 48, 90: 64, 100: 64, 110: 48, 120: 48}


@pytest.mark.cuda
def test_no_kernel_takes_more_than_the_table_says(
    kernels_library: Path, disassembler_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", disassembler_path)
    assert faults(kernel_budget.read([kernels_library]), load()) == []


def test_the_table_has_every_instance_for_every_architecture() -> None:
    tensor_core = {
        f"tileKernel<{kind}, {head_dim}, {size}>"
        for kind in HALVES
        for head_dim in HEAD_DIMS
        for size in KERNEL_SIZES
    } | {f"groupKernel<{kind}, {head_dim}>" for kind in HALVES for head_dim in HEAD_DIMS}
    portable = {
        f"portableKernel<{kind}, {vectors}>"
        for kind in ("float", *HALVES)
        for vectors in ("true", "false")
    }
    assert {kernel: sorted(row) for kernel, row in load().items()} == {
        **dict.fromkeys(tensor_core, ARCHITECTURES),
        **{kernel: [75, *ARCHITECTURES] for kernel in portable},
    }


def test_launches_ask_for_the_shared_memory_in_the_table(native_target: TargetBuilder) -> None:
    emulator = Emulator(native_target("dinat_emulation"))

    def shared(head_dim: int, size: int, tactic: Tactic) -> int:
        case = Case(1, (size, size), 1, head_dim, (size, size), (1, 1))
        return emulator.shared_bytes(case.call(DataType.FLOAT16).problem, tactic)

    planned = {
        f"tileKernel<{head_dim}, {size}>": [shared(head_dim, size, tactic) for tactic in TILES]
        for head_dim in HEAD_DIMS
        for size in KERNEL_SIZES
    } | {f"groupKernel<{head_dim}>": [shared(head_dim, 7, Tactic.GROUP)] for head_dim in HEAD_DIMS}
    assert json.loads(kernel_budget.TABLE.read_text())["launch_shared"] == planned


def _warps_at_once(usage: Usage, threads: int, shared: int, architecture: int) -> int:
    """Warps of a kernel that a multiprocessor holds."""
    warps = threads // 32
    per_warp = -(-usage.registers * 32 // 256) * 256  # registers are given out 256 at a time
    by_registers = 65536 // (per_warp * warps)
    by_shared = SHARED[architecture] * 1024 // (shared + 1024)  # CUDA keeps 1 KB of each block
    return min(by_registers, by_shared, WARPS[architecture] // warps) * warps


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_common_windows_leave_room_for_several_blocks(architecture: int) -> None:
    """7 x 7 windows of head dim 32, most layers: 12 warps hide the latency of memory; 16 where shared
    memory allows."""
    table = load()
    launches = json.loads(kernel_budget.TABLE.read_text())["launch_shared"]
    for kind in HALVES:
        tile = table[f"tileKernel<{kind}, 32, 7>"][architecture]
        expected = 16 if SHARED[architecture] > 100 else 12
        assert _warps_at_once(tile, 128, launches["tileKernel<32, 7>"][1], architecture) >= expected
        group = table[f"groupKernel<{kind}, 32>"][architecture]
        assert _warps_at_once(group, 128, launches["groupKernel<32>"][0], architecture) >= 20
        assert tile.stack == group.stack == 0


BUDGET: Table = {
    "first": {80: Usage(64, 0, 0), 90: Usage(70, 16, 1024)},
    "second": {80: Usage(9, 0, 0)},
}


def test_a_build_within_the_budget_has_no_faults() -> None:
    assert faults(BUDGET, BUDGET) == []
    lower: Table = {"first": {80: Usage(60, 0, 0)}, "second": {80: Usage(9, 0, 0)}}
    assert faults(lower, BUDGET) == []  # and sm_90 was not built
    assert kernel_budget.slack(lower, BUDGET) == 1


@pytest.mark.parametrize(
    ("usage", "sentence"),
    [
        (Usage(65, 0, 0), "first, sm_80: 65 registers, budget 64"),
        (Usage(64, 8, 0), "first, sm_80: 8 bytes of stack, budget 0"),
        (Usage(60, 0, 4), "first, sm_80: 4 bytes of static shared memory, budget 0"),
    ],
)
def test_a_kernel_above_the_budget_is_named_with_both_numbers(usage: Usage, sentence: str) -> None:
    assert faults({"first": {80: usage}, "second": BUDGET["second"]}, BUDGET) == [sentence]


def test_missing_and_unknown_kernels_are_named() -> None:
    measured: Table = {"first": {80: Usage(64, 0, 0)}, "third": {80: Usage(5, 0, 0)}}
    assert faults(measured, BUDGET) == [
        "second, sm_80: in the budget, but not in the build",
        "third, sm_80: in the build (5 registers, 0 bytes of stack, 0 of shared), but not budgeted",
    ]


def test_an_update_keeps_the_rest_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "budget.json"
    path.write_text('{"kernels": {}, "launch_shared": {"first": [1, 2]}}')
    kernel_budget.dump(BUDGET, "nvcc 1.2", path)
    assert load(path) == BUDGET
    document = json.loads(path.read_text())
    assert (document["compiler"], document["launch_shared"]) == ("nvcc 1.2", {"first": [1, 2]})


def test_files_without_gpu_code_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_budget, "tool", lambda name: name)
    monkeypatch.setattr(kernel_budget, "_output", lambda *command, text=None: "")
    with pytest.raises(kernel_budget.BudgetError, match="no GPU machine code in"):
        kernel_budget.read([tmp_path / "empty.so"])
    assert kernel_budget.main(["--check", str(tmp_path / "empty.so")]) == 2


def test_missing_cuda_skips_unless_it_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DINAT_REQUIRE_CUDA", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no nvcc"):
        missing_cuda("no nvcc")
    monkeypatch.setenv("DINAT_REQUIRE_CUDA", "1")
    with pytest.raises(pytest.fail.Exception, match="DINAT_REQUIRE_CUDA=1, and no nvcc"):
        missing_cuda("no nvcc")
