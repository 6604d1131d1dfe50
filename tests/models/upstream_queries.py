"""Checkpoints of Mask2Former and OneFormer on a DiNAT, made from their published tensor names.

The names are spelled out here, independently of the package: Mask2Former's own code on detectron2
(``sem_seg_head.``), and transformers.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.models import upstream
from tests.models.upstream import Weights

Shapes = dict[str, list[int]]


@dataclass(frozen=True)
class Head:
    """Settings of a head, small."""

    classes: int = 5
    queries: int = 12
    hidden: int = 32
    masks: int = 32
    heads: int = 2
    encoder_layers: int = 1
    encoder_ffn: int = 24
    decoder_layers: int = 4
    decoder_ffn: int = 40
    sentence: int = 24
    query_layers: int = 1


def _linear(at: str, inputs: int, outputs: int) -> Shapes:
    return {f"{at}.weight": [outputs, inputs], f"{at}.bias": [outputs]}


def _conv(at: str, inputs: int, outputs: int, kernel: int = 1, *, bias: bool = True) -> Shapes:
    shapes = {f"{at}.weight": [outputs, inputs, kernel, kernel]}
    return shapes | ({f"{at}.bias": [outputs]} if bias else {})


def _norm(at: str, width: int) -> Shapes:
    return {f"{at}.weight": [width], f"{at}.bias": [width]}


def _attention(at: str, width: int) -> Shapes:
    """torch.nn.MultiheadAttention."""
    joined = {f"{at}.in_proj_weight": [3 * width, width], f"{at}.in_proj_bias": [3 * width]}
    return joined | _linear(f"{at}.out_proj", width, width)


def _deformable(at: str, head: Head) -> Shapes:
    points = head.heads * 3 * 4  # three levels, four points
    return {
        **_linear(f"{at}.sampling_offsets", head.hidden, 2 * points),
        **_linear(f"{at}.attention_weights", head.hidden, points),
        **_linear(f"{at}.value_proj", head.hidden, head.hidden),
        **_linear(f"{at}.output_proj", head.hidden, head.hidden),
    }


def mask2former_shapes(inputs: Sequence[int], head: Head) -> Shapes:
    """Of a head, under the names of Mask2Former's own code. ``inputs``: channels of the levels."""
    width = head.hidden
    pixels, queries = "sem_seg_head.pixel_decoder", "sem_seg_head.predictor"
    shapes: Shapes = {}
    for number, channels in enumerate(reversed(inputs[1:])):
        shapes |= _conv(f"{pixels}.input_proj.{number}.0", channels, width)
        shapes |= _norm(f"{pixels}.input_proj.{number}.1", width)
    shapes[f"{pixels}.transformer.level_embed"] = [3, width]
    for number in range(head.encoder_layers):
        at = f"{pixels}.transformer.encoder.layers.{number}"
        shapes |= _deformable(f"{at}.self_attn", head)
        shapes |= _norm(f"{at}.norm1", width) | _norm(f"{at}.norm2", width)
        shapes |= _linear(f"{at}.linear1", width, head.encoder_ffn)
        shapes |= _linear(f"{at}.linear2", head.encoder_ffn, width)
    shapes |= _conv(f"{pixels}.mask_features", width, head.masks)
    shapes |= _conv(f"{pixels}.adapter_1", inputs[0], width, bias=False)
    shapes |= _norm(f"{pixels}.adapter_1.norm", width)
    shapes |= _conv(f"{pixels}.layer_1", width, width, 3, bias=False)
    shapes |= _norm(f"{pixels}.layer_1.norm", width)
    for number in range(head.decoder_layers):
        at = f"{queries}.transformer_self_attention_layers.{number}"
        shapes |= _attention(f"{at}.self_attn", width) | _norm(f"{at}.norm", width)
        at = f"{queries}.transformer_cross_attention_layers.{number}"
        shapes |= _attention(f"{at}.multihead_attn", width) | _norm(f"{at}.norm", width)
        at = f"{queries}.transformer_ffn_layers.{number}"
        shapes |= _linear(f"{at}.linear1", width, head.decoder_ffn)
        shapes |= _linear(f"{at}.linear2", head.decoder_ffn, width) | _norm(f"{at}.norm", width)
    shapes |= _norm(f"{queries}.decoder_norm", width)
    shapes[f"{queries}.query_feat.weight"] = [head.queries, width]
    shapes[f"{queries}.query_embed.weight"] = [head.queries, width]
    shapes[f"{queries}.level_embed.weight"] = [3, width]
    shapes |= _linear(f"{queries}.class_embed", width, head.classes + 1)
    shapes |= _linear(f"{queries}.mask_embed.layers.0", width, width)
    shapes |= _linear(f"{queries}.mask_embed.layers.1", width, width)
    shapes |= _linear(f"{queries}.mask_embed.layers.2", width, head.masks)
    return shapes


