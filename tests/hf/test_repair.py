"""transformers' own models on our attention.

Runs against whatever transformers is installed; versions 4.49 to 5.24 pass. Recorded logits are
those of transformers 4.49 on NATTEN 0.17.4.
"""

from __future__ import annotations

import copy
import importlib
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from dinat_deploy import hf, natten
from dinat_deploy.errors import CheckpointError, ConfigError, MissingDependencyError
from dinat_deploy.hf import patching
from dinat_deploy.models.seeding import seeded_image, seeded_weights
from tests.golden import input_shape, model_case
from tests.hf import models
from tests.models import upstream

MODELING = "transformers.models.dinat.modeling_dinat"


def golden_directory(name: str, place: Path) -> Path:
    case = model_case(name)
    weights = seeded_weights(case.shapes, case.seed)
    tensors = {key: torch.from_numpy(value) for key, value in weights.items()}
    config = upstream.hugging_face_config(case.kwargs)
    return upstream.write_hugging_face(place, config, upstream.to_hugging_face(tensors))


def attentions(model: Any) -> list[Any]:
    return [part for part in model.modules() if type(part).__name__ == "NeighborhoodAttention"]


@pytest.mark.parametrize("name", ["a_k7", "b_k5", "dinat_mini"])
def test_loaded_classifiers_reproduce_the_recorded_logits(name: str, tmp_path: Path) -> None:
    model = hf.from_pretrained(golden_directory(name, tmp_path / "hf"))
    assert type(model) is transformers.DinatForImageClassification
    case = model_case(name)
    recorded = list(case.logits["hf"].items())
    for key, expected in recorded[:1] if name == "dinat_mini" else recorded:
        image = torch.from_numpy(seeded_image(input_shape(key), case.seed))
        with torch.inference_mode():
            assert np.abs(model(image).logits.numpy() - expected).max() <= 2e-4, key


@pytest.mark.parametrize("kind", models.KINDS)
def test_models_come_back_as_the_class_that_saved_them(kind: str, tmp_path: Path) -> None:
    model = models.made(kind)
    model.save_pretrained(tmp_path)
    loaded: Any = hf.from_pretrained(tmp_path)
    assert type(loaded) is type(model) is getattr(transformers, models.CLASSES[kind])
    assert not loaded.training
    image = models.picture()
    expected = models.outputs(kind, model, image)
    for found, wanted in zip(models.outputs(kind, loaded, image), expected, strict=True):
        assert torch.equal(found, wanted)


def test_automatic_classes_load_in_the_context(tmp_path: Path) -> None:
    models.saved("classification", tmp_path)
    with hf.without_natten():
        model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path)
    expected = models.made("classification")(models.picture()).logits
    assert torch.equal(model.eval()(models.picture()).logits, expected)


def test_a_task_chooses_the_class_and_options_reach_transformers(tmp_path: Path) -> None:
    models.saved("classification", tmp_path)
    backbone: Any = hf.from_pretrained(tmp_path, task="backbone", out_features=["stage2"])
    assert type(backbone) is transformers.DinatBackbone
    assert [tuple(x.shape) for x in backbone(models.picture()).feature_maps] == [(1, 32, 8, 12)]


def test_weights_of_attention_are_returned_and_change_nothing() -> None:
    model, image = models.made("classification"), models.picture()
    with torch.no_grad():
        plain, asked = model(image), model(image, output_attentions=True)
    assert plain.attentions is None
    assert torch.allclose(plain.logits, asked.logits, atol=1e-5)
    # The last map, 2 x 3, is filled up to the window.
    sizes = [(1, 1, 16, 24, 9), (1, 2, 8, 12, 9), (1, 4, 4, 6, 9), (1, 8, 3, 3, 9)]
    assert [tuple(weights.shape) for weights in asked.attentions] == sizes
    for weights in asked.attentions:
        assert torch.allclose(weights.sum(-1), torch.ones(weights.shape[:-1]))


def test_gradients_are_those_of_plain_attention_down_to_the_bias() -> None:
    found = []
    for explicit in (False, True):
        model = models.made("classification").train()
        model.config.drop_path_rate = 0.0
        for part in model.modules():
            if type(part).__name__.endswith("DropPath"):
                part.drop_prob = 0.0
        out = model(models.picture(), output_attentions=explicit, labels=torch.tensor([3]))
        out.loss.backward()
        found.append({name: value.grad for name, value in model.named_parameters()})
    assert attentions(model)[0].rpb.grad.abs().max() > 0
    for name, grad in found[0].items():
        assert torch.allclose(grad, found[1][name], rtol=1e-4, atol=1e-6), name


def test_dropout_on_the_weights_acts_in_training_alone() -> None:
    with hf.without_natten():
        config = models.dinat_config(attention_probs_dropout_prob=0.5, drop_path_rate=0.0)
        model = models.drawn(transformers.DinatForImageClassification(config))
    attention, x = attentions(model)[0], torch.randn(1, 8, 8, 16)
    assert torch.equal(attention(x)[0], attention(x)[0])
    attention.train()
    assert not torch.allclose(attention(x)[0], attention(x)[0], atol=1e-3)
    (out, weights) = attention(x, True)
    assert 0.3 < (weights == 0).float().mean() < 0.7
    assert out.shape == x.shape


