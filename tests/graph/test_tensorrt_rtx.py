"""NVIDIA's parser and builder take our files without any plugin (no GPU needed)."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import util
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from dinat_deploy.pipeline.exporting import export
from dinat_deploy.pipeline.sources import ModelRequest
from tests.graph.op_models import op_model

pytestmark = pytest.mark.rtx
if util.find_spec("tensorrt_rtx") is None:
    pytest.skip("tensorrt-rtx is not installed", allow_module_level=True)


def build(path: Path, *profiles: str) -> dict[str, object]:
    """Build in a process of its own: a crash of the builder is then a failed test."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.graph.rtx_build", str(path), *profiles],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])  # the logger writes to stdout too


@pytest.mark.parametrize(
    "element_type", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16]
)
@pytest.mark.parametrize("dynamic", ["none", "batch", "size"])
def test_the_body_of_one_operator_builds(dynamic: str, element_type: int, tmp_path: Path) -> None:
    model = op_model(
        (1, 28, 28, 2, 32),
        kernel_size=(7, 7),
        dilation=(2, 2),
        scale=0.2,
        rpb=np.zeros((2, 13, 13), np.float32),
        dynamic=dynamic,
        element_type=element_type,
    )
    onnx.save(model, tmp_path / "m.onnx")
    profiles = {
        "none": [],
        "batch": ["qkv=1x28x28x192:2x28x28x192:8x28x28x192"],
        "size": ["qkv=1x14x14x192:1x28x28x192:2x40x60x192"],
    }
    built = build(tmp_path / "m.onnx", *profiles[dynamic])
    assert built["errors"] == []
    assert built["bytes"] > 10_000


def test_the_body_without_bias_builds(tmp_path: Path) -> None:
    model = op_model((1, 14, 14, 2, 32), kernel_size=(5, 3), dilation=(2, 3), scale=0.2)
    onnx.save(model, tmp_path / "m.onnx")
    assert build(tmp_path / "m.onnx")["bytes"] > 10_000


@pytest.mark.parametrize(
    ("options", "profiles"),
    [
        ({}, []),
        ({"opset": 17}, []),
        ({"dynamic": ["batch"]}, ["image=1x3x64x64:2x3x64x64:8x3x64x64"]),
        (
            {"dynamic": ["batch", "size"], "size_range": (20, 256)},
            ["image=1x3x20x20:1x3x64x64:2x3x256x200"],
        ),
    ],
    ids=["static", "opset 17", "batch", "size with padding"],
)
def test_whole_models_build(
    options: dict[str, object], profiles: list[str], tiny_config_file: Path, tmp_path: Path
) -> None:
    export(ModelRequest(config=tiny_config_file), tmp_path / "b", verify=False, **options)
    built = build(tmp_path / "b" / "model.onnx", *profiles)
    assert built["errors"] == []
    assert built["bytes"] > 50_000


def test_without_body_and_plugin_the_parser_says_what_is_missing(
    tiny_config_file: Path, tmp_path: Path
) -> None:
    export(ModelRequest(config=tiny_config_file), tmp_path / "b", body="none", verify=False)
    errors = build(tmp_path / "b" / "model.onnx")["errors"]
    assert "NeighborhoodAttention2D" in str(errors)
