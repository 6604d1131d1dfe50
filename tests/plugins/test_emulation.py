"""Every CUDA kernel, emulated on the CPU, against NATTEN and against plain loops in float64."""

from __future__ import annotations

import numpy as np
import pytest

from tests.golden import op_case, op_case_names
from tests.plugins import abi
from tests.plugins.abi import Call, DataType
from tests.plugins.conftest import TargetBuilder
from tests.plugins.emulator import (
    TENSOR_CORES,
    TOLERANCE,
    Case,
    Emulator,
    Tactic,
    error,
    reference,
    runs,
)

KINDS = list(DataType)
HALVES = [DataType.FLOAT16, DataType.BFLOAT16]


@pytest.fixture(scope="session")
def emulator(native_target: TargetBuilder) -> Emulator:
    return Emulator(native_target("dinat_emulation"))


@pytest.mark.parametrize("name", op_case_names())
def test_golden_cases_by_every_tactic_packed_and_split(emulator: Emulator, name: str) -> None:
    case = op_case(name)
    tensors = (case.query, case.key, case.value, case.rpb)
    window = {"kernel_size": case.kernel_size, "dilation": case.dilation, "scale": case.scale}
    for kind in KINDS:
        expected = reference(*tensors, **window, kind=kind)
        for packed in (True, False):
            problem = abi.call(*tensors, **window, kind=kind, packed=packed).problem
            for tactic in emulator.tactics(problem):
                call = abi.call(*tensors, **window, kind=kind, packed=packed)
                assert emulator.fault(call, tactic, seed=int(packed)) == ""
                assert error(call, expected) <= TOLERANCE[kind], (kind, packed, tactic)
                if kind is DataType.FLOAT32:
                    np.testing.assert_allclose(call.output, case.output, rtol=0, atol=2e-5)


def test_golden_cases_exercise_every_tactic(emulator: Emulator) -> None:
    used = set()
    for name in op_case_names():
        case = op_case(name)
        call = abi.call(
            case.query,
            case.key,
            case.value,
            case.rpb,
            kernel_size=case.kernel_size,
            dilation=case.dilation,
            scale=case.scale,
            kind=DataType.FLOAT16,
        )
        used.update(emulator.tactics(call.problem))
    assert used == set(Tactic) - {Tactic.HEURISTIC}


SHAPES = [
    # Groups that are the window; that are a little larger; of unequal lengths.
    Case(1, (7, 7), 2, 32, (7, 7), (1, 1)),
    Case(1, (14, 14), 1, 32, (7, 7), (2, 2)),
    Case(2, (14, 14), 2, 32, (7, 7), (1, 1)),
    Case(1, (57, 59), 1, 32, (7, 7), (8, 8)),
    Case(1, (31, 45), 1, 32, (7, 7), (3, 5)),
    # Ragged tiles, without bias too.
    Case(1, (30, 23), 1, 32, (7, 7), (1, 1)),
    Case(1, (20, 20), 1, 32, (7, 7), (1, 1), rpb=False),
    Case(1, (37, 20), 3, 32, (7, 7), (1, 1)),
    # Every window of the tile kernels.
    Case(1, (17, 9), 1, 32, (3, 3), (2, 1)),
    Case(1, (19, 21), 1, 32, (5, 5), (2, 3)),
    Case(1, (25, 21), 1, 32, (9, 9), (1, 2)),
    Case(1, (23, 30), 1, 32, (11, 11), (2, 2)),
    Case(1, (29, 31), 1, 32, (13, 13), (1, 2)),
    # The other head dims.
    Case(2, (15, 18), 2, 16, (5, 5), (1, 2)),
    Case(1, (16, 17), 1, 64, (7, 7), (2, 1)),
    Case(1, (27, 26), 1, 64, (13, 13), (2, 2)),
    Case(1, (13, 26), 1, 16, (13, 13), (1, 1)),
    # Windows that the group kernel takes and the tile kernels do not.
    Case(1, (16, 12), 2, 32, (4, 6), (2, 2)),
    Case(1, (8, 5), 1, 16, (7, 2), (1, 1)),
    Case(1, (16, 15), 1, 64, (1, 5), (3, 2)),
    # The portable kernel alone: even, flat and large windows, head dims that are not multiples of 8.
    Case(1, (12, 17), 1, 12, (4, 4), (1, 2)),
    Case(1, (9, 20), 2, 5, (3, 8), (2, 1)),
    Case(2, (10, 11), 3, 1, (5, 3), (1, 3)),
    Case(1, (15, 16), 1, 24, (15, 1), (1, 1)),
    Case(1, (16, 17), 1, 8, (16, 17), (1, 1)),
    Case(1, (9, 9), 1, 40, (3, 3), (3, 3), rpb=False),
    Case(1, (6, 7), 2, 128, (5, 5), (1, 1)),
    Case(1, (4, 5), 1, 300, (3, 3), (1, 1)),
    Case(1, (4, 5), 1, 264, (3, 3), (1, 1)),
    Case(1, (1, 1), 1, 32, (1, 1), (1, 1)),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name.lower())