def drawn(shapes: Shapes, seed: int = 0) -> Weights:
    """Random float32 tensors under which every part counts: attention is not uniform, masks are
    neither full nor empty."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        if name.endswith("bias"):
            values = 0.3 * values
        elif len(shape) == 1:
            values = 1 + 0.2 * values
        elif "embed" not in name.split(".")[-2] and "query" not in name.split(".")[-2]:
            values = values / (values[0].numel() ** 0.5)
        weights[name] = values
    return weights


def backbone(dim: int) -> Weights:
    """Of a DiNAT with one layer a level, kernel 3 and MLPs twice as wide, without prefix."""
    shapes = upstream.original_shapes(
        dim, (1, 1, 1, 1), (1, 1, 2, 4), kernel=3, ratio=2.0, classes=None, norms=True
    )
    return drawn(shapes, seed=1)


def mask2former_weights(dim: int, head: Head) -> Weights:
    """The whole state dict, as detectron2 saves it."""
    weights = {f"backbone.{name}": tensor for name, tensor in backbone(dim).items()}
    weights |= drawn(mask2former_shapes([dim, 2 * dim, 4 * dim, 8 * dim], head))
    empty = torch.ones(head.classes + 1)
    empty[-1] = 0.1
    return weights | {"criterion.empty_weight": empty}


def write_checkpoint(path: Path, weights: Weights) -> Path:
    """A file of detectron2's checkpointer: of PyTorch, or NumPy arrays if its name ends in .pkl."""
    if path.suffix == ".pkl":
        arrays = {name: tensor.numpy() for name, tensor in weights.items()}
        content = {"model": arrays, "__author__": "somebody", "matching_heuristics": True}
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save({"model": weights, "iteration": 737499, "trainer": {"iteration": 737499}}, path)
    return path


def mask2former_to_transformers(weights: Weights, head: Head) -> Weights:
    """A head's tensors under the names of ``Mask2FormerForUniversalSegmentation``."""
    theirs: Weights = {}
    pixels, decoder = "model.pixel_level_module.decoder", "model.transformer_module.decoder"

    def move(before: str, after: str) -> None:
        for kind in ("weight", "bias"):
            if f"sem_seg_head.{before}.{kind}" in weights:
                theirs[f"{after}.{kind}"] = weights[f"sem_seg_head.{before}.{kind}"]

    for number in range(3):
        for part in range(2):
            move(
                f"pixel_decoder.input_proj.{number}.{part}",
                f"{pixels}.input_projections.{number}.{part}",
            )
    theirs[f"{pixels}.level_embed"] = weights["sem_seg_head.pixel_decoder.transformer.level_embed"]
    for number in range(head.encoder_layers):
        before = f"pixel_decoder.transformer.encoder.layers.{number}"
        after = f"{pixels}.encoder.layers.{number}"
        for part in ("sampling_offsets", "attention_weights", "value_proj", "output_proj"):
            move(f"{before}.self_attn.{part}", f"{after}.self_attn.{part}")
        move(f"{before}.norm1", f"{after}.self_attn_layer_norm")
        move(f"{before}.linear1", f"{after}.fc1")
        move(f"{before}.linear2", f"{after}.fc2")
        move(f"{before}.norm2", f"{after}.final_layer_norm")
    move("pixel_decoder.mask_features", f"{pixels}.mask_projection")
    for name in ("adapter_1", "layer_1"):
        move(f"pixel_decoder.{name}", f"{pixels}.{name}.0")
        move(f"pixel_decoder.{name}.norm", f"{pixels}.{name}.1")
    for number in range(head.decoder_layers):
        after = f"{decoder}.layers.{number}"
        before = f"predictor.transformer_cross_attention_layers.{number}"
        for kind in ("in_proj_weight", "in_proj_bias"):
            joined = weights[f"sem_seg_head.{before}.multihead_attn.{kind}"]
            theirs[f"{after}.cross_attn.{kind}"] = joined
        move(f"{before}.multihead_attn.out_proj", f"{after}.cross_attn.out_proj")
        move(f"{before}.norm", f"{after}.cross_attn_layer_norm")
        before = f"predictor.transformer_self_attention_layers.{number}"
        for kind in ("weight", "bias"):
            joined = weights[f"sem_seg_head.{before}.self_attn.in_proj_{kind}"]
            size = joined.shape[0] // 3
            theirs[f"{after}.self_attn.q_proj.{kind}"] = joined[:size]
            theirs[f"{after}.self_attn.k_proj.{kind}"] = joined[size : 2 * size]
            theirs[f"{after}.self_attn.v_proj.{kind}"] = joined[2 * size :]
        move(f"{before}.self_attn.out_proj", f"{after}.self_attn.out_proj")
        move(f"{before}.norm", f"{after}.self_attn_layer_norm")
        before = f"predictor.transformer_ffn_layers.{number}"
        move(f"{before}.linear1", f"{after}.fc1")
        move(f"{before}.linear2", f"{after}.fc2")
        move(f"{before}.norm", f"{after}.final_layer_norm")
    move("predictor.decoder_norm", f"{decoder}.layernorm")
    move("predictor.query_feat", "model.transformer_module.queries_features")
    move("predictor.query_embed", "model.transformer_module.queries_embedder")
    move("predictor.level_embed", "model.transformer_module.level_embed")
    move("predictor.class_embed", "class_predictor")
    for number in range(3):
        after = f"{decoder}.mask_predictor.mask_embedder.{number}.0"
        move(f"predictor.mask_embed.layers.{number}", after)
    return theirs


