"""The plugin library in NVIDIA's parser and builder (TensorRT-RTX builds without a GPU)."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dinat_deploy.graph import schema
from tests.graph.op_models import op_model

pytestmark = [pytest.mark.rtx, pytest.mark.cuda]
if util.find_spec("tensorrt_rtx") is None:
    pytest.skip("tensorrt-rtx is not installed", allow_module_level=True)
if tuple(map(int, metadata.version("tensorrt-rtx").split(".")[:2])) < (1, 7):
    pytest.skip("the parser of tensorrt-rtx < 1.7 takes no plugins", allow_module_level=True)

TYPES = [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16]
SHAPE = (1, 28, 28, 2, 32)
KERNEL, DILATION, SCALE = (7, 5), (2, 3), 0.25
RPB = np.zeros((2, 13, 9), np.float32)
PROFILES: dict[str, list[list[int]]] = {
    "none": [],
    "batch": [[1, 28, 28], [2, 28, 28], [8, 28, 28]],
    "size": [[0, 14, 15], [1, 28, 28], [2, 40, 60]],
}


class Worker:
    """A process with the plugin loaded (tensorrt_rtx_worker.py)."""

    def __init__(self, library: Path | None, folder: Path) -> None:
        # TensorRT-RTX's parser looks for the library under a name that its wheel does not have.
        packages = Path(util.find_spec("tensorrt_rtx_libs").origin).parent  # type: ignore[union-attr, arg-type]
        link = folder / "libtensorrt_rtx.so"
        if not link.exists():
            link.symlink_to(next(packages.glob("libtensorrt_rtx.so.*")))
        self.log = (folder / "worker.log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.plugins.tensorrt_rtx_worker", str(library or "-")],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "LD_LIBRARY_PATH": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        assert line, f"the builder crashed with status {self.process.wait()}"
        return json.loads(line)

    def close(self) -> None:
        self.process.communicate()
        self.log.close()


@pytest.fixture(scope="session")
def library(request: pytest.FixtureRequest) -> Path:
    given = os.environ.get("DINAT_TENSORRT_PLUGIN")
    if given:
        return Path(given)
    return request.getfixturevalue("cuda_target")("dinat_tensorrt")


@pytest.fixture(scope="module")
def worker(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    started = Worker(library, tmp_path_factory.mktemp("worker"))
    yield started
    started.close()


def profile(model: onnx.ModelProto, points: Sequence[Sequence[int]]) -> dict[str, list[list[int]]]:
    """The three shapes of every input, from [batch, height, width] of each."""
    tails = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim][3:]
        for value in model.graph.input
    }
    return {name: [[*point, *tail] for point in points] for name, tail in tails.items() if points}


def build(
    worker: Worker, model: onnx.ModelProto, folder: Path, points: Sequence[Sequence[int]] = ()
) -> dict[str, Any]:
    onnx.save(model, folder / "model.onnx")
    return worker.ask(model=str(folder / "model.onnx"), profile=profile(model, points))


def model_of(layout: str = schema.PACKED, **options: Any) -> onnx.ModelProto:
    options = {"rpb": RPB, "dynamic": "batch", **options}
    return op_model(
        SHAPE, kernel_size=KERNEL, dilation=DILATION, scale=SCALE, layout=layout, **options
    )


def plugin_layers(built: dict[str, Any]) -> list[str]:
    return [name for name, kind in built["layers"] if kind == "PLUGIN_V3"]


@pytest.mark.parametrize("layout", schema.OP_TYPES)
@pytest.mark.parametrize("element_type", TYPES, ids=TensorProto.DataType.Name)
@pytest.mark.parametrize("dynamic", ["none", "batch", "size"])
@pytest.mark.parametrize("with_body", [True, False])
@pytest.mark.parametrize("rpb", [None, RPB], ids=["no rpb", "rpb"])
def test_a_node_becomes_a_plugin_layer_and_builds(
    worker: Worker,
    layout: str,
    element_type: int,
    dynamic: str,
    with_body: bool,
    rpb: np.ndarray | None,
    tmp_path: Path,
) -> None:
    model = model_of(
        layout, rpb=rpb, dynamic=dynamic, with_body=with_body, element_type=element_type
    )
    built = build(worker, model, tmp_path, PROFILES[dynamic])
    assert plugin_layers(built) == ["na"]
    assert len(built["layers"]) == (1 if rpb is None else 2)  # rpb is a constant layer
    assert built["bytes"] > 1000
    # The parser warns of attributes that are not there; sizes may be missing.
    expected = r"Attribute (height|width) not found" if dynamic == "size" else r"$^"
    assert [line for line in built["log"] if not re.search(expected, line)] == []


def test_without_the_plugin_the_same_file_builds_from_its_body(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    worker = Worker(None, tmp_path_factory.mktemp("worker"))
    built = build(worker, model_of(), tmp_path, PROFILES["batch"])
    worker.close()
    assert plugin_layers(built) == []
    assert len(built["layers"]) > 10
    assert built["bytes"] > 1000


def changed(
    model: onnx.ModelProto, *, rpb: np.ndarray | None = None, **attributes: Any
) -> onnx.ModelProto:
    """Other attributes (None: none) or another rpb in a model."""
    node = model.graph.node[0]
    for name, value in attributes.items():
        kept = [attribute for attribute in node.attribute if attribute.name != name]
        del node.attribute[:]
        node.attribute.extend(kept)
        if value is not None:
            node.attribute.append(helper.make_attribute(name, value))
    if rpb is not None:
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(rpb, "rpb"))
    return model


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_heads": "two"}, "attribute num_heads is a string; expected 1 int32 value"),
        ({"num_heads": 2.0}, "attribute num_heads is 1 float32 value; expected 1 int32 value"),
        ({"num_heads": None}, "attribute num_heads is missing; expected 1 int32 value"),
        ({"kernel_size": 7}, "attribute kernel_size is 1 int32 value; expected 2 int32 values"),
        ({"kernel_size": None}, "attribute kernel_size is missing"),
        ({"dilation": [2, 3, 1]}, "attribute dilation is 3 int32 values; expected 2"),
        ({"scale": 1}, "attribute scale is 1 int32 value; expected 1 float32 value"),
        ({"scale": float("inf")}, "scale is inf; expected a finite number"),
        ({"head_dim": 0}, "2 heads of 0 channels"),
        ({"height": 27}, "qkv has shape [-1, 28, 28, 192]; expected [-1, 27, 28, 192]"),
        # Heads do not divide the channels.
        ({"num_heads": 3}, "expected [-1, 28, 28, 288], that is [batch, height, width, 3 * num_"),
        ({"dilation": [2, 6]}, "kernel_size 5 * dilation 6 = 30 exceeds the map's width of 28"),
        (
            {"dilation": [2, 6], "height": None, "width": None},
            "kernel_size 5 * dilation 6 = 30 exceeds the map's width of 28",
        ),
        (
            {"rpb": np.zeros((2, 13, 13), np.float32)},
            "rpb has shape [2, 13, 13]; expected [2, 13, 9]",
        ),
        ({"rpb": np.zeros((13, 9), np.float32)}, "rpb has shape [13, 9]; expected [2, 13, 9]"),
        ({"rpb": RPB.astype(np.float16)}, "rpb is float16 and qkv is float32; expected one type"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
@pytest.mark.parametrize("with_body", [True, False])
def test_a_model_that_violates_a_constraint_is_refused_when_parsed(
    worker: Worker, change: dict[str, Any], said: str, with_body: bool, tmp_path: Path
) -> None:
    built = build(worker, changed(model_of(with_body=with_body), **change), tmp_path)
    assert not built["parsed"]
    (message,) = [line for line in built["log"] if line.startswith(schema.PACKED)]
    assert message.startswith(f"{schema.PACKED} 'na': ")
    assert said in message


def test_a_type_that_no_kernel_computes_is_refused_when_parsed(
    worker: Worker, tmp_path: Path
) -> None:
    model = model_of(rpb=None, element_type=TensorProto.INT32, with_body=False)
    built = build(worker, model, tmp_path)
    assert not built["parsed"]
    assert "qkv is int32; expected float32, float16 or bfloat16" in "\n".join(built["log"])


def test_a_node_with_too_few_inputs_is_refused_when_parsed(worker: Worker, tmp_path: Path) -> None:
    model = model_of(schema.SPLIT, rpb=None, with_body=False)
    del model.graph.node[0].input[2]
    built = build(worker, model, tmp_path)
    assert not built["parsed"]
    said = "there are 2 inputs; expected 3 (query, key, value) or 4 (with rpb)"
    assert f"{schema.SPLIT} 'na': {said}" in "\n".join(built["log"])


@pytest.mark.parametrize(
    ("least", "said"),
    [
        ([1, 13, 15], "kernel_size 7 * dilation 2 = 14 exceeds the map's height of 13"),
        ([1, 14, 14], "kernel_size 5 * dilation 3 = 15 exceeds the map's width of 14"),
    ],
)
def test_a_profile_that_goes_below_the_window_is_refused_when_built(
    worker: Worker, least: list[int], said: str, tmp_path: Path
) -> None:
    points = [least, [1, 28, 28], [1, 28, 28]]
    built = build(worker, model_of(dynamic="size"), tmp_path, points)
    assert built["parsed"]
    assert built["bytes"] == 0
    expected = f"{schema.PACKED} 'na': at the minimum of the optimization profile, {said}"
    assert expected in "\n".join(built["log"])


def test_plans_hold_the_plugin_if_they_are_told_to(worker: Worker, tmp_path: Path) -> None:
    model = model_of()
    onnx.save(model, tmp_path / "model.onnx")
    request = {
        "model": str(tmp_path / "model.onnx"),
        "profile": profile(model, PROFILES["batch"]),
    }
    with_plugin = [worker.ask(**request, embed=True) for _ in range(2)]
    without = worker.ask(**request, embed=False)
    assert [built["holds_plugin"] for built in with_plugin] == [True, True]
    assert not without["holds_plugin"]
    assert without["bytes"] < min(built["bytes"] for built in with_plugin)


def test_a_tensor_of_more_than_2_to_the_31_elements_does_not_crash_the_parser(
    worker: Worker, tmp_path: Path
) -> None:
    model = op_model(
        (3, 8192, 4096, 2, 32), kernel_size=KERNEL, dilation=DILATION, scale=SCALE, with_body=False
    )
    built = build(worker, model, tmp_path)
    assert plugin_layers(built) == ["na"] or built["log"]


# ---- The file ---------------------------------------------------------------------------------------


def lines_of(*command: str) -> list[str]:
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]}: install binutils")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_only_the_entry_points_are_exported(library: Path) -> None:
    symbols = [line.split()[-1] for line in lines_of("nm", "-D", "--defined-only", str(library))]
    assert sorted(symbols) == ["dinat_plugin_version", "getCreators", "setLoggerFinder"]


def test_neither_tensorrt_nor_the_driver_is_linked(library: Path) -> None:
    needed = re.findall(r"NEEDED.*\[(.*)\]", "\n".join(lines_of("readelf", "-d", str(library))))
    assert needed
    allowed = re.compile(r"(libc|libm|libdl|librt|libpthread|ld-linux-.*)\.so\.\d")
    assert [name for name in needed if not allowed.fullmatch(name)] == []


def test_the_library_says_its_version_without_a_gpu(library: Path) -> None:
    loaded = ctypes.CDLL(str(library))
    loaded.dinat_plugin_version.restype = ctypes.c_char_p
    version = loaded.dinat_plugin_version().decode()
    assert re.fullmatch(r"\d+\.\d+\.\d+(\+g[0-9a-f]{12})? cuda \d+\.\d+ sm [\d,a-z-]+", version)