@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_further_shapes_by_every_tactic(emulator: Emulator, case: Case, kind: DataType) -> None:
    expected = case.expected(kind)
    for packed in (True, False):
        for tactic, call in runs(emulator, case, kind, packed, seed=7 + packed):
            assert error(call, expected) <= TOLERANCE[kind], (tactic, packed)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name.lower())
def test_results_do_not_depend_on_the_order_in_which_threads_run(
    emulator: Emulator, kind: DataType
) -> None:
    case = Case(1, (18, 16), 2, 32, (7, 7), (2, 2))
    outputs: dict[Tactic, np.ndarray] = {}
    for seed in range(8):
        for tactic, call in runs(emulator, case, kind, seed=seed):
            first = outputs.setdefault(tactic, call.output)
            np.testing.assert_array_equal(call.output, first)


@pytest.mark.parametrize("kind", HALVES, ids=lambda kind: kind.name.lower())
@pytest.mark.parametrize(
    "case",
    [
        Case(1, (21, 22), 1, 32, (7, 7), (1, 1)),
        Case(1, (14, 15), 1, 16, (5, 5), (2, 2)),
        Case(1, (15, 13), 1, 64, (3, 3), (2, 1)),
    ],
    ids=str,
)
def test_huge_keys_and_values_outside_a_window_change_nothing(
    emulator: Emulator, case: Case, kind: DataType
) -> None:
    # Finite, and small enough that their products with a query are too.
    huge = 6e4 if kind is DataType.FLOAT16 else 1e30
    query, key, value, rpb = case.arrays
    height, width = case.size
    arguments = {
        "kernel_size": case.kernel_size,
        "dilation": case.dilation,
        "scale": case.scale,
        "kind": kind,
    }
    for row, column in [(0, 0), (height // 2, width // 2), (height - 1, 1), (3, width - 1)]:
        near = np.ix_(
            *(
                _window(size, kernel, dilation, token)
                for size, kernel, dilation, token in zip(
                    case.size, case.kernel_size, case.dilation, (row, column), strict=True
                )
            )
        )
        far_key, far_value = np.full_like(key, -huge), np.full_like(value, huge)
        for far, original in ((far_key, key), (far_value, value)):
            far[0][near] = original[0][near]
        for tactic, plain in runs(emulator, case, kind):
            call = abi.call(query, far_key, far_value, rpb, **arguments)
            assert emulator.fault(call, tactic) == ""
            np.testing.assert_array_equal(call.output[0, row, column], plain.output[0, row, column])


def _window(size: int, kernel: int, dilation: int, token: int) -> list[int]:
    members = range(token % dilation, size, dilation)
    start = min(max(token // dilation - kernel // 2, 0), len(members) - kernel)
    return list(members[start : start + kernel])


def _heads_first(case: Case, kind: DataType) -> Call:
    """The case on tensors [B, heads, H, W, dim], described by strides."""
    call = case.call(kind, packed=False)
    moved = [np.ascontiguousarray(part.transpose(0, 3, 1, 2, 4)) for part in call.inputs[:3]]
    output = np.full_like(moved[0], call.output.flat[0])
    strides = abi.Strides(*(moved[0].strides[axis] // moved[0].itemsize for axis in (0, 2, 3, 1)))
    call.problem.input = call.problem.output = strides
    for name, array in zip(("query", "key", "value", "output"), [*moved, output], strict=True):
        setattr(call.operands, name, array.ctypes.data)
    return Call(call.problem, call.operands, output, (*moved, *call.inputs[3:]))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name.lower())
def test_strides_describe_any_layout(emulator: Emulator, kind: DataType) -> None:
    case = Case(2, (15, 16), 3, 32, (7, 7), (2, 1))
    expected = case.expected(kind)
    for tactic in emulator.tactics(_heads_first(case, kind).problem):
        call = _heads_first(case, kind)
        assert emulator.fault(call, tactic) == ""
        call.output = np.ascontiguousarray(call.output.transpose(0, 2, 3, 1, 4))
        assert error(call, expected) <= TOLERANCE[kind], tactic


def test_tensor_cores_are_for_what_they_can_do(emulator: Emulator) -> None:
    def tactics(case: Case, kind: DataType = DataType.FLOAT16) -> set[Tactic]:
        return set(emulator.tactics(case.call(kind).problem)) & set(TENSOR_CORES)

    fitting = Case(1, (14, 14), 2, 32, (7, 7), (2, 2))
    assert tactics(fitting) == tactics(fitting, DataType.BFLOAT16) == set(TENSOR_CORES)
    assert tactics(fitting, DataType.FLOAT32) == set()
    assert Tactic.GROUP not in tactics(Case(1, (18, 14), 2, 32, (7, 7), (2, 2)))
    assert tactics(Case(1, (14, 14), 2, 24, (7, 7), (2, 2))) == set()
    assert tactics(Case(1, (20, 20), 2, 32, (6, 6), (1, 1))) == set()
    problem = fitting.call(DataType.FLOAT16).problem
    assert not any(emulator.can_implement(problem, tactic, 75) for tactic in TENSOR_CORES)
    assert emulator.can_implement(problem, Tactic.PORTABLE, 75)
    for field in ("row", "column", "head", "batch"):  # rows that 16-byte copies cannot start at
        problem = fitting.call(DataType.FLOAT16).problem
        setattr(problem.input, field, getattr(problem.input, field) + 1)
        assert not any(emulator.can_implement(problem, tactic) for tactic in TENSOR_CORES), field


def test_faults_of_the_problem_are_named_and_nothing_runs(emulator: Emulator) -> None:
    call = Case(1, (14, 14), 1, 32, (7, 7), (2, 2)).call(DataType.FLOAT16)
    call.problem.dilation[0] = 3
    before = call.output.copy()
    for tactic in Tactic:
        assert "kernel_size 7 * dilation 3 = 21" in emulator.fault(call, tactic)
    unfit = Case(1, (20, 20), 1, 24, (7, 7), (1, 1)).call(DataType.FLOAT16)
    assert "cannot" in emulator.fault(unfit, Tactic.TILE8)
    np.testing.assert_array_equal(call.output, before)


def test_an_empty_batch_launches_nothing(emulator: Emulator) -> None:
    call = Case(1, (14, 14), 1, 32, (7, 7), (2, 2)).call(DataType.FLOAT16)
    call.problem.batch = 0
    before = call.output.copy()
    for tactic in Tactic:
        assert emulator.fault(call, tactic) == ""
        assert emulator.statistics().blocks == 0
    np.testing.assert_array_equal(call.output, before)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name.lower())
def test_operands_between_vectors_are_for_the_portable_kernel(
    emulator: Emulator, kind: DataType
) -> None:
    case = Case(1, (16, 16), 1, 32, (7, 7), (2, 2))

    def shifted_by_one_element(call: Call) -> Call:
        key = np.zeros(call.inputs[1].size + 1, call.inputs[1].dtype)
        key[1:] = call.inputs[1].ravel()
        call.operands.key = key.ctypes.data + key.itemsize
        return Call(call.problem, call.operands, call.output, (*call.inputs, key))

    for tactic in emulator.tactics(case.call(kind).problem):
        call = shifted_by_one_element(case.call(kind, packed=False))
        fault = emulator.fault(call, tactic)
        if tactic is Tactic.PORTABLE:
            assert fault == ""
            assert error(call, case.expected(kind)) <= TOLERANCE[kind]
        else:
            assert "of 16 bytes of the key, misaligned by 2" in fault


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name.lower())
def test_launches_in_parts_compute_the_same(emulator: Emulator, kind: DataType) -> None:
    case = Case(3, (14, 14), 2, 32, (7, 7), (2, 2))
    expected = case.expected(kind)
    for tactic in emulator.tactics(case.call(kind).problem):
        for blocks, items in [(8, 10**6), (40, 10**6), (10**6, 28), (10**6, 30), (10**6, 900)]:
            call = case.call(kind)
            assert emulator.fault_in_parts(call, tactic, blocks, items) == ""
            assert error(call, expected) <= TOLERANCE[kind], (tactic, blocks, items)


@pytest.mark.parametrize(
    "case", [shape for shape in SHAPES if shape.head_dim in (16, 32, 64)], ids=str
)
def test_matrix_loads_have_no_bank_conflicts(emulator: Emulator, case: Case) -> None:
    for tactic, _ in runs(emulator, case, DataType.FLOAT16):
        statistics = emulator.statistics()
        assert (statistics.matrix_loads > 0) == (tactic is not Tactic.PORTABLE)
        assert statistics.bank_conflicts == 0, tactic


def test_tiles_compute_no_more_than_their_windows_need(emulator: Emulator) -> None:
    """For 7 x 7 windows, 2 x 8 queries take 8 key rows of 2 tiles of 8 keys; groups take 8 x 8."""
    case = Case(1, (48, 48), 1, 32, (7, 7), (1, 1))
    warps = 48 * 48 // 16
    per_tile = 2 + 2  # products of 16 channels for the scores, and for half as many values
    for tactic, _ in runs(emulator, case, DataType.FLOAT16):
        products = emulator.statistics().products
        if tactic in TENSOR_CORES:
            assert products <= warps * 8 * 2 * per_tile, tactic
    group = Case(1, (56, 56), 1, 32, (7, 7), (8, 8))
    for tactic, _ in runs(emulator, group, DataType.FLOAT16):
        if tactic is Tactic.GROUP:
            assert emulator.statistics().products == 64 * 4 * 8 * per_tile
