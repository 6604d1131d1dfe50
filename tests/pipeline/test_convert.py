"""``convert``: variants in a bundle, verified before they appear."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from PIL import Image

import dinat_deploy
from dinat_deploy.bundle import Case, open_bundle, read_cases, write_cases
from dinat_deploy.errors import BundleError, ConfigError, ConversionError, ImageError, OutputError
from dinat_deploy.files import sha256
from dinat_deploy.pipeline import conversion_checks
from dinat_deploy.pipeline.converting import convert
from dinat_deploy.pipeline.exporting import export
from dinat_deploy.pipeline.requests import ModelRequest
from dinat_deploy.progress import Silent
from dinat_deploy.session.onnxruntime_session import OnnxRuntimeSession
from tests.plugins.conftest import TargetBuilder, native_build, native_target

__all__ = ["native_build", "native_target"]  # fixtures, used by name


@pytest.fixture(autouse=True)
def _no_library_of_this_machine(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DINAT_NATIVE_DIR", str(tmp_path_factory.mktemp("native")))


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def weight_types(path: Path) -> set[int]:
    return {t.data_type for t in onnx.load(path).graph.initializer} - {TensorProto.INT64}


def test_a_variant_stands_beside_the_model(bundle: Path) -> None:
    before = files(bundle)
    report = dinat_deploy.convert(bundle, "fp16")
    assert report.path == bundle / "model.fp16.onnx"
    assert sorted(files(bundle)) == ["model.fp16.onnx", "model.json", "model.onnx", "reference.npz"]
    for name in ("model.onnx", "reference.npz"):
        assert (bundle / name).read_bytes() == before[name]
    onnx.checker.check_model(str(report.path), full_check=True)

    opened = open_bundle(bundle)
    assert opened.variants == {"model.fp16.onnx": report.variant}
    assert opened.variant_path("fp16") == report.path
    assert opened.variant_path("fp32") == bundle / "model.onnx"
    assert opened.digest("model.fp16.onnx") == sha256(report.path)
    opened.check_model()
    opened.check_model("model.fp16.onnx")
    variant = report.variant
    assert variant.precision == "fp16"
    assert variant.data_sha256 is None
    assert [(t.name, t.dtype, t.shape) for t in variant.inputs] == [
        ("image", "float", [1, 3, 64, 64])
    ]
    assert [(t.name, t.dtype, t.shape) for t in variant.outputs] == [("logits", "float", [1, 10])]
    assert variant.created_by == f"dinat-deploy {dinat_deploy.__version__}"
    assert sum(len(island.nodes) for island in variant.float32) == 11
    assert variant.float32[0].reason.startswith("LayerNormalization: ")
    assert len(variant.float32[0].nodes) == 9


def test_the_report_tells_what_was_measured(bundle: Path) -> None:
    report = convert(bundle, "fp16")
    assert [run.simulated for run in report.runs] == [False, True]
    assert report.runs[1].name.startswith("float16 simulated in ONNX Runtime")
    checked = report.variant.verification
    assert checked is not None
    assert checked.passed
    assert checked.simulated is False
    assert (checked.cases, report.inputs) == (4, 4)
    assert checked.cosine > 0.99999
    assert checked.argmax_agreement == 1.0
    worst = max(run.errors.max_abs for run in report.runs)
    assert 1e-4 < checked.max_abs_error == worst < 5e-3
    found = OnnxRuntimeSession(report.path, custom_op=False)
    errors = [
        np.abs(found.run(case.inputs)["logits"] - case.outputs["logits"]).max()
        for case in read_cases(bundle / "reference.npz")
    ]
    assert report.runs[0].max_abs >= max(errors) > 0
    assert report.size_before == (bundle / "model.onnx").stat().st_size
    assert report.size_after == report.path.stat().st_size < 0.75 * report.size_before
    assert report.weights.values == 19096
    assert report.weights.lost == 0
    assert 0 < report.weights.worst_error < 1e-3
    assert 5 < max(report.ranges.values()) < 20
    assert report.verdict.startswith("Accuracy kept: off by at most ")
    assert json.loads(json.dumps(report.to_dict()))["variant"]["precision"] == "fp16"


def test_bfloat16_is_verified_by_simulation_and_says_so(bundle: Path) -> None:
    report = convert(bundle, "bf16")
    checked = report.variant.verification
    assert checked is not None
    assert checked.simulated is True
    assert checked.runtime.startswith("bfloat16 simulated in ONNX Runtime")
    assert 1e-3 < checked.max_abs_error < 3e-2
    assert weight_types(report.path) == {TensorProto.FLOAT, TensorProto.BFLOAT16}
    # ONNX has no bfloat16 convolution in opset 20.
    reasons = {island.reason: len(island.nodes) for island in report.variant.float32}
    assert reasons["ONNX defines no bfloat16 Conv in opset 20"] == 3


def test_variants_live_side_by_side_and_are_made_the_same_again(bundle: Path) -> None:
    convert(bundle, "fp16")
    convert(bundle, "bf16", verify=False)
    first = files(bundle)
    assert list(open_bundle(bundle).variants) == ["model.bf16.onnx", "model.fp16.onnx"]
    convert(bundle, "fp16")
    convert(bundle, "bf16", verify=False)
    assert files(bundle) == first


def test_only_a_bundle_with_variants_needs_a_new_reader(tiny_bundle: Path, bundle: Path) -> None:
    plain = json.loads((tiny_bundle / "model.json").read_text())
    assert plain["format_version"] == 1
    assert "variants" not in plain
    convert(bundle, "bf16", verify=False)
    assert json.loads((bundle / "model.json").read_text())["format_version"] == 2
    assert open_bundle(bundle).variants["model.bf16.onnx"].verification is None
    again = open_bundle(bundle).manifest.with_variants({})
    assert json.loads(again.to_json()) == plain


def test_a_changed_or_missing_variant_is_noticed(bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"has no fp16 model, only fp32. .*--precision fp16"):
        open_bundle(bundle).variant_path("fp16")
    with pytest.raises(BundleError, match=r"model\.fp16\.onnx is not in model\.json"):
        open_bundle(bundle).check_model("model.fp16.onnx")
    path = convert(bundle, "fp16", verify=False).path
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(BundleError, match="was written for .* Convert the model again"):
        open_bundle(bundle).check_model(path.name)
    open_bundle(bundle).check_model()
    path.unlink()
    with pytest.raises(BundleError, match=r"has no model\.fp16\.onnx. Convert the model again"):
        open_bundle(bundle).check_model(path.name)


def test_lost_accuracy_is_an_error_and_nothing_is_written(bundle: Path) -> None:
    before = files(bundle)
    with pytest.raises(ConversionError, match="float16 model loses accuracy: .*logits is off by"):
        convert(bundle, "fp16", atol=0, rtol=1e-6)
    with pytest.raises(ConversionError, match=r"bfloat16 model .* \(bfloat16 simulated in"):
        convert(bundle, "bf16", rtol=1e-4)
    assert files(bundle) == before
    assert not [path for path in bundle.iterdir() if path.name.startswith(".")]


class Interrupting(Silent):
    def __init__(self, stage: str) -> None:
        self._stage = stage

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        if name == self._stage:
            raise KeyboardInterrupt
        yield


@pytest.mark.parametrize("stage", ["Writing model.fp16.onnx", "Updating the manifest"])
def test_an_interrupt_leaves_the_bundle_as_it_was(stage: str, bundle: Path) -> None:
    convert(bundle, "fp16", verify=False)
    before = files(bundle)
    with pytest.raises(KeyboardInterrupt):
        convert(
            bundle, "fp16", keep_float32=["levels.*"], verify=False, progress=Interrupting(stage)
        )
    assert files(bundle) == before
    assert sorted(path.name for path in bundle.iterdir()) == sorted(before)


def test_the_manifest_never_vouches_for_a_file_that_was_not_checked(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between the file and the manifest, the bundle does not know the new file."""
    convert(bundle, "fp16", verify=False)
    replace = Path.replace

    def stop(self: Path, target: Path) -> Path:
        moved = replace(self, target)
        if Path(target).name == "model.fp16.onnx":
            raise KeyboardInterrupt
        return moved

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        convert(bundle, "fp16", keep_float32=["levels.0.*"], verify=False)
    monkeypatch.undo()
    assert open_bundle(bundle).variants == {}
    open_bundle(bundle).check_model()


