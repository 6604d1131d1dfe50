"""Mask2Former against transformers, published figures and checkpoints of detectron2."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from dinat_deploy.errors import CheckpointError, ConfigError, MissingDependencyError
from dinat_deploy.graph.weights import read_weights
from dinat_deploy.models import huggingface_queries
from dinat_deploy.models.building import build
from dinat_deploy.models.checkpoints import Checkpoint, read_checkpoint
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.decoders import Mask2Former
from dinat_deploy.models.fitting import fit
from dinat_deploy.models.mask2former import Mask2FormerModel
from dinat_deploy.models.model_card import save_model
from dinat_deploy.models.pickled_arrays import read_pickled_arrays
from dinat_deploy.models.presets import PUBLISHED, preset
from dinat_deploy.models.query_heads import QueryModel
from dinat_deploy.models.seeding import seeded_image
from dinat_deploy.models.weights import model_from_state, seeded_model
from dinat_deploy.models.zoo import get_variant
from dinat_deploy.pipeline.exporting import ExportReport, export
from dinat_deploy.pipeline.requests import ModelRequest
from dinat_deploy.pipeline.sources import resolve
from dinat_deploy.pipeline.verifying import verify
from tests.models import upstream, upstream_queries
from tests.models.photos import assert_same_classes

DIM = 16
HEAD = upstream_queries.Head(masks=16)
SETTINGS = Mask2Former(
    num_queries=12,
    hidden_dim=32,
    mask_dim=16,
    num_heads=2,
    encoder_layers=1,
    encoder_ffn=24,
    decoder_layers=4,
    decoder_ffn=40,
)
BACKBONE = ModelConfig(
    embed_dim=DIM,
    depths=(1, 1, 1, 1),
    num_heads=(1, 1, 2, 4),
    kernel_size=3,
    dilations=((2,), (1,), (1,), (1,)),
    mlp_ratio=2.0,
    num_classes=5,
    image_size=(64, 96),
)
SMALL = BACKBONE.replace(decoder=SETTINGS)


class OurFeatures(nn.Module):
    """Stands for the backbone in a model of transformers."""

    def __init__(self, model: QueryModel) -> None:
        super().__init__()
        self.backbone = model.backbone

    def forward(self, image: torch.Tensor) -> Any:
        return SimpleNamespace(feature_maps=self.backbone(image))


def theirs(kind: str, head: upstream_queries.Head, weights: upstream.Weights) -> nn.Module:
    """A genuine model of transformers with a head's weights, all of them."""
    import transformers

    backbone = transformers.SwinConfig(
        embed_dim=DIM,
        depths=[1] * 4,
        num_heads=[1] * 4,
        out_features=list(huggingface_queries._STAGES),
    )
    settings = upstream_queries.transformers_config(kind, DIM, head, backbone_config=backbone)
    name = {"mask2former": "Mask2Former", "oneformer": "OneFormer"}[kind]
    for field in ("model_type", "architectures"):
        del settings[field]
    config = getattr(transformers, f"{name}Config")(**settings)
    model = getattr(transformers, f"{name}ForUniversalSegmentation")(config).eval()
    others = {
        key: value
        for key, value in model.state_dict().items()
        if key.startswith(("model.pixel_level_module.encoder.", "criterion."))
    }
    model.load_state_dict(others | weights, strict=True)
    return model


@pytest.fixture(scope="module")
def weights() -> upstream.Weights:
    return upstream_queries.mask2former_weights(DIM, HEAD)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, weights: upstream.Weights) -> Path:
    path = tmp_path_factory.mktemp("d2") / "mask2former_dinat_small_coco_panoptic.pth"
    return upstream_queries.write_checkpoint(path, weights)


@pytest.fixture(scope="module")
def backbone_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.json"
    path.write_text(BACKBONE.model_dump_json())
    return path


