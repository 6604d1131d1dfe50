"""Fit the tensors of a checkpoint to a model, strictly, and say what does not fit and why."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from dinat_deploy.errors import CheckpointError
from dinat_deploy.models.checkpoints import Checkpoint
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.families import BACKBONE, FAMILIES, family_of
from dinat_deploy.models.weights import described
from dinat_deploy.models.zoo import VARIANTS

_BLOCK = re.compile(r"(?:levels|layers)\.(\d+)\.blocks\.(\d+)\.")
_FLAT_BLOCK = re.compile(r"layers\.(\d+)\.(?:norm1|attn|mlp)\.")
_INDEX_BUFFER = "attn.relative_position_index"
_COUNTER = ".num_batches_tracked"
_SHOWN = 6


@dataclass
class Fitted:
    """Weights for every parameter of a model, and what was done to make them fit."""

    state: dict[str, Tensor]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Detected:
    """What the tensor shapes of a checkpoint say about its architecture.

    Dilations and input size leave no trace in the weights.
    """

    architecture: str
    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    kernel_size: int | None
    hidden_dim: int | None
    layer_scale: bool
    num_classes: int | None
    is_backbone: bool

    def __str__(self) -> str:
        parts = [
            f"{self.architecture}, {self.embed_dim} channels",
            f"depths {self.depths}",
            f"heads {self.num_heads}" if self.num_heads else "heads unknown",
            f"kernel {self.kernel_size}" if self.kernel_size else "no positional bias (rpb)",
            "layer scale" if self.layer_scale else "no layer scale",
            f"{self.num_classes} classes" if self.num_classes else "no classifier",
        ]
        return "; ".join(parts)


def detect(tensors: Mapping[str, Tensor]) -> Detected | None:
    """Read the architecture off a checkpoint in original names; None if that is impossible."""
    depths: dict[int, int] = {}
    flat = False
    for name in tensors:
        if found := _BLOCK.match(name):
            level, block = int(found[1]), int(found[2])
            depths[level] = max(depths.get(level, 0), block + 1)
        elif found := _FLAT_BLOCK.match(name):
            flat = True
            depths[0] = max(depths.get(0, 0), int(found[1]) + 1)
    patch = tensors.get("patch_embed.proj.weight", tensors.get("patch_embed.proj.1.weight"))
    if patch is None or patch.dim() != 4 or not depths:
        return None
    if sorted(depths) != list(range(len(depths))):
        return None
    if "patch_embed.proj.1.weight" in tensors:
        architecture, stack = "dinat", "levels.{}.blocks.0."
    else:
        architecture = "isotropic" if flat else "dinat_s"
        stack = "layers.0." if flat else "layers.{}.blocks.0."
    first = [stack.format(level) for level in range(len(depths))]
    tables = [_table(tensors.get(f"{prefix}attn.rpb")) for prefix in first]
    fc1 = tensors.get(f"{first[0]}mlp.fc1.weight")
    head = tensors.get("head.weight")
    table = tables[0]
    kernel_size = (int(table.shape[-1]) + 1) // 2 if table is not None else None
    return Detected(
        architecture=architecture,
        embed_dim=int(patch.shape[0]),
        depths=tuple(depths[level] for level in range(len(depths))),
        num_heads=tuple(int(each.shape[0]) for each in tables if each is not None),
        kernel_size=kernel_size,
        hidden_dim=int(fc1.shape[0]) if fc1 is not None and fc1.dim() else None,
        layer_scale=f"{first[0]}gamma1" in tensors,
        num_classes=int(head.shape[0]) if head is not None and head.dim() == 2 else None,
        is_backbone=any(re.match(r"norm\d+\.", name) for name in tensors),
    )


def _table(tensor: Tensor | None) -> Tensor | None:
    return tensor if tensor is not None and tensor.dim() == 3 else None


def fit(checkpoint: Checkpoint, config: ModelConfig, *, resize_rpb: bool = False) -> Fitted:
    """Weights from a checkpoint for every parameter of a model.

    Args:
        resize_rpb: resize positional bias tables of another kernel size bicubically.

    Raises:
        CheckpointError: anything is missing, superfluous or of another shape; the message says
            what the checkpoint looks like instead and lists the first differences. Or values are
            not finite.
    """
    expected = {name: value.shape for name, value in described(config).state_dict().items()}
    fitted = Fitted({})
    offered = _offered(checkpoint, config)
    unexpected = [name for name in offered if name not in expected]
    missing = [name for name in expected if name not in offered]
    wrong: list[str] = []
    broken: list[str] = []
    resized = 0
    for name, shape in expected.items():
        tensor = offered.get(name)
        if tensor is None:
            continue
        if tensor.shape != shape and resize_rpb and name.endswith("attn.rpb"):
            tensor = resize_bias(tensor, shape)
            resized += 1
        if tensor.shape != shape:
            wrong.append(f"{name}: {list(tensor.shape)} in the file, {list(shape)} in the model")
        elif name.endswith(_COUNTER):
            fitted.state[name] = tensor.long()
        elif not tensor.is_floating_point():
            wrong.append(f"{name}: type {tensor.dtype} in the file, floating point in the model")
        else:
            values = tensor.float()  # types of 8 bits can be nothing but converted
            if values.isfinite().all():
                fitted.state[name] = values
            else:
                broken.append(name)
    if missing or unexpected or wrong:
        raise CheckpointError(
            _report(checkpoint, config, missing, unexpected, wrong),
            _cure(checkpoint, config, missing, unexpected, wrong),
        )
    if broken:
        raise CheckpointError(
            f"{checkpoint.path} holds values that are not finite, in {len(broken)} tensors "
            f"({', '.join(broken[:3])}{' ...' if len(broken) > 3 else ''}).",
            "The file is damaged or its training diverged; use another checkpoint.",
        )
    if resized:
        size = 2 * config.kernel_size - 1
        fitted.notes.append(f"resized {resized} positional bias tables to {size}x{size} (bicubic)")
    return fitted


def resize_bias(table: Tensor, shape: torch.Size) -> Tensor:
    """Resize a positional bias ``[heads, 2k-1, 2k-1]`` to another kernel size, bicubically.

    The published 11x11 models were initialised from 7x7 ones like this.
    """
    if table.dim() != 3 or len(shape) != 3 or table.shape[0] != shape[0]:
        return table
    scaled = F.interpolate(table[None].float(), size=tuple(shape[1:]), mode="bicubic")
    return scaled[0]


def _offered(checkpoint: Checkpoint, config: ModelConfig) -> dict[str, Tensor]:
    """The checkpoint's tensors under the model's names."""
    encoder = _without_index_buffers(checkpoint, config)
    if config.decoder is None:
        return encoder
    heads = FAMILIES[config.decoder.type].to_model(checkpoint.heads, config.decoder)
    return {BACKBONE + name: tensor for name, tensor in encoder.items()} | heads


def _without_index_buffers(checkpoint: Checkpoint, config: ModelConfig) -> dict[str, Tensor]:
    """Drop ViT+'s index buffers, after checking that they mean what our operator does."""
    offered = dict(checkpoint.tensors)
    buffers = [name for name in offered if name.endswith(_INDEX_BUFFER)]
    if not buffers or not config.global_attention:
        return offered
    grid = torch.arange(config.kernel_size)
    steps = grid[None, :] - grid[:, None] + config.kernel_size - 1
    rows = steps[:, None, :, None] * (2 * config.kernel_size - 1)
    tokens = config.kernel_size**2
    expected = (rows + steps[None, :, None, :]).reshape(tokens, tokens)
    for name in buffers:
        if not torch.equal(offered.pop(name).long(), expected):
            raise CheckpointError(
                f"{checkpoint.path}: {name} orders the positional bias in an unknown way.",
                "Only tables indexed by key - query offsets are known.",
            )
    return offered


