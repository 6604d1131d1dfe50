"""What ``build`` is going to do: every choice and every check that needs no builder at work."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dinat_deploy.bundle import MODEL, Bundle, is_bundle, open_bundle
from dinat_deploy.engine import timing_cache as cache_files
from dinat_deploy.engine.builder import (
    PLAN,
    BuilderOptions,
    BuildTask,
    EngineBuilder,
    PluginRequest,
)
from dinat_deploy.engine.devices import current_gpu
from dinat_deploy.engine.manifest import Taps, is_engine
from dinat_deploy.engine.onnx_file import OnnxFile, read_onnx
from dinat_deploy.engine.plugin_choice import PluginWish, Targets, choose_plugin
from dinat_deploy.engine.profiles import (
    Profile,
    check_profile,
    default_profile,
    describe_profile,
    parse_profile,
)
from dinat_deploy.engine.tensorrt import TensorRtBuilder
from dinat_deploy.engine.tensorrt_rtx import TensorRtRtxBuilder
from dinat_deploy.errors import ConfigError, EngineError, MissingDependencyError, OutputError
from dinat_deploy.files import refuse_to_replace
from dinat_deploy.session.tensorrt_api import Flavor, numbers

BACKENDS: tuple[Flavor, ...] = ("tensorrt", "tensorrt-rtx")
TapKind = Literal["none", "outputs", "debug"]

# From here on the parser of TensorRT prefers a plugin to a node's body.
_PLUGIN_BEFORE_BODY = (10, 7)


@dataclass(frozen=True)
class BuildPlan:
    """What ``build`` is going to do.

    Attributes:
        output: directory of the engine.
        model: the ONNX file.
        bundle: the bundle that it belongs to, if any.
        task: what the builder will be told, except for the place of the plan.
        taps: layers whose outputs the engine will let out, if any.
        strip_body: whether the builder gets a copy of the model without the operator's body.
        notes: choices that were made and that the user should know.
    """

    output: Path
    model: OnnxFile
    bundle: Bundle | None
    flavor: Flavor
    version: str
    task: BuildTask
    taps: Taps | None
    strip_body: bool
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        task = self.task.model_dump(mode="json", exclude={"plan", "model"})
        return {
            "output": str(self.output),
            "model": str(self.model.path),
            "bundle": str(self.bundle.path) if self.bundle else None,
            "backend": self.flavor,
            "version": self.version,
            "precision": self.model.precision,
            "op_nodes": len(self.model.op_nodes),
            "taps": self.taps.model_dump(mode="json") if self.taps else None,
            "strip_body": self.strip_body,
            "notes": self.notes,
            **task,
        }


def plan_build(
    model: str | Path,
    output: str | Path | None = None,
    *,
    backend: str | None = None,
    options: BuilderOptions | None = None,
    plugin: bool | None = None,
    plugin_library: str | Path | None = None,
    embed_plugin: bool = False,
    profiles: str | Sequence[str | Profile] = (),
    architectures: str | Sequence[str] = (),
    optimization_level: int | None = None,
    workspace_mib: int | None = None,
    timing_cache: str | Path | bool | None = None,
    taps: TapKind = "none",
    verbose_log: str | Path | None = None,
) -> BuildPlan:
    """Check everything that can be checked without building.

    Args: as of :func:`dinat_deploy.build`.

    Raises:
        DinatDeployError: any of its subclasses.
    """
    chosen = _options(options, optimization_level, workspace_mib)
    # A string is a sequence of strings too, and its letters are not what was meant.
    if isinstance(architectures, str):
        architectures = architectures.split(",")
    if isinstance(profiles, str):
        profiles = [profiles]
    notes: list[str] = []
    builder = builder_for(backend) if backend else _default_builder(notes)
    version = builder.version()
    try:
        path, bundle = _find(Path(model))
        onnx = read_onnx(path)
        _check_types(onnx, notes)
        targets = Targets(builder.architectures(architectures), named=bool(architectures))
        _check_turing(onnx, builder.flavor, targets.architectures, notes)
        wish = PluginWish(plugin, Path(plugin_library) if plugin_library else None, embed_plugin)
        request, covered = choose_plugin(onnx, wish, targets, builder.plugin_obstacle(), notes)
        tapped = _taps(taps, path, bundle)
        task = BuildTask(
            flavor=builder.flavor,
            model=path.absolute(),
            plan=Path(PLAN),
            plugin=request,
            profiles=_profiles(onnx, bundle, profiles, notes, low_memory=chosen.low_memory),
            architectures=covered,
            options=chosen,
            timing_cache=_timing_cache(timing_cache, builder.flavor, version, notes),
            verbose_log=_writable(verbose_log, "--verbose-log"),
            **_tapped_tensors(tapped, onnx),
        )
        builder.check(task)
        target = Path(output) if output else _default_output(path, bundle, task, onnx, tapped)
        refuse_to_replace(target, is_engine)
    except OSError as error:  # such as a name that is too long, or a file that may not be read
        where = f"{error.filename}: " if error.filename is not None else ""
        raise EngineError(f"{where}{error.strerror or error}.", "Check the path.") from None
    strip = _must_strip(builder.flavor, version, onnx, request)
    if strip:
        notes.append(
            f"The builder gets a copy of the model without the operator's body: TensorRT {version} "
            "would take it in place of the plugin."
        )
    return BuildPlan(target, onnx, bundle, builder.flavor, version, task, tapped, strip, notes)


def check_builder(
    *,
    backend: str | None = None,
    options: BuilderOptions | None = None,
    architectures: str | Sequence[str] = (),
    optimization_level: int | None = None,
    workspace_mib: int | None = None,
    **_: Any,
) -> None:
    """Check what can be checked of a build before there is a model; arguments as of ``build``.

    Raises:
        DinatDeployError: the backend is missing or unknown, or it lacks an option or architecture.
    """
    chosen = _options(options, optimization_level, workspace_mib)
    if isinstance(architectures, str):
        architectures = architectures.split(",")
    builder = builder_for(backend) if backend else _default_builder([])
    builder.version()
    task = BuildTask(
        flavor=builder.flavor,
        model=Path(MODEL),
        plan=Path(PLAN),
        options=chosen,
        architectures=builder.architectures(architectures),
    )
    builder.check(task)


def builder_for(backend: str) -> EngineBuilder:
    """The builder of a flavour.

    Raises:
        ConfigError: there is no such backend.
    """
    if backend == "tensorrt":
        return TensorRtBuilder()
    if backend == "tensorrt-rtx":
        return TensorRtRtxBuilder()
    raise ConfigError(f"Unknown backend {backend!r}.", f"Use {' or '.join(BACKENDS)}.")


def _default_builder(notes: list[str]) -> EngineBuilder:
    """TensorRT where it can build, else TensorRT-RTX, which needs no GPU."""
    full, rtx = _version("tensorrt"), _version("tensorrt-rtx")
    gpu = current_gpu() if full else None
    if full and gpu:
        notes.append(f"No --backend given: TensorRT {full} builds for the {gpu.name} at hand.")
        return builder_for("tensorrt")
    if rtx:
        why = "there is no GPU here for TensorRT" if full else "TensorRT is not installed"
        notes.append(f"No --backend given: TensorRT-RTX {rtx} builds ahead of time, as {why}.")
        return builder_for("tensorrt-rtx")
    if full:
        raise EngineError(
            f"TensorRT {full} needs the GPU that the engine is for, and this machine has none.",
            "Build on the machine with the GPU, or ahead of time with TensorRT-RTX: "
            "pip install 'dinat-deploy[rtx]'.",
        )
    raise MissingDependencyError(
        "Building needs TensorRT or TensorRT-RTX, and neither is installed.",
        "pip install 'dinat-deploy[tensorrt]' for the GPU in this machine, or "
        "'dinat-deploy[rtx]' to build ahead of time.",
    )


def _version(flavor: Flavor) -> str | None:
    try:
        return builder_for(flavor).version()
    except MissingDependencyError:
        return None


def _options(
    options: BuilderOptions | None, optimization_level: int | None, workspace_mib: int | None
) -> BuilderOptions:
    """All options in one; the two that have arguments of their own may stand there."""
    if optimization_level is not None and not 0 <= optimization_level <= 5:
        raise ConfigError(
            f"The optimization level is {optimization_level}; expected 0 to 5.", "Change it."
        )
    if workspace_mib is not None and workspace_mib < 1:
        raise ConfigError(
            f"The workspace is {workspace_mib} MiB; expected 1 or more.", "Change it."
        )
    options = options or BuilderOptions()
    own = {"optimization_level": optimization_level, "workspace_mib": workspace_mib}
    given = {name: value for name, value in own.items() if value is not None}
    for name, value in given.items():
        other = getattr(options, name)
        if other not in (None, value):
            raise ConfigError(
                f"{name} is {value} as an argument and {other} in the options.", "Give it once."
            )
    if options.dla_core is None and not options.gpu_fallback:
        raise ConfigError(
            "--no-gpu-fallback is about what the deep learning accelerator cannot run, and no "
            "--dla-core is given.",
            "Add --dla-core N, or leave it out.",
        )
    return options.model_copy(update=given)


def _find(model: Path) -> tuple[Path, Bundle | None]:
    """The ONNX file, and its bundle if it is in one."""
    if not model.is_dir() and not is_bundle(model.parent):
        return model, None
    bundle = open_bundle(model if model.is_dir() else model.parent)
    file = MODEL if model.is_dir() else model.name
    if file != MODEL and file not in bundle.variants:
        return model, None
    bundle.check_model(file)
    return bundle.path / file, bundle


def _check_types(onnx: OnnxFile, notes: list[str]) -> None:
    """TensorRT has no double precision, and makes float32 of it without a word."""
    for entry in (*onnx.inputs, *onnx.outputs):
        if entry.dtype == "double":
            kind = "input" if entry in onnx.inputs else "output"
            raise EngineError(
                f"The {kind} {entry} of {onnx.path} is in double precision (float64), which "
                "TensorRT does not have: the engine would take it for float32.",
                "Export the model in float32.",
            )
    if onnx.doubles:
        notes.append(
            f"{onnx.doubles} weights of the model are in double precision (float64), which "
            "TensorRT does not have: the engine computes with them in float32."
        )


def _check_turing(
    onnx: OnnxFile, flavor: Flavor, architectures: Sequence[str], notes: list[str]
) -> None:
    """TensorRT-RTX's compiler has no float32 matrix products for Turing (seen with 1.7.1)."""
    if flavor != "tensorrt-rtx" or "75" not in architectures or "float" not in onnx.weights:
        return
    fact = "TensorRT-RTX has no float32 matrix products for compute capability 75 (Turing)"
    if onnx.op_nodes and set(onnx.weights) == {"float"}:
        raise EngineError(
            f"{fact}, and {onnx.path} is in float32 throughout.",
            "Leave 75 out of --arch.",
        )
    notes.append(f"{fact}: the build fails if the model has one ({onnx.precision}).")