def test_answers_to_a_checkpoint_of_detectron2_are_those_of_transformers(
    checkpoint: Path, weights: upstream.Weights
) -> None:
    fitted = fit(read_checkpoint(checkpoint), SMALL)
    model = model_from_state(SMALL, fitted.state)
    assert isinstance(model, Mask2FormerModel)
    genuine: Any = theirs(
        "mask2former", HEAD, upstream_queries.mask2former_to_transformers(weights, HEAD)
    )
    genuine.model.pixel_level_module.encoder = OurFeatures(model)
    image = torch.from_numpy(seeded_image((2, 3, 64, 96), 0))
    with torch.no_grad():
        classes, masks = model(image)
        expected = genuine(image)
    assert classes.shape == (2, 12, 6)
    assert masks.shape == (2, 12, 16, 24)
    assert torch.allclose(classes, expected.class_queries_logits, atol=1e-5)
    assert torch.allclose(masks, expected.masks_queries_logits, atol=1e-5)
    # Both kinds of pixels occur, or masking would not have been compared.
    assert 0.2 < (masks < 0).float().mean() < 0.8


def test_settings_show_in_the_weights(
    checkpoint: Path, weights: upstream.Weights, backbone_json: Path, tmp_path: Path
) -> None:
    source = resolve(ModelRequest(config=backbone_json, checkpoint=checkpoint, task="panoptic"))
    assert source.config == SMALL
    assert source.notes == ["left out 1 tensors of other parts (criterion.empty_weight)"]
    instance = ModelRequest(
        config=backbone_json, checkpoint=checkpoint, task="instance", decoder="mask2former"
    )
    assert resolve(instance).config.decoder == SETTINGS.model_copy(update={"task": "instance"})
    # Files of the first version call the first queries otherwise.
    older = {name.replace("query_feat", "static_query"): value for name, value in weights.items()}
    path = upstream_queries.write_checkpoint(tmp_path / "older.pth", older)
    state = fit(read_checkpoint(path), SMALL).state
    queries = weights["sem_seg_head.predictor.query_feat.weight"]
    assert torch.equal(state["transformer_module.queries_features.weight"], queries)


def test_the_published_model_has_the_published_size_and_settings() -> None:
    entries = [entry for entry in PUBLISHED if entry.decoder == "mask2former"]
    assert {entry.parameters_m for entry in entries} == {220}
    variant = get_variant("dinat_large")
    config = variant.config.replace(**preset(variant, "mask2former", "panoptic", "coco"))
    assert (config.kernel_size, config.image_size, config.num_classes) == (11, (1024, 1024), 133)
    with torch.device("meta"):
        model = build(config)
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6) == 220


def test_a_fresh_model_starts_to_read_around_each_place() -> None:
    model = build(SMALL)
    offsets = model.get_submodule("pixel_decoder.encoder.layers.0.self_attn.sampling_offsets")
    assert not offsets.weight.any()  # type: ignore[operator]
    points = offsets.bias.reshape(2, 3, 4, 2)  # type: ignore[operator, union-attr]
    assert torch.allclose(points[0, 1], torch.tensor([[1.0, 0], [2, 0], [3, 0], [4, 0]]), atol=1e-6)
    assert torch.allclose(points[1, 2, :, 0], -torch.arange(1.0, 5), atol=1e-6)


def test_directories_of_transformers_hold_the_same(weights: upstream.Weights) -> None:
    data = upstream_queries.transformers_config("mask2former", DIM, HEAD)
    config = huggingface_queries.parse_config(data)
    assert config.replace(image_size=SMALL.image_size) == SMALL
    saved = {
        **upstream_queries.transformers_backbone(DIM),
        **upstream_queries.mask2former_to_transformers(weights, HEAD),
        "criterion.empty_weight": torch.ones(6),
    }
    encoder, heads = huggingface_queries.to_checkpoint(saved, config)
    state = fit(Checkpoint(Path("saved"), encoder, heads), config).state
    own = {name: value for name, value in weights.items() if "criterion" not in name}
    expected = fit(_checkpoint(own), SMALL).state
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], value) for name, value in expected.items())


