"""What the fuzzer found once, as small inputs: each was a traceback, or took all of the memory."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from PIL import Image

from dinat_deploy.archives import DamagedError, read_arrays
from dinat_deploy.bundle import open_bundle
from dinat_deploy.calibration.state import load_histograms
from dinat_deploy.engine import trust
from dinat_deploy.errors import (
    BundleError,
    CheckpointError,
    ConfigError,
    ConversionError,
    DinatDeployError,
    ImageError,
    NativeError,
)
from dinat_deploy.graph.reading import load_checked, load_ir, load_model
from dinat_deploy.measurement.onnx_work import macs_by_node
from dinat_deploy.models import huggingface, weights
from dinat_deploy.models.checkpoints import read_checkpoint
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.fitting import fit
from dinat_deploy.models.huggingface_directory import describe
from dinat_deploy.models.huggingface_preprocessing import parse_preprocessor
from dinat_deploy.models.json_file import read_json
from dinat_deploy.models.preprocessing import Preprocessing
from dinat_deploy.native import library_info
from dinat_deploy.pipeline.rebuild import torch_session
from dinat_deploy.pipeline.requests import ModelRequest
from dinat_deploy.pipeline.sources import resolve
from tests.fuzzing.cases import reseal
from tests.fuzzing.libraries import library
from tests.fuzzing.seeds import TINY


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    return tmp_path / "bundle"


def changed_manifest(bundle: Path, *path: Any, value: Any) -> None:
    manifest = json.loads((bundle / "model.json").read_text())
    inner = manifest
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (bundle / "model.json").write_text(json.dumps(manifest))


def test_what_errors_quote_of_a_file_can_be_printed_and_is_not_endless() -> None:
    error = DinatDeployError("It has \x1b[31m, \0, \ud800, \u202e and " + "x" * 9000 + ".", "é 漢")
    assert error.cause.startswith("It has \\x1b[31m, \\x00, \\ud800, \\u202e and xxx")
    assert len(error.cause) < 500 and error.cure == "é 漢"
    error.cause.encode()
    plain = "A path /a/b c.onnx\n  and a table\t1."
    assert DinatDeployError(plain).cause == plain


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"embed_dim": 2**40}, "embed_dim"),
        ({"depths": (10**9, 1)}, "depths"),
        ({"num_classes": 10**12}, "num_classes"),
        ({"kernel_size": 10**9}, "kernel_size"),
        ({"dilations": ((1, 4), (10**8,))}, "exceeds the 16384 tokens"),
        ({"mlp_ratio": 1e300}, "mlp_ratio"),
        ({"layer_scale": float("nan")}, "layer_scale"),
        ({"image_size": (65000, 65000)}, "4225000000 pixels"),
        ({"in_channels": 10**10}, "in_channels"),
        ({"depths": [None, 1], "dilations": ()}, "depths.0"),
        ({"depths": 7, "dilations": ()}, "depths"),
    ],
)
def test_sizes_that_no_machine_has_are_refused_where_they_are_read(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        ModelConfig.parse({**TINY.model_dump(), **changes})


@pytest.mark.parametrize(
    "decoder",
    [
        {"type": "upernet", "auxiliary_channels": 10**18},
        {"type": "mask2former", "encoder_layers": 10**9},
        {"type": "mask_rcnn", "anchor_ratios": [float("nan")]},
    ],
)
def test_so_are_those_of_heads(decoder: dict[str, Any]) -> None:
    four = {**TINY.model_dump(), "depths": (1,) * 4, "num_heads": (1,) * 4, "dilations": ()}
    with pytest.raises(ConfigError, match="decoder"):
        ModelConfig.parse({**four, "decoder": decoder})


def test_weights_that_do_not_fit_into_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_free_memory", lambda: 1000)
    for make in (lambda: weights.seeded_model(TINY, 0), lambda: weights.empty_model(TINY)):
        with pytest.raises(ConfigError, match=r"take 0\.0 GB in float32, and 0\.0 GB of memory"):
            make()
    monkeypatch.setattr(weights, "_free_memory", lambda: None)
    assert weights.seeded_model(TINY, 0) is not None


def test_a_pickle_that_holds_itself_is_refused(tmp_path: Path) -> None:
    endless: dict[str, Any] = {}
    endless["model"] = endless
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(endless, protocol=2))
    with pytest.raises(CheckpointError, match="without end"):
        read_checkpoint(tmp_path / "a.pkl")


def test_weights_of_odd_kinds_are_refused_and_eight_bit_ones_read(tmp_path: Path) -> None:
    own = weights.seeded_model(TINY, 0).state_dict()
    path = tmp_path / "a.pth"
    for odd in (own["head.weight"].to_sparse(), torch.empty(10, 32, device="meta")):
        torch.save({**own, "head.weight": odd}, path)
        with pytest.raises(CheckpointError, match=r"head\.weight"):
            read_checkpoint(path)
    torch.save({**own, "head.bias": own["head.bias"].to(torch.float8_e4m3fn)}, path)
    fitted = fit(read_checkpoint(path), TINY)
    assert fitted.state["head.bias"].dtype == torch.float32


def test_a_file_with_a_number_of_too_many_digits_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a": ' + "9" * 5000 + "}")
    with pytest.raises(CheckpointError, match="not readable JSON"):
        read_json(tmp_path / "config.json")


HF = {"model_type": "dinat", "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2]}


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": ["DinatBackbone"], "out_indices": ["a", {}]},
        {"architectures": ["DinatBackbone"], "out_features": ["stagex"]},
        {"id2label": 3},
        {"dilations": [1, 2]},
        {"embed_dim": None},
    ],
)
def test_values_of_other_types_in_a_configuration_are_named(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises((CheckpointError, ConfigError)):
        describe(tmp_path, {**HF, **changes}, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"resample": [3]}, {"resample": {}}, {"rescale_factor": "1/255"},
        {"rescale_factor": float("nan")}, {"size": {"height": 1e400}}, {"size": []},
        {"size": {"shortest_edge": 10**9}}, {"image_mean": [float("nan")] * 3},
    ],
)  # fmt: skip
def test_values_of_other_types_in_a_processor_are_named(changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError):
        parse_preprocessor(changes, "classification")


def test_parts_of_other_shapes_in_transformers_weights_are_named() -> None:
    layer = "encoder.levels.0.layers.0."
    scale = {layer + "layer_scale_parameters": torch.zeros(3, 4)}
    with pytest.raises(CheckpointError, match="two rows"):
        huggingface.to_original_names(scale, "")
    parts = {
        f"{layer}attention.self.{role}.weight": torch.zeros(size, 4)
        for role, size in (("query", 4), ("key", 4), ("value", 5))
    }
    parts[f"{layer}attention.self.key.weight"] = torch.zeros(3, 3)
    with pytest.raises(CheckpointError, match="Query, key and value"):
        huggingface.to_original_names(parts, "")


def test_pictures_that_are_too_thin_or_of_other_channels_are_refused() -> None:
    thin = Image.new("L", (60_000, 1))
    preprocessing = Preprocessing(resize=(256, 256), crop=(224, 224))
    started = time.monotonic()
    with pytest.raises(ImageError, match="60000x1 pixels would be resized to"):
        preprocessing(thin)
    assert time.monotonic() - started < 1
    four = Preprocessing(resize=(8, 8), crop=(8, 8), mean=(0.5,) * 4, std=(1.0,) * 4)
    with pytest.raises(ConfigError, match="4 channels"):
        four(Image.new("RGB", (8, 8)))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("graph", "inputs", 0, "shape"), [1, 3, 64], "takes no images"),
        (("graph", "inputs"), [], "inputs"),
        (("labels",), ["a"], "labels are 1, and the model has 10 classes"),
        (("palette",), [[1, 2, 3]], "palette"),
        (("things",), [10], "things"),
        (("preprocessing", "crop"), [64, 10**7], "crop"),
        (("preprocessing", "mean"), [0.5], "mean"),
    ],
)
def test_manifests_that_contradict_themselves_are_refused(
    bundle: Path, path: tuple[Any, ...], value: Any, said: str
) -> None:
    changed_manifest(bundle, *path, value=value)
    with pytest.raises(BundleError, match=said):
        open_bundle(bundle)


def test_a_manifest_of_another_model_than_the_file_is_refused(bundle: Path) -> None:
    changed_manifest(bundle, "config", "embed_dim", value=32)
    with pytest.raises(BundleError, match="and the model that model.json describes"):
        torch_session(open_bundle(bundle))
    changed_manifest(bundle, "graph", "outputs", 0, "name", value="scores")
    found = open_bundle(bundle)
    with pytest.raises(BundleError, match=r"logits .*model\.json says scores"):
        specs = open_bundle(bundle).manifest.graph
        logits = specs.outputs[0].model_copy(update={"name": "logits"})
        found.check_interface("model.onnx", specs.inputs, [logits])


def test_outputs_that_the_described_model_does_not_have_are_named(bundle: Path) -> None:
    torch_session(open_bundle(bundle))
    changed_manifest(bundle, "graph", "outputs", 0, "name", value="scores")
    with pytest.raises(BundleError, match=r"lists the outputs scores.* has logits"):
        torch_session(open_bundle(bundle))


def test_recorded_cases_of_another_type_are_refused(bundle: Path) -> None:
    case = open_bundle(bundle).reference()[0]
    arrays = {f"x/in/{name}": array.astype(np.float16) for name, array in case.inputs.items()}
    arrays |= {f"x/out/{name}": array for name, array in case.outputs.items()}
    np.savez(bundle / "reference.npz", **arrays)
    with pytest.raises(BundleError, match="image of case x is float16"):
        open_bundle(bundle).reference()


def header_of(array: np.ndarray, shape: str) -> bytes:
    text = f"{{'descr': '{array.dtype.str}', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + array.tobytes()


@pytest.mark.parametrize(
    "shape", ["(1 << 40,)", "(4611686018427387904, 4)", "(-1,)", "(((", "(5,)"]
)
def test_arrays_that_are_not_as_large_as_they_say_are_refused(shape: str, tmp_path: Path) -> None:
    shape = shape.replace("1 << 40", str(1 << 40))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", header_of(np.zeros(4, np.float32), shape))
    with pytest.raises(DamagedError):
        read_arrays(tmp_path / "a.npz")


def test_arrays_are_read_as_numpy_reads_them(tmp_path: Path) -> None:
    arrays = {"a/b": np.arange(6.0).reshape(2, 3), "c": np.asfortranarray(np.ones((2, 3), "<i4"))}
    for write in (np.savez, np.savez_compressed):
        write(tmp_path / "a.npz", **arrays)
        found = read_arrays(tmp_path / "a.npz")
        assert found.keys() == arrays.keys()
        assert all(np.array_equal(found[name], array) for name, array in arrays.items())
    np.savez(tmp_path / "a.npz", a=np.array([{}], object))
    with pytest.raises(DamagedError, match="Python objects"):
        read_arrays(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("max", np.array([True])),
        ("max", np.array([1e30])),
        ("exponents", np.array([10**6])),
        ("counts", np.array([[-1] * 256])),
        ("counts", np.zeros((1, 255), np.int64)),
        ("values", np.array([2**62])),
    ],
)
def test_histograms_that_cannot_be_are_refused(name: str, array: Any, tmp_path: Path) -> None:
    header = {"format_version": 1, "model_sha256": "0", "runtime": "x", "tensors": ["a"],
              "data": {"source": "x", "images": 1, "sha256": "0"}}  # fmt: skip
    arrays = {
        "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
        "counts": np.zeros((1, 256), np.int64), "exponents": np.array([1]),
        "values": np.array([0]), "zeros": np.array([0]), "max": np.array([1.0]),
    }  # fmt: skip
    np.savez(tmp_path / "a.npz", **arrays)
    load_histograms(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", **arrays | {name: array})
    with pytest.raises(ConversionError, match="holds no histograms"):
        load_histograms(tmp_path / "a.npz")


def damaged(path: Path, change: str) -> None:
    model = onnx.load(path)
    tensor = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    if change == "short":
        tensor.raw_data = tensor.raw_data[:-1]
    elif change == "long":
        tensor.raw_data += b"\0"
    elif change == "negative":
        tensor.dims[0] = -1
    elif change == "huge":
        tensor.dims[0] = 2**60
    elif change == "type":
        tensor.data_type = 99
    elif change == "empty":
        tensor.ClearField("raw_data")
    else:
        location, _, rest = change.partition(" ")
        size = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        if rest:
            tensor.external_data.add(key="offset", value=rest)
        if location == "weights.bin":
            (path.parent / location).write_bytes(bytes(size))
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    "change",
    [
        "short", "long", "negative", "huge", "type", "empty", "missing.bin", "../outside.bin",
        "/etc/hostname", "weights.bin -4", "weights.bin 4", "weights.bin x",
    ],
)  # fmt: skip
def test_damaged_weights_are_named_whoever_reads_them(bundle: Path, change: str) -> None:
    (bundle.parent / "outside.bin").write_bytes(bytes(1 << 20))
    damaged(bundle / "model.onnx", change)
    reseal(bundle)
    for read in (load_checked, load_model, load_ir):
        with pytest.raises(BundleError, match="the tensor "):
            read(bundle / "model.onnx")


def test_right_weights_pass_in_the_file_and_beside_it(bundle: Path) -> None:
    path = bundle / "model.onnx"
    here = load_model(path)
    onnx.save_model(
        onnx.load(path), path, save_as_external_data=True, location="x.data", size_threshold=16
    )
    beside = load_model(path)
    for first, second in zip(here.graph.initializer, beside.graph.initializer, strict=True):
        assert onnx.numpy_helper.to_array(first).tobytes() == (
            onnx.numpy_helper.to_array(second).tobytes()
        )
    names = {value.name for value in load_ir(path).graph.initializers.values()}
    assert names == {tensor.name for tensor in here.graph.initializer}


def test_an_attribute_of_another_type_is_named_when_work_is_counted(bundle: Path) -> None:
    model = onnx.load(bundle / "model.onnx")
    node = next(node for node in model.graph.node if node.domain == "dinat")
    wrong = next(each for each in node.attribute if each.name == "kernel_size")
    wrong.CopyFrom(onnx.helper.make_attribute("kernel_size", 1.5))
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match="multiplies is not known"):
        macs_by_node(bundle / "model.onnx", {"image": (1, 3, 64, 64)})


def test_tables_of_libraries_that_go_round_in_circles_are_refused(tmp_path: Path) -> None:
    data = bytearray(library())
    at = data.index(struct.pack("<HHI", 1, 2, 18))  # version 1, two entries
    struct.pack_into("<H", data, at + 2, 0xFFFF)
    struct.pack_into("<I", data, at + 16 + 12, 0)  # the next entry is the same one
    path = tmp_path / "a.so"
    path.write_bytes(bytes(data))
    started = time.monotonic()
    with pytest.raises(NativeError):
        library_info(path)
    endless = bytes(data).replace(b"dinat_op\0another\0", b"dinat_op" + b"x" * 9)
    path.write_bytes(endless.replace(b"@dinat-library {", b"@dinat-library " + b"["))
    with pytest.raises(NativeError):
        library_info(path)
    assert time.monotonic() - started < 5
    struct.pack_into("<Q", data, 40, 2**64 - 1)  # where the table of sections begins
    path.write_bytes(bytes(data))
    with pytest.raises(NativeError):
        library_info(path)


def test_weights_that_are_single_numbers_are_reported_as_what_they_are(tmp_path: Path) -> None:
    own = weights.seeded_model(TINY, 0).state_dict()
    own["levels.0.blocks.0.mlp.fc1.weight"] = torch.tensor(1.0)
    torch.save(own, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"fc1\.weight: \[\] in the file"):
        fit(read_checkpoint(tmp_path / "a.pth"), TINY)


def test_a_deep_line_in_the_record_of_trusted_plans_is_no_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    trust.record_path().parent.mkdir()
    trust.record_path().write_text("[" * 100_000 + '\n{"sha256": "1"}\n')
    assert trust.is_known("1") and not trust.is_known("2")


def test_a_configuration_is_read_as_before(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(TINY.model_dump_json())
    assert resolve(ModelRequest(config=tmp_path / "a.json")).config == TINY
