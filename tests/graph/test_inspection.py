"""What inspect says of a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from dinat_deploy.errors import BundleError
from dinat_deploy.graph.inspection import inspect_model
from tests.graph.op_models import op_model


def test_operators_weights_and_attributes_are_listed(tmp_path: Path) -> None:
    model = op_model(
        (1, 14, 15, 2, 4),
        kernel_size=(7, 5),
        dilation=(2, 3),
        scale=0.5,
        rpb=np.zeros((2, 13, 9), np.float32),
    )
    onnx.save(model, tmp_path / "m.onnx")
    found = inspect_model(tmp_path / "m.onnx")
    assert found.opsets == {"ai.onnx": 20, "dinat": 1}
    assert found.operators == {"dinat.NeighborhoodAttention2D": 1}
    assert list(found.functions) == ["dinat.NeighborhoodAttention2D"]
    assert found.weights == {"float": {"values": 2 * 13 * 9, "bytes": 4 * 2 * 13 * 9}}
    assert found.inputs[0].shape == [1, 14, 15, 24]
    (node,) = found.op_nodes
    assert node.input_shape == [1, 14, 15, 24]
    assert node.has_rpb
    assert node.attributes == {
        "dilation": [2, 3], "head_dim": 4, "height": 14, "kernel_size": [7, 5], "num_heads": 2,
        "plugin_namespace": "dinat", "plugin_version": "1", "scale": 0.5, "width": 15,
    }  # fmt: skip


@pytest.mark.parametrize("layout", ["NeighborhoodAttention2D", "NeighborhoodAttention2DSplit"])
def test_a_missing_bias_and_dynamic_sizes_are_said(layout: str, tmp_path: Path) -> None:
    model = op_model(
        (1, 14, 14, 2, 4),
        kernel_size=(7, 7),
        dilation=(1, 1),
        scale=1.0,
        layout=layout,
        dynamic="size",
    )
    onnx.save(model, tmp_path / "m.onnx")
    found = inspect_model(tmp_path / "m.onnx")
    assert not found.op_nodes[0].has_rpb
    assert found.inputs[0].shape[:3] == ["batch", "height", "width"]


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07"])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"x\.onnx is not an ONNX file"):
        inspect_model(tmp_path / "x.onnx")
    with pytest.raises(BundleError, match="There is no ONNX file"):
        inspect_model(tmp_path / "y.onnx")
