"""TensorRTSession and NVIDIA's real libraries, on a machine without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib import util
from pathlib import Path

import pytest

from dinat_deploy.session.cuda.device import _has_driver
from tests.engine.conftest import nvidia
from tests.engine.nvidia_bindings import Bindings
from tests.session.cuda_wheels import installed
from tests.session.onnx_models import square_model

__all__ = ["nvidia"]

pytestmark = [
    pytest.mark.rtx,
    pytest.mark.skipif(util.find_spec("tensorrt_rtx") is None, reason="no tensorrt-rtx"),
    pytest.mark.skipif(_has_driver(), reason="this machine has a driver"),
]

_BUILD = """
import sys, tensorrt_rtx as trt
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, logger)
assert parser.parse_from_file(sys.argv[1])
config = builder.create_builder_config()
config.num_compute_capabilities = 1
config.set_compute_capability(trt.ComputeCapability.SM86, 0)
open(sys.argv[2], "wb").write(builder.build_serialized_network(network, config))
"""
_OPEN = """
import sys
from pathlib import Path
from dinat_deploy.errors import EngineError
from dinat_deploy.session.tensorrt_session import TensorRTSession
try:
    TensorRTSession(Path(sys.argv[1]), flavor="tensorrt-rtx")
except EngineError as error:
    print(error)
"""
# Past the GPU, as far as TensorRT goes without one.
_LOAD = """
import sys
from pathlib import Path
from dinat_deploy.errors import EngineError
from dinat_deploy.session import tensorrt_callbacks as callbacks
from dinat_deploy.session.tensorrt_api import import_tensorrt
from dinat_deploy.session.tensorrt_engine import LoadedEngine
plan, flavor = Path(sys.argv[1]), sys.argv[2]
trt = import_tensorrt(flavor)
made = [
    callbacks.make_output_allocator(trt, lambda name, size: 256),
    callbacks.make_debug_listener(trt, None),
    callbacks.make_profiler(trt),
]
made[2].report_layer_time("a", 0.5)
made[2].report_layer_time("a", 0.25)
print(made[2].milliseconds)
for _ in range(2):
    try:
        LoadedEngine(plan, flavor=flavor, allow_host_code=True)
    except EngineError as error:
        print(error)
"""


def python(code: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def rtx_plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rtx")
    model = square_model(folder / "square.onnx", [2, 4])
    built = python(_BUILD, model, folder / "model.plan")
    assert built.returncode == 0, built.stderr
    return folder / "model.plan"


@pytest.mark.parametrize("binding", ["cuda-bindings==13.5.0", None])
def test_without_a_gpu_one_sentence_says_so(
    rtx_plan: Path, tmp_path_factory: pytest.TempPathFactory, binding: str | None
) -> None:
    path = [str(installed(binding, tmp_path_factory)), *sys.path] if binding else sys.path
    opened = python(_OPEN, rtx_plan, PYTHONPATH=os.pathsep.join(path))
    assert opened.returncode == 0 and opened.stderr == "", opened.stderr
    sentence = opened.stdout.strip()
    assert sentence.startswith("Running an engine needs an NVIDIA GPU and its driver: ")
    assert "\n" not in sentence


def test_tensorrt_rtx_refuses_to_load_without_a_driver(rtx_plan: Path) -> None:
    loaded = python(_LOAD, rtx_plan, "tensorrt-rtx")
    check_refusal(loaded, rtx_plan, "TensorRT-RTX")


def test_bindings_of_tensorrt_refuse_to_load_without_a_driver(
    rtx_plan: Path, nvidia: Callable[..., Bindings]
) -> None:
    # NVIDIA's bindings of TensorRT 11.4, over TensorRT-RTX's libraries.
    loaded = python(_LOAD, rtx_plan, "tensorrt", **nvidia("11.4", building=True).environment())
    check_refusal(loaded, rtx_plan, "TensorRT")


def check_refusal(loaded: subprocess.CompletedProcess[str], plan: Path, title: str) -> None:
    assert loaded.returncode == 0, (loaded.returncode, loaded.stderr)
    times, *said = loaded.stdout.splitlines()
    assert times == "{'a': 0.75}"
    # The second attempt is told as much as the first one: the logger outlives both.
    assert said[: len(said) // 2] == said[len(said) // 2 :]
    assert said[0].startswith(f"{title} ") and said[0].endswith(f" cannot load {plan}.")
    assert "CUDA driver version is insufficient" in said[1]
