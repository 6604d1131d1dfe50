"""The operator's library in ONNX Runtime: results, precedence over the body, errors, sessions."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from dinat_deploy.errors import BundleError, MissingDependencyError
from dinat_deploy.graph import schema
from dinat_deploy.models.seeding import seeded_image
from dinat_deploy.pipeline.exporting import export
from dinat_deploy.pipeline.inferring import infer
from dinat_deploy.pipeline.sources import ModelRequest
from dinat_deploy.pipeline.verifying import verify
from dinat_deploy.session import onnxruntime_session
from dinat_deploy.session.onnxruntime_session import OnnxRuntimeSession
from tests.golden import op_case, op_case_names
from tests.graph.op_models import op_model
from tests.plugins.conftest import TargetBuilder

# Largest error relative to the largest output.
TOLERANCE = {TensorProto.FLOAT16: 2e-3, TensorProto.BFLOAT16: 1e-2}
SOURCE = Path(__file__).parents[2] / "plugins" / "onnxruntime"


@pytest.fixture(scope="module")
def library(native_target: TargetBuilder) -> Path:
    return native_target("dinat_onnxruntime")


def load(model: onnx.ModelProto, library: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def feeds_of(case: Any, layout: str) -> dict[str, np.ndarray]:
    if layout == schema.PACKED:
        return {"qkv": case.qkv}
    names = ("query", "key", "value")
    return {name: np.ascontiguousarray(getattr(case, name)) for name in names}


def model_of(case: Any, layout: str, **options: Any) -> onnx.ModelProto:
    return op_model(
        case.query.shape,
        kernel_size=case.kernel_size,
        dilation=case.dilation,
        scale=case.scale,
        rpb=case.rpb,
        layout=layout,
        **options,
    )


@pytest.mark.parametrize("layout", schema.OP_TYPES)
@pytest.mark.parametrize("name", op_case_names())
def test_golden_cases(name: str, layout: str, library: Path) -> None:
    case = op_case(name)
    session = load(model_of(case, layout, with_body=False), library)
    (found,) = session.run(None, feeds_of(case, layout))
    assert np.abs(found.reshape(case.output.shape) - case.output).max() <= 2e-5


@pytest.mark.parametrize("element_type", TOLERANCE)
@pytest.mark.parametrize("name", op_case_names()[::6])
def test_golden_cases_in_16_bits(
    name: str, element_type: int, library: Path, tmp_path: Path
) -> None:
    case = op_case(name)
    model = model_of(case, schema.PACKED, with_body=False, element_type=element_type)
    onnx.save(model, tmp_path / "m.onnx")
    session = OnnxRuntimeSession(tmp_path / "m.onnx", custom_op=library)
    found = session.run({"qkv": case.qkv})["output"].reshape(case.output.shape)
    limit = 2 * TOLERANCE[element_type]  # the inputs are rounded too
    assert np.abs(found - case.output).max() <= limit * np.abs(case.output).max()


def test_the_library_wins_over_a_body(library: Path) -> None:
    model = op_model((1, 8, 8, 1, 4), kernel_size=(3, 3), dilation=(1, 1), scale=1.0)
    (function,) = model.functions
    function.ClearField("node")
    function.ClearField("attribute")
    function.ClearField("attribute_proto")
    function.node.append(helper.make_node("Shape", [function.input[0]], ["s"]))
    value = helper.make_tensor("v", TensorProto.FLOAT, [1], [777.0])
    function.node.append(
        helper.make_node("ConstantOfShape", ["s"], [function.output[0]], value=value)
    )
    qkv = np.ones((1, 8, 8, 12), np.float32)
    (found,) = load(model, library).run(None, {"qkv": qkv})
    assert np.allclose(found, 1.0)


@pytest.mark.parametrize("inputs", [["qkv"], ["qkv", ""]], ids=["absent", "empty"])
def test_the_bias_may_be_left_away(inputs: list[str], library: Path) -> None:
    model = op_model(
        (1, 6, 6, 2, 8), kernel_size=(3, 3), dilation=(2, 2), scale=0.5, with_body=False
    )
    model.graph.node[0].ClearField("input")
    model.graph.node[0].input.extend(inputs)
    qkv = np.random.default_rng(0).standard_normal((1, 6, 6, 48)).astype(np.float32)
    zero = op_model(
        (1, 6, 6, 2, 8), kernel_size=(3, 3), dilation=(2, 2), scale=0.5,
        rpb=np.zeros((2, 5, 5), np.float32), with_body=False,
    )  # fmt: skip
    found, expected = (load(m, library).run(None, {"qkv": qkv})[0] for m in (model, zero))
    assert np.array_equal(found, expected)


def test_sizes_and_their_names_pass_shape_inference(library: Path) -> None:
    model = op_model(
        (1, 8, 9, 2, 4), kernel_size=(3, 3), dilation=(1, 1), scale=1.0, dynamic="size",
        with_body=False,
    )  # fmt: skip
    output = model.graph.output[0]
    output.CopyFrom(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, None))
    session = load(model, library)
    assert session.get_outputs()[0].shape == ["batch", "height", "width", 8]
    for shape in ((1, 8, 9, 24), (2, 5, 4, 24), (0, 5, 4, 24)):
        (found,) = session.run(None, {"qkv": np.zeros(shape, np.float32)})
        assert found.shape == (*shape[:3], 8)


def test_one_session_runs_on_several_threads_at_once(library: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    model = op_model(
        (1, 8, 9, 2, 16), kernel_size=(3, 3), dilation=(1, 1), scale=1.0, dynamic="size",
        with_body=False,
    )  # fmt: skip
    session = load(model, library)
    rng = np.random.default_rng(0)
    arrays = [
        rng.standard_normal((1, size, 30 - size, 96)).astype(np.float32) for size in range(5, 25)
    ]
    alone = [session.run(None, {"qkv": array})[0] for array in arrays]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda array: session.run(None, {"qkv": array})[0], arrays * 5))
    assert all(np.array_equal(a, b) for a, b in zip(alone * 5, together, strict=True))


Change = Callable[[onnx.NodeProto], None]


def attribute(name: str, value: Any) -> Change:
    def change(node: onnx.NodeProto) -> None:
        kept = [a for a in node.attribute if a.name != name]
        node.ClearField("attribute")
        node.attribute.extend(
            [*kept, *([] if value is None else [helper.make_attribute(name, value)])]
        )

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (attribute("num_heads", 2.0), "num_heads is missing or is not an int"),
        (attribute("num_heads", 0), "num_heads is 0"),
        (attribute("num_heads", 5), r"qkv has the shape \[1, 8, 8, 48\]; expected .* with 5 heads"),
        (attribute("head_dim", 7), "with 2 heads of 7 channels"),
        (attribute("head_dim", 2**62), "with 2 heads of 4611686018427387904 channels"),
        (attribute("kernel_size", 3), r"kernel_size is missing or is not a list of two ints"),
        (attribute("kernel_size", [3]), "kernel_size has 1 values; expected two"),
        (attribute("kernel_size", [3, 2**40]), r"kernel_size is \[3, 1099511627776\]"),
        (attribute("kernel_size", [-3, 3]), r"kernel_size is \[-3, 3\]; expected positive"),
        (attribute("kernel_size", [0, 3]), r"kernel_size is \[0, 3\]; expected positive"),
        (attribute("kernel_size", "no"), "kernel_size is missing or is not"),
        (
            attribute("dilation", [3, 3]),
            r"kernel_size 3 \* dilation 3 = 9 exceeds the map's height of 8",
        ),
        (attribute("dilation", None), "dilation is missing"),
        (attribute("scale", 1), "scale is missing or is not a float"),
        (attribute("scale", float("nan")), "scale is nan"),
    ],
)
def test_faulty_attributes_are_named(change: Change, message: str, library: Path) -> None:
    model = op_model(
        (1, 8, 8, 2, 8), kernel_size=(3, 3), dilation=(1, 1), scale=1.0,
        rpb=np.zeros((2, 5, 5), np.float32), with_body=False,
    )  # fmt: skip
    change(model.graph.node[0])
    with pytest.raises(Exception, match=message) as caught:
        load(model, library).run(None, {"qkv": np.zeros((1, 8, 8, 48), np.float32)})
    assert "dinat.NeighborhoodAttention2D 'na'" in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 8, 48), "qkv has the shape"),
        ((1, 8, 8, 47), "qkv has the shape"),
        ((1, 2, 8, 48), "exceeds the map's height of 2"),
        ((1, 8, 0, 48), "exceeds the map's width of 0"),
    ],
)
def test_faulty_inputs_are_named(shape: tuple[int, ...], message: str, library: Path) -> None:
    model = op_model(
        (1, 8, 8, 2, 8), kernel_size=(3, 3), dilation=(1, 1), scale=1.0, with_body=False
    )
    for info in (model.graph.input[0], model.graph.output[0]):
        info.CopyFrom(
            helper.make_tensor_value_info(
                info.name, TensorProto.FLOAT, [f"{info.name}{i}" for i in range(len(shape))]
            )
        )
    session = load(model, library)
    with pytest.raises(Exception, match=message):
        session.run(None, {"qkv": np.zeros(shape, np.float32)})


@pytest.mark.parametrize("shape", [(2, 5, 6), (1, 5, 5), (5, 5), (0,)])
def test_a_bias_of_the_wrong_size_is_named(shape: tuple[int, ...], library: Path) -> None:
    model = op_model(
        (1, 8, 8, 2, 8), kernel_size=(3, 3), dilation=(1, 1), scale=1.0,
        rpb=np.zeros(shape, np.float32), with_body=False,
    )  # fmt: skip
    with pytest.raises(Exception, match=r"rpb has the shape .*; expected \[2, 5, 5\]"):
        load(model, library).run(None, {"qkv": np.zeros((1, 8, 8, 48), np.float32)})


def test_query_key_and_value_of_different_sizes_are_named(library: Path) -> None:
    model = op_model(
        (1, 8, 8, 2, 8), kernel_size=(3, 3), dilation=(1, 1), scale=1.0, layout=schema.SPLIT,
        dynamic="size", with_body=False,
    )  # fmt: skip
    for info in model.graph.input:
        names = [f"{info.name}{i}" for i in range(5)]
        info.CopyFrom(helper.make_tensor_value_info(info.name, TensorProto.FLOAT, names))
    arrays = {name: np.zeros((1, 8, 8, 2, 8), np.float32) for name in ("query", "key", "value")}
    arrays["value"] = np.zeros((1, 7, 8, 2, 8), np.float32)
    with pytest.raises(Exception, match=r"query has the shape \[1, 8, 8, 2, 8\] and key or value"):
        load(model, library).run(None, arrays)


class TestSession:
    """The project's own session with and without the library."""

    @pytest.fixture
    def installed(self, library: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(onnxruntime_session, "find_library", lambda name: library)
        return library

    @pytest.fixture
    def missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(onnxruntime_session, "find_library", lambda name: None)

    def test_a_whole_model_agrees_with_its_body(self, installed: Path, tiny_bundle: Path) -> None:
        path = tiny_bundle / "model.onnx"
        image = {"image": seeded_image((1, 3, 64, 64), 7)}
        ours, body = OnnxRuntimeSession(path), OnnxRuntimeSession(path, custom_op=False)
        assert ours.library == installed
        assert ours.name == f"{body.name} with the dinat operator"
        found, expected = ours.run(image)["logits"], body.run(image)["logits"]
        assert np.abs(found - expected).max() < 1e-5
        # Different arithmetic: proof that they are two implementations.
        assert not np.array_equal(found, expected)

    def test_a_library_is_found_by_its_name_in_the_working_directory(
        self, library: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(library.parent)
        name = Path(library.name)
        assert OnnxRuntimeSession(tiny_bundle / "model.onnx", custom_op=name).library == name

    def test_verify_says_what_it_compared(self, installed: Path, tiny_bundle: Path) -> None:
        report = verify(tiny_bundle, layers=True)
        assert report.passed
        assert report.candidate.endswith("with the dinat operator")

    def test_a_demanded_library_that_is_missing(self, missing: None, tiny_bundle: Path) -> None:
        path = tiny_bundle / "model.onnx"
        assert OnnxRuntimeSession(path).library is None
        with pytest.raises(MissingDependencyError, match="it is not built") as caught:
            OnnxRuntimeSession(path, custom_op=True)
        assert "dinat-deploy plugin build" in caught.value.cure
        with pytest.raises(MissingDependencyError, match="nowhere.so does not exist"):
            OnnxRuntimeSession(path, custom_op=Path("nowhere.so"))

    def test_a_library_that_is_not_accepted(
        self, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broken = tmp_path / "libbroken.so"
        broken.write_bytes(b"nothing")
        path = tiny_bundle / "model.onnx"
        with pytest.raises(MissingDependencyError, match=r"does not accept .*libbroken\.so"):
            OnnxRuntimeSession(path, custom_op=broken)
        monkeypatch.setattr(onnxruntime_session, "find_library", lambda name: broken)
        session = OnnxRuntimeSession(path)
        assert session.library is None
        assert "runs by its body" in session.notes[0]
        assert verify(tiny_bundle).notes == session.notes

    def test_bundles_without_a_body_run_where_the_library_is(
        self,
        installed: Path,
        tiny_config_file: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        from PIL import Image

        bundle = export(ModelRequest(config=tiny_config_file), tmp_path / "bare", body="none").path
        assert verify(bundle, layers=True).passed
        picture = tmp_path / "p.png"
        Image.new("RGB", (70, 70), "green").save(picture)
        assert len(infer(bundle, [picture])[0].predictions) == 5
        monkeypatch.setattr(onnxruntime_session, "find_library", lambda name: None)
        with pytest.raises(BundleError, match="has no body for the operator") as caught:
            infer(bundle, [picture])
        assert "--body standard" in caught.value.cure


def test_the_library_exports_its_entry_points_only(library: Path) -> None:
    listed = subprocess.run(
        ["nm", "--dynamic", "--defined-only", library], capture_output=True, text=True, check=True
    ).stdout.split()
    assert listed[2::3] == ["RegisterCustomOps", "dinat_onnxruntime_version"]


def official_headers() -> Path | None:
    folders = [os.environ.get("ONNXRUNTIME_INCLUDE_DIR"), "/usr/include/onnxruntime"]
    found = (Path(folder) for folder in folders if folder)
    return next((path for path in found if (path / "onnxruntime_c_api.h").is_file()), None)


@pytest.mark.skipif(official_headers() is None, reason="needs ONNX Runtime's headers")
@pytest.mark.parametrize(
    "source", ["tests/interface_test.cpp", "node.cpp", "operators.cpp", "api.cpp"]
)
def test_the_interface_is_the_official_one(source: str, tmp_path: Path) -> None:
    compiler = shutil.which("c++") or shutil.which("g++")
    assert compiler
    subprocess.run(
        [
            compiler, "-std=c++17", "-fsyntax-only", "-DDINAT_OFFICIAL_ONNXRUNTIME=1",
            "-I", SOURCE.parent, "-isystem", str(official_headers()), SOURCE / source,
        ],
        check=True,
    )  # fmt: skip


def test_old_runtimes_get_an_error_and_no_crash(library: Path) -> None:
    """A stand-in for ONNX Runtime 1.10, which offers interface 1 but not 17."""
    program = f"""
import ctypes
library = ctypes.CDLL({str(library)!r})
message = ctypes.c_char_p()
CREATE = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
def create(code, text):
    message.value = text
    return 1
create_c = CREATE(create)
table = (ctypes.c_void_p * 1)(ctypes.cast(create_c, ctypes.c_void_p))
GET = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)
get = GET(lambda version: ctypes.addressof(table) if version == 1 else None)
VERSION = ctypes.CFUNCTYPE(ctypes.c_char_p)
version = VERSION(lambda: b"1.10.0")
base = (ctypes.c_void_p * 2)(*(ctypes.cast(f, ctypes.c_void_p) for f in (get, version)))
library.RegisterCustomOps.restype = ctypes.c_void_p
assert library.RegisterCustomOps(None, base) == 1
print(message.value.decode())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "needs ONNX Runtime 1.17 or later, and this is 1.10.0" in done.stdout
