"""Load a directory of transformers as the class that saved it, with our attention."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinat_deploy.errors import CheckpointError
from dinat_deploy.hf.patching import import_transformers, repair, without_natten
from dinat_deploy.models.json_file import read_json

if TYPE_CHECKING:
    from torch import nn

# (model type, task) -> class; the first task of a type is the usual one.
_CLASSES = {
    ("dinat", "classification"): "DinatForImageClassification",
    ("dinat", "backbone"): "DinatBackbone",
    ("nat", "classification"): "NatForImageClassification",
    ("nat", "backbone"): "NatBackbone",
    ("upernet", "semantic"): "UperNetForSemanticSegmentation",
    ("mask2former", "universal"): "Mask2FormerForUniversalSegmentation",
    ("oneformer", "universal"): "OneFormerForUniversalSegmentation",
}
# Options that also say where config.json is.
_WHERE = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


def from_pretrained(
    directory: str | os.PathLike[str], *, task: str | None = None, **options: Any
) -> nn.Module:
    """A Dinat or Nat model of transformers, or one with such a backbone, that needs no NATTEN.

    Args:
        directory: as ``save_pretrained`` writes it (``config.json`` and weights), or the name of a
            model on the hub, ``owner/name``.
        task: ``backbone`` for ``DinatBackbone`` of a classifier's weights and the like. By default
            the class is the one that ``config.json`` names under ``architectures``.
        options: for transformers' ``from_pretrained``; ``output_loading_info`` is not taken.

    Returns:
        An instance of transformers' class, in evaluation mode, on the CPU unless the options say
        otherwise.

    Raises:
        CheckpointError: there is no such directory, or it holds a model without neighborhood
            attention or one that this transformers does not have.
        MissingDependencyError: transformers is not installed, or has no Dinat.
    """
    where = os.fspath(directory)
    _check_directory(Path(where))
    transformers = import_transformers()
    located = {key: options[key] for key in _WHERE if key in options}
    try:
        # Renamed in 5.0.
        base = getattr(transformers, "PreTrainedConfig", None) or transformers.PretrainedConfig
        data, _ = base.get_config_dict(where, **located)
    except (OSError, ValueError) as error:
        raise _unreadable(where, error) from None
    _check_attention(where, data)
    kind = _class(transformers, where, data, task)
    with without_natten():
        try:
            model = kind.from_pretrained(where, **options)
        except OSError as error:
            raise _unreadable(where, error) from None
    return repair(model)


def _check_directory(path: Path) -> None:
    if path.is_file():
        raise CheckpointError(f"{path} is a file.", "Pass the directory that it is in.")
    if not path.is_dir():
        # What is not here may be a name on the hub, which is "owner/name".
        if path.is_absolute() or len(path.parts) != 2 or path.parts[0] in (".", ".."):
            raise CheckpointError(
                f"There is no directory {path}.",
                "Pass one that transformers' save_pretrained wrote.",
            )
        return
    card = path / "config.json"
    if not card.exists():
        raise CheckpointError(
            f"{path} is no directory of transformers: it has no config.json.",
            "Pass one that transformers' save_pretrained wrote.",
        )
    if "model_type" not in read_json(card):
        raise CheckpointError(
            f"{card} is not of transformers: it has no model_type.",
            "Pass a directory that transformers' save_pretrained wrote.",
        )


def _unreadable(where: str, error: Exception) -> CheckpointError:
    first = next(iter(str(error).splitlines()), type(error).__name__).rstrip(". ")
    return CheckpointError(
        f"transformers cannot load {where}: {first}.",
        "Pass a directory with config.json and weights, or a name on the hub.",
    )


def _check_attention(where: str, data: dict[str, Any]) -> None:
    """Before anything is loaded: does ``config.json`` name a Dinat or Nat."""
    own = data.get("model_type")
    inner = data.get("backbone_config")
    backbone = inner.get("model_type") if isinstance(inner, dict) else None
    if own in ("dinat", "nat") or backbone in ("dinat", "nat"):
        return
    what = f"{own} on {backbone}" if backbone else f"{own}"
    raise CheckpointError(
        f"{where} holds a model of type {what}; dinat or nat is needed, by itself or as the "
        "backbone.",
        "A model without neighborhood attention needs nothing from here: load it with "
        "transformers alone.",
    )


def _class(transformers: Any, where: str, data: dict[str, Any], task: str | None) -> Any:
    own = str(data.get("model_type"))
    fitting = {known: name for (kind, known), name in _CLASSES.items() if kind == own}
    named = [str(name) for name in data.get("architectures") or ()]
    if task is not None:
        if task not in fitting:
            raise CheckpointError(
                f"{where} holds a {own}, which has no task {task!r}.",
                f"Use {' or '.join(map(repr, fitting)) or 'none'}.",
            )
        named = [fitting[task]]
    name = next(iter(named or fitting.values()), None)
    found = None if name is None else getattr(transformers, name, None)
    if found is None:
        raise CheckpointError(
            f"transformers {transformers.__version__} has no class {name or f'for a {own}'}, which "
            f"{where} asks for.",
            "Install a version that has it (Nat left with 5.0).",
        )
    return found