def test_afterwards_transformers_is_as_before_and_the_models_keep_working() -> None:
    modeling = importlib.import_module(MODELING)
    before = dict(vars(modeling))
    with hf.without_natten():
        model = transformers.DinatModel(models.dinat_config())
        with hf.without_natten():
            pass
        transformers.DinatModel(models.dinat_config())
    with pytest.raises(KeyError), hf.without_natten():
        raise KeyError
    assert dict(vars(modeling)) == before
    assert model(models.picture()).last_hidden_state.shape == (1, 2, 3, 128)


def test_an_existing_model_is_repaired_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    modeling = importlib.import_module(MODELING)
    monkeypatch.setattr(modeling, "requires_backends", lambda *_: None)
    model = models.drawn(transformers.UperNetForSemanticSegmentation(models.config_of("upernet")))
    with pytest.raises(BaseException):  # noqa: B017 - another one in every version of transformers
        model(models.picture())
    parameters = list(map(id, model.parameters()))
    assert hf.repair(model) is model
    assert hf.repair(model) is model
    assert list(map(id, model.parameters())) == parameters
    expected = models.outputs("upernet", models.made("upernet"), models.picture())
    assert torch.equal(models.outputs("upernet", model, models.picture())[0], expected[0])
    assert all(isinstance(part, modeling.NeighborhoodAttention) for part in attentions(model))


def test_copies_and_pickles_are_repaired_too() -> None:
    model, image = models.made("classification"), models.picture()
    expected = model(image).logits
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied(image).logits, expected)
        assert type(attentions(copied)[0]) is type(attentions(model)[0])
        copied.dinat.encoder.levels[0].layers[0].attention.self.rpb.data.add_(1.0)
    assert torch.equal(model(image).logits, expected)


def test_half_precision_and_autocast() -> None:
    model, image = models.made("classification"), models.picture()
    expected = model(image).logits
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(image).logits
    assert torch.allclose(mixed.float(), expected, atol=0.1)
    found = model.to(torch.bfloat16)(image.to(torch.bfloat16)).logits
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), expected, atol=0.1)


def test_models_are_exported_with_one_node_per_layer(tmp_path: Path) -> None:
    report = natten.export_module(
        models.made("classification"),
        models.picture(batch=2),
        tmp_path / "model.onnx",
        dynamic={"pixel_values": {0: "batch"}},
        output_names=["logits"],
        more_inputs=[[models.picture(batch=3)]],
    )
    assert (report.packed, report.split) == (4, 0)
    assert report.outputs == {"logits": ["batch", 5]}
    assert report.errors["logits"].max_abs < 1e-4


def test_a_natten_without_the_old_functions_does_not_stop_the_import(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.startswith(MODELING)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(transformers.utils, "is_natten_available", lambda: True)
    with natten.substitute("0.21"):
        with pytest.raises(ImportError):
            importlib.import_module(MODELING)
        assert patching._modeling()[0].__name__ == MODELING
    assert transformers.utils.is_natten_available()


def test_models_without_neighborhood_attention_are_refused() -> None:
    swin = transformers.SwinModel(
        transformers.SwinConfig(embed_dim=8, depths=[1], num_heads=[1], window_size=2)
    )
    with pytest.raises(ConfigError, match=r"SwinModel \(model type swin\) has no neighborhood"):
        hf.repair(swin)
    with pytest.raises(ConfigError, match="Linear has no neighborhood attention"):
        hf.repair(torch.nn.Linear(2, 2))


def test_directories_that_cannot_be_loaded_are_named(tmp_path: Path) -> None:
    def refused(message: str, **options: Any) -> None:
        with pytest.raises(CheckpointError, match=message):
            hf.from_pretrained(tmp_path / "model", **options)

    refused("There is no directory")
    (tmp_path / "model").write_text("")
    refused("is a file")
    (tmp_path / "model").unlink()
    (tmp_path / "model").mkdir()
    refused("has no config.json")
    card = tmp_path / "model" / "config.json"
    card.write_text("{")
    refused("is not readable JSON")
    card.write_text("{}")
    refused("it has no model_type")
    card.write_text('{"model_type": "mask2former", "backbone_config": {"model_type": "swin"}}')
    refused("type mask2former on swin; dinat or nat is needed")
    card.write_text('{"model_type": "vit"}')
    refused("of type vit; dinat or nat is needed")
    card.write_text('{"model_type": "dinat", "architectures": ["DinatForCooking"]}')
    refused("has no class DinatForCooking")
    refused("holds a dinat, which has no task 'semantic'", task="semantic")
    card.write_text('{"model_type": "dinat"}')
    refused("transformers cannot load")


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match=r"dinat-deploy\[hf\]"), hf.without_natten():
        pass