def _taps(kind: TapKind, model: Path, bundle: Bundle | None) -> Taps | None:
    if kind == "none":
        return None
    if kind not in ("outputs", "debug"):
        raise ConfigError(f"Unknown taps {kind!r}.", "Use none, outputs or debug.")
    tensors = bundle.manifest.taps if bundle else {}
    if not tensors:
        raise ConfigError(
            f"--taps {kind} marks the tensors that a bundle names for the layers of its model, and "
            f"{bundle.path if bundle else model} {'names none' if bundle else 'is in no bundle'}.",
            "Export the model with dinat-deploy, or leave --taps out.",
        )
    return Taps(kind=kind, tensors=tensors)


def _tapped_tensors(taps: Taps | None, onnx: OnnxFile) -> dict[str, Any]:
    if taps is None:
        return {}
    tensors = list(dict.fromkeys(taps.tensors.values()))
    if taps.kind == "debug":
        return {"debug_tensors": tensors}
    known = {entry.name for entry in onnx.outputs}
    return {"extra_outputs": [name for name in tensors if name not in known]}


def _profiles(
    onnx: OnnxFile,
    bundle: Bundle | None,
    given: Sequence[str | Profile],
    notes: list[str],
    *,
    low_memory: bool,
) -> list[Profile]:
    if low_memory and len(given) > 1:
        raise ConfigError(
            f"--low-memory builds for one profile, and {len(given)} are given.",
            "Each further profile takes memory of its own: give one, or build another engine.",
        )
    bounds = bundle.manifest.graph.size_range if bundle else None
    if given:
        parsed = [parse_profile(entry) if isinstance(entry, str) else entry for entry in given]
        return [found for entry in parsed if (found := check_profile(entry, onnx.inputs, bounds))]
    size = bundle.manifest.config.image_size if bundle else None
    profile = default_profile(onnx.inputs, size, bounds, single=low_memory)
    if not profile:
        return []
    notes.append(
        f"No --profile given; the engine will take {describe_profile(profile)} "
        "(smallest:best:largest shape)."
    )
    return [profile]


