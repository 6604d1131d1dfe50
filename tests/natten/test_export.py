"""Models written for NATTEN as ONNX: what becomes of their attention, and the same numbers."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import onnx
import pytest
import torch
from torch import nn

from dinat_deploy.errors import ConfigError, ExportError
from dinat_deploy.graph import schema
from dinat_deploy.natten import ExportedModule, export_module
from dinat_deploy.parity import Tolerance
from tests.natten.conftest import user_module


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seeded(kind: type[nn.Module], **options: object) -> nn.Module:
    torch.manual_seed(0)
    return kind(**options)


def checked(report: ExportedModule) -> ExportedModule:
    """The file was compared with PyTorch and is a valid model."""
    assert report.errors
    assert all(errors.passed and errors.max_abs < 1e-4 for errors in report.errors.values())
    onnx.checker.check_model(onnx.load(report.path))
    return report


def hourglass_inputs(batch: int, height: int, width: int) -> list[torch.Tensor]:
    rows, columns = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    pos = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)
    return [drawn(batch, height, width, 48), pos, drawn(batch, 8, seed=1)]


def test_an_hourglass_block_has_one_split_node(hourglass: ModuleType, tmp_path: Path) -> None:
    """Queries and keys are rotated, so they are not parts of the projection's output."""
    report = checked(
        export_module(
            seeded(hourglass.Block),
            hourglass_inputs(2, 8, 10),
            tmp_path / "block.onnx",
            dynamic={"x": {0: "batch"}, "cond": {0: "batch"}},
            more_inputs=[hourglass_inputs(1, 8, 10)],
        )
    )
    assert (report.packed, report.split) == (0, 1)
    assert report.inputs["x"] == ["batch", 8, 10, 48]
    (node,) = [n for n in onnx.load(report.path).graph.node if n.domain == schema.DOMAIN]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert attributes["scale"] == 1.0
    assert len(node.input) == 3


@pytest.mark.parametrize(
    ("name", "shape", "plain"),
    [
        ("Attention", (2, 7, 8, 16), {"Add": 2, "MatMul": 2, schema.PACKED: 1}),
        ("ThreeLinears", (2, 5, 6, 16), {"Add": 1, "MatMul": 1, schema.PACKED: 1}),
        ("OneAxis", (2, 12, 16), {"Add": 1, "MatMul": 1, "Squeeze": 1, "Unsqueeze": 1, schema.PACKED: 1}),
        ("Convolutions", (2, 16, 6, 7), {"Conv": 1, "Transpose": 2, schema.PACKED: 1}),
    ],
)  # fmt: skip
def test_unfused_attention_becomes_one_node_on_the_projection(
    unfused: ModuleType, name: str, shape: tuple[int, ...], plain: dict[str, int], tmp_path: Path
) -> None:
    module = seeded(getattr(unfused, name))
    report = checked(export_module(module, drawn(*shape), tmp_path / "m.onnx"))
    assert {op: n for op, n in report.operators.items() if op != "Reshape"} == plain
    assert report.operators.get("Reshape", 0) <= (2 if name == "Convolutions" else 0)


def test_sizes_may_be_dynamic_where_there_are_two_axes(unfused: ModuleType, tmp_path: Path) -> None:
    report = checked(
        export_module(
            seeded(unfused.ThreeLinears),
            drawn(2, 5, 6, 16),
            tmp_path / "m.onnx",
            dynamic={"x": {0: "batch", 1: "height", 2: torch.export.Dim("width", min=3, max=99)}},
            more_inputs=[[drawn(1, 19, 11, 16)], [drawn(3, 4, 3, 16)]],
        )
    )
    assert report.outputs == {"output": ["batch", "height", "width", 16]}
    assert report.operators == {"Add": 1, "MatMul": 1, schema.PACKED: 1}


def test_scores_and_sums_with_something_between_stay_apart(
    unfused: ModuleType, tmp_path: Path
) -> None:
    same = drawn(2, 2, 6, 7, 4)  # PyTorch would take it for one input
    others = [drawn(2, 2, 6, 7, 4, seed=seed) for seed in range(3)]
    module = seeded(unfused.TalkingHeads)
    report = checked(export_module(module, [same] * 3, tmp_path / "m.onnx", more_inputs=[others]))
    assert (report.packed, report.split) == (0, 0)
    assert not [node for node in onnx.load(report.path).graph.node if node.domain == schema.DOMAIN]