def oneformer_shapes(inputs: Sequence[int], head: Head) -> Shapes:
    """Of a head for inference, under the names of ``OneFormerForUniversalSegmentation``."""
    width = head.hidden
    pixels, queries = "model.pixel_level_module.decoder", "model.transformer_module"
    decoder = f"{queries}.decoder"
    shapes: Shapes = {f"{pixels}.level_embed": [3, width]}
    for number, channels in enumerate(reversed(inputs[1:])):
        shapes |= _conv(f"{pixels}.input_projections.{number}.0", channels, width)
        shapes |= _norm(f"{pixels}.input_projections.{number}.1", width)
    for number in range(head.encoder_layers):
        at = f"{pixels}.encoder.layers.{number}"
        shapes |= _deformable(f"{at}.self_attn", head)
        shapes |= _norm(f"{at}.self_attn_layer_norm", width)
        shapes |= _norm(f"{at}.final_layer_norm", width)
        shapes |= _linear(f"{at}.fc1", width, head.encoder_ffn)
        shapes |= _linear(f"{at}.fc2", head.encoder_ffn, width)
    shapes |= _conv(f"{pixels}.mask_projection", width, head.masks)
    shapes |= _conv(f"{pixels}.adapter_1.0", inputs[0], width, bias=False)
    shapes |= _norm(f"{pixels}.adapter_1.1", width)
    shapes |= _conv(f"{pixels}.layer_1.0", width, width, 3, bias=False)
    shapes |= _norm(f"{pixels}.layer_1.1", width)
    shapes[f"{queries}.queries_embedder.weight"] = [head.queries, width]
    shapes[f"{queries}.level_embed.weight"] = [3, width]
    for number in range(head.query_layers):
        at = f"{decoder}.query_transformer.decoder.layers.{number}"
        shapes |= _attention(f"{at}.self_attn", width) | _attention(f"{at}.multihead_attn", width)
        shapes |= _linear(f"{at}.linear1", width, head.decoder_ffn)
        shapes |= _linear(f"{at}.linear2", head.decoder_ffn, width)
        shapes |= _norm(f"{at}.norm1", width) | _norm(f"{at}.norm2", width)
        shapes |= _norm(f"{at}.norm3", width)
    shapes |= _norm(f"{decoder}.query_transformer.decoder.norm", width)
    shapes |= _norm(f"{decoder}.decoder_norm", width)
    for number in range(head.decoder_layers):
        at = f"{decoder}.layers.{number}"
        shapes |= _attention(f"{at}.cross_attn.multihead_attn", width)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _linear(f"{at}.self_attn.self_attn.{part}", width, width)
        shapes |= _linear(f"{at}.ffn.linear1", width, head.decoder_ffn)
        shapes |= _linear(f"{at}.ffn.linear2", head.decoder_ffn, width)
        for part in ("cross_attn", "self_attn", "ffn"):
            shapes |= _norm(f"{at}.{part}.norm", width)
    shapes |= _conv(f"{decoder}.query_input_projection", width, width)
    shapes |= _linear(f"{decoder}.class_embed", width, head.classes + 1)
    for number in range(3):
        shapes |= _linear(f"{decoder}.mask_embed.layers.{number}.0", width, width)
    shapes |= _linear("model.task_encoder.task_mlp.layers.0.0", head.sentence, width)
    shapes |= _linear("model.task_encoder.task_mlp.layers.1.0", width, width)
    return shapes


def transformers_backbone(dim: int) -> Weights:
    """:func:`backbone` under the names of transformers."""
    return upstream.to_hugging_face(backbone(dim), "model.pixel_level_module.encoder.")


def transformers_config(kind: str, dim: int, head: Head, **extra: Any) -> dict[str, Any]:
    """``config.json`` of a model on a DiNAT."""
    shared = {
        "model_type": kind,
        "architectures": [f"{kind}ForUniversalSegmentation"],
        "hidden_dim": head.hidden,
        "num_queries": head.queries,
        "num_attention_heads": head.heads,
        "encoder_layers": head.encoder_layers,
        "encoder_feedforward_dim": head.encoder_ffn,
        "decoder_layers": head.decoder_layers + 1,
        "dim_feedforward": head.decoder_ffn,
        "id2label": {str(number): f"class {number}" for number in range(head.classes)},
        "backbone_config": {
            "model_type": "dinat",
            "embed_dim": dim,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 1, 2, 4],
            "kernel_size": 3,
            "dilations": [[2], [1], [1], [1]],
            "mlp_ratio": 2.0,
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
        },
    }
    if kind == "mask2former":
        return shared | {"feature_size": head.hidden, "mask_feature_size": head.masks} | extra
    return (
        shared
        | {
            "conv_dim": head.hidden,
            "mask_dim": head.masks,
            "query_dec_layers": head.query_layers,
            "task_seq_len": head.sentence,
        }
        | extra
    )
