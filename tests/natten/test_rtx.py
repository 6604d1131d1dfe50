"""TensorRT-RTX builds a model written for NATTEN, its attention on the plugin."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import pytest
import torch

from dinat_deploy.graph import schema
from dinat_deploy.natten import export_module
from dinat_deploy.parity import Tolerance
from tests.natten.test_export import hourglass_inputs
from tests.plugins.conftest import cuda_build, cuda_target
from tests.plugins.test_tensorrt_plugin_rtx import Worker

__all__ = ["cuda_build", "cuda_target"]  # fixtures, used by name

pytestmark = [pytest.mark.rtx, pytest.mark.cuda]


@pytest.fixture
def library(request: pytest.FixtureRequest) -> Path:
    if given := os.environ.get("DINAT_TENSORRT_PLUGIN"):
        return Path(given)
    return request.getfixturevalue("cuda_target")("dinat_tensorrt")


def test_two_axes_and_one_axis_run_on_the_plugin_and_three_as_standard_operators(
    hourglass: ModuleType, strided: ModuleType, library: Path, tmp_path: Path
) -> None:
    class All(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.audio, self.video = hourglass.Block(), strided.Audio(), strided.Video()

        def forward(
            self,
            x: torch.Tensor,
            pos: torch.Tensor,
            cond: torch.Tensor,
            sound: torch.Tensor,
            frames: torch.Tensor,
        ) -> tuple[torch.Tensor, ...]:
            return self.block(x, pos, cond), self.audio(sound), self.video(frames)

    inputs = [*hourglass_inputs(1, 16, 16), torch.randn(1, 32, 16), torch.randn(1, 4, 8, 5, 16)]
    report = export_module(All(), inputs, tmp_path / "all.onnx", tolerance=Tolerance(1e-4, 1e-4))
    assert (report.packed, report.split) == (1, 1)
    assert all(errors.max_abs < 1e-4 for errors in report.errors.values())
    worker = Worker(library, tmp_path)
    try:
        answer = worker.ask(model=str(report.path))
    finally:
        worker.close()
    assert answer["parsed"], answer["log"]
    assert answer["bytes"] > 10_000, answer["log"]
    plugins = [name for name, kind in answer["layers"] if kind.startswith("PLUGIN")]
    assert len(plugins) == 2
    assert {name.split(":")[0].rsplit("/", 1)[-1] for name in plugins} == {
        schema.PACKED,
        schema.SPLIT,
    }
