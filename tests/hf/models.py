"""Small models of transformers on DiNAT, for any version of transformers, and what they compute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from dinat_deploy import hf

STAGES = ["stage1", "stage2", "stage3", "stage4"]
LABELS = {0: "cat", 1: "dog", 2: "sky", 3: "road", 4: "wall"}
SENTENCE = 20  # numbers in the name of a task
KINDS = ("classification", "backbone", "upernet", "mask2former", "oneformer")


def dinat_config(**changes: Any) -> Any:
    settings: dict[str, Any] = {
        "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "kernel_size": 3,
        "dilations": [[2], [1], [1], [1]], "mlp_ratio": 2.0, "layer_scale_init_value": 0.5,
        "id2label": LABELS, "out_features": STAGES,
    }  # fmt: skip
    return transformers.DinatConfig(**settings | changes)


def config_of(kind: str) -> Any:
    if kind in ("classification", "backbone"):
        return dinat_config()
    shared: dict[str, Any] = {"backbone_config": dinat_config(), "id2label": LABELS}
    if kind == "upernet":
        return transformers.UperNetConfig(
            **shared, hidden_size=12, pool_scales=[1, 2, 4], auxiliary_channels=6,
            auxiliary_in_channels=64,
        )  # fmt: skip
    shared |= {
        "hidden_dim": 32, "encoder_layers": 1, "decoder_layers": 3, "num_attention_heads": 4,
        "encoder_feedforward_dim": 24, "dim_feedforward": 40, "num_queries": 6,
    }  # fmt: skip
    if kind == "mask2former":
        return transformers.Mask2FormerConfig(**shared, feature_size=32, mask_feature_size=16)
    return transformers.OneFormerConfig(
        **shared, conv_dim=32, mask_dim=32, query_dec_layers=1, task_seq_len=SENTENCE,
        text_encoder_width=32, text_encoder_num_layers=1, text_encoder_context_length=SENTENCE,
        text_encoder_vocab_size=64, is_training=False,
    )  # fmt: skip


CLASSES = {
    "classification": "DinatForImageClassification",
    "backbone": "DinatBackbone",
    "upernet": "UperNetForSemanticSegmentation",
    "mask2former": "Mask2FormerForUniversalSegmentation",
    "oneformer": "OneFormerForUniversalSegmentation",
}


def made(kind: str, seed: int = 0) -> Any:
    """A model whose every parameter and statistic matters, in evaluation mode."""
    with hf.without_natten():
        model = getattr(transformers, CLASSES[kind])(config_of(kind))
    return drawn(model, seed)


def drawn(model: Any, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(0.5 + noise.abs())
            elif tensor.dim() == 1 and name.endswith("weight"):
                tensor.copy_(1 + 0.1 * noise)
            else:
                tensor.copy_(noise * (0.5 if name.endswith("rpb") else 0.1))
    return model.eval()


def saved(kind: str, directory: Path) -> Path:
    made(kind).save_pretrained(directory)
    if kind == "oneformer":
        write_tokenizer(directory)
    return directory


def write_tokenizer(directory: Path) -> None:
    """A text tokenizer of OneFormer's kind that knows single letters."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (directory / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (directory / "merges.txt").write_text("#version: 0.2\n")
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "pad_token": "<|endoftext|>"})
    )


def sentence(task: str) -> Tensor:
    """The name of a task as :func:`write_tokenizer` means it: ``[1, SENTENCE]``."""
    numbers = [52]
    for word in f"the task is {task}".split():
        numbers += [ord(letter) - ord("a") for letter in word]
        numbers[-1] += 26
    numbers = [*numbers[: SENTENCE - 1], 53]
    return torch.tensor([numbers + [0] * (SENTENCE - len(numbers))])


def picture(height: int = 64, width: int = 96, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(7))


@torch.no_grad()
def outputs(kind: str, model: Any, image: Tensor, task: str = "panoptic") -> list[Tensor]:
    """What a model of transformers says, in the order of our outputs."""
    if kind == "oneformer":
        found = model(image, task_inputs=sentence(task).expand(image.shape[0], -1))
    else:
        found = model(image)
    if kind == "backbone":
        return list(found.feature_maps)
    if kind in ("classification", "upernet"):
        return [found.logits]
    return [found.class_queries_logits, found.masks_queries_logits]