def _checkpoint(weights: upstream.Weights) -> Checkpoint:
    encoder = {
        n.removeprefix("backbone."): v for n, v in weights.items() if n.startswith("backbone.")
    }
    heads = {name: value for name, value in weights.items() if name.startswith("sem_seg_head.")}
    return Checkpoint(Path("made"), encoder, heads)


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"backbone_config": {"model_type": "swin"}}, "backbone 'swin'; expected dinat or nat"),
        ({"backbone_config": None, "backbone": "resnet50"}, "backbone 'resnet50'; expected dinat"),
        ({"pre_norm": True}, "asks for pre_norm True; only False is supported"),
        ({"feature_size": 64}, "asks for feature_size 64 and hidden_dim 32"),
        ({"feature_strides": [4, 8, 16, 16]}, r"feature_strides \[4, 8, 16, 16\]; only"),
    ],
)
def test_directories_of_other_models_are_refused(extra: dict[str, Any], reason: str) -> None:
    data = upstream_queries.transformers_config("mask2former", DIM, HEAD, **extra)
    with pytest.raises(CheckpointError, match=reason):
        huggingface_queries.parse_config(data)


def test_checkpoints_that_do_not_fit_are_refused_with_the_reason(
    weights: upstream.Weights, backbone_json: Path, tmp_path: Path
) -> None:
    panoptic = {"config": backbone_json, "task": "panoptic"}

    def refused(tensors: upstream.Weights, **request: Any) -> str:
        path = upstream_queries.write_checkpoint(tmp_path / "bad.pth", tensors)
        with pytest.raises(CheckpointError) as caught:
            resolve(ModelRequest(**{**panoptic, "checkpoint": path, **request}))
        return f"{caught.value.cause} {caught.value.cure}"

    lost = "sem_seg_head.predictor.transformer_self_attention_layers.1.self_attn.in_proj_bias"
    lacking = {name: value for name, value in weights.items() if name != lost}
    message = refused(lacking)
    assert "missing in the file (3)" in message
    assert message.endswith("The file is incomplete; get it again from its source.")
    assert "transformer_module.decoder.layers.1.self_attn.q_proj.bias" in message

    added = {**weights, "sem_seg_head.predictor.input_proj.0.weight": torch.ones(32, 32, 1, 1)}
    assert "not in the model (1): sem_seg_head.predictor.input_proj.0.weight" in refused(added)

    short = {**weights, lost: torch.ones(())}
    assert "not in the model (1)" in refused(short)
    assert "Use --decoder mask2former" in refused(weights, task="semantic")

    assert "tells 5 classes apart: use --num-classes 5" in refused(weights, num_classes=7)

    plain = {name: value for name, value in weights.items() if name.startswith("backbone.")}
    assert "holds no Mask2Former head" in refused(plain)

    card = tmp_path / "card.json"
    other = SETTINGS.model_copy(update={"num_queries": 30})
    card.write_text(SMALL.replace(decoder=other).model_dump_json())
    assert "head has num_queries 12 and the model's 30" in refused(weights, config=card)
    assert "has no head of Mask2Former" in refused(plain, config=card)
    assert "use --task panoptic" in refused(weights, config=backbone_json, task="classification")


def test_saved_models_describe_themselves(tmp_path: Path) -> None:
    model = seeded_model(SMALL, 2)
    save_model(tmp_path / "model", model, SMALL)
    source = resolve(
        ModelRequest(checkpoint=tmp_path / "model", task="semantic", decoder="mask2former")
    )
    assert source.config == SMALL.replace(decoder=SETTINGS.model_copy(update={"task": "semantic"}))
    state = model.state_dict()
    assert all(torch.equal(v, state[name]) for name, v in source.module.state_dict().items())


@pytest.mark.parametrize(
    ("width", "heads", "reason"),
    [(48, 2, "no multiple of 32, the groups"), (64, 3, "no multiple of 3, the num_heads")],
)
def test_widths_must_split(width: int, heads: int, reason: str) -> None:
    decoder = {"type": "mask2former", "hidden_dim": width, "num_heads": heads}
    with pytest.raises(ConfigError, match=reason):
        BACKBONE.replace(decoder=decoder)


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers.models.mask2former.modeling_mask2former", None)
    with pytest.raises(MissingDependencyError, match=r"modules of transformers") as caught:
        build(SMALL)
    assert "dinat-deploy[hf]" in caught.value.cure


def test_transformers_is_loaded_only_for_models_that_need_it() -> None:
    program = "import sys, dinat_deploy.models.building; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# Pickles of detectron2's model zoo


