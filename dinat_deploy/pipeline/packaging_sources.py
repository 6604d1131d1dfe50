"""What ``package`` is given, found and looked through: ONNX files, engines, and their bundles."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dinat_deploy.bundle import MODEL
from dinat_deploy.engine.builder import Gpu
from dinat_deploy.engine.checks import Here, check_engine
from dinat_deploy.engine.manifest import Engine
from dinat_deploy.engine.onnx_file import OnnxFile, read_onnx
from dinat_deploy.errors import ConfigError, EngineError, NativeError
from dinat_deploy.native import find_library, library_info
from dinat_deploy.pipeline.artefacts import check_listed
from dinat_deploy.pipeline.locating import Located, locate
from dinat_deploy.serving.network import Network
from dinat_deploy.serving.problems import PackageError

# Directories have names of at most 255 bytes, and some of a model's end in ``_postprocess``.
_LONGEST_NAME = 200


@dataclass(frozen=True)
class Target:
    """Where a package is to run, as far as that is known, and with which libraries.

    Attributes:
        tensorrt: version of the server's TensorRT.
        capability: of its GPU, like ``86``.
        plugin_library: of TensorRT, instead of the one that is found.
        operators: True demands ONNX Runtime's operator library, False leaves it out, None takes it
            where it is built and of use.
        on_gpu: whether ONNX files run on a GPU.
        trust: package a plan that holds host code, although it was neither built nor trusted here.
    """

    tensorrt: str | None = None
    capability: str | None = None
    plugin_library: Path | None = None
    operators: bool | None = None
    on_gpu: bool = False
    trust: bool = False


def networks(
    sources: Sequence[str], bundle: Path | None, name: str | None, target: Target
) -> list[Network]:
    """Find, read and check what is to be packaged.

    Args:
        bundle: that the sources belong to, where it is not found by itself.
        name: of the model in the package; None makes one of the sources' names.

    Raises:
        ConfigError, PackageError: a source is nothing that can be packaged.
        BundleError, EngineError: it is damaged, or does not fit the target.
    """
    if not sources:
        raise ConfigError("No model is named.", "Name a bundle, an ONNX file or an engine.")
    found = [(text, locate(text, bundle)) for text in sources]
    if name is not None and len(found) > 1:
        raise ConfigError(
            f"--name {name} is given, and there are {len(found)} models.",
            "Package them one by one.",
        )
    if name is not None and name != _served_name(name):
        raise ConfigError(
            f"--name {name!r} is no name for a directory.",
            "Use letters, digits, dots, hyphens and underscores.",
        )
    if all(one.engine is None for _, one in found):
        _refuse_options_of_engines(target)
    names = [name] if name is not None else _names([one for _, one in found])
    for own in names:
        if len(own) > _LONGEST_NAME:
            raise ConfigError(
                f"The name {own[:20]}... has {len(own)} letters, and may have {_LONGEST_NAME}.",
                "Give a shorter one with --name.",
            )
    return [_network(text, one, own, target) for (text, one), own in zip(found, names, strict=True)]


def _refuse_options_of_engines(target: Target) -> None:
    """Raise ConfigError if something is said of TensorRT, and only ONNX files are packaged."""
    told = {
        "--tensorrt": target.tensorrt,
        "--gpu": target.capability,
        "--plugin-library": target.plugin_library,
    }
    for option, value in told.items():
        if value is not None:
            raise ConfigError(
                f"{option} {value} is about engines, and ONNX files alone are packaged.",
                "Name an engine, or leave it out.",
            )


def _names(found: Sequence[Located]) -> list[str]:
    """Names of the models: of the bundle, with what sets several apart."""
    base = [_served_name(_model_of(one)) for one in found]
    if len(base) == 1:
        return base
    parts = [f"{name}_{_served_name(_kind_of(one))}" for name, one in zip(base, found, strict=True)]
    return parts if len(set(base)) < len(base) else base


def _model_of(one: Located) -> str:
    if one.bundle is not None:
        return one.bundle.manifest.name
    if one.engine is not None and one.engine.manifest.model:
        return one.engine.manifest.model
    return one.path.stem if one.kind == "onnx" else one.path.name


def _kind_of(one: Located) -> str:
    """``onnx``, ``onnx_fp16``, or the name of the engine."""
    if one.kind in ("bundle", "onnx"):
        rest = one.path.stem.removeprefix(Path(MODEL).stem).lstrip(".")
        return f"onnx_{rest}" if rest else "onnx"
    return one.path.name


def _served_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip(".") or "model"


def _network(text: str, one: Located, name: str, target: Target) -> Network:
    if one.kind == "zoo":
        raise PackageError(
            f"{text} is a published model and no file.",
            f"Export it with `dinat-deploy export --model {text}`, and package the bundle.",
        )
    if one.kind == "plan":
        raise PackageError(
            f"{one.path} has no manifest, so nothing says what it takes, gives and needs.",
            "Package a directory that `dinat-deploy build` wrote.",
        )
    notes: list[str] = []
    if one.engine is not None:
        library = _plugin(one.engine, target)
        _check(one.engine, library, target)
        return Network(name, engine=one.engine, bundle=one.bundle, library=library, notes=notes)
    if one.bundle is not None:
        notes += check_listed(one.bundle, one.path)
    onnx = read_onnx(one.path)
    library = _operators(onnx, target, notes)
    return Network(name, onnx=onnx, bundle=one.bundle, library=library, notes=notes)


def _plugin(engine: Engine, target: Target) -> Path | None:
    """The plugin library that an engine needs."""
    plugin = engine.manifest.plugin
    if plugin is None or plugin.embedded:
        return None
    library = target.plugin_library or find_library("tensorrt")
    if library is None:
        raise EngineError(
            f"{engine.path} calls the plugin {', '.join(plugin.operators)} of {plugin.library}, "
            "and that library is not here to be packaged.",
            "Name it with --plugin-library, or build the engine again with --embed-plugin.",
        )
    return library


def _check(engine: Engine, library: Path | None, target: Target) -> None:
    """Compare an engine with where it is to run, or with its own manifest where that is unknown."""
    manifest = engine.manifest
    own = manifest.gpu.capability if manifest.gpu is not None else manifest.architectures[0]
    gpu_name = manifest.gpu.name if manifest.gpu is not None and not target.capability else "GPU"
    here = Here(
        flavor=manifest.runtime.flavor,
        version=target.tensorrt or manifest.runtime.version,
        gpu=Gpu(name=gpu_name, capability=target.capability or own),
        plugin=library,
        dla_cores=None,
        platform=manifest.runtime.platform or Here.platform,
    )
    try:
        check_engine(engine, here, trust=target.trust)
    except EngineError as error:
        if target.tensorrt is None and target.capability is None:
            raise
        told = [
            f"{option} {value}"
            for option, value in (("--tensorrt", target.tensorrt), ("--gpu", target.capability))
            if value is not None
        ]
        raise PackageError(
            f"On a machine as {' and '.join(told)} {'say' if len(told) > 1 else 'says'}: "
            f"{error.cause}",
            error.cure,
        ) from None


def _operators(onnx: OnnxFile, target: Target, notes: list[str]) -> Path | None:
    """The library that runs the operator in ONNX Runtime; None for the body."""
    if not onnx.op_nodes or target.operators is False:
        _need_body(onnx, "--no-operators leaves the operator's library out")
        return None
    library = find_library("onnxruntime")
    why = None
    if library is None:
        why = "the operator's library for ONNX Runtime was not found"
    elif target.on_gpu and not _has_cuda(library):
        why = f"{library} has no code for GPUs"
    if why is None:
        return library
    cure = "Build it with `dinat-deploy plugin build`."
    if target.operators:
        raise PackageError(f"--operators asks for the operator's library, and {why}.", cure)
    _need_body(onnx, why)
    notes.append(f"Attention runs by the operator's body in standard operators: {why}. {cure}")
    return None


def _has_cuda(library: Path) -> bool:
    try:
        return bool(library_info(library).cuda_code)
    except NativeError:
        return False


def _need_body(onnx: OnnxFile, why: str) -> None:
    if onnx.without_body:
        raise PackageError(
            f"{onnx.path} has no body for {', '.join(onnx.without_body)}, and {why}.",
            "Build the library with `dinat-deploy plugin build`, or export with --body standard.",
        )
