"""``build``: a bundle or an ONNX file to an engine."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinat_deploy.bundle import MODEL, Bundle, TensorSpec, is_bundle, open_bundle
from dinat_deploy.engine.builder import (
    PLAN,
    BuilderOptions,
    BuildOutcome,
    BuildTask,
    EngineBuilder,
    PluginRequest,
)
from dinat_deploy.engine.manifest import (
    MANIFEST,
    EngineManifest,
    LayerInfo,
    OnnxSource,
    PlanInfo,
    PluginInfo,
    Runtime,
    is_engine,
    onnx_source,
)
from dinat_deploy.engine.onnx_file import GraphTensor, OnnxFile, read_onnx
from dinat_deploy.engine.plugin_choice import PluginWish, Targets, choose_plugin, library_version
from dinat_deploy.engine.profiles import (
    Profile,
    check_profile,
    default_profile,
    describe_profile,
    parse_profile,
)
from dinat_deploy.engine.tensorrt_rtx import TensorRtRtxBuilder
from dinat_deploy.errors import ConfigError, OutputError
from dinat_deploy.files import sha256, whole_directory
from dinat_deploy.progress import Progress, Silent
from dinat_deploy.session.tensorrt_api import Flavor


@dataclass(frozen=True)
class BuildPlan:
    """What ``build`` is going to do.

    Attributes:
        output: directory of the engine.
        model: the ONNX file.
        bundle: the bundle that it belongs to, if any.
        task: what the builder will be told, except for the place of the plan.
        notes: choices that were made and that the user should know.
    """

    output: Path
    model: OnnxFile
    bundle: Bundle | None
    flavor: Flavor
    version: str
    task: BuildTask
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
            "notes": self.notes,
            **task,
        }


@dataclass(frozen=True)
class BuildReport:
    """What ``build`` made.

    Attributes:
        path: directory of the engine.
        manifest: content of its ``engine.json``.
        seconds: wall time of the whole; ``parse_seconds`` and ``build_seconds`` of its main parts.
        peak_memory: of the builder's process, in bytes; None where the system does not tell.
        notes: choices that were made.
        warnings: what TensorRT warned of.
    """

    path: Path
    manifest: EngineManifest
    seconds: float
    parse_seconds: float
    build_seconds: float
    peak_memory: int | None
    notes: list[str]
    warnings: list[str]

    def to_dict(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "seconds": self.seconds,
            "parse_seconds": self.parse_seconds,
            "build_seconds": self.build_seconds,
            "peak_memory": self.peak_memory,
            "notes": self.notes,
            "warnings": self.warnings,
            "manifest": self.manifest.model_dump(mode="json"),
        }


def plan_build(
    model: str | Path,
    output: str | Path | None = None,
    *,
    backend: str,
    plugin: bool | None = None,
    plugin_library: str | Path | None = None,
    embed_plugin: bool = False,
    profiles: Sequence[str | Profile] = (),
    architectures: Sequence[str] = (),
    optimization_level: int | None = None,
    workspace_mib: int | None = None,
    verbose_log: str | Path | None = None,
) -> BuildPlan:
    """Check everything that can be checked without a builder; arguments as of :func:`build`."""
    _check_limits(optimization_level, workspace_mib)
    # A string is a sequence of strings too, and its letters are not what was meant.
    if isinstance(architectures, str):
        architectures = architectures.split(",")
    if isinstance(profiles, str):
        profiles = [profiles]
    builder = _builder(backend)
    version = builder.version()
    path, bundle = _find(Path(model))
    onnx = read_onnx(path)
    notes: list[str] = []
    targets = Targets(builder.architectures(architectures), named=bool(architectures))
    wish = PluginWish(plugin, Path(plugin_library) if plugin_library else None, embed_plugin)
    request, covered = choose_plugin(onnx, wish, targets, builder.plugin_obstacle(), notes)
    task = BuildTask(
        flavor=builder.flavor,
        model=path.absolute(),
        plan=Path(PLAN),
        plugin=request,
        profiles=_profiles(onnx, bundle, profiles, notes),
        architectures=covered,
        options=BuilderOptions(optimization_level=optimization_level, workspace_mib=workspace_mib),
        verbose_log=_log_place(verbose_log),
    )
    target = Path(output) if output else _default_output(path, bundle, backend, onnx, request)
    return BuildPlan(target, onnx, bundle, builder.flavor, version, task, notes)


def build(
    model: str | Path,
    output: str | Path | None = None,
    *,
    backend: str,
    plugin: bool | None = None,
    plugin_library: str | Path | None = None,
    embed_plugin: bool = False,
    profiles: Sequence[str | Profile] = (),
    architectures: Sequence[str] = (),
    optimization_level: int | None = None,
    workspace_mib: int | None = None,
    verbose_log: str | Path | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """Build an engine from a bundle or an ONNX file.

    Args:
        model: a bundle, or an ONNX file.
        output: directory of the engine; an older engine there is replaced. By default
            ``engines/NAME`` in the bundle, or ``STEM.engines/NAME`` beside the ONNX file.
        backend: ``tensorrt-rtx``.
        plugin: use the plugin for attention (True), the operator's body in standard operators
            (False), or the plugin if its library is found (None).
        plugin_library: the plugin library, instead of the one that is found; implies ``plugin``.
        embed_plugin: store the plugin library in the plan; implies ``plugin``.
        profiles: shapes of dynamic inputs, like ``image=1x3x224x224:4x3x224x224:8x3x224x224``,
            one entry for each optimisation profile. By default one profile from the bundle.
        architectures: compute capabilities to build for, like ``["86", "89"]`` or ``"86,89"``. By
            default the backend's usual ones, as far as the plugin library has code for them.
        optimization_level: 0 (fast build) to 5.
        workspace_mib: bound of the engine's scratch memory, in MiB.
        verbose_log: file for everything the builder says.

    Returns:
        The report; the engine is complete when the function returns.

    Raises:
        DinatDeployError: any of its subclasses; nothing is written then.
        EngineError: the model, a profile or an architecture is refused, the plugin is missing, not
            all attention nodes became layers of the plugin, or the builder failed or crashed.
    """
    progress = progress or Silent()
    started = time.monotonic()
    plan = plan_build(
        model,
        output,
        backend=backend,
        plugin=plugin,
        plugin_library=plugin_library,
        embed_plugin=embed_plugin,
        profiles=profiles,
        architectures=architectures,
        optimization_level=optimization_level,
        workspace_mib=workspace_mib,
        verbose_log=verbose_log,
    )
    for note in plan.notes:
        progress.note(note)
    with whole_directory(plan.output, replaceable=is_engine) as partial:
        with progress.stage("Reading the ONNX file"):
            source = _source(plan)
        task = plan.task.model_copy(update={"plan": (partial / PLAN).absolute()})
        outcome = _builder(backend).build(task, progress)
        with progress.stage("Writing the manifest"):
            manifest = _manifest(plan, source, outcome, partial / PLAN)
            (partial / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return BuildReport(
        path=plan.output,
        manifest=manifest,
        seconds=round(time.monotonic() - started, 3),
        parse_seconds=outcome.parse_seconds,
        build_seconds=outcome.build_seconds,
        peak_memory=outcome.peak_memory,
        notes=plan.notes,
        warnings=outcome.warnings,
    )


def _builder(backend: str) -> EngineBuilder:
    if backend == "tensorrt-rtx":
        return TensorRtRtxBuilder()
    raise ConfigError(f"Unknown backend {backend!r}.", "Use tensorrt-rtx.")


def _check_limits(optimization_level: int | None, workspace_mib: int | None) -> None:
    if optimization_level is not None and not 0 <= optimization_level <= 5:
        raise ConfigError(
            f"The optimization level is {optimization_level}; expected 0 to 5.", "Change it."
        )
    if workspace_mib is not None and workspace_mib < 1:
        raise ConfigError(
            f"The workspace is {workspace_mib} MiB; expected 1 or more.", "Change it."
        )


def _find(model: Path) -> tuple[Path, Bundle | None]:
    """The ONNX file, and its bundle if it is in one."""
    if model.is_dir() or (model.name == MODEL and is_bundle(model.parent)):
        bundle = open_bundle(model if model.is_dir() else model.parent)
        bundle.check_model()
        return bundle.model_path, bundle
    return model, None


def _profiles(
    onnx: OnnxFile, bundle: Bundle | None, given: Sequence[str | Profile], notes: list[str]
) -> list[Profile]:
    bounds = bundle.manifest.graph.size_range if bundle else None
    if given:
        parsed = [parse_profile(entry) if isinstance(entry, str) else entry for entry in given]
        return [found for entry in parsed if (found := check_profile(entry, onnx.inputs, bounds))]
    size = bundle.manifest.config.image_size if bundle else None
    profile = default_profile(onnx.inputs, size, bounds)
    if not profile:
        return []
    notes.append(
        f"No --profile given; the engine will take {describe_profile(profile)} "
        "(smallest:best:largest shape)."
    )
    return [profile]


def _log_place(path: str | Path | None) -> Path | None:
    if path is None:
        return None
    place = Path(path).absolute()
    # Only looked at: a dry run must not leave a file.
    if place.is_dir() or not os.access(place if place.exists() else place.parent, os.W_OK):
        raise OutputError(f"{place} cannot be written.", "Choose another --verbose-log.")
    return place


def _default_output(
    model: Path,
    bundle: Bundle | None,
    backend: str,
    onnx: OnnxFile,
    request: PluginRequest | None,
) -> Path:
    kind = "" if not onnx.op_nodes else "-plugin" if request else "-body"
    parent = bundle.path / "engines" if bundle else model.parent / f"{model.stem}.engines"
    return parent / (backend + kind)


def _source(plan: BuildPlan) -> OnnxSource:
    if plan.bundle is not None and not plan.model.external:
        # Its digest was compared when the bundle was found.
        return OnnxSource(file=MODEL, sha256=plan.bundle.manifest.graph.sha256)
    return onnx_source(plan.model.path, plan.model.external)


def _manifest(
    plan: BuildPlan, source: OnnxSource, outcome: BuildOutcome, file: Path
) -> EngineManifest:
    task = plan.task
    return EngineManifest(
        model=plan.bundle.manifest.name if plan.bundle else None,
        runtime=Runtime(flavor=plan.flavor, version=outcome.version),
        architectures=task.architectures,
        precision=plan.model.precision,
        inputs=_named(outcome.inputs, plan.model.inputs),
        outputs=_named(outcome.outputs, plan.model.outputs),
        profiles=task.profiles,
        options=task.options,
        onnx=source,
        plugin=_plugin_info(task.plugin),
        layers=LayerInfo(
            types=outcome.layers, plugin=outcome.plugin_layers, body=outcome.body_nodes
        ),
        plan=PlanInfo(file=PLAN, sha256=sha256(file), bytes=file.stat().st_size),
    )


def _named(tensors: Sequence[TensorSpec], originals: Sequence[GraphTensor]) -> list[TensorSpec]:
    """The engine's tensors, with the ONNX file's names of dynamic dimensions."""
    known = {entry.name: entry.shape for entry in originals}
    return [
        tensor.model_copy(update={"shape": list(known[tensor.name])})
        if "?" in tensor.shape and len(known.get(tensor.name, ())) == len(tensor.shape)
        else tensor
        for tensor in tensors
    ]


def _plugin_info(request: PluginRequest | None) -> PluginInfo | None:
    if request is None:
        return None
    return PluginInfo(
        operators=request.operators,
        namespace=request.namespace,
        version=request.version,
        library=request.library.name,
        library_version=library_version(request.library),
        sha256=sha256(request.library),
        embedded=request.embed,
    )
