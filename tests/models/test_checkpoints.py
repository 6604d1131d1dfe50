"""Every checkpoint format of facts, read by the real loader."""

from __future__ import annotations

import argparse
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dinat_deploy.errors import CheckpointError
from dinat_deploy.models.checkpoints import Checkpoint, read_checkpoint
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.fitting import fit
from dinat_deploy.models.model_card import save_model
from dinat_deploy.models.preprocessing import Preprocessing
from dinat_deploy.models.seeding import seeded_image, seeded_weights
from dinat_deploy.models.weights import model_from_state, seeded_model
from dinat_deploy.models.zoo import get_variant, with_schedule
from tests.conftest import TINY
from tests.golden import input_shape, model_case
from tests.models import upstream

MINI = upstream.original_shapes(64, (3, 4, 6, 5), (2, 4, 8, 16))


def golden_weights(name: str) -> dict[str, torch.Tensor]:
    case = model_case(name)
    weights = seeded_weights(case.shapes, case.seed)
    return {key: torch.from_numpy(value) for key, value in weights.items()}


def check_logits(name: str, path: Path, config: ModelConfig | None, source: str) -> None:
    """Load a checkpoint through the real loader and compare all recorded logits."""
    case = model_case(name)
    checkpoint = read_checkpoint(path)
    chosen = config or checkpoint.config
    assert chosen is not None
    model = model_from_state(chosen, fit(checkpoint, chosen).state)
    for key, expected in case.logits[source].items():
        image = torch.from_numpy(seeded_image(input_shape(key), case.seed))
        with torch.inference_mode():
            assert np.abs(model(image).numpy() - expected).max() <= 2e-4, key


@pytest.mark.parametrize("name", ["a_k7", "b_k5"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_original_checkpoints_reproduce_the_recorded_logits(
    name: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"model{suffix}"
    (torch.save if suffix == ".pth" else save_file)(golden_weights(name), path)
    check_logits(name, path, ModelConfig(**model_case(name).kwargs), "orig")


def test_the_real_dinat_mini_reproduces_the_recorded_logits(tmp_path: Path) -> None:
    path = tmp_path / "dinat_mini_in1k_224.pth"
    torch.save(golden_weights("dinat_mini"), path)
    check_logits("dinat_mini", path, get_variant("dinat_mini").config, "orig")


@pytest.mark.parametrize("name", ["a_k7", "b_k5", "dinat_mini"])
def test_hugging_face_directories_reproduce_the_recorded_logits(name: str, tmp_path: Path) -> None:
    config = upstream.hugging_face_config(model_case(name).kwargs)
    weights = upstream.to_hugging_face(golden_weights(name))
    check_logits(name, upstream.write_hugging_face(tmp_path / "hf", config, weights), None, "hf")


def test_layer_scales_are_split_from_hugging_face_pairs(tmp_path: Path) -> None:
    variant = get_variant("nat_small")
    config = variant.config.replace(depths=(1, 1), num_heads=(3, 6), num_classes=5)
    shapes = upstream.original_shapes(96, (1, 1), (3, 6), ratio=2.0, layer_scale=True, classes=5)
    weights = upstream.drawn(shapes)
    fields = config.model_dump() | {"layer_scale": 1e-5}
    directory = upstream.write_hugging_face(
        tmp_path / "hf",
        upstream.hugging_face_config(fields, model_type="nat"),
        upstream.to_hugging_face(weights, "nat."),
    )
    checkpoint = read_checkpoint(directory)
    assert checkpoint.config is not None
    assert checkpoint.config.layer_scale == 1e-5
    state = fit(checkpoint, checkpoint.config).state
    assert all(torch.equal(state[name], weights[name]) for name in weights)


def test_hugging_face_backbones_have_their_stage_norms(tmp_path: Path) -> None:
    shapes = upstream.original_shapes(16, (1, 1), (2, 4), classes=None, norms=True)
    weights = upstream.drawn(shapes)
    kwargs = {
        "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "kernel_size": 7,
        "dilations": [[1], [2]], "mlp_ratio": 3.0,
    }  # fmt: skip
    config = upstream.hugging_face_config(
        kwargs, architectures=["DinatBackbone"], out_features=["stage1", "stage2"]
    )
    directory = upstream.write_hugging_face(
        tmp_path / "hf", config, upstream.to_hugging_face(weights, "")
    )
    checkpoint = read_checkpoint(directory)
    assert checkpoint.config is not None
    assert checkpoint.config.out_levels == (0, 1)
    state = fit(checkpoint, checkpoint.config).state
    assert torch.equal(state["norm1.weight"], weights["norm1.weight"])


def test_hugging_face_labels_and_preprocessing_are_carried_along(tmp_path: Path) -> None:
    case = model_case("b_k5")
    labels = {str(i): f"animal {i}" for i in range(10)}
    config = upstream.hugging_face_config(case.kwargs, id2label=labels)
    directory = upstream.write_hugging_face(
        tmp_path / "hf", config, upstream.to_hugging_face(golden_weights("b_k5"))
    )
    processor = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "resample": 3,
        "size": {"height": 384, "width": 384}, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2],
    }  # fmt: skip
    (directory / "preprocessor_config.json").write_text(json.dumps(processor))
    checkpoint = read_checkpoint(directory)
    assert checkpoint.labels == [f"animal {i}" for i in range(10)]
    assert checkpoint.preprocessing == Preprocessing(
        resize_mode="stretch", resize=(384, 384), crop=(384, 384),
        mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2),
    )  # fmt: skip
    assert checkpoint.config is not None
    assert checkpoint.config.image_size == (384, 384)


