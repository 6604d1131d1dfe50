"""Checkpoints as other projects write them, made from their published tensor names.

The names are spelled out here, independently of the package: neither its state dicts nor its
mapping tables are used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

Weights = dict[str, Tensor]


def original_shapes(
    dim: int,
    depths: Sequence[int],
    heads: Sequence[int],
    *,
    kernel: int = 7,
    ratio: float = 3.0,
    layer_scale: bool = False,
    classes: int | None = 1000,
    norms: bool = False,
) -> dict[str, list[int]]:
    """Tensor names and shapes of an original (hierarchical) NAT / DiNAT checkpoint."""
    shapes: dict[str, list[int]] = {
        "patch_embed.proj.0.weight": [dim // 2, 3, 3, 3],
        "patch_embed.proj.0.bias": [dim // 2],
        "patch_embed.proj.1.weight": [dim, dim // 2, 3, 3],
        "patch_embed.proj.1.bias": [dim],
        "patch_embed.norm.weight": [dim],
        "patch_embed.norm.bias": [dim],
    }
    for level, depth in enumerate(depths):
        width = dim * 2**level
        for block in range(depth):
            at = f"levels.{level}.blocks.{block}."
            shapes |= _block_shapes(at, width, heads[level], kernel, ratio, layer_scale)
        if level < len(depths) - 1:
            shapes[f"levels.{level}.downsample.reduction.weight"] = [2 * width, width, 3, 3]
            shapes[f"levels.{level}.downsample.norm.weight"] = [2 * width]
            shapes[f"levels.{level}.downsample.norm.bias"] = [2 * width]
        if norms:
            shapes[f"norm{level}.weight"] = [width]
            shapes[f"norm{level}.bias"] = [width]
    if classes is not None:
        last = dim * 2 ** (len(depths) - 1)
        shapes |= {"norm.weight": [last], "norm.bias": [last]}
        shapes |= {"head.weight": [classes, last], "head.bias": [classes]}
    return shapes


def _block_shapes(
    at: str, width: int, heads: int, kernel: int, ratio: float, layer_scale: bool
) -> dict[str, list[int]]:
    hidden, table = int(width * ratio), 2 * kernel - 1
    shapes = {
        "norm1.weight": [width],
        "norm1.bias": [width],
        "attn.rpb": [heads, table, table],
        "attn.qkv.weight": [3 * width, width],
        "attn.qkv.bias": [3 * width],
        "attn.proj.weight": [width, width],
        "attn.proj.bias": [width],
        "norm2.weight": [width],
        "norm2.bias": [width],
        "mlp.fc1.weight": [hidden, width],
        "mlp.fc1.bias": [hidden],
        "mlp.fc2.weight": [width, hidden],
        "mlp.fc2.bias": [width],
    }
    if layer_scale:
        shapes |= {"gamma1": [width], "gamma2": [width]}
    return {at + name: shape for name, shape in shapes.items()}


def dinat_s_shapes(dim: int, depths: Sequence[int], heads: Sequence[int]) -> dict[str, list[int]]:
    """Tensor names and shapes of an original DiNAT_s checkpoint."""
    shapes = {
        "patch_embed.proj.weight": [dim, 3, 4, 4],
        "patch_embed.proj.bias": [dim],
        "patch_embed.norm.weight": [dim],
        "patch_embed.norm.bias": [dim],
    }
    for level, depth in enumerate(depths):
        width = dim * 2**level
        for block in range(depth):
            at = f"layers.{level}.blocks.{block}."
            shapes |= _block_shapes(at, width, heads[level], 7, 4.0, False)
        if level < len(depths) - 1:
            shapes[f"layers.{level}.downsample.reduction.weight"] = [2 * width, 4 * width]
            shapes[f"layers.{level}.downsample.norm.weight"] = [4 * width]
            shapes[f"layers.{level}.downsample.norm.bias"] = [4 * width]
    last = dim * 2 ** (len(depths) - 1)
    shapes |= {"norm.weight": [last], "norm.bias": [last]}
    return shapes | {"head.weight": [1000, last], "head.bias": [1000]}


def isotropic_shapes(dim: int, heads: int, kernel: int, vit: bool) -> dict[str, list[int]]:
    """Tensor names and shapes of an original isotropic (or ViT+) checkpoint of 12 layers."""
    shapes = {
        "patch_embed.proj.weight": [dim, 3, 16, 16],
        "patch_embed.proj.bias": [dim],
        "patch_embed.norm.weight": [dim],
        "patch_embed.norm.bias": [dim],
    }
    for layer in range(12):
        shapes |= _block_shapes(f"layers.{layer}.", dim, heads, kernel, 4.0, False)
        if vit:
            shapes[f"layers.{layer}.attn.relative_position_index"] = [196, 196]
    shapes |= {"norm.weight": [dim], "norm.bias": [dim]}
    return shapes | {"head.weight": [1000, dim], "head.bias": [1000]}


def vit_index() -> Tensor:
    """ViT+'s index buffer: flat (row, column) offset of key - query in a 27 x 27 table."""
    index = np.zeros((196, 196), np.int64)
    for query in range(196):
        for key in range(196):
            row = key // 14 - query // 14 + 13
            column = key % 14 - query % 14 + 13
            index[query, key] = row * 27 + column
    return torch.from_numpy(index)