@pytest.mark.parametrize("protocol", [2, 4])
def test_arrays_are_read_out_of_a_pickle(protocol: int, tmp_path: Path) -> None:
    rows = torch.arange(6.0).reshape(2, 3)
    arrays = {"rows": rows.numpy(), "columns": rows.numpy().T, "number": torch.tensor(7).numpy()}
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "somebody"}, protocol=protocol))
    found = read_pickled_arrays(path)
    assert found["__author__"] == "somebody"
    assert torch.equal(found["model"]["rows"], rows)
    assert torch.equal(found["model"]["columns"], rows.T)
    assert found["model"]["number"].item() == 7


def test_a_pickle_is_a_checkpoint_like_others(tmp_path: Path) -> None:
    weights = {
        "backbone.patch_embed.proj.0.weight": torch.rand(2, 3),
        "backbone.norm0.bias": torch.rand(2),
    }
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": {name: w.numpy() for name, w in weights.items()}}))
    of_torch = tmp_path / "old.pkl"
    torch.save(weights, of_torch, _use_new_zipfile_serialization=False)
    assert read_checkpoint(of_torch).tensors.keys() == read_checkpoint(path).tensors.keys()
    found = read_checkpoint(path).tensors
    assert {f"backbone.{name}": w.tolist() for name, w in found.items()} == {
        name: w.tolist() for name, w in weights.items()
    }


class _Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("attacked",)


@pytest.mark.parametrize(
    "what", [_Attack(), torch.nn.ReLU, object()], ids=["call", "class", "object"]
)
def test_pickles_of_anything_else_are_refused(
    what: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.pkl"
    path.write_bytes(pickle.dumps({"model": {"weight": what}}))
    with pytest.raises(CheckpointError, match="could run code"):
        read_pickled_arrays(path)
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("keep", [0, 10, -20])
def test_truncated_pickles_are_called_damaged(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "bad.pkl"
    content = pickle.dumps({"model": {"weight": torch.ones(1000).numpy()}}, protocol=2)
    path.write_bytes(content[:keep])
    with pytest.raises(CheckpointError) as caught:
        read_pickled_arrays(path)
    assert caught.value.cure == "The file is damaged or incomplete; copy it again."


# Export


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    """A small model with made-up weights, whose queries read each level once."""
    place = tmp_path_factory.mktemp("export")
    config = SMALL.replace(decoder=SETTINGS.model_copy(update={"decoder_layers": 3}))
    (place / "small.json").write_text(config.model_dump_json())
    return export(ModelRequest(config=place / "small.json"), place / "out")


def test_exported_models_answer_as_pytorch_does(exported: ExportReport) -> None:
    checked = exported.manifest.verification
    assert checked is not None
    assert checked.passed
    assert checked.max_abs_error < 1e-4
    graph = exported.manifest.graph
    assert [spec.name for spec in graph.outputs] == ["class_logits", "mask_logits"]
    assert [spec.shape for spec in graph.outputs] == [[1, 12, 6], [1, 12, 16, 24]]
    assert graph.op_nodes == 4


def test_a_photo_has_the_same_classes_as_in_pytorch(exported: ExportReport) -> None:
    assert_same_classes(exported.path)


def test_graphs_have_no_lists_of_tensors_and_no_searches(exported: ExportReport) -> None:
    """TensorRT has no lists; and the size of what NonZero finds is known only when it runs."""
    model = onnx.load(str(exported.path / "model.onnx"))
    types = {node.op_type for node in model.graph.node}
    assert not {"SplitToSequence", "SequenceAt", "NonZero", "ScatterND", "Shape"} & types
    assert {"GridSample", "Less", "NeighborhoodAttention2D"} <= types


def test_every_weight_is_in_the_file_and_layers_can_be_compared(exported: ExportReport) -> None:
    report = verify(exported.path, layers=True, random_cases=1)
    assert report.passed
    names = {layer.name for layer in report.layers}
    assert {"pixel_decoder.encoder.layers.0.final_layer_norm", "pixel_decoder.layer_1"} <= names
    config = exported.manifest.config
    weights = read_weights(exported.path / "model.onnx", build(config).state_dict())
    assert weights.keys() == build(config).state_dict().keys()
