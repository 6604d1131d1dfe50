"""What is compared before an engine is loaded: its manifest with its files and with this machine.

TensorRT's own words for an engine that does not fit are an error code, and a plan with host code
runs it while it is being loaded. So everything that can be known before is checked here, without
TensorRT and without reading the plan as anything but bytes.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dinat_deploy.bundle import TensorSpec
from dinat_deploy.engine import trust as trusted
from dinat_deploy.engine.builder import Gpu
from dinat_deploy.engine.devices import current_gpu, dla_cores
from dinat_deploy.engine.manifest import MANIFEST, Engine, PluginInfo
from dinat_deploy.errors import EngineError, MissingDependencyError, NativeError, OutputError
from dinat_deploy.files import sha256
from dinat_deploy.native import find_library, library_info
from dinat_deploy.session.tensorrt_api import TITLES, Flavor, installed_version, numbers

_AMPERE = 80


@dataclass(frozen=True)
class Here:
    """What an engine would be run with.

    Attributes:
        flavor: of the TensorRT that is to run it, and the ``version`` that is installed; None if
            none is.
        gpu: that it would run on; None if there is none.
        plugin: the plugin library that would be loaded; None if there is none.
        onnx: the ONNX file or the bundle that it should have been built from; None looks where
            ``build`` puts engines by default, and is no error if nothing is there.
        dla_cores: deep learning accelerators of this machine; None if that cannot be told.
        platform: system and processor, like ``Linux x86_64``.
    """

    flavor: Flavor
    version: str | None
    gpu: Gpu | None
    plugin: Path | None = None
    onnx: Path | None = None
    dla_cores: int | None = 0
    platform: str = f"{platform.system()} {platform.machine()}"


def look_around(
    flavor: Flavor, *, plugin_library: Path | None = None, onnx: Path | None = None
) -> Here:
    """What this machine has; TensorRT is not imported where its metadata says the version.

    Args:
        plugin_library: to load, instead of the one that is found.
        onnx: see :class:`Here`.
    """
    try:
        version = installed_version(flavor)
    except MissingDependencyError:
        version = None
    plugin = plugin_library or find_library("tensorrt")
    return Here(flavor, version, current_gpu(), plugin, onnx, dla_cores())


def check_engine(
    engine: Engine,
    here: Here,
    *,
    plan: BinaryIO | None = None,
    trust: bool = False,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> list[str]:
    """Check all that can be checked before the plan is loaded.

    Args:
        plan: the engine's plan, if it is open already.
        trust: run host code that the plan holds, although it was neither built nor trusted here.
        shapes: of the inputs that it is to be run with, as far as they are known.

    Returns:
        What the user should know, such as that the engine was built on another GPU of this kind.

    Raises:
        EngineError: the engine is damaged, not for this machine, or not trusted; the message names
            both sides and what helps.
    """
    notes: list[str] = []
    engine.check_plan_size()
    _check_weights(engine)
    _check_version(engine, here)
    _check_platform(engine, here)
    _check_gpu(engine, here, notes)
    _check_dla(engine, here)
    check_plugin(engine, here.plugin, here.gpu)
    if shapes is not None:
        check_shapes(engine, shapes)
    digest = engine.check_plan(plan)
    _check_onnx(engine, here)
    _check_host_code(engine, plan, digest, trust, notes)
    return notes


def check_bare_plan(plan: Path, *, trust: bool = False) -> list[str]:
    """Check a plan that has no manifest, of which nothing is known.

    Returns:
        What the user should know.

    Raises:
        EngineError: there is none, or it is not trusted.
    """
    if not plan.is_file():
        raise EngineError(f"There is no plan {plan}.", "Make one with `dinat-deploy build`.")
    if not trust:
        raise EngineError(
            f"{plan} has no {MANIFEST} beside it, so nothing says what it was built from and with, "
            "or what code it holds.",
            "Build it with `dinat-deploy build`, or add --trust if you know where it comes from.",
        )
    return [f"{plan} has no {MANIFEST}: nothing about it could be checked."]


def host_code(engine: Engine, plan: BinaryIO | None = None) -> list[str]:
    """What in a plan runs on the processor when it is loaded; empty if nothing does.

    Args:
        plan: the engine's plan, if it is open already.
    """
    reasons = list(engine.manifest.host_code)
    inside = trusted.libraries_inside(engine.plan_path if plan is None else plan)
    if inside and not reasons:
        reasons.append(f"a library for {inside[0]}, of which {MANIFEST} says nothing")
    return reasons


def _check_weights(engine: Engine) -> None:
    if engine.manifest.options.strip_weights:
        raise EngineError(
            f"{engine.path} was built with --strip-weights: its plan has no weights, and computes "
            "nothing of use until it is refitted.",
            f"Refit it with TensorRT's refitter, or leave --strip-weights out. {engine.rebuild()}",
        )


def _check_version(engine: Engine, here: Here) -> None:
    built = engine.manifest.runtime
    flavor, version = built.flavor, built.version
    if flavor != here.flavor:
        raise EngineError(
            f"{engine.path} was built by {TITLES[flavor]} {version}, and {TITLES[here.flavor]} "
            "cannot run it.",
            f"Run it with {TITLES[flavor]}, or build one: `dinat-deploy build ... --backend "
            f"{here.flavor}`.",
        )
    # The flavour is also the name of its package.
    exact = f"`pip install {flavor}=={version}`"
    if here.version is None:
        raise EngineError(
            f"{engine.path} needs {TITLES[flavor]} {version}, and none is installed here.",
            f"{exact}.",
        )
    if _same_version(version, here.version):
        return
    again = f"{exact}, or {_lower(engine.rebuild())}"
    if not engine.manifest.options.version_compatible:
        raise EngineError(
            f"{engine.path} was built by {TITLES[flavor]} {version} and runs in no other version; "
            f"{here.version} is installed.",
            again,
        )
    older = numbers(here.version) < numbers(version)
    if older or numbers(here.version)[:1] != numbers(version)[:1]:
        raise EngineError(
            f"{engine.path} was built by {TITLES[flavor]} {version} and runs in that and in later "
            f"ones of the same major version; {here.version} is installed.",
            again,
        )


def _same_version(first: str, second: str) -> bool:
    """Packages of one release differ in how many numbers they give: 10.3.0 and 10.3.0.26."""
    pairs = list(zip(numbers(first), numbers(second), strict=False))
    return len(pairs) >= 3 and all(one == other for one, other in pairs)


def _check_platform(engine: Engine, here: Here) -> None:
    built = engine.manifest.runtime
    # TensorRT-RTX promises plans that Windows and Linux both take.
    if built.flavor == "tensorrt" and built.platform not in (None, here.platform):
        raise EngineError(
            f"{engine.path} was built on {built.platform}, and this machine is {here.platform}.",
            engine.rebuild(),
        )


def _check_gpu(engine: Engine, here: Here, notes: list[str]) -> None:
    manifest, gpu = engine.manifest, here.gpu
    targets = ", ".join(manifest.architectures)
    if gpu is None:
        raise EngineError(
            f"{engine.path} runs on an NVIDIA GPU of compute capability {targets}, and this "
            "machine has none, or no driver for it.",
            "Run it on a machine with such a GPU. The bundle that it was built from runs here, in "
            "ONNX Runtime.",
        )
    found = f"{gpu.name} in this machine has compute capability {gpu.capability}"
    if manifest.runtime.flavor == "tensorrt-rtx" or manifest.gpu is None:
        if gpu.capability not in manifest.architectures:
            raise EngineError(
                f"{engine.path} was built for compute capability {targets}, and the {found}.",
                engine.rebuild("--arch", ",".join([*manifest.architectures, gpu.capability])),
            )
        return
    built, level = manifest.gpu, manifest.options.hardware_compatibility
    if level == "ampere+":
        if int(gpu.capability) < _AMPERE:
            raise EngineError(
                f"{engine.path} runs on GPUs from Ampere on (compute capability 80), and the "
                f"{found}.",
                engine.rebuild(),
            )
    elif gpu.capability != built.capability:
        raise EngineError(
            f"{engine.path} was built on a {built.name} with compute capability "
            f"{built.capability}, and the {found}.",
            f"{engine.rebuild()} With --hardware-compatibility ampere+ it runs on all GPUs from "
            "Ampere on, more slowly.",
        )
    elif level == "none" and gpu.name != built.name:
        notes.append(
            f"{engine.path} was built on a {built.name}, and this machine has a {gpu.name} of the "
            "same compute capability: it may be slower than one that is built here."
        )
    if built.driver and gpu.driver and numbers(gpu.driver)[:1] < numbers(built.driver)[:1]:
        notes.append(
            f"{engine.path} was built with a driver for CUDA {built.driver}, and the one here is "
            f"for CUDA {gpu.driver}: a newer driver may be needed."
        )


def _check_dla(engine: Engine, here: Here) -> None:
    core = engine.manifest.options.dla_core
    if core is None or here.dla_cores is None or core < here.dla_cores:
        return
    there = (
        "this machine has none: only Jetsons do"
        if here.dla_cores == 0
        else f"this machine has {here.dla_cores}, numbered from 0"
    )
    raise EngineError(
        f"{engine.path} runs on core {core} of the deep learning accelerator, and {there}.",
        engine.rebuild() + " Without --dla-core it runs on the GPU.",
    )


def check_plugin(engine: Engine, library: Path | None, gpu: Gpu | None = None) -> None:
    """Raise :class:`EngineError` if the plan needs a plugin library and this is not it.

    Args:
        library: that would be loaded; None if there is none.
        gpu: that it must have code for.
    """
    plugin = engine.manifest.plugin
    if plugin is None or plugin.embedded:
        return
    if library is None or not library.is_file():
        raise EngineError(
            f"{engine.path} calls the plugin {', '.join(plugin.operators)} of {plugin.library}, "
            f"which is not here{f': there is no {library}' if library else ''}.",
            "Build it with `dinat-deploy plugin build`, or build the engine again with "
            "--embed-plugin.",
        )
    _check_library(engine, plugin, library, gpu)
    actual = sha256(library)
    if actual != plugin.sha256:
        raise EngineError(
            f"{engine.path} was built with a {plugin.library} of SHA-256 {plugin.sha256[:12]}..., "
            f"and {library} has {actual[:12]}....",
            f"Name that library with --plugin-library, or {_lower(engine.rebuild())}",
        )


def _check_library(engine: Engine, plugin: PluginInfo, library: Path, gpu: Gpu | None) -> None:
    try:
        info = library_info(library)
    except NativeError:
        return  # a library of someone else; the digest decides
    if plugin.library_version is not None and info.version != plugin.library_version:
        raise EngineError(
            f"{engine.path} was built with version {plugin.library_version} of {plugin.library}, "
            f"and {library} is version {info.version}.",
            f"`pip install dinat-deploy=={plugin.library_version}`, or {_lower(engine.rebuild())}",
        )
    if gpu is not None and not info.runs_on_gpu(int(gpu.capability)):
        raise EngineError(
            f"The plugin library {library} has code for {', '.join(info.cuda_code) or 'no GPU'}, "
            f"and the {gpu.name} in this machine has compute capability {gpu.capability}.",
            f"`dinat-deploy plugin build --arch {gpu.capability}`, then {_lower(engine.rebuild())}",
        )


def _check_onnx(engine: Engine, here: Here) -> None:
    model = here.onnx or engine.model_path
    if model is not None:
        engine.check_onnx(model / engine.manifest.onnx.file if model.is_dir() else model)


def _check_host_code(
    engine: Engine, plan: BinaryIO | None, digest: str, trust: bool, notes: list[str]
) -> None:
    reasons = host_code(engine, plan)
    if not reasons or trusted.is_known(digest):
        return
    if not trust:
        raise EngineError(
            f"{engine.path} holds host code, which runs with your rights when it is loaded "
            f"({'; '.join(reasons)}), and this plan, SHA-256 {digest[:12]}..., was neither built "
            "nor trusted on this machine.",
            "Add --trust if you know where it comes from; it is then remembered.",
        )
    try:
        trusted.remember(digest, engine.plan_path, "trusted")
    except OutputError as error:
        notes.append(f"{engine.path} has to be trusted again the next time: {error.cause}")


def check_shapes(engine: Engine, shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise :class:`EngineError` unless the engine takes inputs of these shapes."""
    known = {spec.name: spec for spec in engine.manifest.inputs}
    for name, shape in shapes.items():
        if name not in known:
            raise EngineError(
                f"{engine.path} has no input {name}; it has "
                f"{', '.join(_tensor(spec) for spec in known.values())}.",
                "Use the names of its inputs.",
            )
        own = known[name].shape
        if len(own) != len(shape) or any(
            isinstance(fixed, int) and fixed != size
            for fixed, size in zip(own, shape, strict=False)
        ):
            raise EngineError(
                f"{engine.path} takes {_tensor(known[name])}, and {_shape(shape)} is asked for.",
                "Export with --dynamic batch or --dynamic size for other shapes.",
            )
    profiles = engine.manifest.profiles
    for profile in profiles:
        wanted = ((profile[name], shape) for name, shape in shapes.items() if name in profile)
        if all(
            low <= size <= high
            for bounds, shape in wanted
            for low, size, high in zip(bounds.min, shape, bounds.max, strict=False)
        ):
            return
    if profiles:
        asked = ",".join(f"{name}={_shape(shape)}" for name, shape in shapes.items())
        listed = " or ".join(
            ",".join(f"{name}={bounds}" for name, bounds in profile.items()) for profile in profiles
        )
        raise EngineError(
            f"{engine.path} was built for {listed} (smallest:best:largest shape), and {asked} is "
            "asked for.",
            engine.rebuild("--profile", asked),
        )


def _tensor(spec: TensorSpec) -> str:
    return f"{spec.name} {_shape(spec.shape)}"


def _shape(shape: Sequence[int | str]) -> str:
    return "x".join(str(size) for size in shape)


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]