def drawn(shapes: Mapping[str, Sequence[int]], seed: int = 0) -> Weights:
    """Random float32 tensors, small."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: 0.05 * torch.randn(list(shape), generator=generator) for name, shape in shapes.items()
    }


def to_hugging_face(weights: Weights, prefix: str = "dinat.") -> Weights:
    """Original names to those of ``DinatForImageClassification`` (prefix "" for the backbone)."""
    renamed: Weights = {}
    scales: dict[str, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        parts = name.split(".")
        if name.startswith("patch_embed.proj."):
            end = ".".join(parts[2:])
            renamed[f"{prefix}embeddings.patch_embeddings.projection.{end}"] = tensor
        elif name.startswith("patch_embed.norm."):
            renamed[f"{prefix}embeddings.norm.{parts[2]}"] = tensor
        elif name.startswith("head."):
            renamed[f"classifier.{parts[1]}"] = tensor
        elif name.startswith("norm."):
            renamed[f"{prefix}layernorm.{parts[1]}"] = tensor
        elif parts[0].startswith("norm"):
            stage = int(parts[0][4:]) + 1
            renamed[f"{prefix}hidden_states_norms.stage{stage}.{parts[1]}"] = tensor
        elif "downsample" in parts:
            renamed[f"{prefix}encoder.{name}"] = tensor
        else:
            at = f"{prefix}encoder.levels.{parts[1]}.layers.{parts[3]}."
            rest = ".".join(parts[4:])
            if rest.startswith("attn.qkv."):
                query, key, value = tensor.chunk(3)
                for role, part in (("query", query), ("key", key), ("value", value)):
                    renamed[f"{at}attention.self.{role}.{parts[-1]}"] = part
            elif rest.startswith("gamma"):
                scales.setdefault(at, {})[rest] = tensor
            else:
                new = {
                    "norm1": "layernorm_before",
                    "norm2": "layernorm_after",
                    "attn.rpb": "attention.self.rpb",
                    "attn.proj": "attention.output.dense",
                    "mlp.fc1": "intermediate.dense",
                    "mlp.fc2": "output.dense",
                }
                stem = next(old for old in new if rest.startswith(old))
                renamed[at + new[stem] + rest[len(stem) :]] = tensor
    for at, pair in scales.items():
        renamed[f"{at}layer_scale_parameters"] = torch.stack([pair["gamma1"], pair["gamma2"]])
    return renamed


def hugging_face_config(kwargs: Mapping[str, Any], **extra: Any) -> dict[str, Any]:
    """``config.json`` of a Dinat classifier with the original constructor's arguments."""
    return {
        "model_type": "dinat",
        "architectures": ["DinatForImageClassification"],
        "patch_size": 4,
        "num_channels": 3,
        "hidden_size": 512,
        "embed_dim": kwargs["embed_dim"],
        "depths": kwargs["depths"],
        "num_heads": kwargs["num_heads"],
        "kernel_size": kwargs["kernel_size"],
        "dilations": kwargs["dilations"],
        "mlp_ratio": kwargs["mlp_ratio"],
        "qkv_bias": True,
        "drop_path_rate": 0.1,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "layer_scale_init_value": kwargs.get("layer_scale") or 0.0,
        "id2label": {str(i): f"LABEL_{i}" for i in range(kwargs.get("num_classes", 1000))},
    } | extra


def write_hugging_face(directory: Path, config: Mapping[str, Any], weights: Weights) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    contiguous = {name: tensor.contiguous() for name, tensor in weights.items()}
    save_file(contiguous, directory / "model.safetensors", metadata={"format": "pt"})
    return directory
