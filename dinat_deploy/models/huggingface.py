"""Hugging Face ``Dinat`` / ``Nat`` models: configuration, labels and weight names.

Only plain data is read here (``config.json``, tensor names); transformers itself is not needed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dinat_deploy.errors import CheckpointError
from dinat_deploy.models.config import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor

MODEL_TYPES = ("dinat", "nat")
_EMBEDDING = "embeddings.patch_embeddings.projection.0.weight"

# Settings of transformers that the published models, and ours, have fixed.
_FIXED: dict[str, Any] = {
    "patch_size": 4,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "qkv_bias": True,
}
# Of DinatConfig, for those inside others, of which 4.x saves only what is unusual.
_USUAL: dict[str, Any] = {
    "embed_dim": 64,
    "depths": (3, 4, 6, 5),
    "num_heads": (2, 4, 8, 16),
}
_USUAL_DILATIONS = ((1, 8, 1), (1, 4, 1, 4), (1, 2, 1, 2, 1, 2), (1, 1, 1, 1, 1))

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
            if tensor.dim() != 2 or tensor.shape[0] != 2:
                raise CheckpointError(
                    f"{name} has the shape {list(tensor.shape)}, expected two rows."
                )
            renamed[block_name + "gamma1"], renamed[block_name + "gamma2"] = tensor.unbind(0)
        elif norm := _STAGE_NORM.match(inner):
            renamed[f"norm{int(norm[1]) - 1}." + inner[norm.end() :]] = tensor
        else:
            renamed[_rename(inner)] = tensor
    for name, parts in joined.items():
        missing = [role for role in ("query", "key", "value") if role not in parts]
        if missing:
            raise CheckpointError(f"The checkpoint has no {' and '.join(missing)} for {name}.")
        shapes = {tuple(part.shape) for part in parts.values()}
        if len(shapes) > 1 or () in shapes:
            raise CheckpointError(
                f"Query, key and value of {name} have the shapes "
                f"{', '.join(str(list(part.shape)) for part in parts.values())}."
            )
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
    return data.get("model_type") in MODEL_TYPES


def architecture_of(data: Mapping[str, Any]) -> str:
    """The class that saved a directory, or as long as nobody says so the type of the model."""
    named = data.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else str(data.get("model_type"))


def backbone_of(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The backbone's part of a segmenter's ``config.json``.

    Raises:
        CheckpointError: it is of another kind than Dinat or Nat, or not in the file.
    """
    inner = data.get("backbone_config")
    if isinstance(inner, Mapping) and is_config(inner):
        return _USUAL | dict(inner)
    kind = inner.get("model_type") if isinstance(inner, Mapping) else data.get("backbone")
    raise CheckpointError(
        f"config.json describes a {architecture_of(data)} on the backbone {kind or 'of its own'}; "
        "dinat or nat is needed.",
        "Models on other backbones have no neighborhood attention: transformers or optimum "
        "exports them.",
    )


def levels_of(data: Mapping[str, Any]) -> tuple[int, ...]:
    """The levels, from 0, whose features a backbone's configuration asks for.

    The output of the tokenizer (``stem``) is none of them.
    """
    depth = len(data["depths"])
    stages = data.get("out_features")
    if not stages:
        indices = data.get("out_indices") or [depth]
        return tuple(sorted(i % (depth + 1) - 1 for i in indices if i % (depth + 1)))
    return tuple(int(str(name)[len("stage") :]) - 1 for name in stages if name != "stem")


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
            "dilations": _dilations(data),
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
    architecture = architecture_of(data)
    if "Backbone" in architecture:
        fields["out_levels"] = levels_of(data)
    elif architecture.endswith("Model"):  # without a classifier
        fields["num_classes"] = 0
    return ModelConfig.parse(fields)


def _dilations(data: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    listed = data.get("dilations")
    if not listed:
        usual = tuple(data["depths"]) == _USUAL["depths"] and data.get("model_type") == "dinat"
        return _USUAL_DILATIONS if usual else ()
    return tuple(tuple(level) for level in listed)


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
