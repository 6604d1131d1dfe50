"""Give transformers' Dinat and Nat models our attention: existing ones, and while they are made."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar

from torch import nn

from dinat_deploy.errors import ConfigError, MissingDependencyError
from dinat_deploy.hf import attention

Model = TypeVar("Model", bound=nn.Module)

# Where the models have been, newest last.
_PLACES = ("models.dinat.modeling_dinat", "models.nat.modeling_nat",
           "models.deprecated.nat.modeling_nat")  # fmt: skip
_lock = threading.Lock()
_open = 0
_before: list[tuple[ModuleType, str, Any]] = []


def repair(model: Model) -> Model:
    """Give a model of transformers the attention of this project, in place.

    Every ``NeighborhoodAttention`` of Dinat and Nat in it, at any depth, gets another class; its
    parameters stay the objects that they were, so optimizers keep working. State dicts do not
    change. Repairing twice does nothing.

    Args:
        model: a Dinat or Nat model, or one with such a backbone.

    Returns:
        The model itself.

    Raises:
        ConfigError: it has no such attention.
    """
    found = False
    for module in model.modules():
        if attention.is_theirs(type(module)):
            module.__class__ = attention.repaired(type(module))
            found = True
    if not found:
        name = type(model).__name__
        kind = getattr(getattr(model, "config", None), "model_type", None)
        raise ConfigError(
            f"{name}{f' (model type {kind})' if kind else ''} has no neighborhood attention of "
            "transformers' Dinat or Nat in it.",
            "Pass a Dinat or Nat model, or one with such a backbone.",
        )
    return model


@contextmanager
def without_natten() -> Iterator[None]:
    """In this context transformers makes and loads Dinat and Nat models that need no NATTEN.

    ::

        with dinat_deploy.hf.without_natten():
            model = Mask2FormerForUniversalSegmentation(Mask2FormerConfig(backbone_config=dinat))

    Models made in it have the attention of this project, also afterwards; transformers itself is
    then as before. Contexts may be nested and open in several threads: the last one to end
    restores.

    Raises:
        MissingDependencyError: transformers is not installed, or has no Dinat.
    """
    modules = _modeling()
    _enter(modules)
    try:
        yield
    finally:
        _leave()


def _enter(modules: list[ModuleType]) -> None:
    global _open
    with _lock:
        _open += 1
        if _open > 1:
            return
        for module in modules:
            theirs = getattr(module, attention.NAME)
            replacements = {
                attention.NAME: attention.repaired(theirs),
                "requires_backends": _tolerant(module.requires_backends),
            }
            for name, value in replacements.items():
                _before.append((module, name, getattr(module, name)))
                setattr(module, name, value)


def _leave() -> None:
    global _open
    with _lock:
        _open -= 1
        if _open:
            return
        while _before:
            module, name, value = _before.pop()
            setattr(module, name, value)


def _tolerant(check: Any) -> Any:
    """transformers' check of what is installed, which no longer asks for NATTEN."""

    def requires_backends(obj: Any, backends: Any) -> None:
        listed = backends if isinstance(backends, list | tuple) else [backends]
        check(obj, [backend for backend in listed if backend != "natten"])

    return requires_backends


def import_transformers() -> ModuleType:
    """The package.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise MissingDependencyError(
            f"dinat_deploy.hf needs transformers: {error}.", 'pip install "dinat-deploy[hf]"'
        ) from None


def _modeling() -> list[ModuleType]:
    """transformers' modules with neighborhood attention, as far as this version has them."""
    transformers = import_transformers()
    found = []
    for place in _PLACES:
        name = f"{transformers.__name__}.{place}"
        try:
            found.append(_import(name))
        except ModuleNotFoundError as error:
            if not _is_part(error.name, name):
                raise
    if not found:
        raise MissingDependencyError(
            f"transformers {transformers.__version__} has no Dinat models.",
            "Install a version that has: 4.49 to 5.24 were tried.",
        )
    return found


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and _is_part(error.name, name):
            raise
        # NATTEN is installed and has not the functions that transformers wants (0.17.5 and later).
        utils = importlib.import_module("transformers.utils")
        answer = utils.is_natten_available
        utils.is_natten_available = lambda: False  # type: ignore[attr-defined]
        try:
            return importlib.import_module(name)
        finally:
            utils.is_natten_available = answer  # type: ignore[attr-defined]


def _is_part(missing: str | None, name: str) -> bool:
    """Whether the module that was not found is ``name`` or a package that it would be in."""
    return missing is not None and f"{name}.".startswith(f"{missing}.")