def _report(
    checkpoint: Checkpoint,
    config: ModelConfig,
    missing: list[str],
    unexpected: list[str],
    wrong: list[str],
) -> str:
    found = detect(checkpoint.tensors)
    lines = [f"{checkpoint.path} does not fit the model."]
    if found is not None:
        lines.append(f"  in the file: {found}{_named(found)}")
    lines.append(f"  the model:   {_of_config(config)}")
    for title, items in (
        ("missing in the file", missing),
        ("not in the model", unexpected),
        ("different", wrong),
    ):
        if items:
            shown = "; ".join(items[:_SHOWN])
            more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
            lines.append(f"  {title} ({len(items)}): {shown}{more}")
    return "\n".join(lines) + "\n"


def _of_config(config: ModelConfig) -> Detected:
    return Detected(
        architecture=config.architecture,
        embed_dim=config.embed_dim,
        depths=config.depths,
        num_heads=config.num_heads,
        kernel_size=config.kernel_size,
        hidden_dim=config.hidden_dim(0),
        layer_scale=config.layer_scale is not None,
        num_classes=config.num_classes if config.is_classifier else None,
        is_backbone=config.is_backbone or config.decoder is not None,
    )


def _matching_variants(found: Detected) -> list[str]:
    """Variants whose shapes are those of a checkpoint, its head aside."""

    def body(detected: Detected) -> tuple[object, ...]:
        return (
            detected.architecture,
            detected.embed_dim,
            detected.depths,
            detected.num_heads,
            detected.hidden_dim,
            detected.layer_scale,
        )

    same_body = [
        (name, variant.config)
        for name, variant in VARIANTS.items()
        if body(_of_config(variant.config)) == body(found)
    ]
    same_kernel = [item for item in same_body if item[1].kernel_size == found.kernel_size]
    same_head = [item for item in same_kernel if item[1].num_classes == found.num_classes]
    return [name for name, _ in same_head or same_kernel or same_body]


