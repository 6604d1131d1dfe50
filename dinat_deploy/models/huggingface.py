"""Hugging Face ``Dinat`` / ``Nat`` models: configuration, preprocessing and weight names.

Only plain data is read here (``config.json``, tensor names); transformers itself is not needed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dinat_deploy.errors import CheckpointError
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Interpolation,
    Preprocessing,
)

if TYPE_CHECKING:
    from torch import Tensor

_PREPROCESS_YOURSELF = "Remove the file, and give the preprocessing in a model card with --config."
_MODEL_TYPES = ("dinat", "nat")
_EMBEDDING = "embeddings.patch_embeddings.projection.0.weight"
_PIL_FILTERS: dict[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}

# Settings of transformers that the published models, and ours, have fixed.
_FIXED: dict[str, Any] = {"patch_size": 4, "hidden_act": "gelu", "layer_norm_eps": 1e-5}

# (pattern, replacement) on names without the class prefix, tried in order.
_RENAMES: tuple[tuple[str, str], ...] = (
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"embeddings\.norm\.", "patch_embed.norm."),
    (r"encoder\.levels\.(\d+)\.layers\.(\d+)\.layernorm_before\.", r"levels.\1.blocks.\2.norm1."),
    (r"encoder\.levels\.(\d+)\.layers\.(\d+)\.layernorm_after\.", r"levels.\1.blocks.\2.norm2."),
    (
        r"encoder\.levels\.(\d+)\.layers\.(\d+)\.attention\.self\.rpb$",
        r"levels.\1.blocks.\2.attn.rpb",
    ),
    (
        r"encoder\.levels\.(\d+)\.layers\.(\d+)\.attention\.output\.dense\.",
        r"levels.\1.blocks.\2.attn.proj.",
    ),
    (
        r"encoder\.levels\.(\d+)\.layers\.(\d+)\.intermediate\.dense\.",
        r"levels.\1.blocks.\2.mlp.fc1.",
    ),
    (r"encoder\.levels\.(\d+)\.layers\.(\d+)\.output\.dense\.", r"levels.\1.blocks.\2.mlp.fc2."),
    (r"encoder\.levels\.(\d+)\.downsample\.", r"levels.\1.downsample."),
    (r"layernorm\.", "norm."),
)
_QKV = re.compile(
    r"encoder\.levels\.(\d+)\.layers\.(\d+)\.attention\.self\.(query|key|value)\.(weight|bias)$"
)
_SCALE = re.compile(r"encoder\.levels\.(\d+)\.layers\.(\d+)\.layer_scale_parameters$")
_STAGE_NORM = re.compile(r"hidden_states_norms\.stage(\d+)\.")


def prefix_of(names: Mapping[str, Any]) -> str | None:
    """What stands before the encoder's names (``dinat.`` ...), or None if it is another format."""
    found = [name[: -len(_EMBEDDING)] for name in names if name.endswith(_EMBEDDING)]
    return min(found, key=len) if found else None


