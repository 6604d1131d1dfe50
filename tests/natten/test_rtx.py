"""TensorRT-RTX builds a model written for NATTEN, its attention on the plugin."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import pytest
import torch

from dinat_deploy.graph import schema
from dinat_deploy.natten import export_module
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


def test_two_axes_and_one_axis_run_on_the_plugin(
    hourglass: ModuleType, strided: ModuleType, library: Path, tmp_path: Path
) -> None:
    class Both(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.audio = hourglass.Block(), strided.Audio()

        def forward(
            self, x: torch.Tensor, pos: torch.Tensor, cond: torch.Tensor, sound: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            return self.block(x, pos, cond), self.audio(sound)

    inputs = [*hourglass_inputs(1, 16, 16), torch.randn(1, 32, 16)]
    report = export_module(Both(), inputs, tmp_path / "both.onnx", verify=False)
    assert (report.packed, report.split) == (1, 1)
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
