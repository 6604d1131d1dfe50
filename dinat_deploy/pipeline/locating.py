"""Finds what a target on the command line is, and the bundle that it belongs to."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dinat_deploy.bundle import Bundle, is_bundle, open_bundle
from dinat_deploy.errors import BundleError, EngineError, UnknownModelError

if TYPE_CHECKING:
    from dinat_deploy.engine.manifest import Engine

Kind = Literal["bundle", "onnx", "engine", "plan", "zoo"]
# What TensorRT's own tools call plans.
_PLAN_SUFFIXES = (".plan", ".engine", ".trt")
# ``engines/NAME/model.plan`` in a bundle, and a little more for those who sort their engines.
_FOLDERS_ABOVE = 4


@dataclass(frozen=True)
class Located:
    """What a target turned out to be.

    Attributes:
        kind: ``plan`` has no manifest beside it; ``zoo`` is the name of a published model.
        path: the ONNX file, the engine's directory or the plan; for the zoo a mere name.
        bundle: that it belongs to, if that is known.
        engine: whose manifest was read.
    """

    kind: Kind
    path: Path
    bundle: Bundle | None = None
    engine: Engine | None = None


def locate(target: str, bundle: Path | None) -> Located:
    """Find what a target is.

    Args:
        bundle: that it belongs to; None looks for it around the target.

    Raises:
        BundleError, EngineError: there is no such thing, or its manifest is invalid; or it does not
            belong to the bundle.
    """
    from dinat_deploy.engine.builder import PLAN
    from dinat_deploy.engine.manifest import MANIFEST, is_engine, open_engine

    path = Path(target)
    if not path.exists():
        return _published(target)
    if path.is_dir() and ((path / MANIFEST).exists() or (path / PLAN).exists()):
        if not (path / MANIFEST).exists():
            return _plan(path / PLAN, bundle)
        return _engine(open_engine(path), bundle)
    if path.is_dir():
        given = open_bundle(bundle) if bundle is not None else None
        own = open_bundle(path)
        if given is not None and given.manifest.graph.sha256 != own.manifest.graph.sha256:
            raise BundleError(
                f"{target} is a bundle itself, with another ONNX file than {bundle}.",
                "Leave --bundle out.",
            )
        return Located("bundle", own.model_path, own)
    if path.suffix == ".onnx":
        return Located("onnx", path, _bundle_of_onnx(path, bundle))
    if path.name == PLAN and is_engine(path.parent):
        return _engine(open_engine(path.parent), bundle)
    if path.name == MANIFEST:
        return _engine(open_engine(path.parent), bundle)
    if path.suffix in _PLAN_SUFFIXES:
        return _plan(path, bundle)
    raise BundleError(
        f"{target} is neither a bundle, an ONNX file nor an engine.",
        "Name a directory that export or build wrote, or a file that ends in .onnx or .plan.",
    )


def _published(target: str) -> Located:
    from dinat_deploy.models.zoo import get_variant

    with suppress(UnknownModelError):
        return Located("zoo", Path(get_variant(target).name))
    raise BundleError(
        f"There is no bundle, ONNX file or engine {target}.",
        "Make one with `dinat-deploy export` or `dinat-deploy build`; `dinat-deploy models` lists "
        "the names of published models.",
    )


def _plan(path: Path, bundle: Path | None) -> Located:
    return Located("plan", path, open_bundle(bundle) if bundle is not None else None)


def _bundle_of_onnx(path: Path, bundle: Path | None) -> Bundle | None:
    if bundle is not None:
        return open_bundle(bundle)
    folder = path.absolute().parent
    return open_bundle(path.parent) if is_bundle(folder) else None


def _engine(engine: Engine, bundle: Path | None) -> Located:
    if bundle is not None:
        given = open_bundle(bundle)
        if not _built_from(engine, given):
            engine.check_onnx(given.path / Path(engine.manifest.onnx.file).name)
        return Located("engine", engine.path, given, engine)
    return Located("engine", engine.path, _bundle_of_engine(engine), engine)


def _bundle_of_engine(engine: Engine) -> Bundle | None:
    """The bundle above an engine that has the ONNX file from which it was built."""
    for folder in islice(engine.path.absolute().parents, _FOLDERS_ABOVE):
        if not is_bundle(folder):
            continue
        found = open_bundle(folder)
        if _built_from(engine, found):
            return found
        with suppress(EngineError):
            engine.check_onnx(folder / Path(engine.manifest.onnx.file).name)
            return found
    return None


def _built_from(engine: Engine, bundle: Bundle) -> bool:
    """Whether both manifests name the same ONNX file, which need not be here: a device runs the
    engine without it."""
    source = engine.manifest.onnx
    known = {bundle.manifest.graph.sha256, *(each.sha256 for each in bundle.variants.values())}
    return not source.external_data and source.sha256 in known


def plans_in(bundle: Bundle) -> list[Path]:
    """Engines that were built into a bundle."""
    from dinat_deploy.engine.manifest import is_engine

    folder = bundle.path / "engines"
    return sorted(path for path in folder.iterdir() if is_engine(path)) if folder.is_dir() else []
