"""OneFormer against transformers, for each of its tasks."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dinat_deploy.errors import CheckpointError, ConfigError
from dinat_deploy.models import huggingface_queries
from dinat_deploy.models.building import build
from dinat_deploy.models.checkpoints import Checkpoint
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.decoders import DecoderTask, OneFormer
from dinat_deploy.models.families import FAMILIES, family_of
from dinat_deploy.models.fitting import fit
from dinat_deploy.models.seeding import seeded_image
from dinat_deploy.models.weights import model_from_state
from dinat_deploy.pipeline.exporting import ExportReport, export
from dinat_deploy.pipeline.requests import ModelRequest
from dinat_deploy.pipeline.verifying import verify
from tests.models import upstream_queries
from tests.models.photos import assert_same_classes
from tests.models.test_mask2former import DIM, OurFeatures, theirs

HEAD = upstream_queries.Head()
TASKS: tuple[DecoderTask, ...] = ("panoptic", "instance", "semantic")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of transformers: a configuration, and a CLIP tokenizer of few words."""
    path = tmp_path_factory.mktemp("oneformer")
    data = upstream_queries.transformers_config("oneformer", DIM, HEAD)
    (path / "config.json").write_text(json.dumps(data))
    words = ["the", "task", "is", *TASKS]
    merges: list[str] = []
    pieces = [chr(code) + end for code in range(ord("a"), ord("z") + 1) for end in ("", "</w>")]
    for word in words:
        # Letters are joined from the left, one after another.
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            merges.append(f"{parts[0]} {parts[1]}")
            parts = [parts[0] + parts[1], *parts[2:]]
            pieces.append(parts[0])
    merges, pieces = list(dict.fromkeys(merges)), list(dict.fromkeys(pieces))
    vocabulary = [*pieces, "<|startoftext|>", "<|endoftext|>"]
    numbers = {piece: number for number, piece in enumerate(vocabulary)}
    (path / "vocab.json").write_text(json.dumps(numbers))
    (path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    return path


@pytest.fixture(scope="module")
def config(directory: Path) -> ModelConfig:
    data = json.loads((directory / "config.json").read_text())
    config = huggingface_queries.with_task_tokens(huggingface_queries.parse_config(data), directory)
    return config.replace(image_size=(64, 96))


def for_task(config: ModelConfig, task: DecoderTask) -> ModelConfig:
    assert config.decoder is not None
    return config.replace(decoder=config.decoder.model_copy(update={"task": task}))


def test_sentences_are_those_of_transformers(directory: Path, config: ModelConfig) -> None:
    from transformers import CLIPTokenizer, OneFormerProcessor

    tokenizer = CLIPTokenizer.from_pretrained(str(directory))
    # Its own image processor wants files that have nothing to do with sentences.
    processor: Any = SimpleNamespace(tokenizer=tokenizer)
    assert isinstance(config.decoder, OneFormer)
    for task in TASKS:
        sentence = [f"the task is {task}"]
        expected = OneFormerProcessor._preprocess_text(processor, sentence, HEAD.sentence)[0]
        found = config.decoder.task_tokens[task]
        assert list(found) == expected.tolist()
        assert len(found) == HEAD.sentence
        assert found[-1] == 0  # filled up
        assert tokenizer.decode(found, skip_special_tokens=True).startswith(sentence[0])
    assert len(set(config.decoder.task_tokens.values())) == 3


def test_answers_are_those_of_transformers_for_each_task(config: ModelConfig) -> None:
    inputs = [DIM, 2 * DIM, 4 * DIM, 8 * DIM]
    weights = upstream_queries.drawn(upstream_queries.oneformer_shapes(inputs, HEAD))
    saved = {
        **upstream_queries.transformers_backbone(DIM),
        **weights,
        # What only training needs.
        "criterion.logit_scale": torch.ones(()),
        "model.text_mapper.prompt_ctx.weight": torch.ones(4, 32),
    }
    encoder, heads = huggingface_queries.to_checkpoint(saved, config)
    family = family_of(heads)
    assert family is FAMILIES["oneformer"]
    assert family.num_classes_of(heads) == 5
    genuine: Any = theirs("oneformer", HEAD, weights)
    image = torch.from_numpy(seeded_image((2, 3, 64, 96), 0))
    answers = []
    for task in TASKS:
        chosen = for_task(config, task)
        state = fit(Checkpoint(Path("saved"), encoder, heads), chosen).state
        model: Any = model_from_state(chosen, state)
        genuine.model.pixel_level_module.encoder = OurFeatures(model)
        sentence = torch.tensor([chosen.decoder.task_tokens[task]] * 2)  # type: ignore[union-attr]
        with torch.no_grad():
            classes, masks = model(image)
            expected = genuine(pixel_values=image, task_inputs=sentence)
        assert classes.shape == (2, 12, 6)
        assert torch.allclose(classes, expected.class_queries_logits, atol=1e-4)
        assert torch.allclose(masks, expected.masks_queries_logits, atol=1e-4)
        assert 0.1 < (masks < 0).float().mean() < 0.9
        answers.append(classes)
    assert (answers[0] - answers[1]).abs().max() > 0.1
    assert (answers[1] - answers[2]).abs().max() > 0.1


def test_a_task_needs_its_sentence(config: ModelConfig, directory: Path, tmp_path: Path) -> None:
    data = json.loads((directory / "config.json").read_text())
    with pytest.raises(ConfigError, match=r"no task_tokens for panoptic \(for: none\)"):
        build(huggingface_queries.parse_config(data))
    (tmp_path / "config.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match="has no CLIP tokenizer") as caught:
        huggingface_queries.task_tokens(tmp_path, "panoptic")
    assert "vocab.json" in caught.value.cure
    assert isinstance(config.decoder, OneFormer)
    uneven = {"panoptic": (1, 2), "semantic": (1, 2, 3)}
    with pytest.raises(ConfigError, match="sentences of 2 and 3 numbers"):
        config.replace(decoder={**config.decoder.model_dump(), "task_tokens": uneven})
    with pytest.raises(ConfigError, match="mask_dim 64 and hidden_dim 32 must be equal"):
        config.replace(decoder={**config.decoder.model_dump(), "mask_dim": 64})


def test_weights_alone_do_not_tell_the_sentences() -> None:
    shapes = upstream_queries.oneformer_shapes([DIM, 2 * DIM, 4 * DIM, 8 * DIM], HEAD)
    _, heads = huggingface_queries.to_checkpoint(upstream_queries.drawn(shapes), _any_config())
    with pytest.raises(CheckpointError, match="sentences that name its tasks leave no trace"):
        FAMILIES["oneformer"].settings_of(heads, "panoptic")
    assert FAMILIES["mask2former"].settings_of(heads, "panoptic") is None
    message = FAMILIES["mask2former"].cure(heads, _any_config())
    assert message.startswith("The file has the head of OneFormer, not of Mask2Former")


def _any_config() -> ModelConfig:
    data = upstream_queries.transformers_config("mask2former", DIM, HEAD)
    return huggingface_queries.parse_config(data)


@pytest.mark.parametrize("size", [(7, 10), (1, 3)])
def test_positions_are_those_of_transformers(size: tuple[int, int]) -> None:
    from transformers.models.oneformer.modeling_oneformer import OneFormerSinePositionEmbedding

    from dinat_deploy.models.query_heads import sine_positions

    x = torch.zeros(2, 32, *size)
    expected = OneFormerSinePositionEmbedding(16, normalize=True)(x.shape, x.device, x.dtype)
    assert torch.allclose(sine_positions(x), expected, atol=1e-6)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, config: ModelConfig) -> ExportReport:
    place = tmp_path_factory.mktemp("export")
    chosen = for_task(config, "semantic")
    assert chosen.decoder is not None
    chosen = chosen.replace(decoder=chosen.decoder.model_copy(update={"decoder_layers": 2}))
    (place / "small.json").write_text(chosen.model_dump_json())
    return export(ModelRequest(config=place / "small.json"), place / "out")


def test_exported_models_take_the_image_alone_and_answer_as_pytorch_does(
    exported: ExportReport,
) -> None:
    checked = exported.manifest.verification
    assert checked is not None
    assert checked.passed
    assert checked.max_abs_error < 1e-4
    graph = exported.manifest.graph
    assert [spec.name for spec in graph.inputs] == ["image"]
    assert [spec.shape for spec in graph.outputs] == [[1, 12, 6], [1, 12, 16, 24]]
    assert graph.op_nodes == 4
    # PyTorch rebuilt from the file alone.
    assert verify(exported.path, random_cases=1).passed


def test_a_photo_has_the_same_classes_as_in_pytorch(exported: ExportReport) -> None:
    assert_same_classes(exported.path)
