"""Fixtures of the engine tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import util
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tests.engine.nvidia_bindings import Bindings, bindings
from tests.plugins.conftest import TargetBuilder, cuda_build, cuda_target, shared_folder

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
def plugin_library(cuda_target: TargetBuilder) -> Path:
    """The TensorRT plugin; the test is skipped without a CUDA compiler."""
    return cuda_target("dinat_tensorrt")


@pytest.fixture(scope="session")
def nvidia(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bindings]:
    """Gives NVIDIA's Python bindings of a release of TensorRT; see nvidia_bindings.py."""
    chosen = os.environ.get("DINAT_BINDINGS_DIR")
    folder = Path(chosen) if chosen else shared_folder(tmp_path_factory) / "bindings"
    folder.mkdir(parents=True, exist_ok=True)
    return lambda release, **options: bindings(release, folder, **options)


@pytest.fixture
def relu_model(tmp_path: Path) -> Path:
    """The smallest model: built in a tenth of a second."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "relu.onnx")
    return tmp_path / "relu.onnx"