def _named(found: Detected) -> str:
    names = _matching_variants(found)
    return f" - like {' or '.join(names)}" if names else ""


def _cure(
    checkpoint: Checkpoint,
    config: ModelConfig,
    missing: list[str],
    unexpected: list[str],
    wrong: list[str],
) -> str:
    """The most likely reason, and what to do."""
    found = detect(checkpoint.tensors)
    if found is None:
        return "The file is no complete NAT or DiNAT checkpoint; get it again from its source."
    wanted = _of_config(config)
    if missing and not any(name.endswith("attn.rpb") for name in checkpoint.tensors):
        return (
            "The file has no positional bias: it was saved by a model on NATTEN >= 0.20, which "
            "has none, or with bias=False. Such weights give other results; use the original file."
        )
    same_shape = (found.architecture, found.embed_dim, found.depths) == (
        wanted.architecture,
        wanted.embed_dim,
        wanted.depths,
    )
    names = _matching_variants(found)
    if not same_shape and names:
        return f"The model is another one: use --model {' or '.join(names)}."
    if not same_shape:
        return "The model is another one: give its architecture with --config."
    if found.layer_scale != wanted.layer_scale and names:
        return f"Layer scale differs: use --model {' or '.join(names)}."
    if found.kernel_size and found.kernel_size != wanted.kernel_size:
        return (
            f"Use --kernel-size {found.kernel_size}, or --resize-rpb to resize the positional "
            f"bias from kernel size {found.kernel_size} to {wanted.kernel_size} (fine-tune after)."
        )
    if config.decoder is not None and (not checkpoint.heads or found.is_backbone):
        family = FAMILIES[config.decoder.type]
        classes = family.num_classes_of(checkpoint.heads)
        if classes not in (None, config.num_classes):
            return f"The file tells {classes} classes apart: use --num-classes {classes}."
        known = family.cure(checkpoint.heads, config)
        if known is not None:
            return known
        if missing:
            return "The file is incomplete; get it again from its source."
        return "The head is not quite of this kind: use a checkpoint that has these tensors alone."
    if found.is_backbone and not wanted.is_backbone:
        theirs = family_of(checkpoint.heads)
        task = "backbone" if theirs is None else theirs.task
        return f"The file is a backbone without classifier: use --task {task}."
    if wanted.is_backbone and not found.is_backbone:
        return (
            "The file is a classifier, which lacks the norms of a backbone's outputs: use "
            "--task classification, or a checkpoint of a detection or segmentation model."
        )
    if found.num_classes and found.num_classes != wanted.num_classes:
        also = ", the ImageNet-22k head" if found.num_classes == 21841 else ""
        return f"Use --num-classes {found.num_classes}{also}."
    if missing and not unexpected and not wrong:
        return "The file is incomplete; get it again from its source."
    return "Check that the file belongs to this model."
