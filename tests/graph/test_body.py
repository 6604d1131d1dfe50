"""The standard-ops body in ONNX Runtime: golden cases, invariants, every form it comes in."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from dinat_deploy.graph import schema
from dinat_deploy.graph.body import BodyKind, body
from tests import bruteforce
from tests.golden import OpCase, op_case, op_case_names
from tests.graph.op_models import op_model, run_model
from tests.ops.strategies import Problem, blinded, problems

LAYOUTS = (schema.PACKED, schema.SPLIT)


def golden_model(case: OpCase, **form: object) -> onnx.ModelProto:
    return op_model(
        case.query.shape,
        kernel_size=case.kernel_size,
        dilation=case.dilation,
        scale=case.scale,
        rpb=case.rpb,
        **form,
    )


def feeds_of(case: OpCase, layout: str, dtype: type = np.float32) -> dict[str, np.ndarray]:
    if layout == schema.PACKED:
        return {"qkv": case.qkv.astype(dtype)}
    parts = {"query": case.query, "key": case.key, "value": case.value}
    return {name: array.astype(dtype) for name, array in parts.items()}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dynamic", ["none", "batch", "size"])
@pytest.mark.parametrize("name", op_case_names())
def test_golden_cases(name: str, layout: str, dynamic: str) -> None:
    case = op_case(name)
    model = golden_model(case, layout=layout, dynamic=dynamic)
    found = run_model(model, **feeds_of(case, layout)).reshape(case.output.shape)
    assert np.abs(found - case.output).max() <= 2e-5


@pytest.mark.parametrize("name", op_case_names())
def test_golden_cases_in_float16(name: str) -> None:
    case = op_case(name)
    model = golden_model(case, element_type=TensorProto.FLOAT16)
    found = run_model(model, **feeds_of(case, schema.PACKED, np.float16))
    assert np.abs(found.astype(np.float32) - case.packed_output).max() <= 5e-3


@pytest.mark.parametrize("opset", [17, 18, 19, 20, 21])
@pytest.mark.parametrize("name", op_case_names()[::6])
def test_every_opset_passes_the_checker_and_agrees(name: str, opset: int) -> None:
    schema.register()
    case = op_case(name)
    for dynamic, layout in itertools.product(("none", "size"), LAYOUTS):
        model = golden_model(case, opset=opset, dynamic=dynamic, layout=layout)
        onnx.checker.check_model(model, full_check=True)
        found = run_model(model, **feeds_of(case, layout)).reshape(case.output.shape)
        assert np.abs(found - case.output).max() <= 2e-5


def run_problem(
    problem: Problem, tensors: list[np.ndarray], rpb: np.ndarray | None, dynamic: str = "none"
) -> np.ndarray:
    model = op_model(
        problem.shape,
        kernel_size=problem.kernel,
        dilation=problem.dilation,
        scale=problem.scale,
        rpb=rpb,
        layout=schema.SPLIT,
        dynamic=dynamic,
    )
    return run_model(model, **dict(zip(("query", "key", "value"), tensors, strict=True)))


@given(problems(slack=24), st.sampled_from(["none", "batch", "size"]))
def test_equals_loops(problem: Problem, dynamic: str) -> None:
    tensors, rpb = problem.arrays()
    expected = bruteforce.attention(*tensors, rpb, problem.kernel, problem.dilation, problem.scale)
    assert np.abs(run_problem(problem, tensors, rpb, dynamic) - expected).max() <= 2e-5


@given(problems())
@settings(max_examples=15)
def test_a_constant_value_comes_out_unchanged(problem: Problem) -> None:
    tensors, rpb = problem.arrays()
    tensors[2] = np.full_like(tensors[2], 3.25)
    assert np.abs(run_problem(problem, tensors, rpb) - 3.25).max() <= 1e-5


@given(problems(), st.data())
@settings(max_examples=25)
def test_huge_numbers_outside_the_window_change_nothing(
    problem: Problem, data: st.DataObject
) -> None:
    tensors, rpb = problem.arrays()
    before = run_problem(problem, tensors, rpb)
    changed, blind = blinded(problem, tensors, data, 1e9)
    after = run_problem(problem, changed, rpb)
    assert np.abs(before[:, blind] - after[:, blind]).max(initial=0) <= 1e-6


@given(problems())
@settings(max_examples=15)
def test_dilation_is_attention_without_dilation_on_the_deinterleaved_map(problem: Problem) -> None:
    tensors, rpb = problem.arrays()
    found = run_problem(problem, tensors, rpb, "size")
    dh, dw = problem.dilation
    for row, column in itertools.product(range(dh), range(dw)):
        parts = [np.ascontiguousarray(array[:, row::dh, column::dw]) for array in tensors]
        plain = Problem(**{**problem.__dict__, "dilation": (1, 1), "sizes": parts[0].shape[1:3]})
        expected = run_problem(plain, parts, rpb, "size")
        assert np.abs(found[:, row::dh, column::dw] - expected).max() <= 2e-5


def test_float16_sums_of_large_values_do_not_overflow() -> None:
    shape = (1, 11, 11, 1, 8)
    model = op_model(
        shape, kernel_size=(11, 11), dilation=(1, 1), scale=1.0, element_type=TensorProto.FLOAT16
    )
    qkv = np.zeros((1, 11, 11, 24), np.float16)
    qkv[..., 16:] = 3000  # 121 of them sum to over 65504
    assert np.abs(run_model(model, qkv=qkv).astype(np.float32) - 3000).max() <= 4


@pytest.mark.parametrize("axis", ["height", "width"])
def test_a_map_smaller_than_the_window_fails_by_name_instead_of_giving_another_result(
    axis: str,
) -> None:
    model = op_model(
        (1, 28, 28, 2, 4), kernel_size=(7, 5), dilation=(2, 3), scale=1.0, dynamic="size"
    )
    fits = np.zeros((1, 14, 15, 24), np.float32)
    assert run_model(model, qkv=fits).shape == (1, 14, 15, 8)
    small = fits[:, :13] if axis == "height" else fits[:, :, :14]
    with pytest.raises(Exception, match=f"kernel_size_times_dilation_exceeds_the_{axis}"):
        run_model(model, qkv=np.ascontiguousarray(small))


def test_one_static_node_folds_to_few_nodes(tmp_path: object) -> None:
    """The index arithmetic must vanish at load; what is left are the products and the softmax."""
    import onnxruntime

    model = op_model(
        (1, 56, 56, 2, 32),
        kernel_size=(7, 7),
        dilation=(1, 1),
        scale=0.2,
        rpb=np.zeros((2, 13, 13), np.float32),
        dynamic="batch",
    )
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "folded.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options)
    folded = onnx.load(options.optimized_model_filepath)
    assert len(folded.graph.node) <= 26


def test_the_body_is_small() -> None:
    for kind in (BodyKind(schema.PACKED, True, True), BodyKind(schema.SPLIT, False, False)):
        function = onnx.FunctionProto()
        import onnx_ir as ir

        function.CopyFrom(ir.to_proto(body(kind, 20)))
        assert function.ByteSize() < 24_000