def _timing_cache(
    given: str | Path | bool | None, flavor: Flavor, version: str, notes: list[str]
) -> Path | None:
    """The file with measured kernel times: the one that was named, or the one that fits."""
    if given is False and flavor == "tensorrt-rtx":
        notes.append(
            "--no-timing-cache changes nothing: TensorRT-RTX has no timing cache when it builds."
        )
    if given is False or (given is None and flavor == "tensorrt-rtx"):
        return None
    if flavor == "tensorrt-rtx":
        raise EngineError(
            "TensorRT-RTX has no timing cache: it times no kernels when it builds, and to use one "
            "would take a GPU.",
            "Leave --timing-cache out.",
        )
    if given is not None and given is not True:
        return _writable(given, "--timing-cache")
    gpu = current_gpu()
    if gpu is None:
        return None
    place = cache_files.default_path(flavor, version, gpu)
    folder = next(entry for entry in place.parents if entry.exists())
    if os.access(folder, os.W_OK):
        return place
    notes.append(
        f"No timing cache: {folder} cannot be written. Set DINAT_CACHE_DIR to a folder that can."
    )
    return None


def _writable(path: str | Path | None, option: str) -> Path | None:
    if path is None:
        return None
    place = Path(path).absolute()
    # Only looked at: a dry run must not leave a file.
    if place.is_dir() or not os.access(place if place.exists() else place.parent, os.W_OK):
        raise OutputError(f"{place} cannot be written.", f"Choose another {option}.")
    return place


def _default_output(
    model: Path, bundle: Bundle | None, task: BuildTask, onnx: OnnxFile, taps: Taps | None
) -> Path:
    kind = "" if not onnx.op_nodes else "-plugin" if task.plugin else "-body"
    # An engine to look into must not take the place of the one to use.
    marked = f"-{taps.kind}" if taps else ""
    parent = bundle.path / "engines" if bundle else model.parent / f"{model.stem}.engines"
    variant = bundle.variants.get(model.name) if bundle else None
    precision = f"-{variant.precision}" if variant else ""
    return parent / f"{task.flavor}{kind}{precision}{marked}"


def _must_strip(
    flavor: Flavor, version: str, onnx: OnnxFile, request: PluginRequest | None
) -> bool:
    if flavor != "tensorrt" or request is None or not onnx.bodies:
        return False
    return numbers(version)[:2] < _PLUGIN_BEFORE_BODY