def to_original_names(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Rename to the original repository's names; join query, key and value; split layer scales.

    Names that belong to no DiNAT encoder are kept as they are.
    """
    import torch

    renamed: dict[str, Tensor] = {}
    joined: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if not name.startswith(prefix):
            renamed["head." + name[len("classifier.") :] if _is_head(name) else name] = tensor
            continue
        inner = name[len(prefix) :]
        if part := _QKV.match(inner):
            level, block, role, kind = part.groups()
            joined.setdefault(f"levels.{level}.blocks.{block}.attn.qkv.{kind}", {})[role] = tensor
        elif scale := _SCALE.match(inner):
            block_name = f"levels.{scale[1]}.blocks.{scale[2]}."
            renamed[block_name + "gamma1"], renamed[block_name + "gamma2"] = tensor.unbind(0)
        elif norm := _STAGE_NORM.match(inner):
            renamed[f"norm{int(norm[1]) - 1}." + inner[norm.end() :]] = tensor
        else:
            renamed[_rename(inner)] = tensor
    for name, parts in joined.items():
        missing = [role for role in ("query", "key", "value") if role not in parts]
        if missing:
            raise CheckpointError(f"The checkpoint has no {' and '.join(missing)} for {name}.")
        renamed[name] = torch.cat([parts["query"], parts["key"], parts["value"]])
    return renamed


def _is_head(name: str) -> bool:
    return name.startswith("classifier.")


def _rename(name: str) -> str:
    if _is_head(name):
        return "head." + name[len("classifier.") :]
    for pattern, replacement in _RENAMES:
        changed, count = re.subn("^" + pattern, replacement, name)
        if count:
            return changed
    return name


def is_config(data: Mapping[str, Any]) -> bool:
    return data.get("model_type") in _MODEL_TYPES


def parse_config(data: Mapping[str, Any]) -> ModelConfig:
    """A ``config.json`` of transformers as our configuration.

    The input size is not part of it, and the number of classes is taken from the labels.

    Raises:
        CheckpointError: the configuration lacks a field or is of another model.
        ConfigError: its values contradict each other.
    """
    try:
        depths, heads = tuple(data["depths"]), tuple(data["num_heads"])
        fields: dict[str, Any] = {
            "architecture": "dinat",
            "embed_dim": data["embed_dim"],
            "depths": depths,
            "num_heads": heads,
            "kernel_size": data.get("kernel_size", 7),
            "dilations": tuple(tuple(level) for level in data.get("dilations") or ()),
            "mlp_ratio": data.get("mlp_ratio", 3.0),
            "layer_scale": data.get("layer_scale_init_value") or None,
            "drop_path_rate": data.get("drop_path_rate", 0.0),
            "num_classes": len(data.get("id2label") or ()) or data.get("num_labels", 1000),
            "in_channels": data.get("num_channels", 3),
        }
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"config.json does not describe a Dinat model: {error}.",
            "Pass a directory saved by DinatForImageClassification or DinatBackbone.",
        ) from None
    for name, fixed in _FIXED.items():
        if (asked := data.get(name, fixed)) != fixed:
            raise CheckpointError(
                f"config.json asks for {name} {asked}; only {fixed} is supported.",
                "No published Dinat or Nat model has another one.",
            )
    if any("Backbone" in name for name in data.get("architectures") or ()):
        stages = data.get("out_features") or [f"stage{len(depths)}"]
        fields["out_levels"] = tuple(
            int(name.removeprefix("stage")) - 1 for name in stages if name.startswith("stage")
        )
    return ModelConfig.parse(fields)


def labels_of(data: Mapping[str, Any]) -> list[str] | None:
    """Class names in order, unless they are the placeholders ``LABEL_0`` ..."""
    table = data.get("id2label")
    if not isinstance(table, Mapping) or not table:
        return None
    try:
        labels = [str(table[key]) for key in sorted(table, key=int)]
    except ValueError:
        return None
    return None if all(re.fullmatch(r"LABEL_\d+", label) for label in labels) else labels


def parse_preprocessor(data: Mapping[str, Any]) -> Preprocessing:
    """A ``preprocessor_config.json`` of transformers as our preprocessing.

    Raises:
        CheckpointError: it does something that our preprocessing cannot express, or is not valid.
    """
    factor = data.get("rescale_factor", 1 / 255)
    if not data.get("do_rescale", True) or not math.isclose(factor, 1 / 255, rel_tol=1e-3):
        raise CheckpointError(
            "preprocessor_config.json does not scale pixels to 0..1.", _PREPROCESS_YOURSELF
        )
    resample = data.get("resample", 3)
    if resample not in _PIL_FILTERS:
        raise CheckpointError(
            f"preprocessor_config.json resizes with filter {resample!r} of Pillow; "
            f"{', '.join(_PIL_FILTERS.values())} are supported.",
            _PREPROCESS_YOURSELF,
        )
    try:
        return _preprocessing(data, _PIL_FILTERS[resample])
    except (KeyError, TypeError, ValueError) as error:
        first = next(iter(str(error).splitlines()), "")
        raise CheckpointError(
            f"preprocessor_config.json is not valid: {first}.", _PREPROCESS_YOURSELF
        ) from None


def _preprocessing(data: Mapping[str, Any], interpolation: Interpolation) -> Preprocessing:
    size = data.get("size", 224)
    keeps_ratio = isinstance(size, Mapping) and "shortest_edge" in size
    resize = _extent({"height": size["shortest_edge"]} if keeps_ratio else size)
    crop = _extent(data["crop_size"]) if data.get("do_center_crop") else resize
    normalizes = data.get("do_normalize", True)
    return Preprocessing(
        resize_mode="cover" if keeps_ratio else "stretch",
        resize=resize,
        crop=crop,
        interpolation=interpolation,
        mean=tuple(data.get("image_mean", IMAGENET_MEAN)) if normalizes else (0.0, 0.0, 0.0),
        std=tuple(data.get("image_std", IMAGENET_STD)) if normalizes else (1.0, 1.0, 1.0),
    )


def _extent(size: Any) -> tuple[int, int]:
    """(height, width) of a number, or of a mapping of them."""
    if isinstance(size, Mapping):
        height = int(size["height"])
        return height, int(size.get("width", height))
    return int(size), int(size)