def processed(tmp_path: Path, processor: object, **config: object) -> Checkpoint:
    """A Hugging Face directory with that preprocessor, read back."""
    case = model_case("b_k5")
    directory = upstream.write_hugging_face(
        tmp_path / "hf",
        upstream.hugging_face_config(case.kwargs, **config),
        upstream.to_hugging_face(golden_weights("b_k5")),
    )
    (directory / "preprocessor_config.json").write_text(json.dumps(processor))
    return read_checkpoint(directory)


def test_hugging_face_pictures_may_be_cropped_and_left_as_they_are(tmp_path: Path) -> None:
    found = processed(
        tmp_path,
        {
            "size": {"shortest_edge": 256}, "do_center_crop": True, "resample": 2,
            "crop_size": {"height": 224, "width": 192}, "do_normalize": False,
        },
    ).preprocessing  # fmt: skip
    assert found == Preprocessing(
        resize_mode="cover", resize=(256, 256), crop=(224, 192), interpolation="bilinear",
        mean=(0, 0, 0), std=(1, 1, 1),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        ({"do_rescale": False}, "does not scale pixels to 0..1"),
        ({"rescale_factor": 1.0}, "does not scale pixels to 0..1"),
        ({"resample": 5}, "resizes with filter 5 of Pillow; nearest, lanczos, bilinear, bicubic"),
        ({"size": {"longest_edge": 224}}, "is not valid: 'height'"),
        ({"image_mean": 0.5}, "is not valid"),
        ({"image_mean": ["red"]}, "is not valid"),
    ],
)
def test_hugging_face_preprocessing_that_ours_cannot_do_is_refused(
    processor: object, message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        processed(tmp_path, processor)


@pytest.mark.parametrize(
    "setting", [{"hidden_act": "relu"}, {"layer_norm_eps": 1e-6}, {"patch_size": 16}]
)
def test_hugging_face_settings_that_ours_do_not_have_are_refused(
    setting: dict[str, object], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=f"asks for {next(iter(setting))}"):
        processed(tmp_path, {}, **setting)


def test_hugging_face_channels_are_those_of_the_pictures(tmp_path: Path) -> None:
    found = processed(tmp_path, {}, num_channels=1).config
    assert found is not None
    assert found.in_channels == 1


def test_sharded_hugging_face_weights_are_joined(tmp_path: Path) -> None:
    weights = upstream.to_hugging_face(golden_weights("a_k7"))
    directory = tmp_path / "hf"
    config = upstream.hugging_face_config(model_case("a_k7").kwargs)
    upstream.write_hugging_face(directory, config, {})
    (directory / "model.safetensors").unlink()
    table = {}
    for number, names in enumerate((sorted(weights)[::2], sorted(weights)[1::2])):
        shard = f"model-{number}.safetensors"
        save_file({name: weights[name].contiguous() for name in names}, directory / shard)
        table |= dict.fromkeys(names, shard)
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": table}))
    assert len(read_checkpoint(directory).tensors) == len(golden_weights("a_k7"))

    index.write_text(json.dumps({"weight_map": dict.fromkeys(table, "../model-0.safetensors")}))
    with pytest.raises(CheckpointError, match="a shard outside its directory"):
        read_checkpoint(directory)


@pytest.mark.parametrize(
    "nest",
    [
        lambda weights: {"state_dict": weights},
        lambda weights: {"model": weights, "epoch": 3, "optimizer": {"lr": 0.1}},
        lambda weights: {"state_dict": {f"module.{k}": v for k, v in weights.items()}},
        lambda weights: {f"backbone.{k}": v for k, v in weights.items()},
        lambda weights: {"model": weights, "args": argparse.Namespace(lr=0.1)},
        lambda weights: {"model": {"state_dict": weights}},
    ],
    ids=["state_dict", "model", "module.", "backbone.", "argparse", "two levels"],
)
def test_nested_and_prefixed_files_are_unwrapped(nest: object, tmp_path: Path) -> None:
    weights = upstream.drawn(MINI)
    path = tmp_path / "checkpoint.pth"
    torch.save(nest(weights), path)  # type: ignore[operator]
    state = fit(read_checkpoint(path), get_variant("dinat_mini").config).state
    assert all(torch.equal(state[name], weights[name]) for name in weights)


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema"])
def test_the_moving_average_is_preferred_unless_refused(key: str, tmp_path: Path) -> None:
    plain, average = upstream.drawn(MINI, 0), upstream.drawn(MINI, 1)
    path = tmp_path / "checkpoint.pth"
    torch.save({"state_dict": plain, key: average}, path)
    name = "head.bias"
    preferred = read_checkpoint(path)
    assert torch.equal(preferred.tensors[name], average[name])
    assert preferred.notes == [f"took the exponential moving average {key!r} of the weights"]
    refused = read_checkpoint(path, prefer_ema=False)
    assert torch.equal(refused.tensors[name], plain[name])
    assert refused.notes == []


def test_mmdetection_style_files_give_the_backbone_and_name_the_rest(tmp_path: Path) -> None:
    shapes = upstream.original_shapes(64, (3, 4, 18, 5), (2, 4, 8, 16), classes=None, norms=True)
    weights = upstream.drawn(shapes)
    content = {f"backbone.{name}": tensor for name, tensor in weights.items()}
    content |= {"neck.lateral_convs.0.conv.weight": torch.zeros(2), "ema_step": torch.zeros(1)}
    path = tmp_path / "maskrcnn_dinat_tiny.pth"
    torch.save({"meta": {"epoch": 36}, "state_dict": content}, path)
    checkpoint = read_checkpoint(path)
    assert list(checkpoint.heads) == ["neck.lateral_convs.0.conv.weight"]
    assert checkpoint.ignored == ["ema_step"]
    config = with_schedule(get_variant("dinat_tiny"), "detection").replace(out_levels=(0, 1, 2, 3))
    state = fit(checkpoint, config).state
    assert all(torch.equal(state[name], weights[name]) for name in weights)


def test_dinat_s_isotropic_and_vit_files_fit(tmp_path: Path) -> None:
    files = {
        "dinat_s_tiny": upstream.dinat_s_shapes(96, (2, 2, 6, 2), (3, 6, 12, 24)),
        "dinat_isotropic_small": upstream.isotropic_shapes(384, 12, 7, vit=False),
        "vitrpb_small": upstream.isotropic_shapes(384, 12, 14, vit=True),
    }
    for name, shapes in files.items():
        weights = upstream.drawn(shapes)
        for key in weights:
            if key.endswith("relative_position_index"):
                weights[key] = upstream.vit_index()
        path = tmp_path / f"{name}.pth"
        torch.save(weights, path)
        fit(read_checkpoint(path), get_variant(name).config)


def test_a_vit_index_of_another_order_is_refused(tmp_path: Path) -> None:
    weights = upstream.drawn(upstream.isotropic_shapes(384, 12, 14, vit=True))
    for key in weights:
        if key.endswith("relative_position_index"):
            weights[key] = upstream.vit_index().T.contiguous()
    path = tmp_path / "vit.pth"
    torch.save(weights, path)
    with pytest.raises(CheckpointError, match="orders the positional bias in an unknown way"):
        fit(read_checkpoint(path), get_variant("vitrpb_small").config)


def test_own_model_directories_are_read_back(tmp_path: Path) -> None:
    model = seeded_model(TINY, 5)
    preprocessing = Preprocessing(resize=(64, 64), crop=(64, 64))
    labels = [f"class {i}" for i in range(10)]
    save_model(tmp_path / "own", model, TINY, preprocessing, labels)
    checkpoint = read_checkpoint(tmp_path / "own")
    assert (checkpoint.config, checkpoint.labels) == (TINY, labels)
    assert checkpoint.preprocessing == preprocessing
    state = fit(checkpoint, TINY).state
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("evil-was-here"),)


