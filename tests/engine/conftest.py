"""Fixtures of the engine tests."""

from __future__ import annotations

from importlib import util
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from dinat_deploy.pipeline.exporting import export
from dinat_deploy.pipeline.sources import ModelRequest
from tests.plugins.conftest import TargetBuilder, cuda_build, cuda_target

__all__ = ["cuda_build", "cuda_target"]  # fixtures, used by name

HAVE_RTX = util.find_spec("tensorrt_rtx") is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = pytest.mark.skip(reason="tensorrt-rtx is not installed")
    for item in items:
        if "rtx" in item.keywords and not HAVE_RTX:
            item.add_marker(missing)


@pytest.fixture(autouse=True)
def _no_plugin_library_of_this_machine(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test that wants a plugin names it; none is found by chance."""
    monkeypatch.setenv("DINAT_NATIVE_DIR", str(tmp_path_factory.mktemp("native")))


@pytest.fixture(scope="session")
def dynamic_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_config_file: Path) -> Path:
    """A bundle of one layer with dynamic batch and size. Do not change it."""
    place = tmp_path_factory.mktemp("out") / "dynamic"
    request = ModelRequest(config=tiny_config_file, depths=(1,), num_heads=(2,), dilations="4")
    export(request, place, dynamic=["batch", "size"], size_range=(48, 96), verify=False)
    return place


@pytest.fixture(scope="session")
def plugin_library(cuda_target: TargetBuilder) -> Path:
    """The TensorRT plugin; the test is skipped without a CUDA compiler."""
    return cuda_target("dinat_tensorrt")


@pytest.fixture
def relu_model(tmp_path: Path) -> Path:
    """The smallest model: built in a tenth of a second."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "relu.onnx")
    return tmp_path / "relu.onnx"
