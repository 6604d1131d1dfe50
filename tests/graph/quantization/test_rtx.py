"""TensorRT-RTX builds quantized files, strongly typed, and multiplies integers (no GPU needed)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from dinat_deploy.graph import schema
from dinat_deploy.graph.formats import FORMATS, QUANTIZED_FORMATS
from dinat_deploy.graph.islands import find_islands
from dinat_deploy.graph.islands import rules as islands_rules
from dinat_deploy.graph.precision import convert
from dinat_deploy.graph.quantization.placement import place
from dinat_deploy.graph.quantization.rules import rules
from dinat_deploy.graph.quantization.sums import QuantizedSums
from dinat_deploy.graph.quantization.weights import capture
from dinat_deploy.graph.quantization.writer import quantize
from tests.plugins.conftest import cuda_build, cuda_target

__all__ = ["cuda_build", "cuda_target"]  # fixtures, used by name

pytestmark = pytest.mark.rtx
if util.find_spec("tensorrt_rtx") is None:
    pytest.skip("tensorrt-rtx is not installed", allow_module_level=True)

NODES = {"int8": 15, "fp8": 13}  # two convolutions have too few channels for float8
TYPES = {"int8": "Int8", "fp8": "FP8"}
RESTS = {"fp32": "Float", "fp16": "Half", "bf16": "BFloat16"}


class Files:
    """Writes the tiny model in any precision, and builds it."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        self.bundle, self.folder = bundle, folder
        # TensorRT-RTX's parser looks for the library under a name that its wheel does not have.
        packages = Path(util.find_spec("tensorrt_rtx_libs").origin).parent  # type: ignore[union-attr, arg-type]
        link = folder / "libtensorrt_rtx.so"
        link.symlink_to(next(packages.glob("libtensorrt_rtx.so.*")))

    def write(self, precision: str, rest: str, *, pairs: bool = False) -> str:
        schema.register()
        model = ir.load(self.bundle / "model.onnx")
        form = QUANTIZED_FORMATS[precision]
        placement = place(model, rules(model, form), residual=pairs, attention=pairs)
        weights = capture(model, placement)
        if rest != "fp32":
            low = FORMATS[rest]
            asked = [QuantizedSums(model.graph, placement), *islands_rules(model, low)]
            convert(model, low, find_islands(model, asked))
        quantize(model, placement, dict.fromkeys(placement.tensors, 4.0), form, weights)
        path = self.folder / f"{precision}_{rest}_{pairs}.onnx"
        ir.save(model, path)
        return str(path)

    def build(self, library: Path | None, *requests: str) -> list[dict[str, Any]]:
        """All in one process: a crash of the builder is a failed test."""
        module = "tests.graph.quantization.rtx_layers"
        done = subprocess.run(
            [sys.executable, "-m", module, str(library or "-"), *requests],
            env={**os.environ, "LD_LIBRARY_PATH": str(self.folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        assert len(lines) == len(requests)
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def files(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tiny_bundle, tmp_path_factory.mktemp("rtx"))


def products(built: dict[str, Any], factors: str) -> list[dict[str, Any]]:
    """Layers that multiply an activation by weights, both of a type."""
    assert built["errors"] == []
    return [
        layer
        for layer in built["layers"]
        if layer["type"] in ("gemm", "correlation")
        and layer["inputs"] == [factors]
        and layer["constants"][:1] == [factors]
    ]


def test_the_body_builds_with_integer_products_that_are_summed_up_in_float32(files: Files) -> None:
    wanted = [("int8", "SM120", "fp16"), ("int8", "SM86", "bf16"), ("fp8", "SM89", "fp16")]
    requests = [f"{target}={files.write(p, rest)}" for p, target, rest in wanted]
    for (precision, _, rest), built in zip(wanted, files.build(None, *requests), strict=True):
        found = products(built, TYPES[precision])
        assert len(found) == NODES[precision]
        assert [layer["outputs"] for layer in found] == [["Float"]] * len(found)
        # What stands between the products is in the type of the rest.
        others = [kind for layer in built["layers"] for kind in layer["outputs"]]
        assert RESTS[rest] in others


def test_float8_is_refused_where_there_is_none(files: Files) -> None:
    (built,) = files.build(None, f"SM86={files.write('fp8', 'fp16')}")
    assert "fp8" in str(built["errors"])


@pytest.fixture
def library(request: pytest.FixtureRequest) -> Path:
    if tuple(map(int, metadata.version("tensorrt-rtx").split(".")[:2])) < (1, 7):
        pytest.skip("the parser of tensorrt-rtx < 1.7 takes no plugins")
    if given := os.environ.get("DINAT_TENSORRT_PLUGIN"):
        return Path(given)
    found: Path = request.getfixturevalue("cuda_target")("dinat_tensorrt")
    return found


@pytest.mark.cuda
def test_the_plugin_computes_in_the_rests_type_between_integer_products(
    files: Files, library: Path
) -> None:
    wanted = [("int8", "SM86", "fp16", False), ("int8", "SM86", "fp16", True),
              ("fp8", "SM89", "bf16", True)]  # fmt: skip
    requests = [f"{target}={files.write(p, r, pairs=pairs)}" for p, target, r, pairs in wanted]
    for (precision, _, rest, _), built in zip(wanted, files.build(library, *requests), strict=True):
        assert len(products(built, TYPES[precision])) == NODES[precision]
        plugins = [layer for layer in built["layers"] if layer["type"] == "custom_layer"]
        assert len(plugins) == 3
        for layer in plugins:
            assert {*layer["inputs"], *layer["outputs"]} == {RESTS[rest]}