def rewrite(bundle: Path, change: Callable[[dict[str, onnx.TensorProto]], None]) -> None:
    """Change weights of a bundle's model as if it had been exported so."""
    model = onnx.load(bundle / "model.onnx")
    change({tensor.name: tensor for tensor in model.graph.initializer})
    onnx.save(model, bundle / "model.onnx")
    session = OnnxRuntimeSession(bundle / "model.onnx", custom_op=False)
    cases = read_cases(bundle / "reference.npz")
    write_cases(
        bundle / "reference.npz", [Case(c.name, c.inputs, session.run(c.inputs)) for c in cases]
    )
    data = json.loads((bundle / "model.json").read_text())
    data["graph"]["sha256"] = sha256(bundle / "model.onnx")
    (bundle / "model.json").write_text(json.dumps(data))


def scale(tensor: onnx.TensorProto, factor: float) -> None:
    array = numpy_helper.to_array(tensor) * np.float32(factor)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


@pytest.fixture
def overflowing_bundle(bundle: Path) -> Path:
    """The residual stream of its first level exceeds float16; norms bring it back."""

    def enlarge(weights: dict[str, onnx.TensorProto]) -> None:
        for name in ("patch_embed.norm.weight", "patch_embed.norm.bias"):
            scale(weights[name], 40000)
        for name, tensor in weights.items():
            if name.startswith("levels.0.blocks") and ".gamma" in name:
                scale(tensor, 40000)

    rewrite(bundle, enlarge)
    return bundle


