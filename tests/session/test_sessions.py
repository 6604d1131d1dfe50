"""The sessions of ONNX Runtime on the CPU and of PyTorch behind the one protocol."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from dinat_deploy.bundle import open_bundle
from dinat_deploy.errors import BundleError, ConfigError, DinatDeployError
from dinat_deploy.files import scratch_directory
from dinat_deploy.models.seeding import seeded_image
from dinat_deploy.pipeline.rebuild import torch_session
from dinat_deploy.session.base import RunOptions, Session, Timing
from dinat_deploy.session.measuring import MemoryGain, repeat
from dinat_deploy.session.onnxruntime_session import OnnxRuntimeSession
from dinat_deploy.session.torch_session import TorchSession
from tests.graph.op_models import op_model

IMAGE = {"image": seeded_image((1, 3, 64, 64), 7)}


def test_both_give_outputs_and_taps_by_name(tiny_bundle: Path) -> None:
    taps = list(open_bundle(tiny_bundle).manifest.taps)
    ours = torch_session(open_bundle(tiny_bundle), taps).run(IMAGE)
    theirs = OnnxRuntimeSession(tiny_bundle / "model.onnx", taps=taps).run(IMAGE)
    assert set(ours) == set(theirs) == {"logits", *taps}
    for name, array in ours.items():
        assert array.dtype == np.float32
        assert np.abs(array - theirs[name]).max() < 1e-4


def test_hooks_do_not_stay(tiny_bundle: Path) -> None:
    session = torch_session(open_bundle(tiny_bundle), ["patch_embed"])
    session.run(IMAGE)
    module = session._module.get_submodule("patch_embed")
    assert not module._forward_hooks


def test_unknown_taps_are_named(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"has no tensor levels\.9 \(1 of 2 are missing\)"):
        OnnxRuntimeSession(tiny_bundle / "model.onnx", taps=["patch_embed", "levels.9"])


def test_wrong_input_shapes_are_named(tiny_bundle: Path) -> None:
    session = OnnxRuntimeSession(tiny_bundle / "model.onnx")
    with pytest.raises(BundleError, match=r"failed on inputs \{'image': \[1, 3, 32, 32\]\}"):
        session.run({"image": np.zeros((1, 3, 32, 32), np.float32)})


def test_missing_inputs_are_named(tiny_bundle: Path) -> None:
    session = OnnxRuntimeSession(tiny_bundle / "model.onnx")
    with pytest.raises(BundleError, match="input image is missing; .* and picture was given"):
        session.run({"picture": np.zeros((1, 3, 64, 64), np.float32)})


def test_files_that_onnxruntime_cannot_load_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_text("nothing")
    with pytest.raises(BundleError, match=r"cannot load .*bad\.onnx") as caught:
        OnnxRuntimeSession(tmp_path / "bad.onnx", custom_op=False)
    assert caught.value.cure == ""  # the library would not help
    bare = op_model(
        (1, 8, 8, 1, 4), kernel_size=(3, 3), dilation=(1, 1), scale=1.0, with_body=False
    )
    onnx.save(bare, tmp_path / "bare.onnx")
    with pytest.raises(BundleError, match=r"cannot load .*bare\.onnx") as caught:
        OnnxRuntimeSession(tmp_path / "bare.onnx", custom_op=False)
    assert "--body none" in caught.value.cure


def test_half_precision_models_take_and_give_float32(tmp_path: Path) -> None:
    half = op_model(
        (1, 8, 8, 1, 4),
        kernel_size=(3, 3),
        dilation=(1, 1),
        scale=1.0,
        element_type=TensorProto.FLOAT16,
    )
    onnx.save(half, tmp_path / "half.onnx")
    found = OnnxRuntimeSession(tmp_path / "half.onnx").run(
        {"qkv": np.ones((1, 8, 8, 12), np.float32)}
    )
    assert found["output"].dtype == np.float32
    assert np.allclose(found["output"], 1.0)


def test_read_only_inputs_and_several_outputs() -> None:
    class Two(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x + 1, x.sum()

    x = np.ones((2, 2), np.float32)
    x.setflags(write=False)
    found = TorchSession(Two(), ["x"], ["a", "b"]).run({"x": x})
    assert np.array_equal(found["a"], x + 1)
    assert found["b"] == 4


def onnx_session(bundle: Path, **options: Any) -> OnnxRuntimeSession:
    """The body, in one thread."""
    return OnnxRuntimeSession(bundle / "model.onnx", custom_op=False, threads=1, **options)


class TestMeasuring:
    def test_blocks_last_until_time_and_number_are_reached(self) -> None:
        block = repeat(lambda: Timing(1.0, 1.0), seconds=0.02, least=1)
        assert block.seconds >= 0.02 and len(block.timings) > 1
        assert len(repeat(lambda: Timing(1.0, 1.0), seconds=0.0, least=7).timings) == 7

    def test_memory_is_counted_while_it_is_watched(self) -> None:
        gain = MemoryGain()
        assert gain.bytes is None
        with gain.watched():
            held = np.ones(8 << 20, np.float64)
        assert gain.bytes is not None and gain.bytes > 32 << 20
        other = np.ones(8 << 20, np.float64)  # not watched
        before = gain.bytes
        with gain.watched():
            pass
        assert gain.bytes == before
        del held, other

    @pytest.mark.parametrize("kind", ["onnxruntime", "torch"])
    @pytest.mark.parametrize("exclusive", [True, False])
    def test_prepared_runs_time_every_inference(
        self, kind: str, exclusive: bool, tiny_bundle: Path
    ) -> None:
        session: Session = (
            onnx_session(tiny_bundle)
            if kind == "onnxruntime"
            else torch_session(open_bundle(tiny_bundle))
        )
        run = session.prepare(IMAGE, RunOptions(exclusive=exclusive))
        assert run.kind == "cpu" and run.notes == []
        block = run.block(0.05, 3)
        assert block.seconds >= 0.05 and len(block.timings) >= 3
        total = sum(timing.latency for timing in block.timings) / 1e3
        assert 0 < total <= block.seconds
        for timing in block.timings:
            assert timing.compute == timing.latency
            assert timing.enqueue is None
            assert timing.host_to_device == timing.device_to_host == 0
        memory = run.memory()
        weights = sum(
            p.numel() * 4 for p in torch_session(open_bundle(tiny_bundle)).module.parameters()
        )
        assert memory.weights is not None
        assert weights <= memory.weights <= weights + (64 << 10)
        assert memory.inputs_outputs == 4 * (3 * 64 * 64 + 10)
        # The session still computes what it did.
        ours = session.run(IMAGE)["logits"]
        assert np.abs(ours - onnx_session(tiny_bundle).run(IMAGE)["logits"]).max() < 1e-4
        run.close()
        session.close()

    @pytest.mark.parametrize("kind", ["onnxruntime", "torch"])
    def test_one_inference_at_a_time(self, kind: str, tiny_bundle: Path) -> None:
        session: Session = (
            onnx_session(tiny_bundle)
            if kind == "onnxruntime"
            else torch_session(open_bundle(tiny_bundle))
        )
        with pytest.raises(ConfigError, match="one inference at a time here, not 2"):
            session.prepare(IMAGE, RunOptions(streams=2))
        with pytest.raises(BundleError, match="input image is missing"):
            session.prepare({}, RunOptions())

    def test_wrong_shapes_are_named_before_anything_is_timed(self, tiny_bundle: Path) -> None:
        session = onnx_session(tiny_bundle)
        with pytest.raises(BundleError, match="failed on inputs"):
            session.prepare({"image": np.zeros((1, 3, 32, 32), np.float32)}, RunOptions())

    def test_half_precision_is_converted_before_it_is_timed(self, tmp_path: Path) -> None:
        for name, element in (("half", TensorProto.FLOAT16), ("brain", TensorProto.BFLOAT16)):
            model = half_identity(element)
            onnx.save(model, tmp_path / f"{name}.onnx")
            session = OnnxRuntimeSession(tmp_path / f"{name}.onnx")
            run = session.prepare({"x": np.ones((4, 8), np.float32)}, RunOptions())
            assert run.memory().inputs_outputs == 2 * 2 * 32
            assert len(run.block(0.0, 3).timings) == 3

    @pytest.mark.skipif(sys.platform != "linux", reason="CPU time of threads")
    def test_threads_do_not_spin_beside_others(self, tiny_bundle: Path) -> None:
        session = OnnxRuntimeSession(tiny_bundle / "model.onnx", custom_op=False, threads=2)
        run = session.prepare(IMAGE, RunOptions(exclusive=False))
        run.block(0.02, 5)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        time.sleep(0.06)
        spent = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
        assert spent < 0.015  # by default some 0.04 s


class TestProfile:
    def test_the_nodes_of_the_body_count_as_attention(self, tiny_bundle: Path) -> None:
        session = onnx_session(tiny_bundle)
        run = session.prepare(IMAGE, RunOptions())
        layers = run.profile(3)
        assert run.notes == []
        kinds = Counter(layer.kind for layer in layers if layer.attention)
        # Three layers, each with its two products, its softmax in parts, and its gathers.
        assert kinds["FusedMatMul"] == kinds["MatMul"] == kinds["Exp"] == kinds["Split"] == 3
        assert not kinds.keys() & {"Conv", "LayerNormalization", "Gemm", "Gelu"}
        others = [layer.name for layer in layers if not layer.attention]
        assert any("attn.qkv" in name for name in others)
        assert any("mlp" in name for name in others)
        assert all(layer.milliseconds >= 0 for layer in layers)
        assert sum(layer.milliseconds for layer in layers) > 0

    def test_what_a_killed_profile_left_behind_is_removed(
        self, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        with scratch_directory() as scratch:
            pass
        scratch.mkdir()
        onnx_session(tiny_bundle).prepare(IMAGE, RunOptions()).profile(1)
        assert list(tmp_path.iterdir()) == []

    def test_dynamic_bodies_are_found_too(self, dynamic_bundle: Path) -> None:
        run = onnx_session(dynamic_bundle).prepare(IMAGE, RunOptions())
        layers = run.profile(2)
        assert run.notes == []
        attention = [layer for layer in layers if layer.attention]
        assert {"Range", "Where", "FusedMatMul"} <= {layer.kind for layer in attention}
        assert len(attention) > len(layers) / 2

    def test_without_onnx_nothing_counts_as_attention(
        self, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = onnx_session(tiny_bundle).prepare(IMAGE, RunOptions())
        monkeypatch.setitem(sys.modules, "onnx", None)
        assert not any(layer.attention for layer in run.profile(1))
        assert any(note.startswith("Without the package onnx") for note in run.notes)

    def test_layers_of_pytorch_have_their_own_time(self, tiny_bundle: Path) -> None:
        run = torch_session(open_bundle(tiny_bundle)).prepare(IMAGE, RunOptions())
        layers = {layer.name: layer for layer in run.profile(2)}
        attention = [name for name, layer in layers.items() if layer.attention]
        assert attention == [
            "levels.0.blocks.0.attn", "levels.0.blocks.1.attn", "levels.1.blocks.0.attn",
        ]  # fmt: skip
        assert layers["levels.0.blocks.0.mlp.fc1"].kind == "Linear"
        assert layers["model"].kind == "DinatModel"
        block = sum(t.latency for t in run.block(0.0, 3).timings) / 3
        total = sum(layer.milliseconds for layer in layers.values())
        # Hooks cost time; a time counted twice would cost many times as much.
        assert 0 < layers["levels.0.blocks.0"].milliseconds < total < 20 * block


def half_identity(element: int) -> onnx.ModelProto:
    """``y = x`` in a 16-bit type."""
    x, y = (onnx.helper.make_tensor_value_info(name, element, [4, 8]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    opset = [onnx.helper.make_opsetid("", 17)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)


class TestCompiled:
    """With a backend that needs no compiler: the usual one takes twenty seconds for anything."""

    def session(self, monkeypatch: pytest.MonkeyPatch, backend: Any) -> TorchSession:
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
        return TorchSession(torch.nn.ReLU(), ["x"], ["y"], compiled=True)

    def test_they_compute_the_same_and_have_no_layers(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        session = self.session(monkeypatch, "eager")
        assert session.name.endswith("compiled")
        x = {"x": np.array([-1.0, 2.0], np.float32)}
        run = session.prepare(x, RunOptions())
        assert len(run.block(0.0, 2).timings) == 2
        with pytest.raises(DinatDeployError, match="tells no times of layers"):
            run.profile(1)
        assert np.array_equal(session.run(x)["y"], [0.0, 2.0])

    def test_a_failed_compilation_is_explained(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object) -> None:
            raise FileNotFoundError("g++")

        session = self.session(monkeypatch, broken)
        with pytest.raises(
            DinatDeployError, match="could not compile the model: .*g\\+\\+"
        ) as caught:
            session.run({"x": np.zeros(2, np.float32)})
        assert "C++ compiler" in caught.value.cure


def test_truncated_external_data_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    model = onnx.load(tiny_bundle / "model.onnx")
    onnx.save(
        model,
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="m.onnx.data",
        size_threshold=1024,
    )
    OnnxRuntimeSession(tmp_path / "m.onnx", custom_op=False)
    data = tmp_path / "m.onnx.data"
    data.write_bytes(data.read_bytes()[:-4000])
    with pytest.raises(BundleError, match="cannot load"):
        OnnxRuntimeSession(tmp_path / "m.onnx", custom_op=False)
