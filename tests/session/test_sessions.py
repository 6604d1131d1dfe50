"""Both sessions behind the one protocol."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from dinat_deploy.bundle import open_bundle
from dinat_deploy.errors import BundleError
from dinat_deploy.models.seeding import seeded_image
from dinat_deploy.pipeline.rebuild import torch_session
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