def test_what_would_overflow_stays_in_float32(overflowing_bundle: Path) -> None:
    report = convert(overflowing_bundle, "fp16")
    assert report.range_used > 1
    told = {i.reason: i.nodes for i in report.variant.float32 if "reaches" in i.reason}
    nodes = {node for names in told.values() for node in names}
    assert {f"levels.0.blocks.{n}/Add{end}" for n in (0, 1) for end in ("", "_1")} <= nodes
    assert "levels.0.downsample.reduction/Conv" in nodes
    assert any("is the most that float16 is trusted with" in reason for reason in told)
    # The layers that the norms feed are in float16 all the same.
    kept = {node for island in report.variant.float32 for node in island.nodes}
    assert not [node for node in kept if ".mlp.fc1" in node or "NeighborhoodAttention" in node]
    # Nothing is to be done about it in bfloat16.
    bf16 = convert(overflowing_bundle, "bf16")
    assert not [i for i in bf16.variant.float32 if "reaches" in i.reason]


def test_an_overflow_that_the_ranges_do_not_show_is_found_by_the_comparison(
    overflowing_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dinat_deploy.graph.islands.OutOfRange.reason", lambda self, node: None)
    before = files(overflowing_bundle)
    with pytest.raises(ConversionError, match="loses accuracy: .* off by nan"):
        convert(overflowing_bundle, "fp16")
    assert files(overflowing_bundle) == before


def test_outputs_beyond_float16_cannot_be_float16(bundle: Path) -> None:
    rewrite(bundle, lambda weights: scale(weights["head.weight"], 1e6))
    with pytest.raises(
        ConversionError, match=r"logits reaches .*float16 ends at 65504. .*--io fp32"
    ):
        convert(bundle, "bf16", io="fp16")
    assert convert(bundle, "fp16").variant.outputs[0].dtype == "float"


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_inputs_and_outputs_in_float16(precision: str, bundle: Path) -> None:
    report = convert(bundle, precision, io="fp16")
    assert [t.dtype for t in (*report.variant.inputs, *report.variant.outputs)] == ["float16"] * 2
    graph = onnx.load(report.path).graph
    assert graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16
    assert graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT16
    assert report.variant.verification is not None


def test_a_converted_model_is_not_converted_again(bundle: Path) -> None:
    path = convert(bundle, "fp16", verify=False).path
    with pytest.raises(ConversionError, match=r"model\.fp16\.onnx is in fp16 already"):
        convert(path, "bf16")
    convert(bundle / "model.onnx", "bf16", verify=False)
    # A bundle whose model was 16-bit to begin with.
    (bundle / "model.onnx").write_bytes(path.read_bytes())
    data = json.loads((bundle / "model.json").read_text())
    data["graph"]["sha256"] = sha256(path)
    (bundle / "model.json").write_text(json.dumps(data))
    with pytest.raises(ConversionError, match=r"The model is in float16 already \(tensor "):
        convert(bundle, "bf16")


def test_wrong_arguments_are_named(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="There is no bundle"):
        convert(tmp_path / "nowhere", "fp16")
    (tmp_path / "alone.onnx").write_bytes((bundle / "model.onnx").read_bytes())
    with pytest.raises(BundleError, match=r"alone\.onnx is not in a bundle"):
        convert(tmp_path / "alone.onnx", "fp16")
    with pytest.raises(BundleError, match="is not the model of its bundle"):
        convert(bundle / "reference.npz", "fp16")
    with pytest.raises(ConfigError, match="Unknown precision 'int4'. Use fp16, bf16, int8, fp8"):
        convert(bundle, "int4")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Unknown type of inputs 'bf16'"):
        convert(bundle, "bf16", io="bf16")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="The margin is 2"):
        convert(bundle, "fp16", margin=2)
    with pytest.raises(ConfigError, match="random_cases is -1"):
        convert(bundle, "fp16", random_cases=-1)
    with pytest.raises(ConfigError, match="No node is named like 'levels.7"):
        convert(bundle, "fp16", keep_float32=["levels.7.*"])
    with pytest.raises(ConversionError, match="All nodes would stay in float32"):
        convert(bundle, "fp16", keep_float32=["*"])
    with pytest.raises(ImageError, match=r"cat\.jpg"):
        convert(bundle, "fp16", images=[tmp_path / "cat.jpg"])
    (bundle / "model.onnx").write_bytes(b"changed")
    with pytest.raises(BundleError, match="was written for"):
        convert(bundle, "fp16")