def test_pickles_that_could_run_code_are_refused_and_do_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": upstream.drawn(MINI), "hook": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="loading them could run code"):
        read_checkpoint(tmp_path / "evil.pth")
    assert not (tmp_path / "evil-was-here").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 10, 5000, -100])
def test_truncated_files_are_named(suffix: str, keep: int, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    (torch.save if suffix == ".pth" else save_file)(golden_weights("a_k7"), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert str(path) in caught.value.cause
    assert ".." not in caught.value.cause
    assert "damaged or incomplete" in caught.value.cure


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds no weights \\(list\\)"),
        ({"epoch": 3}, "holds no weights \\(dict of epoch\\)"),
        ({"conv1.weight": torch.zeros(2)}, "is not a NAT or DiNAT checkpoint"),
    ],
)
def test_other_contents_are_refused(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize(
    "content", [b"these are not weights", b"<!DOCTYPE html><html>" * 50, b"\x08\x09onnx" * 100]
)
def test_what_is_no_pickle_is_not_blamed_on_python_objects(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "notes.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"notes\.pth") as caught:
        read_checkpoint(path)
    assert "Python objects" not in caught.value.cause
    assert "damaged or incomplete" in caught.value.cure


@pytest.mark.parametrize(
    ("name", "message"),
    [("model.pth", "holds Python objects"), ("model.pkl", r"holds more than arrays .*Path")],
)
def test_pickles_of_other_protocols_are_refused_for_what_they_hold(
    name: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(pickle.dumps({"model": {"w": Path("x")}}, protocol=4))
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)


def test_missing_files_and_directories_without_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        read_checkpoint(tmp_path / "nowhere.pth")
    with pytest.raises(CheckpointError, match=r"There is no .*config\.json"):
        read_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is of model type None; expected dinat or nat"):
        read_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("[1")
    with pytest.raises(CheckpointError, match="is not readable JSON"):
        read_checkpoint(tmp_path)
    config = upstream.hugging_face_config(model_case("a_k7").kwargs)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="holds no weights"):
        read_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinat"}))
    with pytest.raises(CheckpointError, match="does not describe a Dinat model"):
        read_checkpoint(tmp_path)