def test_three_axes_with_stride_and_causality(strided: ModuleType, tmp_path: Path) -> None:
    report = checked(
        export_module(
            seeded(strided.Video),
            drawn(2, 4, 8, 5, 16),
            tmp_path / "m.onnx",
            dynamic={"x": {0: "batch"}},
            more_inputs=[[drawn(1, 4, 8, 5, 16)]],
            opset=17,
        )
    )
    assert (report.packed, report.split) == (0, 0)
    assert report.operators["Softmax"] == 1


def test_one_axis_of_any_length_runs_in_the_two_dimensional_operator(
    strided: ModuleType, tmp_path: Path
) -> None:
    report = checked(
        export_module(
            seeded(strided.Audio),
            drawn(2, 20, 16),
            tmp_path / "m.onnx",
            dynamic={"x": {0: "batch", 1: torch.export.Dim("length", min=14)}},
            more_inputs=[[drawn(1, 37, 16)]],
        )
    )
    assert report.packed == 1
    (node,) = [n for n in onnx.load(report.path).graph.node if n.domain == schema.DOMAIN]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert (attributes["kernel_size"], attributes["dilation"]) == ([1, 7], [1, 2])


def test_tokens_from_elsewhere_and_sums_of_exponentials(
    strided: ModuleType, tmp_path: Path
) -> None:
    inputs = [
        drawn(1, 5, 6, 4, 8), drawn(1, 5, 6, 2, 8, seed=1), drawn(1, 5, 6, 2, 8, seed=2),
        drawn(1, 3, 2, 8, seed=3), drawn(1, 3, 2, 8, seed=4),
    ]  # fmt: skip
    report = checked(export_module(strided.WithContext(), inputs, tmp_path / "m.onnx"))
    assert report.outputs == {"output_0": [1, 5, 6, 4, 8], "output_1": [1, 5, 6, 4]}


def test_the_module_is_left_as_it_was(unfused: ModuleType, tmp_path: Path) -> None:
    module = seeded(unfused.Attention)
    module.proj.eval()
    export_module(module, drawn(1, 6, 6, 16), tmp_path / "m.onnx", verify=False)
    assert module.training
    assert module.drop.training
    assert not module.proj.training


def test_nothing_appears_if_the_file_differs_or_the_export_fails(
    unfused: ModuleType, strided: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(ExportError, match="output output of input 0 is off by"):
        export_module(
            seeded(unfused.OneAxis), drawn(1, 12, 16), path, tolerance=Tolerance(0.0, 0.0)
        )
    with pytest.raises(ExportError, match="has the dynamic size"):
        export_module(
            seeded(strided.Video), drawn(2, 4, 8, 5, 16), path, dynamic={"x": {2: "height"}}
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dynamic": {"y": {0: "batch"}}}, "the input 'y'; the inputs are x"),
        ({"dynamic": {"x": {7: "batch"}}}, "has 3 axes, no axis 7"),
        ({"dynamic": {"x": {0: "batch"}}}, "PyTorch takes a dynamic axis of 0 or 1"),
        ({"input_names": ["a", "b"]}, "1 inputs"),
        ({"output_names": ["a", "b"]}, "returns 1 tensors"),
    ],
)
def test_options_that_contradict_the_module_are_refused(
    unfused: ModuleType, options: dict[str, object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        export_module(seeded(unfused.OneAxis), drawn(1, 12, 16), tmp_path / "m.onnx", **options)


def test_both_ways_to_write_attention_give_the_same_graph(tmp_path: Path) -> None:
    """``na2d`` of 0.21 and the module of 0.17 on one projection."""

    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(16, 48)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            query, key, value = self.qkv(x).chunk(3, dim=-1)
            heads = [part.unflatten(-1, (2, 8)) for part in (query * 0.5, key, value)]
            return na2d(*heads, 3, dilation=2).flatten(-2)

    na2d = user_module("user_strided", "0.21").na2d
    report = checked(export_module(Fused(), drawn(1, 6, 7, 16), tmp_path / "m.onnx"))
    assert report.operators == {"Add": 1, "MatMul": 1, schema.PACKED: 1}
    (node,) = [n for n in onnx.load(report.path).graph.node if n.domain == schema.DOMAIN]
    (scale,) = [a.f for a in node.attribute if a.name == "scale"]
    assert scale == pytest.approx(0.5 * 8**-0.5)