def test_a_bundle_that_cannot_be_written_to(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied", str(bundle))

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(
        OutputError, match=r"model\.fp16\.onnx cannot be written: Permission denied"
    ):
        convert(bundle, "fp16")


def test_pictures_are_recorded_and_compared_too(bundle: Path, rng: np.random.Generator) -> None:
    path = bundle.parent / "cat.png"
    Image.fromarray(rng.integers(0, 256, (90, 80, 3), dtype=np.uint8)).save(path)
    report = convert(bundle, "fp16", images=[path], random_cases=0)
    assert report.inputs == 3
    assert report.runs[0].inputs == 3


def test_real_weights_without_pictures_are_worth_a_note(bundle: Path) -> None:
    data = json.loads((bundle / "model.json").read_text())
    data["weights"] |= {"source": "checkpoint", "seed": None}
    (bundle / "model.json").write_text(json.dumps(data))
    assert "--images" in convert(bundle, "fp16", verify=False).notes[0]
    assert convert(bundle, "bf16", verify=False).notes == []


@pytest.mark.parametrize(
    ("request_options", "export_options"),
    [
        ({}, {"opset": 17}),
        ({}, {"dynamic": ["batch", "size"], "size_range": (20, 128)}),
        ({"task": "backbone"}, {}),
    ],
    ids=["opset 17", "dynamic with padding", "backbone"],
)
def test_every_kind_of_bundle_can_be_converted(
    request_options: dict[str, str],
    export_options: dict[str, object],
    tiny_config_file: Path,
    tmp_path: Path,
) -> None:
    place = tmp_path / "bundle"
    request = ModelRequest(config=tiny_config_file, **request_options)
    export(request, place, verify=False, **export_options)
    for precision in ("fp16", "bf16"):
        variant = convert(place, precision).variant
        assert variant.verification is not None
        assert variant.verification.passed
        assert [t.shape for t in variant.outputs] == [
            t.shape for t in open_bundle(place).manifest.graph.outputs
        ]
        classes = variant.verification.argmax_agreement
        assert classes is None if request_options else classes == 1.0


def test_large_weights_go_to_a_file_of_their_own(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion_checks, "LARGEST_FILE", 10_000)
    report = convert(bundle, "fp16")
    data = bundle / "model.fp16.onnx.data"
    assert report.variant.data_sha256 == sha256(data)
    assert report.size_after == report.path.stat().st_size + data.stat().st_size
    open_bundle(bundle).check_model(report.path.name)
    found = OnnxRuntimeSession(report.path, custom_op=False).run(
        read_cases(bundle / "reference.npz")[0].inputs
    )
    assert np.isfinite(found["logits"]).all()
    data.write_bytes(bytes(100))
    with pytest.raises(BundleError, match=r"onnx\.data has SHA-256"):
        open_bundle(bundle).check_model(report.path.name)
    monkeypatch.undo()
    convert(bundle, "fp16", verify=False)
    assert not data.exists()


def test_the_operators_library_is_compared_as_well(
    bundle: Path, native_target: TargetBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = native_target("dinat_onnxruntime")
    monkeypatch.setenv("DINAT_NATIVE_DIR", str(library.parent))
    report = convert(bundle, "fp16")
    assert [(r.name.endswith("with the dinat operator"), r.simulated) for r in report.runs] == [
        (False, False), (True, False), (False, True),
    ]  # fmt: skip


def test_a_bundle_without_body_needs_the_library(
    bundle: Path, native_target: TargetBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load(bundle / "model.onnx")
    del model.functions[:]
    onnx.save(model, bundle / "model.onnx")
    data = json.loads((bundle / "model.json").read_text())
    data["graph"] |= {"sha256": sha256(bundle / "model.onnx"), "body": False}
    (bundle / "model.json").write_text(json.dumps(data))
    with pytest.raises(BundleError, match="no body for the operator"):
        convert(bundle, "bf16")
    monkeypatch.setenv("DINAT_NATIVE_DIR", str(native_target("dinat_onnxruntime").parent))
    for precision in ("fp16", "bf16"):
        report = convert(bundle, precision)
        assert report.runs[-1].simulated
        assert all(run.name.endswith("with the dinat operator") for run in report.runs)
        assert not onnx.load(report.path).functions
